/**
 * Damage to golden vectors, the same for the same seed: truncations at the border of every structure and
 * elsewhere, every single bit of the header, and sampled bits of all tables. `@qcow2/conformance/mutations`, for the tests of
 * every package that reads images.
 *
 * Invariant: a mutation is a description; nothing is copied before it is applied. Images of tens of
 * megabytes are damaged in place and restored (`withMutation`).
 */
import { type ImageWalk, type Structure, walkImage } from './image-walk.ts';
import { type Draw, drawFrom } from './random.ts';
import { findRuns, type Run } from './sparse.ts';
import type { Vector } from './vector.ts';

export type Mutation =
  | { readonly kind: 'truncation'; readonly name: string; readonly sizeBytes: number }
  | {
      readonly kind: 'bit-flip';
      readonly name: string;
      /** Host offset of the byte. */
      readonly offset: number;
      /** 0 is the least significant. */
      readonly bit: number;
    };

export interface MutationOptions {
  /** Truncations at random places; default 16. */
  readonly randomTruncations?: number;
  /** Bit flips in each structure but the header; default 16. Half of them fall where bytes are not zero. */
  readonly flipsPerStructure?: number;
  /** Structures of one kind that are damaged, drawn from all; default 8. */
  readonly structuresPerKind?: number;
  /** Only every nth bit of the header is flipped; default 1: all of them. */
  readonly headerStride?: number;
}

/**
 * The mutations of a vector, in order: truncations, the header's bits, the tables' bits.
 *
 * @param seed a 32-bit integer; print it where a test fails
 */
export function mutations(
  vector: Pick<Vector, 'bytes'>,
  seed: number,
  options: MutationOptions = {},
): Mutation[] {
  const draw = drawFrom(seed);
  const walk = walkImage(vector.bytes);
  const runs = findRuns(vector.bytes);
  const structures = sampleStructures(walk.structures, options.structuresPerKind ?? 8, draw);
  return [
    ...truncations(vector.bytes.length, structures, options.randomTruncations ?? 16, draw),
    ...headerFlips(walk, vector.bytes, options.headerStride ?? 1),
    ...structures.flatMap((structure) =>
      structure.kind === 'header'
        ? []
        : structureFlips(structure, runs, vector.bytes.length, options.flipsPerStructure ?? 16, draw),
    ),
  ];
}

/** A damaged copy: the caller's. */
export function applyMutation(bytes: Uint8Array, mutation: Mutation): Uint8Array {
  const copy = bytes.slice(0, mutation.kind === 'truncation' ? mutation.sizeBytes : bytes.length);
  if (mutation.kind === 'bit-flip') flip(copy, mutation);
  return copy;
}

/**
 * Run `use` on the damaged image without copying it: `bytes` itself is damaged meanwhile, or a view of its beginning
 * is given. Restored when `use` is done, also where it throws.
 */
export function withMutation<T>(bytes: Uint8Array, mutation: Mutation, use: (damaged: Uint8Array) => T): T {
  if (mutation.kind === 'truncation') return use(bytes.subarray(0, mutation.sizeBytes));
  flip(bytes, mutation);
  try {
    return use(bytes);
  } finally {
    flip(bytes, mutation);
  }
}

function flip(bytes: Uint8Array, { offset, bit }: Mutation & { kind: 'bit-flip' }): void {
  bytes[offset] = (bytes[offset] ?? 0) ^ (1 << bit);
}

/** At most `most` structures of each kind, the first of each among them. */
function sampleStructures(structures: readonly Structure[], most: number, draw: Draw): Structure[] {
  const kinds = Map.groupBy(structures, (structure) => structure.kind);
  return [...kinds.values()].flatMap(([first, ...others]) => {
    if (first === undefined) return [];
    while (others.length >= most) others.splice(draw(others.length), 1);
    return [first, ...others];
  });
}

function truncations(
  sizeBytes: number,
  structures: readonly Structure[],
  random: number,
  draw: Draw,
): Mutation[] {
  const sizes = new Set([0, 1, sizeBytes - 1]);
  for (const { at, lengthBytes } of structures) {
    for (const size of [at, at + 1, at + lengthBytes - 1, at + lengthBytes]) sizes.add(size);
  }
  for (let i = 0; i < random; i++) sizes.add(draw(sizeBytes));
  return [...sizes]
    .filter((size) => size >= 0 && size < sizeBytes)
    .sort((a, b) => a - b)
    .map((size) => ({ kind: 'truncation', name: `cut to ${size} bytes`, sizeBytes: size }));
}

/** Every bit of the header proper, its extensions and the backing file name. */
function headerFlips({ header }: ImageWalk, bytes: Uint8Array, stride: number): Mutation[] {
  const extensionBytes = header.extensions.reduce((sum, { data }) => sum + 16 + data.length, 16);
  const nameEnd = header.backingFileOffset + header.backingFileLengthBytes;
  const end = Math.min(bytes.length, Math.max(nameEnd, header.headerLengthBytes + extensionBytes));
  const flips: Mutation[] = [];
  for (let index = 0; index < end * 8; index += stride) flips.push(bitFlip('header', index >>> 3, index & 7));
  return flips;
}

function structureFlips(
  structure: Structure,
  runs: readonly Run[],
  sizeBytes: number,
  count: number,
  draw: Draw,
): Mutation[] {
  const { kind, at } = structure;
  const end = Math.min(at + structure.lengthBytes, sizeBytes);
  const filled = runs.filter(([offset, length]) => offset < end && offset + length > at);
  const flips: Mutation[] = [];
  for (let i = 0; i < count && at < end; i++) {
    const run = i % 2 === 0 ? filled[draw(filled.length)] : undefined;
    // A table is mostly empty, and the interesting bits are those that are set, and the few before them.
    const from = run === undefined ? at : Math.max(at, run[0] - 8);
    const to = run === undefined ? end : Math.min(end, run[0] + run[1]);
    flips.push(bitFlip(kind, from + draw(to - from), draw(8)));
  }
  return flips;
}

function bitFlip(kind: string, offset: number, bit: number): Mutation {
  return { kind: 'bit-flip', name: `${kind}: bit ${bit} of byte ${offset} flipped`, offset, bit };
}
