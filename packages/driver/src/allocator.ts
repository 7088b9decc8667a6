/**
 * Which host clusters are free, and handing them out.
 *
 * A cluster goes through: free -> reserved (`allocate`: nobody else gets it, nothing on disk says so) ->
 * in use (a MetadataUpdate counted it) -> quarantined (its last reference is gone in memory) -> free again,
 * when the change that freed it is durable and every read that began before has ended. Reserved and
 * quarantined clusters are only known here; a crash forgets both, rightly.
 *
 * A new cluster beyond everything that was ever written reads as zeros (the file grows over it); any other
 * free cluster may hold old bytes, and `fresh` says which is which. After a crash the file may be longer than
 * what is in use, so "ever written" starts as the file's length at open.
 *
 * The journal's area counts as free in the refcounts (JRN-BIND) and is never handed out.
 */
import { type Task, wait } from '@qcow2/block-device';
import { checkRefcountTableEntry, readRefcountBlockOffset, writeRefcountTableEntry } from '@qcow2/codec';
import { FormatError, hostOffset, InvariantError, qcow2Limits, StorageError } from '@qcow2/spec';
import type { FreeCause } from './host-discard.ts';
import type { ImageCore } from './image-core.ts';
import type { MetadataWrite } from './metadata-log.ts';
import { countReference } from './metadata-update.ts';
import type { SourcePins } from './pending-fills.ts';
import { addRefcountBlockElsewhere, growRefcountTable } from './refcount-growth.ts';

/** A file runs ahead of what is in use by this much at most. */
const mostAheadBytes = 256 * 1024 * 1024;

export interface Allocation {
  /** First host cluster of a run. */
  readonly first: number;
  readonly count: number;
  /** The whole run reads as zeros without having been written. */
  readonly fresh: boolean;
}

/** Reads that began between two releases, and what was freed while they were under way. */
export interface ReadEpoch {
  reads: number;
  readonly freed: number[];
  /** Sources whose last copy was durable then. */
  readonly unpinned: number[];
}

export class Allocator implements SourcePins {
  readonly core: ImageCore;
  readonly #reserved = new Set<number>();
  readonly #quarantined = new Set<number>();
  /** Why they are there, and why what is counted down later will be; where that decides whether a discard goes below. */
  readonly #causes = new Map<number, FreeCause>();
  readonly #laterCauses = new Map<number, FreeCause>();
  /** References to be counted down when their mapping is durably gone (without a journal). */
  #toFree: number[] = [];
  #floor = 0;
  /** No cluster below is free, as far as known. */
  #cursor = 0;
  /** First cluster that was never written: clusters from here on are fresh. */
  #freshFrom: number;
  /** The file must reach this far before the next flush. */
  #neededBytes = 0;
  /** Length of the file when the image was opened. */
  #foundBytes: number;
  /** A disk of the machine, or of a server: nothing stands behind its end. */
  readonly #hasFixedSize: boolean;
  #ranAhead = false;
  /** The file can not be made longer than what is in use. */
  #noRoomAhead = false;
  /** Sources of copies that the log holds: whatever their refcounts say, nobody gets them [JRN-COPY-004]. */
  readonly #pinned = new Set<number>();
  /** Oldest first; the last one is where reads begin now. There is always one. */
  readonly #readEpochs: ReadEpoch[] = [{ reads: 0, freed: [], unpinned: [] }];
  /** Told of clusters whose last reference is gone: what was known of them no longer holds. */
  onUnused: ((cluster: number) => void) | undefined;

  constructor(core: ImageCore) {
    this.core = core;
    this.#foundBytes = core.device.sizeBytes;
    const { resize, growable } = core.device.capabilities;
    this.#hasFixedSize = !resize && !growable;
    this.#freshFrom = Math.ceil(core.device.sizeBytes / core.clusterBytes);
    core.fills.pins = this;
  }

  /**
   * Reserve up to `wanted` clusters in a row, at least one. Nothing changes on disk; the caller adds the
   * reference in an update, or calls `unreserve`. Holds: the write lock.
   * @throws NO_SPACE at the format's limits; REFCOUNT_WRONG where what is in use counts as free
   */
  *allocate(wanted = 1): Task<Allocation> {
    const first = yield* this.#findFree();
    let count = 1;
    // A run stays in one slice of one refcount block: enough for a request, and one lookup for all.
    while (count < wanted && this.#isFreeHere(first, first + count)) count++;
    this.core.refuseTaken(first * this.core.clusterBytes, count * this.core.clusterBytes);
    const fresh = first >= this.#freshFrom;
    for (let i = 0; i < count; i++) this.#reserved.add(first + i);
    this.#cursor = first + count;
    this.noteUse(first, count);
    return { first, count, fresh: fresh && this.core.data.readsZerosUnwritten };
  }

  /**
   * Reserve clusters that stand in a row, behind everything that was ever used. Refcount blocks that they
   * need, and do not have, are made elsewhere first. Holds: the write lock.
   */
  *allocateRow(count: number): Task<number> {
    const { refcountsPerBlock, clusterBytes } = this.core;
    if (this.#hasFixedSize) return yield* this.#allocateRowWithin(count);
    for (;;) {
      const journal = this.core.journalArea;
      const journalEnd =
        journal === undefined ? 0 : (journal.hostOffset + journal.lengthBytes) / clusterBytes;
      const first = Math.max(this.#freshFrom, journalEnd);
      const lastBlock = Math.floor((first + count - 1) / refcountsPerBlock);
      let block = Math.floor(first / refcountsPerBlock);
      while (block <= lastBlock && this.#hasBlock(block)) block++;
      if (block > lastBlock) {
        const used = yield* this.#lastUsed(first, count);
        if (used !== undefined) {
          this.#freshFrom = used + 1;
          continue;
        }
        for (let i = 0; i < count; i++) this.#reserved.add(first + i);
        this.noteUse(first, count);
        return first;
      }
      if (block >= this.core.refcountTable.byteLength / 8) yield* growRefcountTable(this, block);
      else yield* addRefcountBlockElsewhere(this, block);
    }
  }

  /** As `allocateRow`, of what is free within a device of fixed size. @throws NO_SPACE */
  *#allocateRowWithin(count: number): Task<number> {
    const others: { first: number; count: number }[] = [];
    let row = { first: 0, count: 0 };
    this.#cursor = 0;
    try {
      while (row.count < count) {
        const next = yield* this.allocate(count - row.count);
        if (next.first === row.first + row.count) row.count += next.count;
        else {
          others.push(row);
          row = { first: next.first, count: next.count };
        }
      }
    } catch (error) {
      others.push(row);
      throw error;
    } finally {
      for (const other of others) this.unreserve(other.first, other.count);
    }
    return row.first;
  }

  /**
   * The last cluster of a range that counts as used. Behind the file's end there may be some: without a journal a crash can lose the
   * length of the file and keep the refcounts that were written for it.
   */
  *#lastUsed(first: number, count: number): Task<number | undefined> {
    for (let cluster = first + count - 1; cluster >= first; cluster--) {
      if ((yield* this.refcount(cluster)) !== 0) return cluster;
    }
    return undefined;
  }

  /** Make the refcount blocks that a range of clusters needs and does not have, elsewhere. Holds: the write lock. */
  *coverRange(first: number, count: number): Task<void> {
    const { refcountsPerBlock } = this.core;
    const lastBlock = Math.floor((first + count - 1) / refcountsPerBlock);
    for (let block = Math.floor(first / refcountsPerBlock); block <= lastBlock; ) {
      if (this.#hasBlock(block)) block++;
      else if (block >= this.core.refcountTable.byteLength / 8) yield* growRefcountTable(this, block);
      else yield* addRefcountBlockElsewhere(this, block);
    }
  }

  /** Whether a refcount block counts the cluster. */
  hasBlockFor(cluster: number): boolean {
    return this.#hasBlock(Math.floor(cluster / this.core.refcountsPerBlock));
  }

  #hasBlock(index: number): boolean {
    return index < this.core.refcountTable.byteLength / 8 && this.blockOffset(index) !== 0;
  }

  /** The clusters are in use from now on: they are not fresh any more, and the file must hold them. */
  noteUse(first: number, count: number): void {
    this.#freshFrom = Math.max(this.#freshFrom, first + count);
    this.#neededBytes = Math.max(this.#neededBytes, (first + count) * this.core.clusterBytes);
    this.core.noteEnd(this.#neededBytes);
  }

  unreserve(first: number, count: number): void {
    for (let i = 0; i < count; i++) this.#reserved.delete(first + i);
    this.#cursor = Math.min(this.#cursor, first);
  }

  /** Hand out nothing below a cluster: refcounts there are not to be believed. */
  allocateBehind(cluster: number): void {
    this.#floor = cluster;
    this.#freshFrom = Math.max(this.#freshFrom, cluster);
  }

  /** A reserved cluster that was written to, and perhaps read, is free again when the reads under way have ended. */
  giveBack(cluster: number): void {
    this.#reserved.delete(cluster);
    this.quarantine(cluster);
    this.release([cluster]);
  }

  settleReservation(cluster: number): void {
    this.#reserved.delete(cluster);
  }

  quarantine(cluster: number, cause: FreeCause = 'other'): void {
    this.#quarantined.add(cluster);
    if (this.core.hostDiscard !== undefined) this.#causes.set(cluster, cause);
    this.onUnused?.(cluster);
  }

  /** The change that freed them is durable. */
  release(clusters: readonly number[]): void {
    if (clusters.length === 0) return;
    const epoch = this.#readEpochs.at(-1)!;
    if (epoch.reads > 0 || this.#readEpochs.length > 1) {
      epoch.freed.push(...clusters);
      this.#nextEpoch();
      return;
    }
    this.#free(clusters);
  }

  pin(cluster: number): void {
    this.#pinned.add(cluster);
  }

  /** Reads that began before may still be served from the source. */
  unpin(cluster: number): void {
    this.#readEpochs.at(-1)!.unpinned.push(cluster);
    this.#nextEpoch();
  }

  #nextEpoch(): void {
    this.#readEpochs.push({ reads: 0, freed: [], unpinned: [] });
    this.#endEpochs();
  }

  #free(clusters: readonly number[]): void {
    const { hostDiscard } = this.core;
    if (hostDiscard === undefined) {
      this.#handOut(clusters);
      return;
    }
    const handOut = (run: readonly number[]): void => this.#handOut(run);
    const gives = (cluster: number): boolean =>
      !this.#pinned.has(cluster) && hostDiscard.passes(this.#causes.get(cluster) ?? 'other');
    // Both before either: what is handed out has no cause any more.
    const [given, kept] = [clusters.filter(gives), clusters.filter((cluster) => !gives(cluster))];
    handOut(kept);
    hostDiscard.give(given, handOut);
  }

  /** From now on `allocate` may find them. */
  #handOut(clusters: readonly number[]): void {
    for (const cluster of clusters) {
      this.#quarantined.delete(cluster);
      this.#causes.delete(cluster);
      this.core.decompressed.forget(cluster);
      this.#cursor = Math.min(this.#cursor, cluster);
    }
  }

  /** The mappings are durably gone: count the references down at the next opportunity (`freePending`). */
  freeLater(clusters: readonly number[], cause: FreeCause = 'other'): void {
    this.#toFree.push(...clusters);
    if (this.core.hostDiscard !== undefined)
      for (const cluster of clusters) this.#laterCauses.set(cluster, cause);
  }

  /**
   * Count down what `freeLater` left, a slice of refcounts at a time: between the change of a slice and its
   * way into the log nothing waits, or an evicted slice would be read again without the change. A crash before
   * the next flush leaks them. Holds: the write lock.
   */
  *freePending(): Task<void> {
    const { refcountCache: cache } = this.core;
    while (this.#toFree.length > 0) {
      const start = (cluster: number): number => {
        const at = this.refcountOffset(cluster);
        return at - (at % cache.sliceBytes);
      };
      const at = start(this.#toFree[0]!);
      const slice = yield* cache.load(at);
      const here = this.#toFree.filter((cluster) => start(cluster) === at);
      this.#toFree = this.#toFree.filter((cluster) => start(cluster) !== at);
      const writes: MetadataWrite[] = [];
      const freed: number[] = [];
      for (const cluster of here) {
        const before = countReference(this.core, this, cluster, -1, () => cache.restore(slice), writes);
        const cause = this.#laterCauses.get(cluster);
        this.#laterCauses.delete(cluster);
        if (before !== 1) continue;
        this.quarantine(cluster, cause);
        freed.push(cluster);
      }
      this.core.log.submit({ writes, revokes: [], settled: [], required: false, afterData: false });
      this.release(freed);
    }
  }

  get hasPendingFrees(): boolean {
    return this.#toFree.length > 0;
  }

  /**
   * A read begins: clusters that are freed from now on keep their bytes until it has ended. Only reads that
   * began before a cluster was freed hold it up, so a steady stream of them does not.
   */
  beginRead(): ReadEpoch {
    const epoch = this.#readEpochs.at(-1)!;
    epoch.reads++;
    return epoch;
  }

  endRead(epoch: ReadEpoch): void {
    epoch.reads--;
    this.#endEpochs();
  }

  #endEpochs(): void {
    while (this.#readEpochs.length > 1 && this.#readEpochs[0]!.reads === 0) {
      const { freed, unpinned } = this.#readEpochs.shift()!;
      this.#free(freed);
      for (const cluster of unpinned) {
        // Pinned again meanwhile: then it stays so.
        if (this.core.fills.isSource(cluster)) continue;
        this.#pinned.delete(cluster);
        this.#cursor = Math.min(this.#cursor, cluster);
      }
    }
  }

  /** The file does not reach as far as what is in use. */
  get fileIsShort(): boolean {
    return this.core.device.sizeBytes < this.#neededBytes;
  }

  /** Where the clusters end that were handed out; 0 where all of them stand in the file as it was found. */
  get reachBytes(): number {
    return this.#neededBytes > this.#foundBytes ? this.#neededBytes : 0;
  }

  /**
   * The file should be made longer than what is in use. Where it has grown before it is needed, its length is durable
   * by the time a mapping leads there, and that mapping need not wait for a flush (lazy refcounts).
   */
  get wantsFileAhead(): boolean {
    const { capabilities, sizeBytes } = this.core.device;
    if (!capabilities.resize || this.#noRoomAhead || this.reachBytes === 0) return false;
    return sizeBytes < this.#neededBytes + this.#aheadBytes / 2;
  }

  /** Bytes by which the file runs ahead: what some commits may use, and no more than a sparse file has for nothing. */
  get #aheadBytes(): number {
    const least = 64 * this.core.clusterBytes;
    return Math.max(least, Math.min(this.#neededBytes / 4, mostAheadBytes));
  }

  /** Make the file long enough for all that is in use: no reference may lead beyond its end. */
  *extendFile(ahead = false): Task<void> {
    const { device, clusterBytes } = this.core;
    if (ahead && this.wantsFileAhead) {
      const wanted = Math.ceil((this.#neededBytes + this.#aheadBytes) / clusterBytes) * clusterBytes;
      try {
        yield* wait(device.resize(wanted));
        this.#ranAhead = true;
        this.core.log.noteDeviceWrite();
        return;
      } catch (error) {
        // It may still have room for what is in use.
        if (!(error instanceof StorageError) || error.code !== 'NO_SPACE') throw error;
        this.#noRoomAhead = true;
      }
    }
    if (!this.fileIsShort) return;
    if (device.capabilities.resize) {
      yield* wait(device.resize(this.#neededBytes));
    } else {
      yield* wait(device.write(this.#neededBytes - 1, new Uint8Array(1)));
    }
    this.core.log.noteDeviceWrite();
  }

  /** Give back what the file has run ahead. Nobody writes any more. */
  *trimFile(): Task<void> {
    const { device } = this.core;
    if (!this.#ranAhead) return;
    this.#ranAhead = false;
    const endBytes = Math.max(this.#foundBytes, this.#neededBytes);
    if (device.sizeBytes > endBytes) yield* wait(device.resize(endBytes));
  }

  /** Host offset of the byte that holds a cluster's refcount (or its first). @throws REFCOUNT_WRONG where it has no block */
  refcountOffset(cluster: number): number {
    const index = Math.floor(cluster / this.core.refcountsPerBlock);
    const block = this.#hasBlock(index) ? this.blockOffset(index) : 0;
    if (block === 0) {
      throw new FormatError('REFCOUNT_WRONG', 'a cluster in use has no refcount block', {
        hostOffset: cluster * this.core.clusterBytes,
        clause: 'RCT-005',
      });
    }
    const bits = this.core.refcounts.widthBits;
    return block + Math.floor(((cluster % this.core.refcountsPerBlock) * bits) / 8);
  }

  /** The refcount of a cluster; 0 where no block covers it. */
  *refcount(cluster: number): Task<number> {
    const index = Math.floor(cluster / this.core.refcountsPerBlock);
    if (index >= this.core.refcountTable.byteLength / 8 || this.blockOffset(index) === 0) return 0;
    yield* this.core.refcountCache.load(this.refcountOffset(cluster));
    return this.#countHere(cluster);
  }

  *#findFree(): Task<number> {
    const { core } = this;
    for (;;) {
      this.#cursor = Math.max(this.#cursor, this.#floor);
      const journal = core.journalArea;
      if (journal !== undefined) {
        const start = journal.hostOffset / core.clusterBytes;
        const end = start + journal.lengthBytes / core.clusterBytes;
        if (this.#cursor >= start && this.#cursor < end) this.#cursor = end;
      }
      const cluster = this.#cursor;
      if ((cluster + 1) * core.clusterBytes > qcow2Limits.maxOffset / 2) {
        throw new StorageError('NO_SPACE', 'the image has no free cluster left');
      }
      if (this.#hasFixedSize && (cluster + 1) * core.clusterBytes > core.device.sizeBytes) {
        throw new StorageError('NO_SPACE', 'the device has no free cluster left');
      }
      const block = Math.floor(cluster / core.refcountsPerBlock);
      if (block >= core.refcountTable.byteLength / 8) {
        yield* growRefcountTable(this, block);
      } else if (this.blockOffset(block) === 0) {
        yield* this.#addRefcountBlock(block, cluster);
      } else {
        const at = this.refcountOffset(cluster);
        if (core.refcountCache.peek(at) === undefined) yield* core.refcountCache.load(at);
        if (this.#isFree(cluster)) return cluster;
        this.#cursor++;
      }
    }
  }

  /** The block is in the cache. */
  #isFree(cluster: number): boolean {
    if (this.#pinned.has(cluster)) return false;
    return this.#countHere(cluster) === 0 && !this.#reserved.has(cluster) && !this.#quarantined.has(cluster);
  }

  #isFreeHere(first: number, cluster: number): boolean {
    const { core } = this;
    if (Math.floor(cluster / core.refcountsPerBlock) !== Math.floor(first / core.refcountsPerBlock))
      return false;
    const journal = core.journalArea;
    if (journal !== undefined && cluster * core.clusterBytes === journal.hostOffset) return false;
    // All of a run is fresh, or none of it.
    if (first >= this.#freshFrom !== cluster >= this.#freshFrom) return false;
    return core.refcountCache.peek(this.refcountOffset(cluster)) !== undefined && this.#isFree(cluster);
  }

  #countHere(cluster: number): number {
    const { core } = this;
    const at = this.refcountOffset(cluster);
    const slice = core.refcountCache.peek(at);
    if (slice === undefined) throw new InvariantError('a refcount slice was evicted while in use');
    const bits = core.refcounts.widthBits;
    const inSlice = at - slice.hostOffset;
    const index = bits < 8 ? inSlice * (8 / bits) + (cluster % (8 / bits)) : inSlice / (bits / 8);
    return core.refcounts.get(slice.view, index);
  }

  /** Host offset of a refcount block, 0 where the table has none. @throws FormatError for a damaged entry */
  blockOffset(index: number): number {
    const { refcountTable, header, clusterBits } = this.core;
    checkRefcountTableEntry(refcountTable, index * 8, clusterBits, header.refcountTableOffset);
    return readRefcountBlockOffset(refcountTable, index * 8);
  }

  /**
   * A refcount block for clusters that none covers yet: all of them are free, so the block takes one itself
   * and counts itself. Content first, then the table's entry.
   */
  *#addRefcountBlock(index: number, cluster: number): Task<void> {
    const { core } = this;
    const offset = cluster * core.clusterBytes;
    core.refuseTaken(offset, core.clusterBytes);
    const content = new Uint8Array(core.clusterBytes);
    core.refcounts.set(new DataView(content.buffer), cluster % core.refcountsPerBlock, 1);
    yield* core.writeInPlace(offset, content, 'refblock_alloc_write');
    this.noteUse(cluster, 1);
    for (let at = 0; at < content.length; at += core.refcountCache.sliceBytes) {
      core.refcountCache.put(offset + at, content.slice(at, at + core.refcountCache.sliceBytes));
    }
    writeRefcountTableEntry(core.refcountTable, index * 8, offset);
    const bytes = new Uint8Array(core.refcountTable.buffer, index * 8, 8).slice();
    const at = hostOffset(core.header.refcountTableOffset + index * 8);
    core.log.submit({
      writes: [{ step: 1, hostOffset: at, bytes }],
      revokes: [],
      settled: [],
      required: false,
      afterData: true,
    });
  }
}
