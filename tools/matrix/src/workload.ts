/**
 * What is done to the disk of a combination, drawn from its seed: three phases, with snapshots and bitmaps in between. Each phase has
 * bytes at no boundary, whole clusters, zeros that keep their space and such that give it back, discards, the disk's last
 * bytes; and, where there is to be compression, clusters in compressed form. What is left alone is a hole.
 */

import { hashText, type SeededRandom } from '@qcow2/seeded';
import { type Combination, clusterBytesOf } from './dimensions.ts';
import type { Fill, Step } from './disk-model.ts';

export interface Shape {
  readonly clusterBytes: number;
  /** No whole number of clusters, where a cluster has more than three sectors. */
  readonly sizeBytes: number;
}

export const phaseCount = 3;

/** Disks as small as may be: some tables' worth of small clusters, or a handful of large ones. */
export function shapeOf(combination: Pick<Combination, 'cluster'>): Shape {
  const clusterBytes = clusterBytesOf(combination);
  const clusters = clusterBytes >= 2 ** 19 ? 4 : clusterBytes >= 2 ** 16 ? 8 : (384 * 1024) / clusterBytes;
  return { clusterBytes, sizeBytes: clusters * clusterBytes + 3 * 512 };
}

/** The phases, one after the other. */
export function drawPhases(
  random: SeededRandom,
  { clusterBytes, sizeBytes }: Shape,
  compresses: boolean,
): Step[][] {
  const touched = new Set<number>();
  return Array.from({ length: phaseCount }, () => {
    const steps = drawPhase(random, { clusterBytes, sizeBytes }, compresses ? touched : undefined);
    for (const step of steps) for (const cluster of clustersOf(step, clusterBytes)) touched.add(cluster);
    return steps;
  });
}

function drawPhase(random: SeededRandom, shape: Shape, untouchedOf: ReadonlySet<number> | undefined): Step[] {
  const { clusterBytes, sizeBytes } = shape;
  const compressed = untouchedOf === undefined ? [] : drawCompressed(random, shape, untouchedOf);
  const some = (kind: Step['kind'], unit: number): Step => {
    const most = Math.min(sizeBytes, random.pick([unit, 3 * clusterBytes, 40_000]));
    const lengthBytes = Math.max(unit, Math.floor((1 + random.below(most)) / unit) * unit);
    const offset = random.below(Math.floor((sizeBytes - lengthBytes) / unit) + 1) * unit;
    return { kind, offset, lengthBytes, fill: drawFill(random) };
  };
  const atEnd: Step = {
    kind: random.pick(['write', 'zero', 'discard', 'unmap']),
    offset: sizeBytes - 700,
    lengthBytes: 700,
    fill: drawFill(random),
  };
  const rest = [
    some('write', 1),
    some('write', 1),
    some('write', 512),
    some('write', clusterBytes),
    some('zero', random.pick([1, 512, clusterBytes])),
    some('unmap', random.pick([512, clusterBytes])),
    some('discard', random.pick([512, clusterBytes, clusterBytes])),
    atEnd,
  ];
  return [...compressed, ...shuffled(random, rest)];
}

/** Whole clusters that nobody has touched: QEMU compresses no others. Now and then the last one of the disk. */
function drawCompressed(
  random: SeededRandom,
  { clusterBytes, sizeBytes }: Shape,
  touched: ReadonlySet<number>,
): Step[] {
  const clusters = Math.ceil(sizeBytes / clusterBytes);
  const taken = new Set(touched);
  const steps: Step[] = [];
  for (let attempt = 0; attempt < 4; attempt++) {
    const first = attempt === 0 && random.chance(3) ? clusters - 1 : random.below(clusters);
    let end = first;
    while (end < Math.min(clusters, first + 1 + random.below(3)) && !taken.has(end)) taken.add(end++);
    if (end === first) continue;
    const offset = first * clusterBytes;
    const lengthBytes = Math.min(end * clusterBytes, sizeBytes) - offset;
    steps.push({
      kind: 'compressed',
      offset,
      lengthBytes,
      fill: random.pick(['mixed', 'noise', random.below(256)]),
    });
  }
  return steps;
}

function drawFill(random: SeededRandom): Fill {
  return random.pick<Fill>(['noise', 1 + random.below(255), 1 + random.below(255), 0]);
}

function clustersOf({ offset, lengthBytes }: Step, clusterBytes: number): number[] {
  const first = Math.floor(offset / clusterBytes);
  const count = Math.ceil((offset + lengthBytes) / clusterBytes) - first;
  return Array.from({ length: count }, (_, index) => first + index);
}

function shuffled<T>(random: SeededRandom, list: readonly T[]): T[] {
  return list
    .map((value) => [random.next(), value] as const)
    .sort(([left], [right]) => left - right)
    .map(([, value]) => value);
}

/** The same for all makers: what we and QEMU make of one thing can be compared by hand. */
export function contentSeed(combination: Combination, seed: number): number {
  return hashText(`${Object.values({ ...combination, maker: '' }).join('.')}@${seed}`);
}
