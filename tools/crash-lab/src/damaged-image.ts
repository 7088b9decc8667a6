/**
 * Damage done by hand to the tables of an image, of kinds that a repair puts right whole, and what is dangerous in an image as it
 * stands. What is damaged follows from the image alone. Kinds meet on purpose in the first guest cluster: its
 * entry, its cluster's refcount and what leads to both.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readEntryOffset, readRefcountBlockOffset, writeZeroEntry } from '@qcow2/codec';
import { checkImage, readImageHeader } from '@qcow2/driver';
import { incompatibleFeatures } from '@qcow2/spec';
import { ImageBytes } from './image-bytes.ts';
import { sectorBytes } from './sector.ts';
import type { Damage } from './workload.ts';

/** Reserved in every entry of an L1, L2 or refcount table (L1E-002, L2E-003, RCT-002). */
const reservedBit = 2n;
const copiedBit = 1n << 63n;
/** The last byte of the incompatible features, and a bit of it. */
const markAt = 79;
const corruptBit = 2;
/** Costs a copy: of two entries that led to one cluster the one that is left does not know. */
const harmless = 'the copied flag is clear and the refcount is 1';
/** Findings that are looked at: more than the tiny images of the lab can have. */
const allFindings = 100_000;

/**
 * @returns the sectors that are other ones, by their offset: refcounts first, so that what a crash leaves of the damage is damage of
 *   the kinds that there are
 */
export function damaged(bytes: Uint8Array<ArrayBuffer>, damage: Damage): [at: number, bytes: Uint8Array][] {
  const image = new ImageBytes(bytes.slice());
  inflictions[damage](new Places(image));
  const changed: [number, Uint8Array][] = [];
  for (let at = 0; at < bytes.length; at += sectorBytes) {
    const sector = image.bytes.subarray(at, at + sectorBytes);
    if (Buffer.compare(sector, bytes.subarray(at, at + sectorBytes)) !== 0) changed.push([at, sector]);
  }
  const block = readRefcountBlockOffset(image.view, image.header.refcountTableOffset);
  const counts = ([at]: [number, Uint8Array]): boolean => at >= block && at < block + image.clusterBytes;
  return [...changed.filter(counts), ...changed.filter((one) => !counts(one))];
}

/**
 * The image as a reader can read it: without the reserved bits that hide what an entry leads to. What a guest sees of it is what
 * it has to see when it is repaired.
 */
export function readable(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const image = new ImageBytes(bytes.slice());
  const { l1Offset, l1Entries } = image.header;
  const clear = (at: number): void => {
    image.view.setBigUint64(at, image.view.getBigUint64(at) & ~reservedBit);
  };
  for (const { at } of image.entries(l1Offset, l1Entries)) clear(at);
  for (let index = 0; index < l1Entries; index++) clear(l1Offset + index * 8);
  return image.bytes;
}

/** What is damaged, by its offset in the image; entries that there are not are undefined. */
class Places {
  readonly image: ImageBytes;
  /** The first three L2 entries that lead somewhere. */
  readonly entries: readonly (number | undefined)[];
  /** The first L2 entry that says nothing. */
  readonly unused: number | undefined;
  /** The first entry of the L1 table and of the refcount table. */
  readonly l1: number;
  readonly block: number;

  constructor(image: ImageBytes) {
    const { l1Offset, l1Entries, refcountTableOffset } = image.header;
    const entries = [...image.entries(l1Offset, l1Entries)].map(({ at }) => at);
    this.image = image;
    this.entries = entries.filter((at) => readEntryOffset(image.view, at) !== 0).slice(0, 3);
    this.unused = entries.find((at) => image.view.getBigUint64(at) === 0n);
    this.l1 = l1Offset;
    this.block = refcountTableOffset;
  }

  get(at: number): bigint {
    return this.image.view.getBigUint64(at);
  }

  change(at: number | undefined, to: (entry: bigint) => bigint): void {
    if (at !== undefined) this.image.view.setBigUint64(at, to(this.get(at)));
  }

  /** Of the cluster that an entry leads to. */
  count(at: number | undefined, to: (refcount: number) => number): void {
    if (at === undefined) return;
    const cluster = readEntryOffset(this.image.view, at) / this.image.clusterBytes;
    this.image.setRefcount(cluster, to(this.image.refcount(cluster) ?? 0));
  }
}

const inflictions: Readonly<Record<Damage, (places: Places) => void>> = {
  'a leak': ({ image }) => leak(image),
  'a refcount too high': (places) => places.count(places.entries[0], (refcount) => refcount + 1),
  'a refcount of 0': (places) => places.count(places.entries[0], () => 0),
  'an L2 table with a refcount of 0': (places) => places.count(places.l1, () => 0),
  'a copied flag': (places) => places.change(places.entries[1], (entry) => entry ^ copiedBit),
  'a copied flag of an L1 entry': (places) => places.change(places.l1, (entry) => entry ^ copiedBit),
  'a reserved bit of an L2 entry': (places) => places.change(places.entries[0], withReservedBit),
  'a reserved bit of an L1 entry': (places) => places.change(places.l1, withReservedBit),
  'a cluster used twice': (places) => {
    const [, second, third] = places.entries;
    if (second !== undefined) places.change(third, () => places.get(second));
  },
  // Counted, as it has to be, wherever it stands.
  'a zero cluster beyond the end': ({ image, unused }) => {
    if (unused === undefined) return;
    const cluster = endOf(image) + 3;
    writeZeroEntry(image.view, unused, cluster * image.clusterBytes, true);
    image.setRefcount(cluster, 1);
  },
  'a refcount block gone': (places) => places.change(places.block, () => 0n),
  'a reserved bit of the refcount table': (places) => places.change(places.block, withReservedBit),
  'a refcount block used twice': (places) => places.change(places.block + 8, () => places.get(places.block)),
  'a mark as corrupt': ({ image }) => {
    image.bytes[markAt]! |= corruptBit;
  },
};

function withReservedBit(entry: bigint): bigint {
  return entry | reservedBit;
}

/** A cluster behind the end of the file: within it there may be a journal, whose clusters count 0. */
function leak(image: ImageBytes): void {
  image.setRefcount(endOf(image) + 1, 1);
}

/** The cluster behind the last one of the file. */
function endOf(image: ImageBytes): number {
  return Math.ceil(image.bytes.length / image.clusterBytes);
}

/**
 * Clusters that count less than they are used, so that somebody may be given them, within the file and beyond it; and damage
 * without a mark. In an image with
 * lazy refcounts that is marked as dirty nobody believes refcounts.
 */
export async function dangersOf(device: BlockDevice): Promise<readonly string[]> {
  const { header } = await readImageHeader(device);
  const { findings } = await checkImage(device, { maxFindings: allFindings });
  const isMarked = (header.incompatibleFeatures & incompatibleFeatures.corrupt) !== 0n;
  const isDirty = (header.incompatibleFeatures & incompatibleFeatures.dirty) !== 0n;
  const errors = findings.filter(({ severity, message }) => severity === 'error' && message !== harmless);
  const leaks = findings.filter(({ severity }) => severity === 'leak').map(({ hostOffset }) => hostOffset);
  const low = errors.filter(({ code }) => code === 'REFCOUNT_WRONG');
  return [
    ...(isDirty
      ? []
      : low.map(({ hostOffset }) => `the cluster at ${hostOffset} counts less than it is used`)),
    // As soon as the file is longer, who gets that cluster shares it.
    ...errors
      .filter(({ code, hostOffset }) => code === 'OUT_OF_RANGE' && !leaks.includes(hostOffset))
      .map(({ hostOffset }) => `something leads beyond the end to ${hostOffset}, which counts as free`),
    ...(errors.length > 0 && !isMarked && !isDirty ? ['it is damaged, and not marked'] : []),
  ];
}
