/**
 * What a disk is made of, range by range, as `qemu-img map` tells it: how far down the chain, whether the image there says
 * anything about it, whether it is data, whether that is compressed, and where it stands in the file. Both sides are
 * brought into one form: neighbours that are alike and stand in a row are joined. And what QEMU says of places is looked up
 * in the file: there are the bytes.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import { type PlacedExtent, Qcow2Image } from '@qcow2/driver';
import { allExtents, type OpenedImage } from './own-side.ts';
import type { MapEntry } from './qemu-side.ts';

export interface MapRange {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly present: boolean;
  /** Reads as zeros, and no byte has to be read to know it. */
  readonly zero: boolean;
  readonly data: boolean;
  /** Undefined where it can not be told: of encrypted images. */
  readonly compressed: boolean | undefined;
  /** Where the range stands byte for byte, of data or of what has a place and shows none of it. */
  readonly offset: number | undefined;
}

/** QEMU's map. Compressed is what is data and has no offset; in an encrypted image nothing has one. */
export function theirMap(entries: readonly MapEntry[], isEncrypted: boolean): MapRange[] {
  return joined(
    entries.map((entry) => {
      const { start, length, depth, present, zero, data, offset } = entry;
      const isUnknown = isEncrypted && depth === 0 && data;
      const compressed = isUnknown ? undefined : data && offset === undefined;
      // That the host has a hole where the image has data is the host's word.
      return { start, length, depth, present, zero: zero && !data, data, compressed, offset };
    }),
  );
}

/** The library's map: extents of the image, and of the backing file where the image has nothing of its own. */
export async function ourMap(
  { image, backing }: Pick<OpenedImage, 'image' | 'backing'>,
  isEncrypted: boolean,
): Promise<MapRange[]> {
  const ranges: MapRange[] = [];
  const below = backing === undefined ? [] : await extentsOfSectors(backing);
  for (const extent of await allExtents(image)) {
    if (extent.kind !== 'hole') ranges.push(rangeOf(extent, 0, isEncrypted));
    else ranges.push(...belowHole(extent, below, backing));
  }
  return joined(ranges);
}

function belowHole(
  hole: PlacedExtent,
  below: readonly PlacedExtent[],
  backing: BlockDevice | undefined,
): MapRange[] {
  const end = hole.offset + hole.lengthBytes;
  const ranges: MapRange[] = [];
  let at = hole.offset;
  for (const extent of below) {
    const from = Math.max(at, extent.offset);
    const to = Math.min(end, extent.offset + extent.lengthBytes);
    if (to <= from) continue;
    // Of a raw file everything is its own; a hole of it is zeros.
    const isNothing = extent.kind === 'hole' && backing instanceof Qcow2Image;
    const piece = part(extent, from, to);
    ranges.push(isNothing ? nothing(piece, 1) : rangeOf(piece, 1, false));
    at = to;
  }
  if (at < end) ranges.push(nothing(part(hole, at, end), 0));
  return ranges;
}

function rangeOf(
  { offset, lengthBytes, kind, compressed, hostOffset }: PlacedExtent,
  depth: number,
  isEncrypted: boolean,
): MapRange {
  return {
    start: offset,
    length: lengthBytes,
    depth,
    present: true,
    zero: kind !== 'data',
    data: kind === 'data',
    compressed: isEncrypted && depth === 0 && kind === 'data' ? undefined : compressed === true,
    offset: hostOffset,
  };
}

/** Of no file: zeros. */
function nothing(extent: PlacedExtent, depth: number): MapRange {
  return { ...rangeOf({ ...extent, kind: 'hole' }, depth, false), present: false };
}

function part(extent: PlacedExtent, from: number, to: number): PlacedExtent {
  const { offset, hostOffset } = extent;
  const place = hostOffset === undefined ? {} : { hostOffset: hostOffset + from - offset };
  return { ...extent, offset: from, lengthBytes: to - from, ...place };
}

/** QEMU sees files in sectors: what the last one has is data, its rest included. */
async function extentsOfSectors(device: BlockDevice): Promise<readonly PlacedExtent[]> {
  const extents = await allExtents(device);
  const last = extents.at(-1);
  const more = -device.sizeBytes & 511;
  if (last === undefined || more === 0) return extents;
  return [...extents.slice(0, -1), { ...last, lengthBytes: last.lengthBytes + more }];
}

function joined(ranges: readonly MapRange[]): MapRange[] {
  const found: MapRange[] = [];
  for (const range of ranges) {
    const last = found.at(-1);
    if (last === undefined || !isAlike(last, range) || !isNext(last, range)) found.push(range);
    else found[found.length - 1] = { ...last, length: last.length + range.length };
  }
  return found;
}

function isAlike(left: MapRange, right: MapRange): boolean {
  const kinds = ['depth', 'present', 'zero', 'data', 'compressed'] as const;
  return kinds.every((kind) => left[kind] === right[kind]);
}

function isNext({ offset, length }: MapRange, { offset: next }: MapRange): boolean {
  return offset === undefined ? next === undefined : offset + length === next;
}

/**
 * Where QEMU's map says that bytes of the image stand, the file has them.
 * @param path the file that holds the image's data
 * @returns what is not so
 */
export function misplaced(entries: readonly MapEntry[], path: string, bytes: Uint8Array): string | undefined {
  const file = openSync(path, 'r');
  try {
    for (const { start, length, depth, data, offset } of entries) {
      if (depth !== 0 || !data || offset === undefined) continue;
      const found = Buffer.alloc(length);
      readSync(file, found, 0, length, offset);
      if (found.equals(bytes.subarray(start, start + length))) continue;
      return `the bytes of ${start} + ${length} are not at ${offset} of the file`;
    }
    return undefined;
  } finally {
    closeSync(file);
  }
}
