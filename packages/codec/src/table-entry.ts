/**
 * Entries of L1 tables and refcount tables (and the offset part that they share with L2 and bitmap
 * tables), read and written in place. A table stays the bytes that it is: a DataView over a cached
 * cluster, a byte position, numbers in and out, nothing allocated.
 *
 * The readers trust what they read. Whoever takes a table from disk calls the check of its kind on an
 * entry before following it; the check costs a few integer operations where the entry is sound.
 */
import { FormatError, l1EntryBits, refcountTableEntryBits } from '@qcow2/spec';
import { bitMask, reservedMask, wordMask } from './bit-masks.ts';

const { high: offsetHigh, low: offsetLow } = wordMask(bitMask(l1EntryBits, 'l2TableOffset'));
const { high: reservedHigh, low: reservedLow } = wordMask(reservedMask(l1EntryBits));
const refcountOffsetLow = wordMask(bitMask(refcountTableEntryBits, 'refcountBlockOffset')).low;
const refcountReservedLow = wordMask(reservedMask(refcountTableEntryBits)).low;
const copiedHigh = wordMask(bitMask(l1EntryBits, 'copied')).high;
const twoTo32 = 0x100000000;
/** High words above this make an offset that is no safe integer. */
const maxSafeHigh = 0x1fffff;

/**
 * Host offset in an entry of an L1 table, L2 table (standard cluster) or bitmap table: bits 9 to 55. 0
 * where there is none. Exact even beyond 2^53, as the low 9 bits are zero. [L1E-003] [L2E-008] [BMT-004]
 */
export function readEntryOffset(view: DataView, at: number): number {
  return ((view.getUint32(at) & offsetHigh) >>> 0) * twoTo32 + ((view.getUint32(at + 4) & offsetLow) >>> 0);
}

/** Bit 63 of an L1 or L2 entry: the refcount is exactly one, so writing in place is allowed. [L1E-004] [L2E-004] */
export function readEntryCopied(view: DataView, at: number): boolean {
  return (view.getUint32(at) & copiedHigh) !== 0;
}

/** Set or clear bit 63, and nothing else. */
export function writeEntryCopied(view: DataView, at: number, copied: boolean): void {
  const high = view.getUint32(at);
  view.setUint32(at, copied ? high | copiedHigh : high & ~copiedHigh);
}

/** Point an L1 entry to an L2 table; offset 0 and `copied` false make it unallocated. */
export function writeL1Entry(view: DataView, at: number, l2TableOffset: number, copied: boolean): void {
  view.setUint32(at, (l2TableOffset / twoTo32) | (copied ? copiedHigh : 0));
  view.setUint32(at + 4, l2TableOffset >>> 0);
}

/** Host offset of the refcount block, 0 where none is allocated: bits 9 to 63. [RCT-004] */
export function readRefcountBlockOffset(view: DataView, at: number): number {
  return view.getUint32(at) * twoTo32 + ((view.getUint32(at + 4) & refcountOffsetLow) >>> 0);
}

export function writeRefcountTableEntry(view: DataView, at: number, refcountBlockOffset: number): void {
  view.setUint32(at, refcountBlockOffset / twoTo32);
  view.setUint32(at + 4, refcountBlockOffset >>> 0);
}

/**
 * Refuse an L1 entry that breaks its clauses.
 *
 * @param tableOffset host offset of the view's first byte, for the error
 * @throws FormatError RESERVED_SET [L1E-002], OFFSET_TOO_LARGE [LIM-015], BAD_ALIGNMENT [L1E-003], BAD_FIELD [L1E-004]
 */
export function checkL1Entry(view: DataView, at: number, clusterBits: number, tableOffset: number): void {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if (high === 0 && low === 0) return;
  if ((high & reservedHigh) !== 0 || (low & reservedLow) !== 0) {
    throw entryError(
      'RESERVED_SET',
      'reserved bits of an L1 entry are set',
      view,
      at,
      tableOffset,
      'L1E-002',
    );
  }
  if ((high & offsetHigh) >>> 0 > maxSafeHigh) {
    throw entryError('OFFSET_TOO_LARGE', 'an L2 table beyond 2^53 - 1', view, at, tableOffset, 'LIM-015');
  }
  if ((low & ((1 << clusterBits) - 1)) !== 0) {
    throw entryError('BAD_ALIGNMENT', 'an L2 table off a cluster boundary', view, at, tableOffset, 'L1E-003');
  }
  if (low === 0 && (high & offsetHigh) === 0) {
    throw entryError('BAD_FIELD', 'bit 63 is set and no L2 table is there', view, at, tableOffset, 'L1E-004');
  }
}

/**
 * Refuse a refcount table entry that breaks its clauses.
 *
 * @param tableOffset host offset of the view's first byte, for the error
 * @throws FormatError RESERVED_SET [RCT-003], OFFSET_TOO_LARGE [LIM-015], BAD_ALIGNMENT [RCT-004]
 */
export function checkRefcountTableEntry(
  view: DataView,
  at: number,
  clusterBits: number,
  tableOffset: number,
): void {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((low & refcountReservedLow) !== 0) {
    throw entryError('RESERVED_SET', 'reserved bits of an entry are set', view, at, tableOffset, 'RCT-003');
  }
  if (high > maxSafeHigh) {
    throw entryError(
      'OFFSET_TOO_LARGE',
      'a refcount block beyond 2^53 - 1',
      view,
      at,
      tableOffset,
      'LIM-015',
    );
  }
  if ((low & ((1 << clusterBits) - 1)) !== 0) {
    throw entryError('BAD_ALIGNMENT', 'a refcount block off a boundary', view, at, tableOffset, 'RCT-004');
  }
}

/** Clear the reserved bits of an L1 entry, and nothing else: for a repair, which looks at the rest. [L1E-002] */
export function clearReservedL1(view: DataView, at: number): void {
  view.setUint32(at, view.getUint32(at) & ~reservedHigh);
  view.setUint32(at + 4, view.getUint32(at + 4) & ~reservedLow);
}

/** The same for an entry of the refcount table. [RCT-003] */
export function clearReservedRefcountTable(view: DataView, at: number): void {
  view.setUint32(at + 4, view.getUint32(at + 4) & ~refcountReservedLow);
}

/** The error of an entry, with the whole entry as value. For the checks of this package. */
export function entryError(
  code: 'RESERVED_SET' | 'OFFSET_TOO_LARGE' | 'BAD_ALIGNMENT' | 'BAD_FIELD',
  message: string,
  view: DataView,
  at: number,
  tableOffset: number,
  clause: string,
): FormatError {
  const value = view.getBigUint64(at);
  return new FormatError(code, message, { hostOffset: tableOffset + at, field: 'entry', value, clause });
}
