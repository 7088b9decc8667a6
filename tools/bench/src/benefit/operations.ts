/**
 * What a guest asks, as data: the same list of operations goes to every contender of a round. Offsets are
 * guest offsets in bytes. Nothing here knows who serves.
 *
 * A **place** is a span of the disk that one run has for itself. Each round gets a place of its own, so that
 * what allocates in the first round still allocates in the last.
 */

export interface Write {
  readonly kind: 'write';
  readonly guestOffset: number;
  readonly lengthBytes: number;
}

export type Operation = Write | { readonly kind: 'flush' };

export interface Place {
  readonly guestOffset: number;
  readonly lengthBytes: number;
}

/** Numbers from 0 to below 1. */
export type Random = () => number;

const clusterBytes = 65_536;
const sectorBytes = 512;
const flush: Operation = { kind: 'flush' };

/** The same numbers for the same seed. */
export function randomFrom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** A flush after every so many writes and after the last; 'never' leaves the list as it is. */
export function flushedEvery(writes: readonly Write[], every: number | 'never'): Operation[] {
  if (every === 'never') return [...writes];
  return writes.flatMap((write, index): Operation[] =>
    (index + 1) % every === 0 || index === writes.length - 1 ? [write, flush] : [write],
  );
}

/** Each write in a cluster that no other of them touches, in random order. */
export function scatteredWrites(place: Place, count: number, lengthBytes: number, random: Random): Write[] {
  const slots = clusterBytes / lengthBytes;
  return distinctClusters(place, count, random).map((guestOffset) => ({
    kind: 'write',
    guestOffset: guestOffset + Math.floor(random() * slots) * lengthBytes,
    lengthBytes,
  }));
}

/** One after the other from the start of the place. */
export function sequentialWrites(place: Place, count: number, lengthBytes: number): Write[] {
  return Array.from({ length: count }, (_, index) => ({
    kind: 'write',
    guestOffset: place.guestOffset + index * lengthBytes,
    lengthBytes,
  }));
}

export interface DatabaseShape {
  readonly checkpoints: number;
  readonly commitsPerCheckpoint: number;
  readonly pagesPerCheckpoint: number;
  /** The log is written round and round: its first lap appends, the others overwrite. */
  readonly logBytes: number;
}

const logRecordBytes = 4096;
const pageBytes = 8192;

/**
 * A database with a log: each commit appends 4 KiB to the log and flushes; after some of them a
 * checkpoint writes as many pages of 8 KiB at random places, and flushes once.
 */
export function databaseMix(place: Place, shape: DatabaseShape, random: Random): Operation[] {
  const operations: Operation[] = [];
  const pagesOffset = place.guestOffset + roundUp(shape.logBytes, clusterBytes);
  const pages = Math.floor((place.guestOffset + place.lengthBytes - pagesOffset) / pageBytes);
  let commit = 0;
  for (let checkpoint = 0; checkpoint < shape.checkpoints; checkpoint++) {
    for (let i = 0; i < shape.commitsPerCheckpoint; i++, commit++) {
      const at = (commit * logRecordBytes) % shape.logBytes;
      operations.push(
        { kind: 'write', guestOffset: place.guestOffset + at, lengthBytes: logRecordBytes },
        flush,
      );
    }
    for (let i = 0; i < shape.pagesPerCheckpoint; i++) {
      const guestOffset = pagesOffset + Math.floor(random() * pages) * pageBytes;
      operations.push({ kind: 'write', guestOffset, lengthBytes: pageBytes });
    }
    operations.push(flush);
  }
  return operations;
}

export interface Sum {
  readonly writes: number;
  readonly guestBytes: number;
  readonly flushes: number;
}

export function sumOf(operations: readonly Operation[]): Sum {
  let [writes, guestBytes, flushes] = [0, 0, 0];
  for (const operation of operations) {
    if (operation.kind === 'flush') {
      flushes++;
    } else {
      writes++;
      guestBytes += operation.lengthBytes;
    }
  }
  return { writes, guestBytes, flushes };
}

const recordBytes = 16;

/** For the load client: 16 bytes each, little-endian: offset (8), length (4), 1 for a write, 2 for a flush (4). */
export function encodeOperations(operations: readonly Operation[]): Uint8Array {
  const bytes = new Uint8Array(operations.length * recordBytes);
  const view = new DataView(bytes.buffer);
  operations.forEach((operation, index) => {
    const at = index * recordBytes;
    if (operation.kind === 'write') {
      view.setBigUint64(at, BigInt(operation.guestOffset), true);
      view.setUint32(at + 8, operation.lengthBytes, true);
      view.setUint32(at + 12, 1, true);
    } else {
      view.setUint32(at + 12, 2, true);
    }
  });
  return bytes;
}

/** Offsets of clusters of the place, each once. */
function distinctClusters(place: Place, count: number, random: Random): number[] {
  const clusters = Math.floor(place.lengthBytes / clusterBytes);
  const order = new Map<number, number>(); // a shuffle of which only the first `count` cards are drawn
  return Array.from({ length: Math.min(count, clusters) }, (_, index) => {
    const drawn = index + Math.floor(random() * (clusters - index));
    const cluster = order.get(drawn) ?? drawn;
    order.set(drawn, order.get(index) ?? index);
    return place.guestOffset + cluster * clusterBytes;
  });
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Whether every operation stays in the place and on sectors: a guest could ask it. */
export function staysIn(operations: readonly Operation[], place: Place): boolean {
  return operations.every(
    (operation) =>
      operation.kind === 'flush' ||
      (operation.guestOffset >= place.guestOffset &&
        operation.guestOffset + operation.lengthBytes <= place.guestOffset + place.lengthBytes &&
        operation.guestOffset % sectorBytes === 0 &&
        operation.lengthBytes % sectorBytes === 0),
  );
}
