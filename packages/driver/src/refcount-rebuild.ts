/**
 * Refcounts made right from what the image refers to: the repair of an image that was not closed while its refcounts
 * were lazy (FEA-001), and of any other whose refcounts are wrong.
 *
 *   1. Everything that is referenced is counted, window by window (`ReferenceWindow`), and nothing is written yet: an image
 *      in which two structures claim one cluster, or a table leads beyond the file, is refused as it is (LAZ-007).
 *   2. Guest clusters that lie beyond the end of the file had their length lost: the file grows over them.
 *   3. Clusters in use without a refcount block get one: new blocks, and a larger refcount table where the old one does
 *      not reach, in a row behind everything in use. Content, flush, pointers, flush; then from the beginning.
 *   4. Refcount blocks that say something else are rewritten, and the copied flags of the active tables set right.
 *   5. Flush; then the mark is taken away; flush.
 *
 * Crash argument. The mark stays until all else is durable, so a crash at any point leaves an image that is rebuilt again,
 * from tables that were not touched: 2 and 4 change nothing that is counted (a flag is no reference), and 3 leaves
 * either the old refcount table, and bytes behind the end that nobody refers to, or a table with more blocks in it.
 * What the process before left unflushed is covered by the flush of 5, before the mark goes. An image without the mark is
 * marked first; version 2 has no mark, and there each write makes some refcounts right and none wrong.
 *
 * Nobody else uses the image meanwhile. Nothing waits in a log.
 */
import { type Task, wait } from '@qcow2/block-device';
import {
  classifyL2Entry,
  clusterKind,
  readEntryCopied,
  readEntryOffset,
  writeEntryCopied,
  writeRefcountTableEntry,
} from '@qcow2/codec';
import { FormatError, qcow2Limits, refcountSizes } from '@qcow2/spec';
import type { ImageCore } from './image-core.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import type { ImageParts } from './parts.ts';
import { storedRefcount } from './refcount-comparison.ts';
import { encodeTablePointer, planRefcountRow, refcountTablePointerAt } from './refcount-row.ts';
import {
  type ReferenceKind,
  type ReferenceVisitor,
  ReferenceWalk,
  referenceNames,
} from './reference-walk.ts';
import { ReferenceWindow, SparePieces, windowClusters } from './reference-window.ts';

/** What was found wrong and is right now. */
export interface RefcountRepair {
  /** Refcounts that were too low: clusters that could have been handed out twice. */
  readonly raised: number;
  /** Refcounts that were too high: leaks. */
  readonly lowered: number;
  readonly flagsCorrected: number;
  readonly blocksAdded: number;
}

/** How much of its length a file may have lost in a crash. What refers further is damage. */
const mostLostBytes = 64 * 1024 ** 3;

/**
 * The same for one image: of small clusters with wide refcounts the largest refcount table counts less. Where the file would grow over
 * what can not be counted, nothing could be written to it any more.
 */
export function lostLengthLimit(core: ImageCore): number {
  const { clusterBytes, refcountsPerBlock, device } = core;
  const entries = qcow2Limits.maxRefcountTableBytes / refcountSizes.refcountTableEntryBytes;
  // The blocks and the table themselves are counted as well.
  const counted = entries * refcountsPerBlock - entries - qcow2Limits.maxRefcountTableBytes / clusterBytes;
  return Math.max(0, Math.min(mostLostBytes, counted * clusterBytes - device.sizeBytes));
}

/**
 * Rebuild the refcounts of an image that is open for writing. Durable on return, and the image not dirty.
 * @throws FormatError for damage that counting can not put right; then nothing has been written
 */
export function* rebuildRefcounts(parts: ImageParts): Task<RefcountRepair> {
  return yield* new RefcountRebuild(parts).rebuild();
}

/** What a pass over the references has found. */
interface Survey {
  /** First clusters of the windows in which something is referenced. */
  readonly windows: readonly number[];
  /** Refcount blocks that are needed and not there. */
  readonly missing: readonly number[];
  /** Behind the last cluster that is referenced. */
  readonly endCluster: number;
}

class RefcountRebuild {
  readonly #parts: ImageParts;
  readonly #core: ImageCore;
  readonly #spare = new SparePieces();
  #raised = 0;
  #lowered = 0;
  #flagsCorrected = 0;
  #blocksAdded = 0;

  constructor(parts: ImageParts) {
    this.#parts = parts;
    this.#core = parts.core;
  }

  *rebuild(): Task<RefcountRepair> {
    const core = this.#core;
    let survey = yield* this.#survey();
    if (core.header.version > 2 && !core.isMarkedDirty) {
      yield* core.writeDirtyMark(true);
      yield* this.#flush();
    }
    yield* this.#extendFile(survey.endCluster);
    // New blocks stand where the row itself is covered: once is enough.
    if (survey.missing.length > 0) {
      yield* this.#addBlocks(survey);
      survey = yield* this.#survey();
    }
    for (const start of survey.windows) yield* this.#rewriteWindow(start);
    yield* this.#clearUnreferenced(new Set(survey.windows));
    core.refcountCache.clear();
    core.l2Cache.clear();
    yield* this.#flush();
    if (core.isMarkedDirty) {
      yield* core.writeDirtyMark(false);
      yield* this.#flush();
    }
    return {
      raised: this.#raised,
      lowered: this.#lowered,
      flagsCorrected: this.#flagsCorrected,
      blocksAdded: this.#blocksAdded,
    };
  }

  /** Look at everything, window by window, without writing. @throws FormatError for what can not be repaired */
  *#survey(): Task<Survey> {
    const { refcounts, refcountsPerBlock, clusterBytes } = this.#core;
    const windows: number[] = [];
    const missing: number[] = [];
    let endCluster = 0;
    const largest = 2 ** Math.min(refcounts.widthBits, 53) - 1;
    for (let start: number | undefined = 0; start !== undefined; ) {
      const counter: WindowCounter = yield* this.#count(start);
      windows.push(start);
      endCluster = Math.max(endCluster, counter.endCluster);
      for (const [cluster, count] of counter.window.counted(start, windowClusters)) {
        const block = Math.floor(cluster / refcountsPerBlock);
        if (missing.at(-1) !== block && !this.#hasBlock(block)) missing.push(block);
        if (count <= largest) continue;
        const message = `${count} references to a cluster are more than its refcount can hold`;
        throw new FormatError('REFCOUNT_WRONG', message, {
          hostOffset: cluster * clusterBytes,
          clause: 'LAZ-007',
        });
      }
      counter.window.release();
      start = counter.nextWindow;
    }
    return { windows, missing, endCluster };
  }

  *#count(start: number): Task<WindowCounter> {
    const counter = new WindowCounter(this.#core, start, this.#spare);
    yield* new ReferenceWalk(this.#parts, counter).walk();
    return counter;
  }

  /** Guest clusters at the end of the file whose length a crash has taken: their bytes were never flushed. */
  *#extendFile(endCluster: number): Task<void> {
    const { device, clusterBytes } = this.#core;
    const endBytes = endCluster * clusterBytes;
    if (endBytes <= Math.ceil(device.sizeBytes / clusterBytes) * clusterBytes) return;
    this.#core.noteEnd(endBytes);
    if (device.capabilities.resize) yield* wait(device.resize(endBytes));
    else yield* wait(device.write(endBytes - 1, new Uint8Array(1), { event: 'refblock_alloc_write' }));
  }

  *#addBlocks(survey: Survey): Task<void> {
    const { allocator } = this.#parts;
    const core = this.#core;
    const { clusterBytes, device } = core;
    const spared = isJournalValid(core.header) ? boundJournal(core.header) : undefined;
    const sparedEnd = spared === undefined ? 0 : spared.hostOffset + spared.lengthBytes;
    const fileEnd = Math.ceil(Math.max(device.sizeBytes, sparedEnd) / clusterBytes);
    const row = planRefcountRow(core, survey.missing, Math.max(survey.endCluster, fileEnd), (index) =>
      this.#hasBlock(index),
    );
    const table = new Uint8Array(Math.max(row.tableClusters * clusterBytes, core.refcountTable.byteLength));
    table.set(new Uint8Array(core.refcountTable.buffer, core.refcountTable.byteOffset));
    const view = new DataView(table.buffer);
    const zeros = new Uint8Array(clusterBytes);
    for (const [i, index] of row.blocks.entries()) {
      const offset = (row.first + i) * clusterBytes;
      yield* wait(device.write(offset, zeros, { event: 'refblock_alloc_write' }));
      writeRefcountTableEntry(view, index * 8, offset);
    }
    if (row.tableClusters > 0) yield* this.#moveTable((row.first + row.blocks.length) * clusterBytes, table);
    else yield* this.#writeTableEntries(view, row.blocks);
    core.refcountTable = view;
    this.#blocksAdded += row.blocks.length;
    allocator.noteUse(row.first, row.blocks.length + row.tableClusters);
  }

  *#moveTable(offset: number, table: Uint8Array): Task<void> {
    const { device, header, clusterBytes } = this.#core;
    yield* wait(device.write(offset, table, { event: 'reftable_grow' }));
    yield* this.#flush();
    const pointer = encodeTablePointer(offset, table.length / clusterBytes);
    yield* wait(device.write(refcountTablePointerAt, pointer, { event: 'reftable_update' }));
    yield* this.#flush();
    header.refcountTableOffset = offset;
    header.refcountTableClusters = table.length / clusterBytes;
  }

  *#writeTableEntries(table: DataView, blocks: readonly number[]): Task<void> {
    const { device, header } = this.#core;
    yield* this.#flush();
    for (const index of blocks) {
      const entry = new Uint8Array(table.buffer, index * 8, 8);
      const at = header.refcountTableOffset + index * 8;
      yield* wait(device.write(at, entry, { event: 'reftable_update' }));
    }
    yield* this.#flush();
  }

  /** Refcounts and copied flags of one window, as its references say. */
  *#rewriteWindow(start: number): Task<void> {
    const { refcountsPerBlock } = this.#core;
    const { window } = yield* this.#count(start);
    const firstBlock = start / refcountsPerBlock;
    const blocks = Math.min(this.#tableEntries, firstBlock + windowClusters / refcountsPerBlock);
    for (let index = firstBlock; index < blocks; index++) {
      if (this.#hasBlock(index)) yield* this.#rewriteBlock(index, window);
    }
    yield* this.#correctFlags(window);
    window.release();
  }

  /** Blocks of windows in which nothing is referenced: all that they count is free. */
  *#clearUnreferenced(windows: ReadonlySet<number>): Task<void> {
    const { refcountsPerBlock } = this.#core;
    for (let index = 0; index < this.#tableEntries; index++) {
      const cluster = index * refcountsPerBlock;
      if (windows.has(cluster - (cluster % windowClusters)) || !this.#hasBlock(index)) continue;
      yield* this.#rewriteBlock(index, undefined);
    }
  }

  *#rewriteBlock(index: number, window: ReferenceWindow | undefined): Task<void> {
    const { device, refcounts, refcountsPerBlock, clusterBytes } = this.#core;
    const offset = this.#parts.allocator.blockOffset(index);
    const old = new Uint8Array(clusterBytes);
    yield* wait(this.#core.readPatched(offset, old));
    const wanted = new Uint8Array(clusterBytes);
    const view = new DataView(wanted.buffer);
    const first = index * refcountsPerBlock;
    if (window !== undefined) {
      for (const [cluster, count] of window.counted(first, refcountsPerBlock)) {
        refcounts.set(view, cluster - first, count);
      }
    }
    if (equal(old, wanted)) return;
    this.#noteDifferences(new DataView(old.buffer), view);
    yield* wait(device.write(offset, wanted, { event: 'refblock_update' }));
  }

  #noteDifferences(old: DataView, wanted: DataView): void {
    const { refcounts, refcountsPerBlock } = this.#core;
    for (let i = 0; i < refcountsPerBlock; i++) {
      const difference = refcounts.get(wanted, i) - storedRefcount(this.#core, old, i);
      if (difference > 0) this.#raised++;
      else if (difference < 0) this.#lowered++;
    }
  }

  /** In the active tables "copied" means that the refcount is exactly one (L1E-004, L2E-004). */
  *#correctFlags(window: ReferenceWindow): Task<void> {
    const core = this.#core;
    const { l1, header, clusterBytes } = core;
    for (let index = 0; index < l1.byteLength / 8; index++) {
      const table = readEntryOffset(l1, index * 8);
      if (table === 0) continue;
      if (this.#correctFlag(window, l1, index * 8, table)) {
        const entry = new Uint8Array(l1.buffer, l1.byteOffset + index * 8, 8);
        yield* wait(core.device.write(header.l1Offset + index * 8, entry, { event: 'l2_update' }));
      }
      if (core.l2Format.externalData) continue;
      const bytes = new Uint8Array(clusterBytes);
      yield* wait(core.readPatched(table, bytes));
      yield* this.#correctTable(window, table, new DataView(bytes.buffer));
    }
  }

  *#correctTable(window: ReferenceWindow, tableOffset: number, view: DataView): Task<void> {
    const { l2Entries, l2EntryBytes, l2Format, device } = this.#core;
    for (let i = 0; i < l2Entries; i++) {
      const at = i * l2EntryBytes;
      const kind = classifyL2Entry(view, at, l2Format);
      const offset = kind === clusterKind.compressed ? 0 : readEntryOffset(view, at);
      if (offset === 0 || !this.#correctFlag(window, view, at, offset)) continue;
      const entry = new Uint8Array(view.buffer, at, 8);
      yield* wait(device.write(tableOffset + at, entry, { event: 'l2_update' }));
    }
  }

  /** True where the flag was wrong and is right now, in `view`. */
  #correctFlag(window: ReferenceWindow, view: DataView, at: number, hostOffset: number): boolean {
    const cluster = hostOffset / this.#core.clusterBytes;
    if (cluster < window.start || cluster >= window.end) return false;
    const copied = window.get(cluster) === 1;
    if (readEntryCopied(view, at) === copied) return false;
    writeEntryCopied(view, at, copied);
    this.#flagsCorrected++;
    return true;
  }

  get #tableEntries(): number {
    return this.#core.refcountTable.byteLength / 8;
  }

  #hasBlock(index: number): boolean {
    return index < this.#tableEntries && this.#parts.allocator.blockOffset(index) !== 0;
  }

  *#flush(): Task<void> {
    yield* wait(this.#core.device.flush({ event: 'flush_metadata' }));
  }
}

/** Counts what falls into one window, and says what must be refused. */
class WindowCounter implements ReferenceVisitor {
  readonly window: ReferenceWindow;
  /** Behind the last cluster that is referenced, in any window. */
  endCluster = 0;
  /** Of the windows behind this one, the first in which something is referenced. */
  nextWindow: number | undefined;
  readonly #core: ImageCore;
  readonly #fileBytes: number;
  readonly #lostBytes: number;

  constructor(core: ImageCore, start: number, spare: SparePieces) {
    this.#core = core;
    this.window = new ReferenceWindow(start, core.clusterBytes, undefined, spare);
    this.#fileBytes = Math.ceil(core.device.sizeBytes / core.clusterBytes) * core.clusterBytes;
    this.#lostBytes = lostLengthLimit(core);
  }

  reference(kind: ReferenceKind, hostOffset: number, lengthBytes: number, guestOffset?: number): boolean {
    if (lengthBytes === 0) return true;
    this.#refuseBeyond(kind, hostOffset, lengthBytes, guestOffset);
    const { clusterBytes } = this.#core;
    const { window } = this;
    const first = Math.floor(hostOffset / clusterBytes);
    const end = Math.floor((hostOffset + lengthBytes - 1) / clusterBytes) + 1;
    this.endCluster = Math.max(this.endCluster, end);
    for (let cluster = Math.max(first, window.start); cluster < Math.min(end, window.end); cluster++) {
      window.add(cluster, kind);
    }
    if (end > window.end) {
      const at = Math.max(first, window.end);
      const start = at - (at % windowClusters);
      if (this.nextWindow === undefined || start < this.nextWindow) this.nextWindow = start;
    }
    return true;
  }

  damaged(error: unknown): never {
    throw error;
  }

  /** A crash may take length from the file, with guest bytes that were not flushed; tables were. */
  #refuseBeyond(kind: ReferenceKind, hostOffset: number, lengthBytes: number, guestOffset?: number): void {
    const guest = kind === 'guestCluster' || kind === 'compressedData';
    const limit = this.#fileBytes + (guest ? this.#lostBytes : 0);
    if (hostOffset + lengthBytes <= limit) return;
    const context = { hostOffset, lengthBytes, guestOffset, clause: 'LAZ-007' };
    throw new FormatError('TRUNCATED', `${referenceNames[kind]} leads beyond the end of the file`, context);
  }
}

function equal(left: Uint8Array, right: Uint8Array): boolean {
  for (let i = 0; i < left.length; i++) if (left[i] !== right[i]) return false;
  return true;
}
