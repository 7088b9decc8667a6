/**
 * The bitmap directory (entries of variable length) and the entries of bitmap tables.
 *
 * Extra data of a bitmap has no meaning yet: it is kept as it is, and `flags` says whether a bitmap that has
 * some may be used.
 */
import {
  bitmapFlagBits,
  bitmapHeadLayout,
  bitmapTableEntryBits,
  FormatError,
  qcow2Limits,
  StateError,
} from '@qcow2/spec';
import { bitMask, reservedMask, wordMask } from './bit-masks.ts';
import { compileLayout } from './layout-codec.ts';
import { decodeName, encodeName } from './name-text.ts';
import { entryError } from './table-entry.ts';

export interface BitmapDirectoryEntry {
  tableOffset: number;
  tableEntries: number;
  /** Of the masks in `bitmapFlags`. */
  flags: number;
  /** A value of `bitmapTypes`. */
  type: number;
  /** log2 of the bytes that a bit stands for. */
  granularityBits: number;
  name: string;
  extraData: Uint8Array;
}

export interface BitmapDirectoryOptions {
  /** Host offset of the directory. */
  readonly hostOffset?: number | undefined;
  readonly clusterBytes?: number | undefined;
}

const headCodec = compileLayout(bitmapHeadLayout);
const headBytes = bitmapHeadLayout.sizeBytes;
const reservedFlags = Number(reservedMask(bitmapFlagBits));
const { high: reservedHigh, low: reservedLow } = wordMask(reservedMask(bitmapTableEntryBits));
const { high: offsetHigh, low: offsetLow } = wordMask(bitMask(bitmapTableEntryBits, 'hostClusterOffset'));
const allOnesLow = wordMask(bitMask(bitmapTableEntryBits, 'allOnes')).low;
const maxSafeHigh = 0x1fffff;

/**
 * Decode a directory. `bytes` is the whole of it, as long as the bitmaps extension says.
 *
 * @param count bitmaps that the extension says there are
 * @throws FormatError TRUNCATED [BMD-015], BAD_FIELD (ranges; count, length [BMD-015]; a name twice [BMD-014]),
 *   RESERVED_SET (flags [BMD-008], padding [BMD-016]), BAD_ALIGNMENT [BMD-002], LIMIT_EXCEEDED [LIM-009] [LIM-010] [LIM-012]
 */
export function decodeBitmapDirectory(
  bytes: Uint8Array,
  count: number,
  options: BitmapDirectoryOptions = {},
): BitmapDirectoryEntry[] {
  const hostOffset = options.hostOffset ?? 0;
  checkDirectorySize(count, bytes.length, hostOffset);
  const entries: BitmapDirectoryEntry[] = [];
  const names = new Set<string>();
  let at = 0;
  while (at < bytes.length && entries.length < count) {
    const { entry, endsAt } = decodeEntry(bytes, at, options);
    if (names.has(entry.name)) throw nameTwice(entry.name, hostOffset + at);
    names.add(entry.name);
    entries.push(entry);
    at = endsAt;
  }
  if (entries.length !== count || at !== bytes.length) {
    const context = {
      hostOffset,
      field: 'bitmapCount',
      value: count,
      lengthBytes: bytes.length,
      clause: 'BMD-015',
    };
    throw new FormatError('BAD_FIELD', 'the bitmap directory and its count do not match', context);
  }
  return entries;
}

/** The directory as bytes. @throws FormatError for entries that decode would refuse */
export function encodeBitmapDirectory(
  entries: readonly BitmapDirectoryEntry[],
  clusterBytes?: number,
): Uint8Array {
  const encoded = entries.map((entry) => encodeEntry(entry, clusterBytes));
  const bytes = new Uint8Array(encoded.reduce((sum, entry) => sum + entry.length, 0));
  checkDirectorySize(entries.length, bytes.length, 0);
  const names = new Set<string>();
  let at = 0;
  entries.forEach((entry, index) => {
    if (names.has(entry.name)) throw nameTwice(entry.name, at);
    names.add(entry.name);
    bytes.set(encoded[index] ?? new Uint8Array(), at);
    at += encoded[index]?.length ?? 0;
  });
  return bytes;
}

function decodeEntry(
  bytes: Uint8Array,
  at: number,
  options: BitmapDirectoryOptions,
): { entry: BitmapDirectoryEntry; endsAt: number } {
  const hostOffset = (options.hostOffset ?? 0) + at;
  const head = headCodec.decode(bytes, { ...options, at });
  checkHead(head.flags, head.tableEntries, hostOffset);
  const extraAt = at + headBytes;
  const nameAt = extraAt + head.extraDataLengthBytes;
  const nameEnd = nameAt + head.nameLengthBytes;
  const endsAt = at + padded(nameEnd - at);
  if (endsAt > bytes.length) {
    const context = { hostOffset, lengthBytes: endsAt - at, field: 'bitmap', clause: 'BMD-015' };
    throw new FormatError('TRUNCATED', 'a bitmap directory entry is cut off', context);
  }
  if (bytes.subarray(nameEnd, endsAt).some((byte) => byte !== 0)) {
    const context = { hostOffset: hostOffset + nameEnd - at, field: 'padding', clause: 'BMD-016' };
    throw new FormatError('RESERVED_SET', 'the padding of a bitmap directory entry is not zero', context);
  }
  const entry: BitmapDirectoryEntry = {
    tableOffset: head.tableOffset,
    tableEntries: head.tableEntries,
    flags: head.flags,
    type: head.type,
    granularityBits: head.granularityBits,
    name: decodeName(bytes.subarray(nameAt, nameEnd)),
    extraData: bytes.slice(extraAt, nameAt),
  };
  return { entry, endsAt };
}

function encodeEntry(entry: BitmapDirectoryEntry, clusterBytes: number | undefined): Uint8Array {
  const name = encodeName(entry.name);
  const head = { ...entry, nameLengthBytes: name.length, extraDataLengthBytes: entry.extraData.length };
  headCodec.validate(head, { clusterBytes });
  checkHead(entry.flags, entry.tableEntries, 0);
  const bytes = new Uint8Array(padded(headBytes + entry.extraData.length + name.length));
  headCodec.encode(head, bytes, { clusterBytes });
  bytes.set(entry.extraData, headBytes);
  bytes.set(name, headBytes + entry.extraData.length);
  return bytes;
}

/** Bytes that an entry takes in the directory, its padding included. [BMD-001] */
export function bitmapEntryBytes(entry: Pick<BitmapDirectoryEntry, 'name' | 'extraData'>): number {
  return padded(headBytes + entry.extraData.length + encodeName(entry.name).length);
}

function checkHead(flags: number, tableEntries: number, hostOffset: number): void {
  if ((flags & reservedFlags) !== 0) {
    const context = { hostOffset: hostOffset + 12, field: 'flags', value: flags, clause: 'BMD-008' };
    throw new FormatError('RESERVED_SET', 'reserved flags of a bitmap are set', context);
  }
  if (tableEntries > qcow2Limits.maxBitmapTableEntries) {
    const context = {
      hostOffset: hostOffset + 8,
      field: 'tableEntries',
      value: tableEntries,
      clause: 'LIM-012',
    };
    throw new FormatError('LIMIT_EXCEEDED', 'a bitmap table above the limit', context);
  }
}

function checkDirectorySize(count: number, lengthBytes: number, hostOffset: number): void {
  if (count > qcow2Limits.maxBitmaps) {
    const context = { hostOffset, field: 'bitmapCount', value: count, clause: 'LIM-009' };
    throw new FormatError('LIMIT_EXCEEDED', 'more than 65535 bitmaps', context);
  }
  if (lengthBytes > qcow2Limits.maxBitmapDirectoryBytes) {
    const context = { hostOffset, field: 'directoryLengthBytes', value: lengthBytes, clause: 'LIM-010' };
    throw new FormatError('LIMIT_EXCEEDED', 'a bitmap directory above the limit', context);
  }
}

/**
 * Entries of the table of a bitmap: one for each cluster of bitmap data. [BMT-005]
 *
 * @throws FormatError LIMIT_EXCEEDED for bitmap data above 512 MiB [LIM-013]
 */
export function bitmapTableEntriesFor(
  diskSizeBytes: number,
  granularityBits: number,
  clusterBits: number,
): number {
  const dataBytes = Math.ceil(Math.ceil(diskSizeBytes / 2 ** granularityBits) / 8);
  if (dataBytes > qcow2Limits.maxBitmapDataBytes) {
    const context = {
      lengthBytes: dataBytes,
      field: 'granularityBits',
      value: granularityBits,
      clause: 'LIM-013',
    };
    throw new FormatError('LIMIT_EXCEEDED', 'the data of a bitmap above 512 MiB', context);
  }
  return Math.ceil(dataBytes / 2 ** clusterBits);
}

/** A cluster of the bitmap without a host cluster is all ones, not all zeros. [BMT-002] */
export function readBitmapAllOnes(view: DataView, at: number): boolean {
  return (view.getUint32(at + 4) & allOnesLow) !== 0;
}

/**
 * Write a bitmap table entry: the cluster at `hostOffset`, or, where that is 0, all zeros or all ones.
 * (`readEntryOffset` reads the offset.)
 *
 * @throws StateError INVALID_ARGUMENT for all ones with a host cluster [BMT-002]
 */
export function writeBitmapTableEntry(
  view: DataView,
  at: number,
  hostOffset: number,
  allOnes: boolean,
): void {
  if (allOnes && hostOffset !== 0) {
    const context = { hostOffset, clause: 'BMT-002' };
    throw new StateError('INVALID_ARGUMENT', 'a bitmap cluster is stored or all ones, not both', context);
  }
  view.setUint32(at, hostOffset / 0x100000000);
  view.setUint32(at + 4, allOnes ? allOnesLow : hostOffset >>> 0);
}

/**
 * Refuse a bitmap table entry that breaks its clauses.
 *
 * @param tableOffset host offset of the view's first byte, for the error
 * @throws FormatError RESERVED_SET [BMT-002] [BMT-003], OFFSET_TOO_LARGE [LIM-015], BAD_ALIGNMENT [BMT-004]
 */
export function checkBitmapTableEntry(
  view: DataView,
  at: number,
  clusterBits: number,
  tableOffset: number,
): void {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((high & reservedHigh) !== 0 || (low & reservedLow) !== 0) {
    throw entryError('RESERVED_SET', 'reserved bits of an entry are set', view, at, tableOffset, 'BMT-003');
  }
  const hasOffset = (high & offsetHigh) !== 0 || (low & offsetLow) !== 0;
  if (hasOffset && (low & allOnesLow) !== 0) {
    throw entryError('RESERVED_SET', 'all ones, and a host cluster', view, at, tableOffset, 'BMT-002');
  }
  if ((high & offsetHigh) >>> 0 > maxSafeHigh) {
    throw entryError(
      'OFFSET_TOO_LARGE',
      'a bitmap cluster beyond 2^53 - 1',
      view,
      at,
      tableOffset,
      'LIM-015',
    );
  }
  if ((low & offsetLow & ((1 << clusterBits) - 1)) !== 0) {
    throw entryError('BAD_ALIGNMENT', 'a bitmap cluster off a boundary', view, at, tableOffset, 'BMT-004');
  }
}

function padded(lengthBytes: number): number {
  return Math.ceil(lengthBytes / 8) * 8;
}

function nameTwice(name: string, hostOffset: number): FormatError {
  const context = { hostOffset, field: 'name', value: name, clause: 'BMD-014' };
  return new FormatError('BAD_FIELD', 'two bitmaps of one name', context);
}
