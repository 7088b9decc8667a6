/**
 * Bitmaps of a disk that gets another size: what is dirty of the part that stays is dirty still, what is new is clean.
 *
 * A table has as many entries as the disk needs [BMT-005], and nothing behind the disk's end is dirty [BMP-003]: so a bitmap of the old
 * size is none of the new one, and one change can not make both. Meanwhile no bitmap is to be believed, as in an image that QEMU
 * has open:
 *
 *   1. guests wait, and what is dirty is in the file
 *   2. every bitmap is marked as in use, durably
 *   3. the disk gets its size, durably
 *   4. every bitmap gets a table for that size, which leads to the clusters of the old one, but for what it cuts off
 *   5. durable, the marks are taken away
 *
 * Crash argument. Before 2 is durable a crash leaves the old disk with its bitmaps, after 5 the new one with its own. In between it leaves
 * bitmaps that say of themselves that they were not saved [BMD-005], whatever else they are: nobody believes too little. Tables are
 * written whole where nothing refers to them, and one change leads to each: nothing is leaked with a journal.
 */
import type { Task } from '@qcow2/block-device';
import {
  bitmapTableEntriesFor,
  readBitmapAllOnes,
  readEntryOffset,
  writeBitmapTableEntry,
} from '@qcow2/codec';
import { bitmapFlags, InvariantError } from '@qcow2/spec';
import {
  countDown,
  countUp,
  type Exchange,
  giveBack,
  refuseContent,
  refuseTooLarge,
  writeOne,
  writeRow,
} from './bitmap-operations.ts';
import { loadBitmapTable, readBits } from './bitmap-table.ts';
import type { BitmapSlot } from './bitmaps.ts';
import { endsWriting, orEndWriting, section, whileGuestsWait } from './operation.ts';
import type { ImageParts } from './parts.ts';

const failed = 'bitmaps could not be given the size of the disk';

/**
 * Run what gives the disk another size, and take its bitmaps along. Durable on return, where there are any. Holds: `operations`.
 * @throws INVALID_ARGUMENT where a bitmap is inconsistent, or the journal too small for one; FormatError for a damaged one; nothing is
 *   changed then. And what `change` throws
 */
export function* withBitmapsOfSize(
  parts: ImageParts,
  sizeBytes: number,
  change: () => Task<void>,
): Task<void> {
  const { bitmaps, core } = parts;
  if (bitmaps.slots.length === 0) return yield* change();
  const before = core.header.sizeBytes;
  for (const slot of bitmaps.slots) yield* refuseMisfit(parts, slot, sizeBytes);
  yield* whileGuestsWait(parts, function* () {
    yield* bitmaps.store();
    yield* mark(parts, true);
    try {
      yield* change();
    } catch (error) {
      if (!endsWriting(error)) yield* orEndWriting(() => refitAll(parts, before), failed);
      throw error;
    }
    yield* orEndWriting(() => refitAll(parts, before), failed);
  });
}

/** What would be found too late. */
function* refuseMisfit(parts: ImageParts, slot: BitmapSlot, sizeBytes: number): Task<void> {
  const { core } = parts;
  refuseContent(parts, slot);
  const { tableEntries, granularityBits } = slot.entry;
  const entries = bitmapTableEntriesFor(sizeBytes, granularityBits, core.clusterBits);
  const table = yield* loadBitmapTable(core, slot.entry);
  const clustersOf = (count: number) => Math.ceil((count * 8) / core.clusterBytes);
  let cut = 0;
  for (let index = entries; index < tableEntries; index++) if (readEntryOffset(table, index * 8) !== 0) cut++;
  const added = new Array<number>(clustersOf(entries) + 1);
  refuseTooLarge(parts, { added, dropped: new Array<number>(clustersOf(tableEntries) + cut + 1) });
}

/** Every bitmap is in use, or none is any more. Durable on return. */
function* mark(parts: ImageParts, inUse: boolean): Task<void> {
  const { bitmaps, core } = parts;
  yield* section(parts, function* () {
    for (const slot of bitmaps.slots) {
      const { flags } = slot.entry;
      yield* bitmaps.setFlags(slot, inUse ? flags | bitmapFlags.inUse : flags & ~bitmapFlags.inUse);
    }
  });
  yield* core.log.commit();
}

function* refitAll(parts: ImageParts, before: number): Task<void> {
  const { bitmaps, core } = parts;
  for (const { name } of bitmaps.slots.map(({ entry }) => entry)) {
    yield* section(parts, function* () {
      const slot = bitmaps.slot(name);
      yield* refit(parts, slot, before);
      slot.live = undefined;
      bitmaps.forgetTables();
      // Where its old table stood something else may stand from now on.
      const entries = bitmaps.slots.map(({ entry }) => entry);
      yield* bitmaps.adopt(entries, bitmaps.directory);
    });
    yield* core.log.commit();
  }
  yield* mark(parts, false);
}

/** A table for the size that the disk has now. Holds: the write lock. */
function* refit(parts: ImageParts, { entry, at }: BitmapSlot, before: number): Task<void> {
  const { core, bitmaps } = parts;
  const { header, clusterBytes, clusterBits } = core;
  if (bitmaps.directory === undefined) throw new InvariantError('a bitmap without a directory');
  const old = yield* loadBitmapTable(core, entry);
  const entries = bitmapTableEntriesFor(header.sizeBytes, entry.granularityBits, clusterBits);
  const table = new DataView(new ArrayBuffer(entries * 8));
  for (let i = 0; i < Math.min(entries, entry.tableEntries); i++)
    table.setBigUint64(i * 8, old.getBigUint64(i * 8));
  const exchange: Exchange = { added: [], dropped: [] };
  try {
    const isCut = yield* cutLast(
      parts,
      table,
      Math.min(before, header.sizeBytes) / 2 ** entry.granularityBits,
      exchange,
    );
    if (!isCut && entries === entry.tableEntries) return;
    for (let i = entries; i < entry.tableEntries; i++) {
      const offset = readEntryOffset(old, i * 8);
      if (offset !== 0) exchange.dropped.push(offset / clusterBytes);
    }
    for (let from = 0; from < entry.tableEntries * 8; from += clusterBytes) {
      exchange.dropped.push((entry.tableOffset + from) / clusterBytes);
    }
    const tableOffset = yield* writeRow(parts, new Uint8Array(table.buffer), exchange);
    const pointer = new DataView(new ArrayBuffer(12));
    pointer.setBigUint64(0, BigInt(tableOffset));
    pointer.setUint32(8, entries);
    const update = parts.clusterWriter.update();
    update.writeBytes(2, bitmaps.directory.hostOffset + at, new Uint8Array(pointer.buffer));
    countUp(update, exchange);
    countDown(parts, update, exchange);
    yield* update.submit({ required: true, afterData: true });
    entry.tableOffset = tableOffset;
    entry.tableEntries = entries;
  } catch (error) {
    giveBack(parts, exchange);
    throw error;
  }
}

/**
 * Where the part of the disk that stays ends within a cluster of bits, the rest of that cluster is clean from now on: in a copy, where it is
 * not so already. Returns whether that made one.
 * @param bits of the part that stays, the last one perhaps of less than a granule
 */
function* cutLast(parts: ImageParts, table: DataView, bits: number, exchange: Exchange): Task<boolean> {
  const { core } = parts;
  const kept = Math.ceil(bits);
  const index = Math.floor(kept / (core.clusterBytes * 8));
  const inCluster = kept % (core.clusterBytes * 8);
  if (inCluster === 0 || index * 8 >= table.byteLength) return false;
  const offset = readEntryOffset(table, index * 8);
  if (offset === 0 && !readBitmapAllOnes(table, index * 8)) return false;
  const content = new Uint8Array(core.clusterBytes);
  yield* readBits(core, table, index * core.clusterBytes, content);
  const first = inCluster >> 3;
  const cut = content.slice();
  cut[first]! &= (1 << (inCluster & 7)) - 1;
  cut.fill(0, first + 1);
  if (cut.every((byte, at) => byte === content[at])) return false;
  writeBitmapTableEntry(table, index * 8, yield* writeOne(parts, cut, exchange), false);
  if (offset !== 0) exchange.dropped.push(offset / core.clusterBytes);
  return true;
}
