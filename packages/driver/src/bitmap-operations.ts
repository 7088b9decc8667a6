/**
 * Changes of bitmaps that somebody asks for: add, remove, enable, disable, clear, merge.
 *
 * What is written is written whole where nothing refers to it: a table with its bits, a directory. Then one change leads to
 * it, and drops what it replaces:
 *
 *   flags, another table     four or eight bytes of the directory
 *   another directory        the extension in the header's cluster, which says where it stands. With a journal its 24 bytes and the
 *                            autoclear bit are logged like any table: each field lies in one sector. The place for the first
 *                            bitmap is made before, at rest, and means nothing without the bit [FEA-010]. Without a journal the header
 *                            is replaced in steps (`header-update.ts`), between what counts up and what counts down
 *
 * Crash argument. With a journal each operation is one record: a crash leaves all of it or nothing, and nothing leaked. Without
 * one it leaves the old bitmaps or the new ones, since what leads to them lies in one sector or is replaced in steps, and
 * clusters that count as used and are not: a leak. Guests go on between the steps, not within one.
 */
import { type Task, wait } from '@qcow2/block-device';
import {
  type BitmapDirectoryEntry,
  bitmapTableEntriesFor,
  encodeBitmapDirectory,
  encodeBitmapsExtension,
  findHeaderExtension,
  type HeaderExtension,
  type Qcow2Header,
  readEntryOffset,
  writeBitmapTableEntry,
} from '@qcow2/codec';
import {
  autoclearFeatures,
  bitmapFlags,
  bitmapTypes,
  headerExtensionTypes,
  InvariantError,
  StateError,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { loadBitmapTable, setBits } from './bitmap-table.ts';
import type { BitmapSlot, DirtyRange } from './bitmaps.ts';
import type { HostArea } from './image-core.ts';
import type { MetadataUpdate } from './metadata-update.ts';
import { section } from './operation.ts';
import type { ImageParts } from './parts.ts';

/** Byte offset of the autoclear feature mask in the header (HDR-017). */
const autoclearAt = 88;
/** What counting one cluster up or down takes in a record at most, and everything else in it. */
const changeBytesPerCluster = 64;
const fixedBytes = 1024;

export interface NewBitmap {
  /** Bytes of the disk for each bit: a power of two from 512 to 2 GiB. Default: the cluster size, 4 KiB at least, 64 KiB at most. */
  readonly granularityBytes?: number | undefined;
  /** Writes are recorded in it. Default true. */
  readonly enabled?: boolean | undefined;
}

/** Where bits to merge come from: what is dirty of a range, in order. */
export type DirtySource = (offset: number, lengthBytes: number) => Task<readonly DirtyRange[]>;

/** Clusters that a change takes, and what it gives back. */
export interface Exchange {
  readonly added: number[];
  readonly dropped: number[];
}

/** All of these hold `operations`, and not the write lock. */
export function* addBitmap(parts: ImageParts, name: string, options: NewBitmap): Task<void> {
  const { core, bitmaps } = parts;
  refuseNoBitmaps(parts);
  const { clusterBytes, clusterBits, header } = core;
  if (header.sizeBytes === 0) throw invalid('a disk of no bytes has no bitmaps', { clause: 'BMT-005' });
  const granularityBytes = options.granularityBytes ?? Math.min(65536, Math.max(4096, clusterBytes));
  const granularityBits = Math.log2(granularityBytes);
  if (!Number.isInteger(granularityBits) || granularityBits < 9 || granularityBits > 31) {
    const message = 'Granularity must be power of 2 and at least 512';
    throw invalid(message, { field: 'granularityBytes', value: granularityBytes, clause: 'LIM-017' });
  }
  if (bitmaps.slots.some(({ entry }) => entry.name === name)) {
    throw invalid(`Bitmap already exists: ${name}`, { field: 'name', clause: 'BMD-014' });
  }
  const tableEntries = bitmapTableEntriesFor(header.sizeBytes, granularityBits, clusterBits);
  const flags = options.enabled === false ? 0 : bitmapFlags.auto;
  const entry: BitmapDirectoryEntry = {
    tableOffset: clusterBytes,
    tableEntries,
    flags,
    type: bitmapTypes.dirtyTracking,
    granularityBits,
    name,
    extraData: new Uint8Array(),
  };
  // Whatever no directory can hold is refused before anything is changed.
  const entries = [...bitmaps.slots.map((slot) => slot.entry), entry];
  encodeBitmapDirectory(entries, clusterBytes);
  yield* replaceDirectory(parts, {
    entries,
    prepare: function* (exchange) {
      entry.tableOffset = yield* writeRow(parts, new Uint8Array(tableEntries * 8), exchange);
    },
  });
}

export function* removeBitmap(parts: ImageParts, name: string): Task<void> {
  const removed = parts.bitmaps.slot(name);
  // What stands there is not its own to give back.
  if (removed.misplaced !== undefined) throw removed.misplaced;
  const entries = parts.bitmaps.slots.filter((slot) => slot !== removed).map(({ entry }) => entry);
  yield* replaceDirectory(parts, { entries, removed });
}

/** The bits that are in memory have been stored when a bitmap is not kept current any more. */
export function* enableBitmap(parts: ImageParts, name: string, enabled: boolean): Task<void> {
  const { bitmaps } = parts;
  const trySwitch = function* (): Task<boolean> {
    const slot = bitmaps.slot(name);
    refuseContent(parts, slot);
    if (!enabled && (slot.live?.pages.size ?? 0) > 0) return false;
    const { flags } = slot.entry;
    yield* bitmaps.setFlags(
      slot,
      enabled
        ? flags | bitmapFlags.auto
        : flags & ~(bitmapFlags.auto | (slot.live === undefined ? 0 : bitmapFlags.inUse)),
    );
    yield* bitmaps.track();
    return true;
  };
  do if (!enabled) yield* bitmaps.store();
  while (!(yield* section(parts, trySwitch)));
}

export function* clearBitmap(parts: ImageParts, name: string): Task<void> {
  yield* section(parts, () => rewrite(parts, parts.bitmaps.slot(name), undefined));
}

/** @param source undefined: another bitmap of this image, `from` */
export function* mergeBitmap(
  parts: ImageParts,
  name: string,
  from: { readonly name: string } | { readonly source: DirtySource },
): Task<void> {
  const { bitmaps } = parts;
  yield* section(parts, function* () {
    const target = bitmaps.slot(name);
    refuseContent(parts, target);
    if ('source' in from) return yield* rewrite(parts, target, from.source);
    const own = bitmaps.slot(from.name);
    refuseContent(parts, own);
    if (own === target) return;
    bitmaps.forgetTables();
    yield* rewrite(parts, target, (offset, length) => ownRanges(parts, own, offset, length));
  });
}

function* ownRanges(
  { bitmaps }: ImageParts,
  slot: BitmapSlot,
  offset: number,
  lengthBytes: number,
): Task<readonly DirtyRange[]> {
  const found: DirtyRange[] = [];
  for (let at = offset; at < offset + lengthBytes; ) {
    const { ranges, end } = yield* bitmaps.dirtyPart(slot, at, offset + lengthBytes);
    found.push(...ranges);
    at = end;
  }
  return found;
}

/**
 * A new table in the place of a bitmap's: of zeros, or of what it has with a source's ranges in it. One cluster of bits is held
 * at a time. Holds: the write lock.
 */
function* rewrite(parts: ImageParts, slot: BitmapSlot, source: DirtySource | undefined): Task<void> {
  const { bitmaps } = parts;
  refuseContent(parts, slot);
  const exchange: Exchange = { added: [], dropped: [] };
  try {
    const table = new Uint8Array(slot.entry.tableEntries * 8);
    const view = new DataView(table.buffer);
    if (source !== undefined) {
      for (let index = 0; index < slot.entry.tableEntries; index++) {
        const bits = yield* mergedBits(parts, slot, index, source);
        if (bits.every((byte) => byte === 0)) continue;
        writeBitmapTableEntry(view, index * 8, yield* writeOne(parts, bits, exchange), false);
      }
    }
    const tableOffset = yield* writeRow(parts, table, exchange);
    yield* dropContent(parts, slot, exchange);
    refuseTooLarge(parts, exchange);
    const pointer = new Uint8Array(8);
    new DataView(pointer.buffer).setBigUint64(0, BigInt(tableOffset));
    const update = parts.clusterWriter.update();
    if (bitmaps.directory === undefined) throw new InvariantError('a bitmap without a directory');
    update.writeBytes(2, bitmaps.directory.hostOffset + slot.at, pointer);
    countUp(update, exchange);
    countDown(parts, update, exchange);
    yield* update.submit({ required: true, afterData: true });
    slot.entry.tableOffset = tableOffset;
    if (slot.live !== undefined) {
      slot.live.pages.clear();
      slot.live.table = view;
    }
  } catch (error) {
    giveBack(parts, exchange);
    throw error;
  }
  bitmaps.forgetTables();
  const { directory } = bitmaps;
  yield* bitmaps.adopt(
    bitmaps.slots.map(({ entry }) => entry),
    directory,
  );
}

function* mergedBits(
  parts: ImageParts,
  slot: BitmapSlot,
  index: number,
  source: DirtySource,
): Task<Uint8Array> {
  const { core, bitmaps } = parts;
  const { clusterBytes, header } = core;
  const unit = 2 ** slot.entry.granularityBits;
  const bits = new Uint8Array(clusterBytes);
  const base = index * clusterBytes * 8;
  const offset = base * unit;
  const end = Math.min(header.sizeBytes, offset + clusterBytes * 8 * unit);
  const own = yield* ownRanges(parts, slot, offset, end - offset);
  bitmaps.forgetTables();
  const others = yield* source(offset, end - offset);
  bitmaps.forgetTables();
  for (const range of [...own, ...others]) {
    const first = Math.floor(range.offset / unit) - base;
    setBits(bits, first, Math.floor((range.offset + range.lengthBytes - 1) / unit) + 1 - base);
  }
  return bits;
}

interface DirectoryChange {
  readonly entries: readonly BitmapDirectoryEntry[];
  /** Makes what stands beside the new directory. */
  readonly prepare?: (exchange: Exchange) => Task<void>;
  /** The bitmap that is not in it any more. */
  readonly removed?: BitmapSlot;
}

/**
 * Another directory, durable on return.
 * @throws NO_SPACE where the header's cluster has no room for it, INVALID_ARGUMENT where the journal is too small; nothing is changed
 */
function* replaceDirectory(parts: ImageParts, change: DirectoryChange): Task<void> {
  yield* refuseHeader(parts);
  if (parts.core.log.lateFrees) yield* replaceInSteps(parts, change);
  else yield* replaceAtOnce(parts, change);
}

/** With a journal: one record. */
function* replaceAtOnce(parts: ImageParts, change: DirectoryChange): Task<void> {
  const { core } = parts;
  const { entries } = change;
  yield* makeRoom(parts);
  yield* section(parts, function* () {
    const exchange: Exchange = { added: [], dropped: [] };
    const update = parts.clusterWriter.update();
    try {
      yield* change.prepare?.(exchange) ?? nothing();
      const area = yield* writeDirectory(parts, entries, exchange);
      yield* dropOld(parts, change, exchange);
      refuseTooLarge(parts, exchange);
      countUp(update, exchange);
      countDown(parts, update, exchange);
      yield* logExtension(parts, update, area, entries.length);
      yield* update.submit({ required: true, afterData: true });
      yield* adopt(parts, entries, area);
    } catch (error) {
      giveBack(parts, exchange);
      throw error;
    }
  });
  yield* core.log.commit();
  // What means nothing any more is only in the way.
  if (entries.length === 0) {
    yield* atRest(parts, () => parts.rewriteHeader((header) => bind(header, undefined, 0)));
  }
}

/**
 * Without one: what is new counts as used, then the header leads to it, then what is old does not count. Guests may go on in between,
 * so flags that have changed meanwhile are written once more, and what is old is what it is when the header has changed.
 */
function* replaceInSteps(parts: ImageParts, change: DirectoryChange): Task<void> {
  const { core } = parts;
  const { entries } = change;
  const exchange: Exchange = { added: [], dropped: [] };
  let area: HostArea | undefined;
  let written: Uint8Array = new Uint8Array();
  yield* section(parts, function* () {
    try {
      yield* change.prepare?.(exchange) ?? nothing();
      area = yield* writeDirectory(parts, entries, exchange);
      written = encodeBitmapDirectory(entries, core.clusterBytes);
      refuseTooLarge(parts, exchange);
      const update = parts.clusterWriter.update();
      countUp(update, exchange);
      if (!update.isEmpty) yield* update.submit({ required: true, afterData: true });
    } catch (error) {
      giveBack(parts, exchange);
      throw error;
    }
  });
  yield* atRest(parts, function* () {
    const now = encodeBitmapDirectory(entries, core.clusterBytes);
    if (area !== undefined && now.some((byte, at) => byte !== written[at])) {
      yield* core.writeInPlace(area.hostOffset, now, 'bitmap_update');
      written = now;
      return false;
    }
    if (!(yield* parts.rewriteHeader((header) => bind(header, area, entries.length)))) return false;
    yield* dropOld(parts, change, exchange);
    const update = parts.clusterWriter.update();
    countDown(parts, update, exchange);
    if (!update.isEmpty) yield* update.submit({ required: true, afterData: false });
    yield* adopt(parts, entries, area);
    return true;
  });
  yield* core.log.commit();
}

function* nothing(): Task<void> {}

/** The directory in clusters of its own; undefined where nothing is in it. */
function* writeDirectory(
  parts: ImageParts,
  entries: readonly BitmapDirectoryEntry[],
  exchange: Exchange,
): Task<HostArea | undefined> {
  if (entries.length === 0) return undefined;
  const bytes = encodeBitmapDirectory(entries, parts.core.clusterBytes);
  return { hostOffset: yield* writeRow(parts, bytes, exchange), lengthBytes: bytes.length };
}

/** The directory that there was, and the bitmap that goes with it. */
function* dropOld(parts: ImageParts, { removed }: DirectoryChange, exchange: Exchange): Task<void> {
  const { clusterBytes } = parts.core;
  if (removed !== undefined) yield* dropContent(parts, removed, exchange);
  const old = parts.bitmaps.directory;
  if (old === undefined) return;
  for (let at = 0; at < old.lengthBytes; at += clusterBytes) {
    exchange.dropped.push((old.hostOffset + at) / clusterBytes);
  }
}

/** Until the image is found at rest with the write lock held. */
function* atRest(parts: ImageParts, body: () => Task<boolean>): Task<void> {
  do {
    yield* section(parts, () => parts.mapPending());
    yield* parts.core.log.quiesce();
  } while (!(yield* section(parts, body)));
}

function* adopt(
  parts: ImageParts,
  entries: readonly BitmapDirectoryEntry[],
  area: HostArea | undefined,
): Task<void> {
  for (const slot of parts.bitmaps.slots) {
    if (!entries.includes(slot.entry)) slot.live?.pages.clear();
  }
  yield* parts.bitmaps.adopt(entries, area);
}

/** @throws NO_SPACE where the header's cluster has no room for the extension */
function* refuseHeader(parts: ImageParts): Task<void> {
  const { header } = parts.core;
  if (findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps) !== undefined) return;
  const bound = { ...header };
  bind(bound, anyArea(parts.core), 1);
  const refusal = yield* section(parts, () => parts.headerRefusal(bound));
  if (refusal !== undefined) throw refusal;
}

/** With a journal: a place in the header for the extension, which means nothing yet. */
function* makeRoom(parts: ImageParts): Task<void> {
  const { core } = parts;
  if (findHeaderExtension(core.header.extensions, headerExtensionTypes.bitmaps) !== undefined) return;
  yield* atRest(parts, () =>
    parts.rewriteHeader((header) => {
      bind(header, anyArea(core), 1);
      header.autoclearFeatures &= ~autoclearFeatures.bitmaps;
    }),
  );
}

function anyArea({ clusterBytes }: { readonly clusterBytes: number }): HostArea {
  return { hostOffset: clusterBytes, lengthBytes: 0 };
}

/** The header names this directory; undefined: none. */
function bind(header: Qcow2Header, area: HostArea | undefined, count: number): void {
  const { bitmaps: type } = headerExtensionTypes;
  if (area === undefined) {
    header.extensions = header.extensions.filter((extension) => extension.type !== type);
    header.autoclearFeatures &= ~autoclearFeatures.bitmaps;
    return;
  }
  const extension = extensionFor(area, count);
  const isThere = header.extensions.some((one) => one.type === type);
  header.extensions = isThere
    ? header.extensions.map((one) => (one.type === type ? extension : one))
    : [...header.extensions, extension];
  header.autoclearFeatures |= autoclearFeatures.bitmaps;
}

function extensionFor({ hostOffset, lengthBytes }: HostArea, bitmapCount: number): HeaderExtension {
  return encodeBitmapsExtension({
    bitmapCount,
    directoryLengthBytes: lengthBytes,
    directoryOffset: hostOffset,
  });
}

/** The extension's data, where it stands, and the autoclear bit, into a change of the log; and into the header in memory. */
function* logExtension(
  parts: ImageParts,
  update: MetadataUpdate,
  area: HostArea | undefined,
  count: number,
): Task<void> {
  const { core } = parts;
  const { header } = core;
  if (area !== undefined) {
    const cluster = new Uint8Array(core.clusterBytes);
    yield* wait(core.readPatched(0, cluster));
    update.writeBytes(2, extensionPlace(cluster, header), extensionFor(area, count).data);
    bind(header, area, count);
  } else {
    header.autoclearFeatures &= ~autoclearFeatures.bitmaps;
  }
  const mask = new Uint8Array(8);
  new DataView(mask.buffer).setBigUint64(0, header.autoclearFeatures);
  update.writeBytes(2, autoclearAt, mask);
}

/** Where the data of the bitmaps extension stands in the header's cluster. */
function extensionPlace(cluster: Uint8Array, header: Qcow2Header): number {
  const view = new DataView(cluster.buffer);
  for (let at = header.headerLengthBytes; at + 8 <= cluster.length; ) {
    const type = view.getUint32(at);
    if (type === headerExtensionTypes.bitmaps) return at + 8;
    if (type === 0) break;
    at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  }
  throw new InvariantError('the bitmaps extension is not where the header has it');
}

/** Bytes in a row of clusters that nobody refers to yet; returns where. */
export function* writeRow(parts: ImageParts, bytes: Uint8Array, exchange: Exchange): Task<number> {
  const { core, allocator } = parts;
  const count = Math.ceil(bytes.length / core.clusterBytes);
  const first = yield* allocator.allocateRow(count);
  for (let i = 0; i < count; i++) exchange.added.push(first + i);
  const content = new Uint8Array(count * core.clusterBytes);
  content.set(bytes);
  yield* core.writeInPlace(first * core.clusterBytes, content, 'bitmap_update');
  return first * core.clusterBytes;
}

export function* writeOne(
  { core, allocator }: ImageParts,
  bytes: Uint8Array,
  exchange: Exchange,
): Task<number> {
  const { first } = yield* allocator.allocate();
  exchange.added.push(first);
  yield* core.writeInPlace(first * core.clusterBytes, bytes, 'bitmap_update');
  return first * core.clusterBytes;
}

/** The table of a bitmap, and what it leads to, are not in use any more. */
function* dropContent({ core }: ImageParts, slot: BitmapSlot, exchange: Exchange): Task<void> {
  const { tableOffset, tableEntries } = slot.entry;
  const table = slot.live?.table ?? (yield* loadBitmapTable(core, slot.entry));
  for (let i = 0; i < tableEntries; i++) {
    const offset = readEntryOffset(table, i * 8);
    if (offset !== 0) exchange.dropped.push(offset / core.clusterBytes);
  }
  for (let at = 0; at < tableEntries * 8; at += core.clusterBytes) {
    exchange.dropped.push((tableOffset + at) / core.clusterBytes);
  }
}

export function countUp(update: MetadataUpdate, { added }: Exchange): void {
  for (const cluster of added) update.addReference(cluster);
}

export function countDown({ core }: ImageParts, update: MetadataUpdate, { dropped }: Exchange): void {
  for (const cluster of dropped) {
    update.dropReference(cluster);
    update.revoke(cluster * core.clusterBytes, core.clusterBytes);
  }
}

export function giveBack({ allocator }: ImageParts, exchange: Exchange): void {
  for (const cluster of exchange.added) allocator.unreserve(cluster, 1);
}

/** @throws INVALID_ARGUMENT where one record can not hold the change */
export function refuseTooLarge({ core }: ImageParts, { added, dropped }: Exchange): void {
  const bytes = (added.length + dropped.length) * changeBytesPerCluster + fixedBytes;
  if (bytes <= 4 * core.log.changeBytes) return;
  const message = 'the journal is too small for a bitmap of this size: give it a larger size first';
  throw invalid(message, { value: bytes, clause: 'JRN-FAIL-003' });
}

export function refuseContent({ bitmaps }: ImageParts, slot: BitmapSlot): void {
  const refusal = bitmaps.refusal(slot);
  if (refusal !== undefined) throw refusal;
}

/** @throws UNSUPPORTED_OPERATION for images that have no way to name bitmaps */
function refuseNoBitmaps({ core }: ImageParts): void {
  if (core.header.version < 3) {
    throw new UnsupportedFeatureError(
      'UNSUPPORTED_OPERATION',
      'Cannot store dirty bitmaps in qcow2 v2 files',
      {
        clause: 'FEA-010',
      },
    );
  }
  if (core.header.draftJournal === undefined) return;
  const message = 'a journal of the draft of 2013 and bitmaps exclude each other';
  throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JD13-BIND-008' });
}

function invalid(
  message: string,
  context: { field?: string; value?: string | number; clause?: string },
): StateError {
  return new StateError('INVALID_ARGUMENT', message, context);
}
