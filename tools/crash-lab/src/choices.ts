/**
 * Which states of a space to look at where it is too large to look at all of them.
 *
 * The families hold what crashes do most: whole writes lost (every subset of them where there are few),
 * one write torn in every simple way while the others are kept or lost, two writes to one place in the wrong
 * order, the file not grown. Beyond these, states are drawn at random, with several temperaments, because a
 * uniform draw from a large product hardly ever keeps a long write whole.
 *
 * Everything here is counted as sampled, and a choice may come more than once.
 */

import type { SeededRandom } from '@qcow2/seeded';
import type { CrashChoice, CrashSpace } from './crash-space.ts';
import { sectorBytes } from './sector.ts';
import { applyPiece, type SectorPiece } from './sector-options.ts';

/** Above this many pending writes, not all subsets of them are tried. */
const mostWritesForSubsets = 8;
/** A write of more sectors is torn at this many places only. */
const mostTears = 24;

/** Says whether the sector of a pending change arrives. */
type Keep = (change: number, sector: number) => boolean;

export function* structuredChoices(space: CrashSpace): Generator<CrashChoice> {
  const count = space.pending.length;
  for (const kept of wholeWriteSubsets(count)) {
    const choice = chooseBy(space, (change) => kept.has(change));
    yield choice;
    if (choice.size !== 0) yield { ...choice, size: 0 };
  }
  for (let torn = 0; torn < count; torn++) yield* tears(space, torn);
  for (let late = 0; late < count; late++) {
    // `late` arrives after everything else: its bytes win wherever another write has the same place.
    const order = [...space.pending.keys()].filter((change) => change !== late);
    yield chooseBy(space, () => true, [...order, late]);
  }
}

function* wholeWriteSubsets(count: number): Generator<ReadonlySet<number>> {
  const all = Array.from({ length: count }, (_, index) => index);
  if (count <= mostWritesForSubsets) {
    for (let mask = 0; mask < 1 << count; mask++) {
      yield new Set(all.filter((index) => (mask & (1 << index)) !== 0));
    }
    return;
  }
  for (const cut of all) {
    yield new Set(all.slice(0, cut));
    yield new Set(all.slice(cut));
    yield new Set([cut]);
    yield new Set(all.filter((index) => index !== cut));
  }
}

function* tears(space: CrashSpace, torn: number): Generator<CrashChoice> {
  const own = space.sectors
    .filter(({ pieces }) => pieces.some(({ change }) => change === torn))
    .map(({ sector }) => sector);
  if (own.length < 2) return;
  const step = Math.max(1, Math.ceil(own.length / mostTears));
  const contexts: Keep[] = [(change) => change < torn, () => true, () => false];
  for (let at = 0; at < own.length; at += step) {
    const cut = own[at]!;
    const shapes: ((sector: number) => boolean)[] = [
      (sector) => sector < cut,
      (sector) => sector > cut,
      (sector) => sector !== cut,
      (sector) => sector === cut,
    ];
    for (const others of contexts) {
      for (const shape of shapes) {
        yield chooseBy(space, (change, sector) => (change === torn ? shape(sector) : others(change, sector)));
      }
    }
  }
}

/** Drawn at random; `undefined` never: every space has a state. */
export function randomChoice(space: CrashSpace, random: SeededRandom): CrashChoice {
  const temperament = random.below(4);
  if (temperament === 0) return uniformChoice(space, random);
  const odds = 2 + random.below(8);
  if (temperament === 1) {
    const lost = new Set([...space.pending.keys()].filter(() => random.chance(2)));
    return chooseBy(space, (change) => !lost.has(change));
  }
  if (temperament === 2) {
    // In order up to a write, which is torn; after it little.
    const torn = random.below(Math.max(1, space.pending.length));
    return chooseBy(space, (change) =>
      change === torn ? random.chance(2) : change < torn || random.chance(odds),
    );
  }
  return chooseBy(space, () => !random.chance(odds));
}

function uniformChoice(space: CrashSpace, random: SeededRandom): CrashChoice {
  return {
    size: random.below(space.sizes.length),
    options: space.sectors.map(({ contents }) => random.below(contents.length)),
  };
}

/** The choice in which exactly the pieces arrive that `keep` wants, in `order` (as they were asked for, if not given). */
function chooseBy(space: CrashSpace, keep: Keep, order?: readonly number[]): CrashChoice {
  const reached: number[] = [];
  const options = space.sectors.map(({ sector, contents, pieces }) => {
    const arriving = inOrder(pieces, order).filter(({ change }) => keep(change, sector));
    if (arriving.length > 0) reached.push((sector + 1) * sectorBytes);
    const content = arriving.reduce(applyPiece, contents[0]!);
    // A space that is not complete may lack this content: then the sector stays as it was.
    return Math.max(
      0,
      contents.findIndex((candidate) => candidate.sameContent(content)),
    );
  });
  return { size: sizeFor(space, keep, Math.max(0, ...reached)), options };
}

function inOrder(
  pieces: readonly SectorPiece[],
  order: readonly number[] | undefined,
): readonly SectorPiece[] {
  if (order === undefined) return pieces;
  return [...pieces].sort((left, right) => order.indexOf(left.change) - order.indexOf(right.change));
}

/** The length that fits: a resize that is kept rules, else the smallest that holds all that arrived. */
function sizeFor(space: CrashSpace, keep: Keep, reachedBytes: number): number {
  const durable = space.durable.sizeBytes;
  let wanted = durable;
  for (const [index, change] of space.pending.entries()) {
    if (change.kind === 'resize' && keep(index, 0)) wanted = change.sizeBytes;
  }
  if (wanted < durable) return space.sizes.indexOf(wanted);
  const fits = space.sizes.findIndex((size) => size >= Math.max(wanted, reachedBytes));
  return fits === -1 ? space.sizes.length - 1 : fits;
}
