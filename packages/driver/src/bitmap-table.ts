/**
 * The content of a stored bitmap: its table, held whole, and the bits that the table leads to, read in pages.
 *
 * Nothing is believed: a bitmap is used only where its granularity, its extra data and the length of its table are as the
 * clauses have them, and a page is read only where its cluster lies in the file and on nothing else that the image has. So what
 * is allocated follows from the disk's size: a table of 512 MiB of bits at most.
 */
import { type Task, wait } from '@qcow2/block-device';
import {
  type BitmapDirectoryEntry,
  bitmapTableEntriesFor,
  checkBitmapTableEntry,
  readBitmapAllOnes,
  readEntryOffset,
} from '@qcow2/codec';
import { bitmapFlags, FormatError, type Qcow2Error, UnsupportedFeatureError } from '@qcow2/spec';
import type { ImageCore } from './image-core.ts';

/** log2 of the finest and the coarsest granularity that is served [LIM-017]. */
const finestBits = 9;
const coarsestBits = 31;

/** Bits are read, and held, in pieces of so many bytes at most. */
const pageBytesAtMost = 4096;

export function bitmapPageBytes(clusterBytes: number): number {
  return Math.min(clusterBytes, pageBytesAtMost);
}

/** Bits of a bitmap of this disk. */
export function bitmapBits(core: ImageCore, granularityBits: number): number {
  return Math.ceil(core.header.sizeBytes / 2 ** granularityBits);
}

/** Why the content of a bitmap can not be used, whatever its table holds; undefined: it can. */
export function bitmapRefusal(core: ImageCore, entry: BitmapDirectoryEntry): Qcow2Error | undefined {
  const { granularityBits, extraData, flags, tableEntries, tableOffset } = entry;
  const field = 'granularityBits';
  if (granularityBits < finestBits || granularityBits > coarsestBits) {
    const context = { field, value: granularityBits, clause: 'LIM-017' };
    const message = `the granularity of bitmap '${entry.name}' is not served`;
    return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', message, context);
  }
  if (extraData.length > 0 && (flags & bitmapFlags.extraDataCompatible) === 0) {
    const message = `bitmap '${entry.name}' has extra data that is not known`;
    return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', message, { clause: 'BMD-007' });
  }
  try {
    const expected = bitmapTableEntriesFor(core.header.sizeBytes, granularityBits, core.clusterBits);
    if (expected === tableEntries) return undefined;
  } catch (error) {
    if (error instanceof FormatError) return error;
    throw error;
  }
  const context = { hostOffset: tableOffset, field: 'tableEntries', value: tableEntries, clause: 'BMT-005' };
  return new FormatError('BAD_FIELD', `bitmap '${entry.name}' is not of the disk's size`, context);
}

/**
 * The table of a bitmap of which `bitmapRefusal` says nothing.
 * @throws FormatError where it, or what it leads to, is not in the file or on other metadata, or an entry breaks its clauses
 */
export function* loadBitmapTable(
  core: ImageCore,
  { tableOffset, tableEntries }: Pick<BitmapDirectoryEntry, 'tableOffset' | 'tableEntries'>,
): Task<DataView> {
  core.refuseOutside(tableOffset, tableEntries * 8);
  const bytes = new Uint8Array(tableEntries * 8);
  yield* wait(core.readPatched(tableOffset, bytes, { event: 'bitmap_load' }));
  const table = new DataView(bytes.buffer);
  for (let index = 0; index < tableEntries; index++) {
    checkBitmapTableEntry(table, index * 8, core.clusterBits, tableOffset);
    const offset = readEntryOffset(table, index * 8);
    if (offset !== 0) core.refuseBits(offset, core.clusterBytes);
  }
  return table;
}

/** Read `into.length` bytes of bits from byte `at` of the bitmap on; they lie in one cluster. */
export function* readBits(core: ImageCore, table: DataView, at: number, into: Uint8Array): Task<void> {
  const inCluster = at % core.clusterBytes;
  const entry = ((at - inCluster) / core.clusterBytes) * 8;
  const offset = readEntryOffset(table, entry);
  if (offset === 0) into.fill(readBitmapAllOnes(table, entry) ? 255 : 0);
  else yield* wait(core.readPatched(offset + inCluster, into, { event: 'bitmap_load' }));
}

/** Set bits `first` to `end`, the latter not included. */
export function setBits(bytes: Uint8Array, first: number, end: number): void {
  for (let bit = first; bit < end; ) {
    if (bit % 8 === 0 && end - bit >= 8) {
      const whole = Math.floor((end - bit) / 8);
      bytes.fill(255, bit / 8, bit / 8 + whole);
      bit += whole * 8;
      continue;
    }
    bytes[bit >> 3]! |= 1 << (bit & 7);
    bit++;
  }
}

/** Where, from `bit` on and before `end`, a run of bits of one value ends. */
export function runEnd(bytes: Uint8Array, bit: number, end: number): number {
  const isSet = ((bytes[bit >> 3]! >> (bit & 7)) & 1) === 1;
  const same = isSet ? 255 : 0;
  let at = bit;
  while (at < end) {
    if (at % 8 === 0 && bytes[at >> 3] === same) at += 8;
    else if ((((bytes[at >> 3]! >> (at & 7)) & 1) === 1) === isSet) at++;
    else break;
  }
  return Math.min(at, end);
}
