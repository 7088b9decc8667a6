/**
 * Random damage to the tables of an image in memory, and what a repair must not touch: every entry that was not damaged,
 * and the cluster that it leads to, of the active disk and of snapshots.
 */
import {
  classifyL2Entry,
  clusterKind,
  l2EntryBytes,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryOffset,
} from '@qcow2/codec';
import { type ImageWalk, type Mapping, type Table, walkImage } from '@qcow2/conformance';
import type { Random } from './random.ts';

const copied = 1n << 63n;

/** One entry of a table, in place. */
interface Place {
  readonly view: DataView;
  readonly at: number;
}

/** What is damaged, and how; in the words that a failure shows. */
export class MetadataDamage {
  readonly bytes: Uint8Array;
  readonly #walk: ImageWalk;
  readonly #rng: Random;
  readonly done: string[] = [];

  constructor(bytes: Uint8Array, rng: Random) {
    this.bytes = bytes;
    this.#walk = walkImage(bytes);
    this.#rng = rng;
  }

  damage(count: number): void {
    const kinds: readonly (readonly [string, () => void])[] = [
      ['a refcount', () => this.#refcount()],
      ['a leak', () => this.#refcount(this.#walk.refcounts.maxValue)],
      ['a copied flag', () => this.#flip(this.#l2(), copied)],
      ['a copied flag of an L1 entry', () => this.#flip(this.#l1(), copied)],
      ['reserved bits of an L2 entry', () => this.#flip(this.#l2(), 1n << BigInt(this.#rng.between(1, 8)))],
      ['reserved bits of an L1 entry', () => this.#flip(this.#l1(), 1n << BigInt(this.#rng.between(56, 62)))],
      ['any bit of an L2 entry', () => this.#flip(this.#l2(), 1n << BigInt(this.#rng.between(9, 55)))],
      ['any bit of an L1 entry', () => this.#flip(this.#l1(), 1n << BigInt(this.#rng.between(9, 55)))],
      ['a cluster used twice', () => this.#copy(this.#l2(), this.#l2())],
      ['an L2 table used twice', () => this.#copy(this.#l1(), this.#l1())],
      ['a guest cluster in metadata', () => this.#ontoMetadata()],
      [
        'a zero cluster anywhere',
        () => this.#flip(this.#l2(), 1n | (1n << BigInt(this.#rng.between(9, 40)))),
      ],
      [
        'a bit of the refcount table',
        () => this.#flip(this.#block(), 1n << BigInt(this.#rng.between(0, 45))),
      ],
      ['a refcount block gone', () => this.#set(this.#block(), 0n)],
      ['a refcount block used twice', () => this.#copy(this.#block(), this.#block(1))],
      ['a mark', () => this.#mark()],
    ];
    for (let i = 0; i < count; i++) {
      const [name, damage] = this.#rng.pick(kinds);
      this.done.push(name);
      damage();
    }
  }

  #mapping(): Mapping {
    return this.#rng.pick([this.#walk.active, ...this.#walk.snapshotMappings]);
  }

  #l1(): Place {
    const { l1, l1Entries } = this.#mapping();
    return { view: l1.view, at: this.#rng.between(0, l1Entries - 1) * 8 };
  }

  #l2(): Place {
    const tables = [...this.#mapping().l2.values()];
    const table: Table = tables.length === 0 ? this.#walk.active.l1 : this.#rng.pick(tables);
    return { view: table.view, at: this.#rng.between(0, table.view.byteLength / 8 - 1) * 8 };
  }

  /** An entry of the refcount table that names a block, or one a little further on. */
  #block(further = 0): Place {
    const { view } = this.#walk.refcountTable;
    const index = this.#rng.pick([...this.#walk.refcountBlocks.keys()]) + further;
    return { view, at: Math.min(index * 8, view.byteLength - 8) };
  }

  #refcount(value?: number): void {
    const { refcounts, refcountBlocks } = this.#walk;
    const { view } = this.#rng.pick([...refcountBlocks.values()]);
    const inUse = Math.min(refcounts.entriesPerBlock(view.byteLength), 120);
    const most = Math.min(refcounts.maxValue, 4);
    refcounts.set(view, this.#rng.between(0, inUse - 1), value ?? this.#rng.between(0, most));
  }

  #ontoMetadata(): void {
    const { at } = this.#rng.pick(this.#walk.structures);
    this.#set(this.#l2(), copied | BigInt(at));
  }

  #mark(): void {
    // Dirty or corrupt: version 2 has neither.
    if (this.#walk.header.version > 2) this.bytes[79]! |= this.#rng.between(1, 2);
  }

  #flip(place: Place, mask: bigint): void {
    this.#set(place, place.view.getBigUint64(place.at) ^ mask);
  }

  #copy(from: Place, to: Place): void {
    this.#set(to, from.view.getBigUint64(from.at));
  }

  #set({ view, at }: Place, value: bigint): void {
    view.setBigUint64(at, value);
  }
}

/** Where an entry of `after` differs from that of `sound` though that of `damaged` does not, or its cluster's bytes do. */
export function lostMappings(sound: Uint8Array, damaged: Uint8Array, after: Uint8Array): string[] {
  const walk = walkImage(sound);
  const lost: string[] = [];
  const entry = (bytes: Uint8Array, at: number): bigint =>
    new DataView(bytes.buffer, bytes.byteOffset + at).getBigUint64(0) & ~copied;
  for (const { l1, l1Entries, l2 } of [walk.active, ...walk.snapshotMappings]) {
    for (let index = 0; index < l1Entries; index++) {
      const table = l2.get(index);
      const at = l1.at + index * 8;
      if (table === undefined || entry(sound, at) !== entry(damaged, at)) continue;
      if (entry(after, at) !== entry(sound, at)) lost.push(`L1 entry at ${at}`);
      lost.push(...lostClusters(walk, table, { sound, damaged, after }));
    }
  }
  return lost;
}

interface Versions {
  readonly sound: Uint8Array;
  readonly damaged: Uint8Array;
  readonly after: Uint8Array;
}

function lostClusters(walk: ImageWalk, table: Table, { sound, damaged, after }: Versions): string[] {
  const { clusterBytes, l2Format } = walk;
  const entryBytes = l2EntryBytes(l2Format);
  const lost: string[] = [];
  for (let i = 0; i < clusterBytes; i += entryBytes) {
    const at = table.at + i;
    const words = (bytes: Uint8Array): string => {
      const view = new DataView(bytes.buffer, bytes.byteOffset + at, entryBytes);
      return `${view.getBigUint64(0) & ~copied} ${entryBytes > 8 ? view.getBigUint64(8) : ''}`;
    };
    if (words(sound) !== words(damaged)) continue;
    if (words(after) !== words(sound)) {
      lost.push(`L2 entry at ${at}`);
      continue;
    }
    const { offset, lengthBytes } = hostRange(
      walk,
      new DataView(sound.buffer, sound.byteOffset + at, entryBytes),
    );
    const end = Math.min(offset + lengthBytes, sound.length);
    if (Buffer.compare(sound.subarray(offset, end), after.subarray(offset, end)) !== 0) {
      lost.push(`cluster at ${offset}`);
    }
  }
  return lost;
}

/**
 * Where the guest's bytes of an entry stand; empty where it shows none. Sub-clusters that read as zeros need no host cluster: offset 0
 * is none then, not the header's.
 */
function hostRange({ clusterBytes, l2Format }: ImageWalk, entry: DataView) {
  const kind = classifyL2Entry(entry, 0, l2Format);
  if (kind === clusterKind.compressed) {
    const offset = readCompressedOffset(entry, 0, l2Format.clusterBits);
    return { offset, lengthBytes: readCompressedLengthBytes(entry, 0, l2Format.clusterBits) };
  }
  const offset = readEntryOffset(entry, 0);
  const shows = offset > 0 && (kind === clusterKind.standard || kind === clusterKind.mixed);
  return { offset, lengthBytes: shows ? clusterBytes : 0 };
}
