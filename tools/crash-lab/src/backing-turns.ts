/**
 * The backing files that an image stands on by turns, and what is done when it gets the next one: what the two show differently becomes
 * the image's own, then its header names the other [BAK-004, BAK-005]. So the guest sees the same all the time, through whichever is named.
 *
 * The files differ in a few sectors, each time in part of a cluster: the rest of it is brought from below. Nothing is flushed in between:
 * what has to be durable before the name is the driver's to know. Names and formats are such that the header's cluster has
 * the one in its first sector, and the other goes on in the next: one write can not change it.
 */
import type { Qcow2Image } from '@qcow2/driver';
import { InvariantError } from '@qcow2/spec';
import { sectorBytes } from './sector.ts';
import type { OpenBacking } from './system-under-test.ts';
import { stampedContent } from './workload.ts';

interface BackingTurn {
  /** As the header has it; undefined: the image stands on nothing. */
  readonly name: string | undefined;
  readonly format: string | undefined;
  /** What it shows; zeros behind that. */
  readonly content: Uint8Array;
}

/** The disk is 16 clusters of four sectors. Where each file has something, in sectors: beyond those it has zeros. */
const clusterSectors = 4;
const stamp = { first: 2, second: 3 } as const;

function file(
  lengthBytes: number,
  parts: readonly (readonly [from: number, count: number, stamp: number])[],
) {
  const content = new Uint8Array(lengthBytes);
  for (const [from, count, by] of parts) {
    const [start, end] = [from * sectorBytes, (from + count) * sectorBytes];
    content.set(stampedContent(by, lengthBytes).subarray(start, end), start);
  }
  return content;
}

/** In this order, and from the beginning again. */
export const backingTurns: readonly BackingTurn[] = [
  // It ends within the disk, and within a cluster.
  {
    name: 'backing.raw',
    format: 'raw',
    content: file((14 * clusterSectors + 1) * sectorBytes, [
      [2 * clusterSectors, clusterSectors, stamp.first],
      [5 * clusterSectors, 2, stamp.first],
    ]),
  },
  // It is longer than the disk, also when that has grown a bit. QEMU knows files that are what they hold by this format too.
  {
    name: `${'./'.repeat(230)}other.raw`,
    format: 'file',
    content: file((18 * clusterSectors + 1) * sectorBytes, [
      [2 * clusterSectors, clusterSectors, stamp.first],
      [5 * clusterSectors, 1, stamp.first],
      [5 * clusterSectors + 1, 1, stamp.second],
      [9 * clusterSectors + 3, 1, stamp.second],
      [17 * clusterSectors, 1, stamp.second],
    ]),
  },
  { name: undefined, format: undefined, content: new Uint8Array() },
];

/** What an image says it stands on, for people and for the oracle. */
function describe(name: string | undefined, format: string | undefined): string {
  return name === undefined && format === undefined ? 'nothing' : `${name} (${format})`;
}

export const firstBacking = describe(backingTurns[0]!.name, backingTurns[0]!.format);

/** @throws INVARIANT where the image names none of them */
export function backingNamed(name: string | undefined): BackingTurn {
  const turn = backingTurns.find((one) => one.name === name);
  if (turn === undefined)
    throw new InvariantError('the image names a backing file that is not there', { value: name });
  return turn;
}

export function openBackingOf(image: Qcow2Image): OpenBacking {
  const turn = backingNamed(image.info().backingFile);
  const next = backingTurns[(backingTurns.indexOf(turn) + 1) % backingTurns.length]!;
  return {
    named: () => describe(image.info().backingFile, image.info().backingFormat),
    next: describe(next.name, next.format),
    change: async () => {
      await bringIn(image, turn.content, next.content);
      await image.changeBacking(
        next.name === undefined ? undefined : { name: next.name, format: next.format },
      );
    },
  };
}

/** What the image has of its own stays; where it has nothing it shows `from`, and would show `to`. Not durable on return. */
async function bringIn(image: Qcow2Image, from: Uint8Array, to: Uint8Array): Promise<void> {
  for (let offset = 0; offset < image.sizeBytes; offset += sectorBytes) {
    const [shown, other] = [from, to].map((content) => sectorAt(content, offset));
    if (Buffer.compare(shown!, other!) === 0) continue;
    const [extent] = await image.extents(offset, sectorBytes);
    if (extent?.kind === 'hole') await image.write(offset, shown!);
  }
}

function sectorAt(content: Uint8Array, offset: number): Uint8Array {
  const sector = new Uint8Array(sectorBytes);
  sector.set(content.subarray(offset, offset + sectorBytes));
  return sector;
}
