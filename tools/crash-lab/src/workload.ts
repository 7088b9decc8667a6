/**
 * What a guest does before the crash: a list of operations, small enough to write into a state's id.
 *
 * The exhaustive workloads are all sequences over an alphabet of named operations that meet in the same few
 * clusters, so that each can spoil the other: clusters are filled in part, overwritten, zeroed, discarded and
 * (through the free clusters of those) reused. Random workloads are long, and come from a seed.
 *
 * The content written is a function of the operation's place in the workload and of the guest sector: no two
 * writes of a workload, and no two sectors, carry the same bytes, so stale or misplaced content never
 * passes for the right one.
 */

import { hashText, SeededRandom } from '@qcow2/seeded';
import { StateError } from '@qcow2/spec';
import { sectorBytes } from './sector.ts';

export type GuestOperation =
  | { readonly kind: 'write'; readonly offset: number; readonly lengthBytes: number; readonly fua: boolean }
  | {
      readonly kind: 'zeroes';
      readonly offset: number;
      readonly lengthBytes: number;
      readonly unmap: boolean;
    }
  | { readonly kind: 'discard'; readonly offset: number; readonly lengthBytes: number }
  /** Write whole clusters in compressed form; their content is such that they get smaller. */
  | { readonly kind: 'compress'; readonly offset: number; readonly lengthBytes: number }
  | { readonly kind: 'flush' }
  /** Make the disk larger by so many clusters. */
  | { readonly kind: 'grow'; readonly clusters: number }
  /** Make the disk smaller by so many clusters. */
  | { readonly kind: 'shrink'; readonly clusters: number }
  /** Make a snapshot; apply, delete the oldest one. */
  | { readonly kind: 'snapshot' }
  | { readonly kind: 'apply' }
  | { readonly kind: 'delete' }
  /** Change the bitmaps: a new one; the oldest is removed, cleared, merged into the newest, turned on or off. */
  | { readonly kind: 'bitmap'; readonly change: BitmapChange }
  /** The disk is put on the next backing file, the guest sees the same; it is closed and opened again. */
  | { readonly kind: 'rebase' }
  /** Something that is not ours changes a table of the image while nobody has it open; the next opening repairs it. */
  | { readonly kind: 'damage'; readonly damage: Damage }
  /** Write the last bytes of the disk, wherever it ends by then. */
  | { readonly kind: 'tail'; readonly lengthBytes: number }
  /** See what stands there, while other requests are under way. */
  | { readonly kind: 'read'; readonly offset: number; readonly lengthBytes: number }
  /** Everything comes in place and the image is clean, as after a while without requests; it stays open. */
  | { readonly kind: 'rest' }
  /** Another journal in place of the one that there is: twice as large, or half. */
  | { readonly kind: 'resize-journal' }
  /** Refcounts of the next width: 16 bits, 64, 8 and 16 again. */
  | { readonly kind: 'refcount-width' }
  /** A clean close, and open. */
  | { readonly kind: 'reopen' }
  /** The process dies, the machine does not: open again on the device as it is, with nothing lost and nothing durable. */
  | { readonly kind: 'kill' };

const bitmapChanges = ['add', 'remove', 'clear', 'merge', 'toggle'] as const;
export type BitmapChange = (typeof bitmapChanges)[number];

/** Damage that a repair puts right whole, by its letter. */
const damageLetters = {
  L: 'a leak',
  H: 'a refcount too high',
  Z: 'a refcount of 0',
  T: 'an L2 table with a refcount of 0',
  F: 'a copied flag',
  G: 'a copied flag of an L1 entry',
  B: 'a reserved bit of an L2 entry',
  D: 'a reserved bit of an L1 entry',
  W: 'a cluster used twice',
  N: 'a zero cluster beyond the end',
  X: 'a refcount block gone',
  Y: 'a reserved bit of the refcount table',
  S: 'a refcount block used twice',
  K: 'a mark as corrupt',
} as const;
export type Damage = (typeof damageLetters)[keyof typeof damageLetters];

export interface Workload {
  /**
   * How the workload is written in an id: letters of the alphabet, with `.N` behind them N times over; or `r`, `g`, `m`, `n` or `b` and the
   * random workload's seed and number.
   */
  readonly name: string;
  readonly operations: readonly GuestOperation[];
  /** How many guest requests may be under way at once. */
  readonly concurrency: number;
  /** The device answers late and out of order (`DelayingDevice`). */
  readonly disturbed: boolean;
  /** It reads while other requests are under way: a device that answers late answers reads last. */
  readonly isWatched?: boolean;
}

export interface Geometry {
  /** The disk's size before the workload. */
  readonly guestBytes: number;
  readonly clusterBytes: number;
  /** Which letters of `allLetters` make up the exhaustive workloads of this system. */
  readonly letters: string;
}

/** Clusters that a disk grows by in all, at most: a growth that would go beyond is left out. */
export const mostGrownClusters = 8;
/** A disk does not shrink below so many. */
export const fewestClusters = 4;
/** Snapshots that an image has at most: one more is left out. */
export const mostSnapshots = 3;
/** The same of bitmaps. */
export const mostBitmaps = 3;

/** What every letter means: one operation each. */
export function alphabet(geometry: Geometry): ReadonlyMap<string, GuestOperation> {
  const cluster = geometry.clusterBytes;
  const half = cluster / 2;
  const write = (offset: number, lengthBytes: number, fua = false): GuestOperation => ({
    kind: 'write',
    offset,
    lengthBytes,
    fua,
  });
  return new Map<string, GuestOperation>([
    ['s', write(2 * cluster + half, half)], // sub-cluster: the second half of cluster 2
    ['w', write(2 * cluster, cluster)], // cluster 2, whole
    ['x', write(2 * cluster + half, cluster)], // spanning: half of 2, half of 3
    ['o', write(0, cluster)], // overwrite: cluster 0, which a filled image holds
    ['z', { kind: 'zeroes', offset: 2 * cluster, lengthBytes: cluster, unmap: false }],
    ['d', { kind: 'discard', offset: 0, lengthBytes: 3 * cluster }],
    ['f', { kind: 'flush' }],
    ['u', write(2 * cluster, half, true)], // FUA: the first half of cluster 2
    ['h', write(5 * cluster, half)], // half of cluster 5, which something else refers to where clusters are shared
    ['g', { kind: 'grow', clusters: 2 }],
    ['y', { kind: 'shrink', clusters: 3 }],
    ['n', { kind: 'snapshot' }],
    ['a', { kind: 'apply' }],
    ['e', { kind: 'delete' }],
    ['t', { kind: 'tail', lengthBytes: half }], // the second half of the disk's last cluster
    // All of the disk but its first 8 clusters: more than the file runs ahead, where the disk is large.
    ['b', write(8 * cluster, geometry.guestBytes - 8 * cluster)],
    ['q', { kind: 'rest' }],
    ['j', { kind: 'resize-journal' }],
    ['i', { kind: 'refcount-width' }],
    ['p', { kind: 'compress', offset: 2 * cluster, lengthBytes: 2 * cluster }], // clusters 2 and 3, side by side in the file
    ['v', { kind: 'compress', offset: 0, lengthBytes: cluster }], // cluster 0
    ['A', { kind: 'bitmap', change: 'add' }],
    ['R', { kind: 'bitmap', change: 'remove' }],
    ['C', { kind: 'bitmap', change: 'clear' }],
    ['M', { kind: 'bitmap', change: 'merge' }],
    ['E', { kind: 'bitmap', change: 'toggle' }],
    ['P', { kind: 'rebase' }],
    ...Object.entries(damageLetters).map(([letter, damage]) => [letter, { kind: 'damage', damage }] as const),
    ['c', { kind: 'reopen' }],
    ['k', { kind: 'kill' }],
  ]);
}

/** All sequences of exactly `length` operations out of the system's letters. */
export function* sequences(geometry: Geometry, length: number): Generator<Workload> {
  const letters = [...geometry.letters];
  const count = letters.length ** length;
  for (let number = 0; number < count; number++) {
    let name = '';
    for (let rest = number, place = 0; place < length; place++, rest = Math.floor(rest / letters.length)) {
      name = letters[rest % letters.length]! + name;
    }
    yield namedWorkload(geometry, name);
  }
}

/**
 * Whether the disk of a random workload grows (`g`), is read meanwhile and comes to rest (`m`), has snapshots and other sizes (`n`),
 * or bitmaps that are changed (`b`); part of its name.
 */
export type RandomKind = 'r' | 'g' | 'm' | 'n' | 'b';

/** The random workload with a number under a seed: between 30 and 60 operations. */
export function randomWorkload(
  geometry: Geometry,
  seed: number,
  number: number,
  kind: RandomKind = 'r',
): Workload {
  const random = new SeededRandom(hashText('workload'), seed, number);
  const operations: GuestOperation[] = [];
  const count = 30 + random.below(31);
  while (operations.length < count) {
    if (kind === 'g' && random.chance(16)) operations.push(randomGrowth(random));
    else if (kind === 'm' && random.chance(3)) operations.push(randomView(geometry, random));
    else if (kind === 'n' && random.chance(6)) operations.push(randomChange(random));
    else if (kind === 'b' && random.chance(6)) operations.push(randomBitmapChange(geometry, random));
    else operations.push(...afterClose(randomOperation(geometry, random)));
  }
  return {
    name: `${kind}${seed}.${number}`,
    operations,
    // A cluster that is freed, made free by one flush and used again by another, all while it is read, takes many requests.
    concurrency: kind === 'm' ? 4 * (1 + (number % 4)) : 1 + (number % 3),
    disturbed: number % 2 === 1,
    isWatched: kind === 'm',
  };
}

/**
 * The workload that a name stands for.
 * @throws INVALID_ARGUMENT for a letter that is not in the alphabet
 */
export function namedWorkload(geometry: Geometry, name: string): Workload {
  const random = /^([rgmnb])(\d+)\.(\d+)$/.exec(name);
  if (random !== null) {
    const [, kind, seed, number] = random;
    return randomWorkload(geometry, Number(seed), Number(number), kind as RandomKind);
  }
  const letters = alphabet(geometry);
  const [, word = name, times = '1'] = /^([a-zA-Z]+)\.(\d{1,3})$/.exec(name) ?? [];
  const operations = [...word.repeat(Number(times))].map((letter) => {
    const operation = letters.get(letter);
    if (operation === undefined) {
      throw new StateError('INVALID_ARGUMENT', 'not a workload', { field: 'workload', value: name });
    }
    return operation;
  });
  return { name, operations, concurrency: 1, disturbed: false };
}

/** What a guest does after a recovery: two to four operations of the system's letters, and a flush. */
export function laterWorkload(geometry: Geometry, random: SeededRandom): Workload {
  // Systems that are for random workloads only say no more than whether their disk grows.
  const letters = geometry.letters.length > 1 ? geometry.letters : `swxozdfuck${geometry.letters}`;
  const count = 2 + random.below(3);
  const name = Array.from({ length: count }, () => letters[random.below(letters.length)]!).join('');
  return namedWorkload(geometry, `${name}f`);
}

/** What operation number `index` of a workload writes at a guest range. */
export function contentOf(index: number, offset: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let done = 0; done < lengthBytes; ) {
    const sector = Math.floor((offset + done) / sectorBytes);
    const start = offset + done - sector * sectorBytes;
    const count = Math.min(lengthBytes - done, sectorBytes - start);
    bytes.set(stampedSector(index, sector).subarray(start, start + count), done);
    done += count;
  }
  return bytes;
}

/**
 * What operation number `index` compresses at a guest range: sectors of which a part is stamped as `contentOf` stamps them and
 * the rest repeats the stamp's head, so that a cluster takes half its size or so, and two lie across the border of a third.
 */
export function compressibleContentOf(index: number, offset: number, lengthBytes: number): Uint8Array {
  const bytes = contentOf(index, offset, lengthBytes);
  for (let at = 0; at < lengthBytes; at += sectorBytes) {
    const sector = bytes.subarray(at, at + sectorBytes);
    for (let i = stampedBytes; i < sectorBytes; i++) sector[i] = sector[i % repeatedBytes]!;
  }
  return bytes;
}

/** Of each sector that is compressed: what is its own, and what is repeated behind that. */
const stampedBytes = 224;
const repeatedBytes = 32;

/** Content of the kind that `contentOf` makes, for what stood there before: a backing file, a filled image. */
export function stampedContent(stamp: number, lengthBytes: number): Uint8Array {
  return contentOf(-stamp, 0, lengthBytes);
}

export function describeOperation(operation: GuestOperation): string {
  switch (operation.kind) {
    case 'write':
      return `write ${operation.lengthBytes} at ${operation.offset}${operation.fua ? ' fua' : ''}`;
    case 'zeroes':
      return `write zeroes ${operation.lengthBytes} at ${operation.offset}${operation.unmap ? ' unmap' : ''}`;
    case 'compress':
      return `write compressed ${operation.lengthBytes} at ${operation.offset}`;
    case 'discard':
      return `discard ${operation.lengthBytes} at ${operation.offset}`;
    case 'read':
      return `read ${operation.lengthBytes} at ${operation.offset}`;
    case 'grow':
      return `grow by ${operation.clusters} clusters`;
    case 'shrink':
      return `shrink by ${operation.clusters} clusters`;
    case 'bitmap':
      return `${operation.change} a bitmap`;
    case 'damage':
      return operation.damage;
    case 'tail':
      return `write the last ${operation.lengthBytes}`;
    default:
      return operation.kind;
  }
}

const stampCache = new Map<number, Uint8Array>();

/** 512 bytes of which no 8 are those of another stamp: a readable head, then numbers drawn from both. */
function stampedSector(index: number, sector: number): Uint8Array {
  const cacheKey = (index + 0x8000) * 0x10000 + sector;
  const known = stampCache.get(cacheKey);
  if (known !== undefined) return known;
  const bytes = new Uint8Array(sectorBytes);
  new SeededRandom(0x57a3b, index, sector).fill(bytes);
  const head = `<${index < 0 ? `base${-index}` : `op${index}`} sector ${sector}>`;
  for (let at = 0; at < head.length; at++) bytes[at] = head.charCodeAt(at);
  stampCache.set(cacheKey, bytes);
  return bytes;
}

/** What a dirty journal needs may be what is damaged, and then it is not replayed [REP-008]: long workloads damage what is closed. */
function afterClose(operation: GuestOperation): GuestOperation[] {
  return operation.kind === 'damage' ? [{ kind: 'reopen' }, operation] : [operation];
}

function randomOperation(geometry: Geometry, random: SeededRandom): GuestOperation {
  const { guestBytes, clusterBytes, letters } = geometry;
  // Systems without compressed clusters, backing files by turns or damage draw nothing for them.
  if (letters.includes('p') && random.chance(5)) return randomCompression(guestBytes, clusterBytes, random);
  if (letters.includes('P') && random.chance(12)) return { kind: 'rebase' };
  const damage = Object.entries(damageLetters).filter(([letter]) => letters.includes(letter));
  if (damage.length > 0 && random.chance(5)) {
    return { kind: 'damage', damage: damage[random.below(damage.length)]![1] };
  }
  const dice = random.below(100);
  if (dice < 22) return { kind: 'flush' };
  if (dice < 24) return { kind: 'reopen' };
  if (dice < 26) return { kind: 'kill' };
  const { offset, lengthBytes } = randomRange(guestBytes, clusterBytes, random);
  if (dice < 35) return { kind: 'zeroes', offset, lengthBytes, unmap: random.chance(2) };
  if (dice < 45) {
    // Mostly whole clusters: a discard of less is rarely carried out.
    const start = offset - (offset % clusterBytes);
    const clusters = 1 + random.below(4);
    return {
      kind: 'discard',
      offset: start,
      lengthBytes: Math.min(clusters * clusterBytes, guestBytes - start),
    };
  }
  return { kind: 'write', offset, lengthBytes, fua: dice < 52 };
}

/** One to four whole clusters. */
function randomCompression(guestBytes: number, clusterBytes: number, random: SeededRandom): GuestOperation {
  const clusters = Math.min(guestBytes / clusterBytes, random.chance(2) ? 8 : Infinity);
  const count = 1 + random.below(4);
  const first = random.below(clusters - count + 1);
  return { kind: 'compress', offset: first * clusterBytes, lengthBytes: count * clusterBytes };
}

function randomChange(random: SeededRandom): GuestOperation {
  const dice = random.below(10);
  if (dice < 4) return { kind: 'snapshot' };
  if (dice < 6) return { kind: 'apply' };
  if (dice < 8) return { kind: 'delete' };
  return dice === 8 ? { kind: 'shrink', clusters: 1 + random.below(4) } : randomGrowth(random);
}

function randomBitmapChange({ letters }: Geometry, random: SeededRandom): GuestOperation {
  // What is at rest is what a bitmap's next write begins from.
  if (random.chance(3)) return { kind: 'rest' };
  // Systems whose disk keeps its size draw nothing for another one.
  if (letters.includes('y') && random.chance(3)) {
    return random.chance(2) ? { kind: 'shrink', clusters: 1 + random.below(4) } : randomGrowth(random);
  }
  return { kind: 'bitmap', change: bitmapChanges[random.below(bitmapChanges.length)]! };
}

function randomGrowth(random: SeededRandom): GuestOperation {
  if (random.chance(2)) return { kind: 'tail', lengthBytes: sectorBytes * (1 + random.below(2)) };
  return { kind: 'grow', clusters: 1 + random.below(2) };
}

function randomView({ guestBytes, clusterBytes, letters }: Geometry, random: SeededRandom): GuestOperation {
  if (random.chance(8))
    return letters.includes('j') && random.chance(3) ? { kind: 'resize-journal' } : { kind: 'rest' };
  return { kind: 'read', ...randomRange(guestBytes, clusterBytes, random) };
}

/** Half of the requests meet in the first eight clusters; one in twenty is not aligned to sectors. */
function randomRange(guestBytes: number, clusterBytes: number, random: SeededRandom) {
  const space = random.chance(2) ? Math.min(guestBytes, 8 * clusterBytes) : guestBytes;
  const sectors = space / sectorBytes;
  const longest = Math.min(sectors, random.chance(8) ? 16 : (2 * clusterBytes) / sectorBytes);
  const count = 1 + random.below(longest);
  const first = random.below(sectors - count + 1);
  if (!random.chance(20)) return { offset: first * sectorBytes, lengthBytes: count * sectorBytes };
  const cut = 1 + random.below(sectorBytes - 2);
  return { offset: first * sectorBytes + cut, lengthBytes: count * sectorBytes - cut - 1 };
}
