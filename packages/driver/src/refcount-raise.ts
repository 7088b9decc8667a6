/**
 * The first part of a repair: every cluster that is referenced, or will be when the entries are repaired, counts as used, as
 * often as it is referenced, in a refcount block that is nothing else.
 *
 * A survey finds which blocks are missing, and which can not stay: their entry leads off a boundary or beyond the
 * file, or to a cluster that is something else as well. New ones are put in a row behind everything in use. They are
 * written whole, as they are to be, while nothing leads to them; then refcounts in the blocks that stay are raised; when all
 * that is durable, the table's entries are changed, or the header is pointed to a longer table.
 *
 * In an image that is marked as dirty, guest clusters less than `lostLengthLimit` beyond the end of the file have lost its length in
 * a crash: the file grows over them, and they read as zeros, as when such an image is opened for writing. Else, and where
 * a table or compressed data leads there, such entries are left; where the file would grow over one, it does not grow.
 */
import { type Task, wait } from '@qcow2/block-device';
import { readRefcountBlockOffset, writeRefcountTableEntry } from '@qcow2/codec';
import { EntryRepair } from './entry-repair.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import type { ImageParts } from './parts.ts';
import { compareRefcounts, type ReadBlock, sharedBlocks, usableBlock } from './refcount-comparison.ts';
import { lostLengthLimit } from './refcount-rebuild.ts';
import {
  encodeTablePointer,
  planRefcountRow,
  type RefcountRow,
  refcountTablePointerAt,
} from './refcount-row.ts';
import { type PassObserver, ReferencePasses } from './reference-passes.ts';
import type { ReferenceKind } from './reference-walk.ts';
import { type ReferenceWindow, type SparePieces, windowClusters } from './reference-window.ts';
import { ChangedBytes, type RepairLog } from './repair-log.ts';

interface Survey {
  readonly entries: EntryRepair;
  /** Blocks that can not stay, and blocks that are not there and are needed. */
  readonly shared: ReadonlySet<number>;
  readonly missing: ReadonlySet<number>;
  readonly endCluster: number;
  readonly losses: Losses;
}

/** What leads where nothing is. */
class Losses implements PassObserver {
  readonly #fileEnd: number;
  /** Guest clusters beyond the end of the file, and the first of them. */
  lost = 0;
  readonly first: { hostOffset: number; guestOffset: number | undefined }[] = [];
  /** Where something begins that is left beyond it. */
  nearestLeft = Number.POSITIVE_INFINITY;
  #left = 0;

  constructor(fileEnd: number) {
    this.#fileEnd = fileEnd;
  }

  /** Something led to clusters of which nobody knows now which they are. */
  get unexplained(): boolean {
    return this.lost + this.#left > 0;
  }

  lostCluster(hostOffset: number, guestOffset: number | undefined): void {
    this.lost++;
    if (this.first.length < mostShown) this.first.push({ hostOffset, guestOffset });
  }

  damaged(_error: unknown, _guestOffset?: number, kind?: ReferenceKind): void {
    if (kind !== 'refcountBlock') this.#left++;
  }

  outside(kind: ReferenceKind, hostOffset: number): void {
    // A refcount block is made anew from what is counted: nothing is lost with it.
    if (kind === 'refcountBlock') return;
    this.#left++;
    if (hostOffset >= this.#fileEnd) this.nearestLeft = Math.min(this.nearestLeft, hostOffset);
  }
}

const mostShown = 1000;

export class RefcountRaise {
  readonly #parts: ImageParts;
  readonly #log: RepairLog;
  readonly #spare: SparePieces;
  readonly #fileEnd: number;
  /** Places in the refcount table whose entry is another one than on disk. */
  readonly #changedEntries = new Set<number>();
  #row: RefcountRow | undefined;
  /** Blocks that are something else as well and stay: nothing is written there. */
  #leftBlocks: ReadonlySet<number> = new Set();
  #unexplained = false;
  #changed = new ChangedBytes();
  /** Leaks are to be kept: they may be what was lost, or are counted by a block that is damaged still. */
  keepLeaks = false;

  constructor(parts: ImageParts, log: RepairLog, spare: SparePieces) {
    const { clusterBytes, device } = parts.core;
    this.#parts = parts;
    this.#log = log;
    this.#spare = spare;
    this.#fileEnd = Math.ceil(device.sizeBytes / clusterBytes) * clusterBytes;
  }

  /** Durable on return. Returns what is to be repaired in the entries of L1 and L2 tables. */
  *run(): Task<EntryRepair> {
    const { core } = this.#parts;
    const survey = yield* this.#usefulSurvey();
    this.#unexplained = survey.losses.unexplained;
    yield* this.#giveLengthBack(survey);
    const oldOffset = core.header.refcountTableOffset;
    this.#planBlocks(survey);
    const limit = survey.endCluster * core.clusterBytes;
    const passes = this.#passes(survey.entries, Math.max(this.#fileEnd, limit, this.#rowEnd), 0);
    yield* passes.each((window) => this.#raiseWindow(window));
    yield* this.#log.commit();
    yield* this.#writeTable(core.header.refcountTableOffset !== oldOffset);
    core.refcountCache.clear();
    this.keepLeaks = this.#unexplained || this.#leftBlocks.size > 0;
    return survey.entries;
  }

  /** Where the file would grow over what is left beyond it, nothing lost is given back. */
  *#usefulSurvey(): Task<Survey> {
    const { core } = this.#parts;
    this.#clearReservedBits();
    const survey = yield* this.#survey(core.isMarkedDirty ? lostLengthLimit(core) : 0);
    const grows = survey.endCluster * core.clusterBytes > this.#fileEnd;
    if (!grows || survey.losses.nearestLeft >= survey.endCluster * core.clusterBytes) return survey;
    return yield* this.#survey(0);
  }

  /** In the table that is held: what stands on disk is changed later, with the other entries. */
  #clearReservedBits(): void {
    const { refcountTable } = this.#parts.core;
    const repair = new EntryRepair(this.#parts.core, 0);
    for (let index = 0; index < refcountTable.byteLength / 8; index++) {
      if (repair.refcountTable(refcountTable, index * 8)) this.#changedEntries.add(index);
    }
  }

  *#survey(lostBytes: number): Task<Survey> {
    const { core, allocator } = this.#parts;
    const { refcountsPerBlock } = core;
    const entries = new EntryRepair(core, lostBytes);
    const observer = new Losses(this.#fileEnd);
    const shared = new Set<number>();
    const missing = new Set<number>();
    const passes = this.#passes(entries, this.#fileEnd, lostBytes, observer);
    const parts = this.#parts;
    yield* passes.each((window) => {
      for (const index of sharedBlocks(parts, window)) shared.add(index);
      for (const [cluster] of window.counted(window.start, windowClusters)) {
        const index = Math.floor(cluster / refcountsPerBlock);
        if (!missing.has(index) && usableBlock(core, allocator, index) === undefined) missing.add(index);
      }
      return undefined;
    });
    if (observer.unexplained) this.#keepUnreadable(missing);
    for (const cluster of passes.notTables) entries.notTables.add(cluster);
    return { entries, shared, missing, endCluster: passes.endCluster, losses: observer };
  }

  /** Blocks of which only the entry is damaged count what nobody knows: they are made anew as well. */
  #keepUnreadable(missing: Set<number>): void {
    const { core, allocator } = this.#parts;
    const { refcountTable, refcountsPerBlock, clusterBytes } = core;
    const end = Math.min(refcountTable.byteLength / 8, this.#fileEnd / clusterBytes / refcountsPerBlock);
    for (let index = 0; index < end; index++) {
      if (refcountTable.getBigUint64(index * 8) === 0n) continue;
      if (usableBlock(core, allocator, index) === undefined) missing.add(index);
    }
  }

  /** @param endBytes where references are counted to; guest clusters `lostBytes` further */
  #passes(repair: EntryRepair, endBytes: number, lostBytes: number, observer?: Losses): ReferencePasses {
    return new ReferencePasses(this.#parts, {
      repair,
      spare: this.#spare,
      ...(observer === undefined ? {} : { observer }),
      endBytes: (kind) => (kind === 'guestCluster' ? endBytes + lostBytes : endBytes),
    });
  }

  *#giveLengthBack({ endCluster, losses }: Survey): Task<void> {
    const { core } = this.#parts;
    const { device, clusterBytes } = core;
    if (losses.lost === 0) return;
    const endBytes = endCluster * clusterBytes;
    core.noteEnd(endBytes);
    if (device.capabilities.resize) yield* wait(device.resize(endBytes));
    else yield* wait(device.write(endBytes - 1, new Uint8Array(1)));
    core.log.noteDeviceWrite();
    const message = 'a guest cluster beyond the end of the file reads as zeros now';
    for (let i = 0; i < losses.lost; i++) this.#log.fixed('error', message, losses.first[i] ?? {});
  }

  get #rowEnd(): number {
    const row = this.#row;
    if (row === undefined) return 0;
    return (row.first + row.blocks.length + row.tableClusters) * this.#parts.core.clusterBytes;
  }

  /** The table as it is to be, held from now on. On disk it comes last. */
  #planBlocks(survey: Survey): void {
    const { core, allocator } = this.#parts;
    const { clusterBytes, refcountTable } = core;
    const entries = refcountTable.byteLength / 8;
    const stays = (index: number): boolean =>
      index < entries && !survey.shared.has(index) && usableBlock(core, allocator, index) !== undefined;
    if (survey.missing.size + survey.shared.size > 0) {
      this.#row = planRefcountRow(core, [...survey.missing, ...survey.shared], this.#rowStart(survey), stays);
      // It would grow over what is left there: these blocks are left as well.
      if (survey.losses.nearestLeft < this.#rowEnd) this.#row = undefined;
    }
    const row = this.#row;
    if (row === undefined) this.#leftBlocks = survey.shared;
    const larger = row === undefined ? 0 : row.tableClusters * clusterBytes;
    const table = new DataView(new ArrayBuffer(Math.max(refcountTable.byteLength, larger)));
    for (let index = 0; index < entries; index++) {
      const entry = refcountTable.getBigUint64(index * 8);
      // A place that leads nowhere counts nothing: there is no block, and all its refcounts are 0.
      const kept = stays(index) || survey.shared.has(index) || survey.missing.has(index) ? entry : 0n;
      table.setBigUint64(index * 8, kept);
      if (kept !== entry) this.#changedEntries.add(index);
    }
    for (const [i, index] of row?.blocks.entries() ?? []) {
      writeRefcountTableEntry(table, index * 8, (row!.first + i) * clusterBytes);
      this.#changedEntries.add(index);
    }
    core.refcountTable = table;
    if (row === undefined) return;
    allocator.noteUse(row.first, row.blocks.length + row.tableClusters);
    if (row.tableClusters === 0) return;
    core.header.refcountTableOffset = (row.first + row.blocks.length) * clusterBytes;
    core.header.refcountTableClusters = row.tableClusters;
  }

  #rowStart({ endCluster }: Survey): number {
    const { header, device, clusterBytes, journalArea } = this.#parts.core;
    const journal = journalArea ?? (isJournalValid(header) ? boundJournal(header) : undefined);
    const journalEnd = journal === undefined ? 0 : journal.hostOffset + journal.lengthBytes;
    return Math.max(endCluster, Math.ceil(Math.max(device.sizeBytes, journalEnd) / clusterBytes));
  }

  *#raiseWindow(window: ReferenceWindow): Task<void> {
    const { core } = this.#parts;
    const row = this.#row;
    for (const [i, index] of row?.blocks.entries() ?? []) {
      if (window.has(index * core.refcountsPerBlock)) yield* this.#writeBlock(window, index, row!.first + i);
    }
    yield* compareRefcounts(this.#parts, window, {
      difference: (cluster, stored, counted, block) => this.#raise(cluster, stored, counted, block),
      block: (block) => this.#writeRaised(block),
    });
  }

  /** A new block, as the references say. */
  *#writeBlock(window: ReferenceWindow, index: number, cluster: number): Task<void> {
    const { core } = this.#parts;
    const { clusterBytes, refcounts, refcountsPerBlock } = core;
    const bytes = new Uint8Array(clusterBytes);
    const view = new DataView(bytes.buffer);
    const first = index * refcountsPerBlock;
    for (const [used, count] of window.counted(first, refcountsPerBlock)) {
      refcounts.set(view, used - first, Math.min(count, refcounts.maxValue));
    }
    if (this.#unexplained) this.#countFile(view, first);
    const hostOffset = cluster * clusterBytes;
    yield* core.writeInPlace(hostOffset, bytes, 'refblock_alloc_write');
    this.#log.fixed('error', `refcount block ${index} is a new one`, { hostOffset });
  }

  /** As long as something is lost in the file, nothing that stands in it is free where nobody knows what was. */
  #countFile(view: DataView, first: number): void {
    const { refcounts, refcountsPerBlock, clusterBytes, journalArea } = this.#parts.core;
    const end = Math.min(first + refcountsPerBlock, this.#fileEnd / clusterBytes);
    for (let cluster = first; cluster < end; cluster++) {
      const inJournal =
        journalArea !== undefined &&
        cluster * clusterBytes >= journalArea.hostOffset &&
        cluster * clusterBytes < journalArea.hostOffset + journalArea.lengthBytes;
      if (!inJournal && refcounts.get(view, cluster - first) === 0) refcounts.set(view, cluster - first, 1);
    }
  }

  #raise(cluster: number, stored: number, counted: number, block: ReadBlock | undefined): number {
    const { refcounts, clusterBytes } = this.#parts.core;
    if (block === undefined || stored > counted || counted > refcounts.maxValue) return stored;
    if (this.#leftBlocks.has(block.index)) return stored;
    const index = cluster - block.first;
    refcounts.set(block.view, index, counted);
    this.#changed.note(Math.floor((index * refcounts.widthBits) / 8), Math.max(1, refcounts.widthBits / 8));
    const message = `cluster ${cluster} had refcount ${stored} and has ${counted} reference(s)`;
    this.#log.fixed('error', message, { hostOffset: cluster * clusterBytes });
    return counted;
  }

  *#writeRaised({ hostOffset, view }: ReadBlock): Task<void> {
    const changed = this.#changed;
    this.#changed = new ChangedBytes();
    yield* changed.writeTo(this.#log, 0, hostOffset, view);
  }

  /** What the entries lead to is durable. */
  *#writeTable(moved: boolean): Task<void> {
    const { core } = this.#parts;
    const { header, refcountTable, clusterBytes } = core;
    if (this.#changedEntries.size === 0) return;
    if (moved) {
      const bytes = new Uint8Array(header.refcountTableClusters * clusterBytes);
      bytes.set(new Uint8Array(refcountTable.buffer, refcountTable.byteOffset, refcountTable.byteLength));
      yield* core.writeInPlace(header.refcountTableOffset, bytes, 'reftable_grow');
      yield* this.#log.commit();
      const pointer = encodeTablePointer(header.refcountTableOffset, header.refcountTableClusters);
      yield* this.#log.write(1, refcountTablePointerAt, pointer);
      yield* this.#log.commit();
      return;
    }
    const isNew = new Set(this.#row?.blocks);
    for (const index of this.#changedEntries) {
      const at = index * 8;
      const bytes = new Uint8Array(refcountTable.buffer, refcountTable.byteOffset + at, 8);
      yield* this.#log.write(1, header.refcountTableOffset + at, bytes);
      if (isNew.has(index)) continue;
      const entry = readRefcountBlockOffset(refcountTable, at);
      const message = entry === 0 ? 'led nowhere and is empty now' : 'had reserved bits set';
      this.#log.fixed('error', `entry ${index} of the refcount table ${message}`, {
        hostOffset: header.refcountTableOffset + at,
      });
    }
    yield* this.#log.commit();
  }
}
