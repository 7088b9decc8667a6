/**
 * An L1 table that nothing names, and what of it counts: the one thing that making, applying and deleting a
 * snapshot and making a disk smaller have in common (ADR 23).
 *
 *   count up     a copy of an L1 table is written, then everything that it leads to counts one reference more, piece by
 *                piece; copied flags that are not true any more are cleared with it. Then a name comes to lead to it
 *   count down   a name was taken from a table: everything that it leads to counts one reference less, from behind;
 *                active entries of what nothing else refers to any more get their copied flag with it. Then the table goes
 *
 * Invariant: of the guest clusters from `countedFrom` to `countedTo`, and of the L2 tables in which these lie, every reference
 * counts; of the others none does. A piece changes refcounts, flags and the end of that range in one change.
 *
 * Crash argument. With a journal an intent holds the range, and is in the same record as what moves it: so recovery
 * knows exactly what counts, and counts it down [JRN-INTENT-034]. Without intents a crash leaves refcounts that are too
 * high, and the table's clusters: leaks. There, an active entry may keep a cleared flag, or have a flag that is set
 * while a leaked refcount says two: the first costs a copy, the second is true as soon as the leak is repaired. Both
 * come from the order in which ordered writes go out, which is the one that harms nobody: what is shared counts as shared before a
 * name leads to it, and nothing counts as free before the name is gone for good.
 *
 * Memory: the L1 table, and slices of the caches. Guests may go on while it is counted down, not while it is counted up.
 */
import { type Task, wait } from '@qcow2/block-device';
import { checkL1Entry, readEntryCopied, readEntryOffset } from '@qcow2/codec';
import { type DetachedTableIntent, encodeDetachedTableIntent } from '@qcow2/codec/journal/v1';
import type { LoggedIntent } from '@qcow2/journal';
import { journalIntentKinds } from '@qcow2/spec';
import { countsAsFree, type HostClusters, hostClustersOf } from './host-clusters.ts';
import type { MetadataUpdate, SubmitOptions } from './metadata-update.ts';
import { section } from './operation.ts';
import type { ImageParts } from './parts.ts';

/** Clusters that one change counts: what it takes in a record must fit a small ring, what it holds in memory the caches. */
const mostPerPiece = 256;
/** What one of them takes in a record at most: two refcounts, an L2 entry, each with its head. */
const changeBytesPerCluster = 200;

export class DetachedTable {
  readonly l1Offset: number;
  /** What the table holds; of it, entries from `#l1Entries` on are not in clusters that count. */
  readonly l1: DataView;
  readonly #parts: ImageParts;
  readonly #intentId: number | undefined;
  #l1Entries: number;
  #from: number;
  #to: number;

  private constructor(
    parts: ImageParts,
    l1: DataView,
    state: DetachedTableIntent,
    intentId: number | undefined,
  ) {
    this.#parts = parts;
    this.l1 = l1;
    this.l1Offset = state.l1Offset;
    this.#l1Entries = state.l1Entries;
    this.#from = state.countedFrom;
    this.#to = state.countedTo;
    this.#intentId = intentId;
  }

  /**
   * A new table with this content, whose own clusters count; of what it leads to nothing does. Where that fails it is
   * gone again. @throws NO_SPACE
   */
  static *make(parts: ImageParts, l1: DataView): Task<DetachedTable> {
    const { core, allocator } = parts;
    const count = clustersOf(l1.byteLength / 8, core.clusterBytes);
    const first = yield* section(parts, () => allocator.allocateRow(count));
    const l1Offset = first * core.clusterBytes;
    const state = { l1Offset, l1Entries: 0, countedFrom: 0, countedTo: 0 };
    const table = new DetachedTable(parts, l1, state, core.log.newIntentId?.());
    try {
      const content = new Uint8Array(count * core.clusterBytes);
      content.set(new Uint8Array(l1.buffer, l1.byteOffset, l1.byteLength));
      yield* core.writeInPlace(l1Offset, content, 'l1_grow_write_table');
      yield* table.#countOwnUp();
    } catch (error) {
      const counted = clustersOf(table.#l1Entries, core.clusterBytes);
      allocator.unreserve(first + counted, count - counted);
      if (counted > 0) yield* table.countDown();
      throw error;
    }
    return table;
  }

  /** One that recovery found. Its content is read; @throws what the entries of a damaged one throw, later */
  static *found(parts: ImageParts, state: DetachedTableIntent, intentId: number): Task<DetachedTable> {
    const l1 = yield* readL1(parts, state.l1Offset, state.l1Entries);
    return new DetachedTable(parts, l1, state, intentId);
  }

  /**
   * One whose name a change is about to take away, and which counts wholly from a guest cluster on: put `intent` into that change.
   * @param heir the operation goes on with this table in place of that one, under the same intent
   */
  static of(
    parts: ImageParts,
    table: { readonly l1Offset: number; readonly l1: DataView },
    countedFrom: number,
    heir?: DetachedTable,
  ): DetachedTable {
    const l1Entries = table.l1.byteLength / 8;
    const countedTo = l1Entries * parts.core.l2Entries;
    const state = { l1Offset: table.l1Offset, l1Entries, countedFrom, countedTo };
    const id = heir === undefined ? parts.core.log.newIntentId?.() : heir.#intentId;
    return new DetachedTable(parts, table.l1, state, id);
  }

  /** What the log is to say of it now; undefined where the log keeps no intents. */
  get intent(): LoggedIntent | undefined {
    if (this.#intentId === undefined) return undefined;
    const state = {
      l1Offset: this.l1Offset,
      l1Entries: this.#l1Entries,
      countedFrom: this.#from,
      countedTo: this.#to,
    };
    const body = encodeDetachedTableIntent(state, this.#parts.core);
    return { id: this.#intentId, kind: journalIntentKinds.detachedTable, body };
  }

  /** For the change that gives it a name: the operation is over. */
  get intentDone(): number | undefined {
    return this.#intentId;
  }

  /** Everything that it leads to counts one reference more. Holds: the guest gate is closed. */
  *countUp(): Task<void> {
    const { l2Entries } = this.#parts.core;
    const end = this.#l1Entries * l2Entries;
    while (this.#to < end) {
      const index = Math.floor(this.#to / l2Entries);
      const tableEnd = (index + 1) * l2Entries;
      if (this.#tableOffset(index) === 0) this.#to = tableEnd;
      else yield* section(this.#parts, () => this.#countPieceUp(index, tableEnd));
    }
  }

  /** Nothing that it leads to counts for it, and then the table is free. Not durable on return. */
  *countDown(): Task<void> {
    const { l2Entries } = this.#parts.core;
    while (this.#to > this.#from) {
      const index = Math.floor((this.#to - 1) / l2Entries);
      const tableStart = Math.max(this.#from, index * l2Entries);
      if (this.#tableOffset(index) === 0) this.#to = tableStart;
      else yield* section(this.#parts, () => this.#countPieceDown(index, tableStart));
    }
    this.#from = 0;
    this.#to = 0;
    while (this.#l1Entries > 0) yield* section(this.#parts, () => this.#countOwnDown());
  }

  *#countOwnUp(): Task<void> {
    const { core } = this.#parts;
    const count = clustersOf(this.l1.byteLength / 8, core.clusterBytes);
    for (let done = 0; done < count; ) {
      const length = Math.min(this.#pieceClusters, count - done);
      yield* section(this.#parts, () => this.#addOwn(done, length));
      done += length;
    }
  }

  /** Its content stands in place when this is durable. */
  *#addOwn(done: number, length: number): Task<void> {
    const { core, clusterWriter } = this.#parts;
    const update = clusterWriter.update();
    const first = this.l1Offset / core.clusterBytes + done;
    for (let i = 0; i < length; i++) update.addReference(first + i);
    this.#l1Entries = Math.min(this.l1.byteLength / 8, ((done + length) * core.clusterBytes) / 8);
    yield* this.#submit(update, { afterData: true });
  }

  *#countOwnDown(): Task<void> {
    const { core, clusterWriter } = this.#parts;
    const count = clustersOf(this.#l1Entries, core.clusterBytes);
    const length = Math.min(this.#pieceClusters, count);
    const first = this.l1Offset / core.clusterBytes + count - length;
    const update = clusterWriter.update('snapshot');
    for (let i = 0; i < length; i++) update.dropReference(first + i);
    update.revoke(first * core.clusterBytes, length * core.clusterBytes);
    this.#l1Entries = ((count - length) * core.clusterBytes) / 8;
    const isOver = this.#l1Entries === 0;
    yield* this.#submit(update, isOver ? { intentDone: this.#intentId } : {});
  }

  /** As much as one change takes, from where counting has come to, within one L2 table. */
  *#countPieceUp(index: number, tableEnd: number): Task<void> {
    const { core, allocator, clusterWriter, mappings } = this.#parts;
    const table = this.#tableOffset(index);
    const from = this.#to;
    const to = Math.min(tableEnd, from + this.#pieceClusters);
    const update = clusterWriter.update();
    const counts = new PieceCounts();
    if (from === index * core.l2Entries) {
      counts.add(table / core.clusterBytes);
      const active = mappings.l2TableOffset(from);
      if (active === table && mappings.l2TableExclusive(from)) update.setL1Copied(index, false);
    }
    for (const { clusters, entryOffset, copied } of yield* this.#entries(table, from, to)) {
      for (let i = 0; i < clusters.count; i++) counts.add(clusters.first + i);
      if (copied) update.setCopied(entryOffset, false);
    }
    for (const [cluster, more] of counts.all) {
      if ((yield* allocator.refcount(cluster)) === 0) throw countsAsFree(cluster * core.clusterBytes);
      for (let i = 0; i < more; i++) update.shareReference(cluster);
    }
    this.#to = to;
    yield* this.#submit(update, {});
  }

  *#countPieceDown(index: number, tableStart: number): Task<void> {
    const { core, clusterWriter, mappings } = this.#parts;
    const table = this.#tableOffset(index);
    const to = this.#to;
    const from = Math.max(tableStart, to - this.#pieceClusters);
    yield* this.#mapPending(from, to);
    const update = clusterWriter.update('snapshot');
    const entries = yield* this.#entries(table, from, to);
    const counts = new PieceCounts();
    for (const { clusters } of entries) {
      for (let i = 0; i < clusters.count; i++) counts.add(clusters.first + i);
    }
    const isLast = from === tableStart;
    if (isLast) counts.add(table / core.clusterBytes);
    const left = yield* this.#drop(counts, update);
    for (const { guestCluster, clusters, hostOffset } of entries) {
      if (hostOffset === 0 || left.get(clusters.first) !== 1) continue;
      const mapping = yield* mappings.lookup(guestCluster);
      if (mapping.hostOffset !== hostOffset || mapping.exclusive) continue;
      update.setCopied(mappings.entryOffset(guestCluster), true);
    }
    const tableLeft = left.get(table / core.clusterBytes);
    if (isLast && tableLeft === 0) update.revoke(table, core.clusterBytes);
    if (isLast && tableLeft === 1 && mappings.l2TableOffset(index * core.l2Entries) === table) {
      update.setL1Copied(index, true);
    }
    this.#to = from;
    yield* this.#submit(update, {});
    if (isLast && tableLeft === 0) core.l2Cache.drop(table, core.clusterBytes);
  }

  /** Drop what a piece has counted. Returns how many references are left to each. @throws REFCOUNT_WRONG, nothing changed */
  *#drop(counts: PieceCounts, update: MetadataUpdate): Task<Map<number, number>> {
    const { core, allocator } = this.#parts;
    const left = new Map<number, number>();
    for (const [cluster, less] of counts.all) {
      const refcount = yield* allocator.refcount(cluster);
      if (refcount < less) throw countsAsFree(cluster * core.clusterBytes);
      left.set(cluster, refcount - less);
      for (let i = 0; i < less; i++) update.dropReference(cluster);
    }
    return left;
  }

  /**
   * A guest cluster whose flag is about to be set must not be pending: what is written to it then would go past what is
   * gathered.
   */
  *#mapPending(from: number, to: number): Task<void> {
    const { pending, clusterWriter } = this.#parts;
    if (pending.isEmpty) return;
    for (const open of pending.sorted()) {
      if (open.guestCluster >= from && open.guestCluster < to) yield* clusterWriter.pending.map(open);
    }
  }

  /** The entries of a range within one L2 table that refer to something. @throws FormatError for a damaged one */
  *#entries(table: number, from: number, to: number): Task<EntryReference[]> {
    const { core } = this.#parts;
    const found: EntryReference[] = [];
    for (let guestCluster = from; guestCluster < to; guestCluster++) {
      const entryOffset = table + (guestCluster % core.l2Entries) * core.l2EntryBytes;
      const slice = core.l2Cache.peek(entryOffset) ?? (yield* core.l2Cache.load(entryOffset));
      const at = entryOffset - slice.hostOffset;
      const clusters = hostClustersOf(core, slice.view, at, slice.hostOffset);
      if (clusters.count === 0) continue;
      const hostOffset = clusters.isCompressed ? 0 : readEntryOffset(slice.view, at);
      const copied = readEntryCopied(slice.view, at);
      found.push({ guestCluster, entryOffset, clusters, hostOffset, copied });
    }
    return found;
  }

  #tableOffset(index: number): number {
    checkL1Entry(this.l1, index * 8, this.#parts.core.clusterBits, this.l1Offset);
    return readEntryOffset(this.l1, index * 8);
  }

  get #pieceClusters(): number {
    const fitting = Math.floor(this.#parts.core.log.changeBytes / changeBytesPerCluster);
    return Math.max(1, Math.min(mostPerPiece, fitting));
  }

  *#submit(update: MetadataUpdate, options: Partial<SubmitOptions>): Task<void> {
    const intent = options.intentDone === undefined ? this.intent : undefined;
    yield* update.submit({ required: true, afterData: false, intent, ...options });
  }
}

interface EntryReference {
  readonly guestCluster: number;
  readonly entryOffset: number;
  readonly clusters: HostClusters;
  /** 0 for compressed data, which has no flag. */
  readonly hostOffset: number;
  readonly copied: boolean;
}

/** How often a piece refers to each host cluster. */
class PieceCounts {
  readonly all = new Map<number, number>();

  add(cluster: number): void {
    this.all.set(cluster, (this.all.get(cluster) ?? 0) + 1);
  }
}

/** Read an L1 table that is not the active one. @throws TRUNCATED, OVERLAP where no such table can stand there */
export function* readL1(parts: ImageParts, l1Offset: number, l1Entries: number): Task<DataView> {
  const { core } = parts;
  if (l1Entries === 0) return new DataView(new ArrayBuffer(0));
  core.refuseNoTable(l1Offset, l1Entries * 8);
  const bytes = new Uint8Array(l1Entries * 8);
  yield* wait(core.readPatched(l1Offset, bytes, { event: 'l1_load' }));
  return new DataView(bytes.buffer);
}

function clustersOf(l1Entries: number, clusterBytes: number): number {
  return Math.ceil((l1Entries * 8) / clusterBytes);
}
