/**
 * The cluster descriptor of a compressed cluster: a byte offset and a count of 512-byte sectors, packed
 * into 62 bits. Where the one ends and the other begins depends on the cluster size: the sector count
 * takes the upper `clusterBits - 8` bits.
 *
 *   bits 0 .. x-1    host byte offset            x = 62 - (clusterBits - 8), from 49 to 61
 *   bits x .. 61     sectors beyond the first
 */
import { l2EntryBits, StateError, StorageError } from '@qcow2/spec';
import { bitMask, wordMask } from './bit-masks.ts';
import type { EntryFault, L2Format } from './l2-entry.ts';

const compressedHigh = wordMask(bitMask(l2EntryBits, 'compressed')).high;
const copiedHigh = wordMask(bitMask(l2EntryBits, 'copied')).high;
const twoTo32 = 0x100000000;
const maxSafeHigh = 0x1fffff;
/** Bits 56 and up of an offset, as they stand in the high word. */
const above56High = 0xff000000;

/** Bits of the high word that belong to the offset. */
function offsetBitsHigh(clusterBits: number): number {
  return 62 - (clusterBits - 8) - 32;
}

/** Host offset of the first compressed byte; at no particular boundary. [CMP-002] */
export function readCompressedOffset(view: DataView, at: number, clusterBits: number): number {
  const mask = (1 << offsetBitsHigh(clusterBits)) - 1;
  return (view.getUint32(at) & mask) * twoTo32 + view.getUint32(at + 4);
}

/**
 * Bytes from that offset to the end of the last sector: as many as the compressed data can have; the
 * rest of the last sector may belong to another cluster. [CMP-003] [CMP-004]
 */
export function readCompressedLengthBytes(view: DataView, at: number, clusterBits: number): number {
  const sectorMask = (1 << (clusterBits - 8)) - 1;
  const moreSectors = (view.getUint32(at) >>> offsetBitsHigh(clusterBits)) & sectorMask;
  return (moreSectors + 1) * 512 - (view.getUint32(at + 4) & 511);
}

/**
 * Write the entry of a compressed cluster whose data takes `lengthBytes` from `hostOffset`. The first 8
 * bytes; the bitmaps of an extended entry must be zero.
 *
 * @throws StorageError NO_SPACE where the offset does not fit the descriptor [CMP-002]
 * @throws StateError INVALID_ARGUMENT where the length does not [CMP-003]
 */
export function writeCompressedEntry(
  view: DataView,
  at: number,
  clusterBits: number,
  hostOffset: number,
  lengthBytes: number,
): void {
  const limitBits = Math.min(offsetBitsHigh(clusterBits) + 32, 56);
  if (hostOffset + lengthBytes > 2 ** limitBits) {
    const message = 'compressed data beyond what its descriptor can name';
    throw new StorageError('NO_SPACE', message, { hostOffset, lengthBytes, clause: 'CMP-002' });
  }
  const moreSectors = Math.floor((hostOffset + lengthBytes - 1) / 512) - Math.floor(hostOffset / 512);
  if (!(lengthBytes >= 1) || moreSectors >= 2 ** (clusterBits - 8)) {
    const message = 'compressed data longer than its descriptor can name';
    throw new StateError('INVALID_ARGUMENT', message, { lengthBytes, clause: 'CMP-003' });
  }
  const high = (hostOffset / twoTo32) | (moreSectors << offsetBitsHigh(clusterBits)) | compressedHigh;
  view.setUint32(at, high);
  view.setUint32(at + 4, hostOffset >>> 0);
}

/** What is wrong with a compressed entry, given as its two words; for `checkL2Entry`. */
export function compressedFault(high: number, low: number, format: L2Format): EntryFault | undefined {
  if ((high & copiedHigh) !== 0) {
    return { code: 'BAD_FIELD', message: 'bit 63 of a compressed cluster is set', clause: 'L2E-004' };
  }
  if (format.externalData) {
    const message = 'a compressed cluster in an image with external data';
    return { code: 'BAD_FIELD', message, clause: 'FEA-003' };
  }
  const bits = offsetBitsHigh(format.clusterBits);
  const offsetHigh = high & ((1 << bits) - 1);
  if ((offsetHigh & above56High) !== 0) {
    return { code: 'RESERVED_SET', message: 'offset bits above 55 are set', clause: 'CMP-002' };
  }
  const moreSectors = (high >>> bits) & ((1 << (format.clusterBits - 8)) - 1);
  const end = offsetHigh * twoTo32 + low + moreSectors * 512;
  if (offsetHigh > maxSafeHigh || end > Number.MAX_SAFE_INTEGER) {
    return { code: 'OFFSET_TOO_LARGE', message: 'compressed data beyond 2^53 - 1', clause: 'LIM-015' };
  }
  return undefined;
}
