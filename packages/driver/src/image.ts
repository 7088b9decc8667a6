/**
 * An open qcow2 image: a BlockDevice whose bytes are the guest's disk.
 *
 * Reads take no lock. Everything that changes metadata or places guest bytes holds the core's write lock,
 * so two writes to one unallocated cluster can not allocate twice. Flushes wait for no lock; concurrent ones
 * share a commit.
 *
 * A failed write or flush of the device below ends writing for good (fail-stop): what is on disk is not
 * known any more, every later write and flush is refused with FAILED_EARLIER, and a reopen recovers.
 */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  type FlushOptions,
  isPromise,
  type ReadOptions,
  run,
  type Task,
  type WriteOptions,
  type WriteZeroesOptions,
  wait,
} from '@qcow2/block-device';
import type { Qcow2Header, Snapshot } from '@qcow2/codec';
import { InvariantError, Qcow2Error, StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import {
  addBitmap,
  clearBitmap,
  enableBitmap,
  mergeBitmap,
  type NewBitmap,
  removeBitmap,
} from './bitmap-operations.ts';
import type { BitmapInfo, DirtyRange } from './bitmaps.ts';
import { refuseMissing } from './data-area.ts';
import { readL1 } from './detached-table.ts';
import type { EncryptionHeaderArea } from './encryption.ts';
import { encryptionHeaderArea, needsSecret } from './encryption-header.ts';
import { guestExtents } from './extents.ts';
import type { ImageCacheCounters } from './image-core.ts';
import type { ZeroMode } from './image-writer.ts';
import type { ImageInfo } from './info.ts';
import type { JournalStatus } from './journal-status.ts';
import { exclusively } from './operation.ts';
import type { ImageParts, JournalOptions } from './parts.ts';
import type { RefcountRepair } from './refcount-rebuild.ts';
import { resizeDisk } from './resize.ts';
import { SnapshotDevice } from './snapshot-device.ts';
import { applySnapshot, createSnapshot, deleteSnapshot, type NewSnapshot } from './snapshot-operations.ts';
import { chooseSnapshot, type SnapshotChoice } from './snapshot-table.ts';

/** Sizes of a journal; see `createImage` for what is taken where one is not given. */
export interface JournalSizes {
  /** 64 KiB to 1 GiB; rounded up to whole clusters. */
  readonly sizeBytes?: number;
  /** A power of two from 512 to the cluster size. */
  readonly blockBytes?: number;
}

interface ChangeOptions {
  readonly fua?: boolean | undefined;
  /** What is not mapped is mapped to zeros before anything is written there. */
  readonly mapsFirst?: boolean;
}

/** How a disk may get another size. */
export interface ResizeOptions {
  /** It may become smaller, and lose what lies behind its new end. Default false. */
  readonly shrink?: boolean;
}

export class Qcow2Image implements BlockDevice {
  readonly #parts: ImageParts;
  readonly capabilities: DeviceCapabilities;
  #closed = false;
  #failure: Qcow2Error | undefined;
  /** Counts changes and flushes: whether anything came since the idle timer was set. */
  /** Of a raw data file: how often clusters were mapped, and how many of these times are durable. */
  #mapsMade = 0;
  #mapsDurable = 0;
  #activity = 0;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;

  /** Made by `openImage` only. */
  constructor(parts: ImageParts) {
    this.#parts = parts;
    parts.core.cacheCleaner.start();
    const write = !parts.core.readOnly;
    this.capabilities = {
      write,
      growable: false,
      resize: false,
      discard: write,
      writeZeroes: write,
      fua: false,
      extents: true,
      preferredBlockBytes: Math.min(parts.core.clusterBytes, 4096),
    };
  }

  /** The header as it is now. Not to be changed. */
  get header(): Qcow2Header {
    return this.#parts.core.header;
  }

  get readOnly(): boolean {
    return this.#parts.core.readOnly;
  }

  get clusterBytes(): number {
    return this.#parts.core.clusterBytes;
  }

  /** Encrypted, and opened without what opens it: its guest bytes are refused with NO_SECRET. */
  get isLocked(): boolean {
    return this.#parts.isLocked;
  }

  /** Size of the guest's disk in bytes. */
  get sizeBytes(): number {
    return this.#parts.core.header.sizeBytes;
  }

  /** What `qemu-img info` shows. */
  info(): ImageInfo {
    return this.#parts.info();
  }

  /** State and counters of the journal; undefined for an image that has none. */
  journalStatus(): JournalStatus | undefined {
    return this.#parts.journalStatus();
  }

  /** Hits, misses and bytes of the metadata caches, and of the one of decompressed clusters. */
  cacheCounters(): ImageCacheCounters {
    return this.#parts.core.cacheCounters;
  }

  /**
   * What was put right when this was opened: the image had lazy refcounts and was not closed. Undefined where it
   * was clean.
   */
  get repaired(): RefcountRepair | undefined {
    return this.#parts.repaired;
  }

  read(offset: number, into: Uint8Array, _options?: ReadOptions): void | Promise<void> {
    this.#refuseClosed();
    checkRange(offset, into.length, this.sizeBytes);
    this.#refuseUnreachable();
    return this.#parts.reader.read(offset, into);
  }

  /**
   * Write guest bytes. A later read sees them when this is done; durable after a flush, or with `fua`.
   * @throws OUT_OF_RANGE, READ_ONLY, CLOSED, FAILED_EARLIER, NO_SPACE, WRITE_FAILED, UNSUPPORTED_FEATURE for
   *   a cluster of a kind that is not served, FormatError for a damaged mapping
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#refuseWrite(offset, bytes.length);
    const parts = this.#parts;
    const mustWait = parts.mustWaitToWrite || this.#hasOpenMaps;
    const hostOffset = mustWait ? undefined : parts.writer.inPlaceOffset(offset, bytes.length);
    if (hostOffset !== undefined && options?.fua !== true && parts.bitmaps.note(offset, bytes.length))
      return this.#writeInPlace(hostOffset, offset, bytes);
    // The writer is asked for when the lock is held: with the journal it comes and goes.
    const write = (from: number, length: number): Task<void> =>
      parts.writer.write(offset + from, bytes.subarray(from, from + length));
    return this.#change(offset, bytes.length, write, { fua: options?.fua, mapsFirst: parts.core.data.isRaw });
  }

  /**
   * Write whole clusters (the last one of the disk may be incomplete) in compressed form, packed behind each other.
   * A cluster that does not get smaller is written as it is. `bytes` must stay as it is until this is done; then a
   * later read sees them. Durable after a flush.
   * @throws as `write`; INVALID_ARGUMENT for other than whole clusters; UNSUPPORTED_OPERATION where the image was opened
   *   without `compression` that compresses
   */
  writeCompressed(offset: number, bytes: Uint8Array): void | Promise<void> {
    this.#refuseWrite(offset, bytes.length);
    this.#parts.compressedWriter.check(offset, bytes.length);
    return run(this.#guard(this.#writeCompressed(offset, bytes)));
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#refuseWrite(offset, lengthBytes);
    return this.#zero(offset, lengthBytes, { unmap: options?.mayUnmap ?? false, discard: false }, options);
  }

  /** Whole clusters in the range give their space back; parts of clusters stay as they are. */
  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#refuseWrite(offset, lengthBytes);
    return this.#zero(offset, lengthBytes, { unmap: true, discard: true }, options);
  }

  /** Make durable every write that was done when this was called. Concurrent flushes share one commit. */
  flush(_options?: FlushOptions): void | Promise<void> {
    this.#refuseClosed();
    if (this.readOnly) return;
    this.#refuseFailed();
    return run(this.#guard(this.#commit()));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    this.#refuseClosed();
    checkRange(offset, lengthBytes, this.sizeBytes);
    this.#refuseUnreachable();
    const { core, mappings } = this.#parts;
    return run(guestExtents(core, mappings, this.#parts, offset, lengthBytes));
  }

  /**
   * Give the disk another size. With options only: a disk's size is not a guest's request to change, who has but the device.
   * Larger is as `grow`. Smaller takes what lies behind the new end away for good: guests' changes wait meanwhile, a crash leaves the one size or
   * the other (without a journal of v1 it may leak clusters), and it is durable on return.
   * @throws UNSUPPORTED_OPERATION without options, for a version 2 image that has snapshots; INVALID_ARGUMENT for a smaller size
   *   without `shrink`, for 0, beyond the format's limits; FormatError where what is given back is damaged
   */
  resize(sizeBytes: number, options?: ResizeOptions): void | Promise<void> {
    this.#refuseClosed();
    if (options !== undefined) return this.#resize(sizeBytes, options);
    throw new UnsupportedFeatureError(
      'UNSUPPORTED_OPERATION',
      'an image is not resized by a request; say how, or use grow',
    );
  }

  async #resize(sizeBytes: number, { shrink = false }: ResizeOptions): Promise<void> {
    checkSize(sizeBytes);
    this.#refuseWrite(0, 0);
    await run(
      this.#operation(() => {
        const before = this.sizeBytes;
        if (sizeBytes < before && !shrink) {
          throw new StateError('INVALID_ARGUMENT', 'a disk becomes smaller only where that is asked for', {
            field: 'sizeBytes',
            value: sizeBytes,
          });
        }
        return resizeDisk(this.#parts, sizeBytes);
      }),
    );
    this.#parts.core.fitCaches();
  }

  /**
   * Make the disk larger; the new bytes read as zeros, whatever a longer backing file has there. Durable after a
   * flush; a crash leaves the one size or the other. Guests go on meanwhile.
   * @throws UNSUPPORTED_OPERATION for a smaller size (see `resize`), and for a version 2 image that has snapshots;
   *   INVALID_ARGUMENT beyond the format's limits
   */
  async grow(sizeBytes: number): Promise<void> {
    checkSize(sizeBytes);
    this.#refuseWrite(0, 0);
    if (sizeBytes < this.sizeBytes) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'a disk does not grow smaller; use resize');
    }
    await this.#resize(sizeBytes, {});
  }

  /** Internal snapshots, in the order of their table. Not to be changed. */
  get snapshots(): readonly Snapshot[] {
    return this.#parts.snapshots;
  }

  /**
   * Make an internal snapshot of the disk as it is. Guests' changes wait meanwhile, reads go on. A crash leaves the image with
   * the snapshot or without it; without a journal of v1 it may leak clusters. Durable on return.
   * @throws INVALID_ARGUMENT for an id that is taken, where a refcount has no room for one more reference, or the journal none for the
   *   change; LIMIT_EXCEEDED; UNSUPPORTED_OPERATION with an external data file. Nothing is changed then
   */
  async createSnapshot(snapshot: NewSnapshot): Promise<Snapshot> {
    this.#refuseWrite(0, 0);
    return await run(this.#operation(() => createSnapshot(this.#parts, snapshot)));
  }

  /**
   * Give the disk the content and the size that it has in a snapshot; what it held is gone. The snapshot stays. As `createSnapshot` in
   * what waits and what a crash leaves. Durable on return.
   * @throws INVALID_ARGUMENT where there is no such snapshot, and as `createSnapshot`
   */
  async applySnapshot(choice: SnapshotChoice): Promise<void> {
    this.#refuseWrite(0, 0);
    await run(this.#operation(() => applySnapshot(this.#parts, choice)));
    this.#parts.core.fitCaches();
  }

  /**
   * Forget a snapshot; what only it referred to is free. Guests go on meanwhile. A crash as with `createSnapshot`. Devices that
   * show it end. Durable on return.
   * @throws INVALID_ARGUMENT where there is no such snapshot; FormatError where what it leads to is damaged
   */
  async deleteSnapshot(choice: SnapshotChoice): Promise<void> {
    this.#refuseWrite(0, 0);
    await run(this.#operation(() => deleteSnapshot(this.#parts, choice)));
  }

  /**
   * A snapshot's disk, to be read; the image may be open for reading only. Its L1 table is held in memory until it is closed. Closing
   * it leaves the image open.
   * @throws INVALID_ARGUMENT where there is no such snapshot; TRUNCATED, OVERLAP where its table can not stand there
   */
  async openSnapshot(choice: SnapshotChoice): Promise<BlockDevice> {
    this.#refuseClosed();
    this.#refuseUnreachable();
    for (;;) {
      const snapshot = chooseSnapshot(this.#parts.snapshots, choice);
      const l1 = await run(readL1(this.#parts, snapshot.l1Offset, snapshot.l1Entries));
      // It may have been deleted meanwhile.
      if (this.#parts.snapshots.includes(snapshot)) return new SnapshotDevice(this.#parts, snapshot, l1);
    }
  }

  /**
   * The bitmaps of the image, in the order of its directory, and how much each says has changed: exact, with what was
   * written since the image was opened.
   * @throws FormatError for a damaged directory
   */
  async bitmaps(): Promise<readonly BitmapInfo[]> {
    this.#refuseClosed();
    return await run(this.#parts.bitmaps.list());
  }

  /**
   * What a bitmap says has changed of a range of the disk (default: all of it), in order.
   * @throws INVALID_ARGUMENT where there is no such bitmap, or it is inconsistent [BMD-005]; FormatError where it is damaged
   */
  async dirtyRanges(
    name: string,
    offset = 0,
    lengthBytes = this.sizeBytes - offset,
  ): Promise<readonly DirtyRange[]> {
    this.#refuseClosed();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return await run(this.#parts.bitmaps.dirtyRanges(name, offset, lengthBytes));
  }

  /**
   * A new bitmap, in which nothing is dirty. Durable on return; a crash leaves it whole or not there.
   * @throws INVALID_ARGUMENT for a name that there is, or a granularity that none has; UNSUPPORTED_OPERATION for version 2 and
   *   beside a journal of the draft of 2013; NO_SPACE where the header's cluster has no room; LIMIT_EXCEEDED
   */
  async addBitmap(name: string, options: NewBitmap = {}): Promise<void> {
    await this.#changeBitmaps(() => addBitmap(this.#parts, name, options));
  }

  /** Take a bitmap away, an inconsistent one too. As `addBitmap`. @throws INVALID_ARGUMENT where there is none */
  async removeBitmap(name: string): Promise<void> {
    await this.#changeBitmaps(() => removeBitmap(this.#parts, name));
  }

  /** Writes are recorded in it from now on, by every program. Durable on return. @throws as `dirtyRanges` */
  async enableBitmap(name: string): Promise<void> {
    await this.#changeBitmaps(() => enableBitmap(this.#parts, name, true));
  }

  /** It stays as it is from now on. Durable on return. @throws as `dirtyRanges` */
  async disableBitmap(name: string): Promise<void> {
    await this.#changeBitmaps(() => enableBitmap(this.#parts, name, false));
  }

  /** Nothing is dirty any more. Durable on return; a crash leaves all or nothing of it. @throws as `dirtyRanges` */
  async clearBitmap(name: string): Promise<void> {
    await this.#changeBitmaps(() => clearBitmap(this.#parts, name));
  }

  /**
   * What is dirty in `source` is dirty in the bitmap as well; their granularities may differ. As `clearBitmap`.
   * @param from the image that has `source`, of a disk of the same size; default: this one
   */
  async mergeBitmap(name: string, source: string, from?: Qcow2Image): Promise<void> {
    if (from === undefined || from === this) {
      await this.#changeBitmaps(() => mergeBitmap(this.#parts, name, { name: source }));
      return;
    }
    if (from.sizeBytes !== this.sizeBytes) {
      throw new StateError('INVALID_ARGUMENT', 'the disks of the two bitmaps have different sizes', {
        field: 'from',
        value: from.sizeBytes,
      });
    }
    const ranges = (offset: number, length: number) => wait(from.dirtyRanges(source, offset, length));
    await this.#changeBitmaps(() => mergeBitmap(this.#parts, name, { source: ranges }));
  }

  async #changeBitmaps(change: () => Task<void>): Promise<void> {
    this.#refuseWrite(0, 0);
    await run(this.#operation(change));
    await run(this.#guard(this.#commit()));
  }

  /**
   * Write back everything that the journal holds: the file is an ordinary clean image on return. Writing may
   * go on. Without a journal: the same as a flush.
   */
  async quiesce(): Promise<void> {
    this.#refuseClosed();
    if (this.readOnly) return;
    this.#refuseFailed();
    await run(this.#guard(this.#quiesce()));
  }

  /**
   * Add a journal to an image that has none. Durable on return.
   * @throws INVALID_ARGUMENT for sizes that no journal has; NO_SPACE where the header's cluster has no room to name
   *   it, or the device none to hold it: the first of these changes nothing, and writing goes on
   */
  async enableJournal(options: JournalOptions = {}): Promise<void> {
    this.#refuseWrite(0, 0);
    await this.#refuseJournal(() => this.#parts.journalRefusal(options.profile));
    // A write may come between the two and leave something in the log; then once more.
    do await this.quiesce();
    while (!(await run(this.#operation(() => this.#exclusively(() => this.#parts.enableJournal(options))))));
    if (options.profile === 'draft-2013') await this.#countJournal(1);
  }

  /**
   * Another journal in place of the one that the image has, of the same profile or not: the old one is taken away
   * whole, then the new one is made. A crash meanwhile leaves the image with the one, with none, or with the other,
   * and nothing leaked. Durable on return.
   * @throws as `enableJournal`; NO_SPACE where the header's cluster has no room for each step, and nothing is changed
   */
  async convertJournal(options: JournalOptions): Promise<void> {
    this.#refuseWrite(0, 0);
    this.#parts.checkJournal(options);
    await this.#refuseJournal(() => this.#parts.conversionRefusal(options.profile));
    await this.disableJournal();
    await this.enableJournal(options);
  }

  /**
   * Give the image's journal another size, or another block size; what is not given stays as it is. A crash leaves
   * the old journal or the new one, and a clean image (of the draft's profile: perhaps none, as `convertJournal`). The
   * old range is free space then; the file does not get shorter. Durable on return.
   * @throws as `enableJournal`; UNSUPPORTED_OPERATION where the image has no journal
   */
  async resizeJournal(sizes: JournalSizes): Promise<void> {
    this.#refuseWrite(0, 0);
    const status = this.journalStatus();
    if (status?.profile === 'draft-2013') {
      const { profile, lengthBytes, blockBytes } = status;
      await this.convertJournal({ profile, sizeBytes: lengthBytes, blockBytes, ...sizes });
      return;
    }
    await this.#refuseJournal(() => this.#parts.journalRefusal());
    do await this.quiesce();
    while (!(await run(this.#guarded(() => this.#parts.resizeJournal(sizes)))));
  }

  /**
   * Change the encryption header, one at a time: who may open the image from now on. The key, and so the guest's data, stays.
   * What is durable when is `change`'s to say.
   * @throws UNSUPPORTED_OPERATION where the image has none; what `change` throws
   */
  async changeEncryptionHeader<T>(change: (header: EncryptionHeaderArea) => Promise<T>): Promise<T> {
    this.#refuseWrite(0, 0);
    const { device, encryptionHeader } = this.#parts.core;
    if (encryptionHeader === undefined) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'the image has no encryption header');
    }
    return await run(
      this.#operation(() => wait(change(encryptionHeaderArea(device, encryptionHeader, false)))),
    );
  }

  /** Outside of what ends writing: nothing was written yet. */
  async #refuseJournal(why: () => Task<Qcow2Error | undefined>): Promise<void> {
    const refusal = await run(this.#exclusively(why));
    if (refusal !== undefined) throw refusal;
  }

  /** Write everything back and take the journal away. Durable on return. */
  async disableJournal(): Promise<void> {
    this.#refuseWrite(0, 0);
    do await this.#countJournal(0);
    while (!(await run(this.#operation(() => this.#exclusively(() => this.#parts.disableJournal())))));
  }

  /** The clusters of a draft's journal count as used, or as free, from now on; then nothing is left in the log. */
  async #countJournal(refcount: 0 | 1): Promise<void> {
    let next: number | undefined = 0;
    while (next !== undefined) {
      const from: number = next;
      next = await run(this.#guarded(() => this.#parts.countDraftClusters(from, refcount)));
      await run(this.#guard(this.#commit()));
    }
    await this.quiesce();
  }

  /**
   * Bring everything in place, durable, the image clean; let go of the devices, backing and data file included.
   * After a failed write or flush nothing is written: the image stays as recovery will find it.
   */
  async close(): Promise<void> {
    if (this.#closed) return;
    try {
      if (!this.readOnly && this.#failure === undefined && this.#parts.core.log.failure === undefined) {
        await run(this.#guard(this.#quiesce()));
        await run(this.#guard(this.#parts.trimFile()));
      }
    } finally {
      this.abandon();
      await this.#parts.core.backing?.close();
      await this.#parts.core.data.close();
      await this.#parts.core.device.close();
    }
  }

  /** Let go without writing anything, as a crash would. The devices stay open. */
  abandon(): void {
    this.#closed = true;
    for (const device of this.#parts.snapshotDevices) device.end();
    if (!this.readOnly) this.#parts.core.log.stop?.();
    clearTimeout(this.#idleTimer);
    this.#parts.core.cacheCleaner.stop();
  }

  #zero(offset: number, lengthBytes: number, mode: ZeroMode, options?: WriteOptions): void | Promise<void> {
    const zero = (from: number, length: number): Task<void> =>
      this.#parts.writer.zero(offset + from, length, mode);
    return this.#change(offset, lengthBytes, zero, options);
  }

  #change(
    offset: number,
    lengthBytes: number,
    body: (from: number, length: number) => Task<void>,
    options: ChangeOptions = {},
  ): void | Promise<void> {
    return run(this.#guard(this.#changeTask(offset, lengthBytes, body, options)));
  }

  /**
   * Change a guest range, each piece of it under the write lock. Pieces end at cluster borders and are as large as
   * what the log has room for [JRN-FAIL-003]; between two of them a full log is committed.
   */
  *#changeTask(
    offset: number,
    lengthBytes: number,
    body: (from: number, length: number) => Task<void>,
    { fua, mapsFirst }: ChangeOptions,
  ): Task<void> {
    const parts = this.#parts;
    for (let done = 0; done < lengthBytes; ) {
      const from = done;
      const inCluster = (offset + from) % this.clusterBytes;
      const length = Math.min(lengthBytes - from, parts.pieceBytes - inCluster);
      if (mapsFirst === true) yield* this.#mapFirst(offset + from, length);
      yield* this.#inBitmaps(offset + from, length, () => body(from, length));
      done += length;
      this.#activity++;
      if (parts.bitmaps.isFull) yield* parts.bitmaps.store();
      if (parts.overlayIsFull) yield* this.#exclusively(() => parts.settleUnlogged());
      if (parts.mustCommit) yield* this.#commit();
    }
    if (fua === true) yield* this.#commit();
  }

  /** Change a range that every enabled bitmap has noted before. */
  *#inBitmaps(offset: number, lengthBytes: number, body: () => Task<void>): Task<void> {
    const { bitmaps } = this.#parts;
    const attempt = function* (this: Qcow2Image): Task<boolean> {
      // The disk may have become smaller while this one waited.
      checkRange(offset, lengthBytes, this.sizeBytes);
      if (!bitmaps.note(offset, lengthBytes)) return false;
      yield* body();
      return true;
    }.bind(this);
    while (!(yield* this.#exclusively(attempt))) yield* bitmaps.cover(offset, lengthBytes);
  }

  /** A raw data file: what is written to is mapped, and durably so [DAT-005]. */
  *#mapFirst(offset: number, lengthBytes: number): Task<void> {
    if (yield* this.#exclusively(() => this.#parts.writer.mapRange(offset, lengthBytes))) this.#mapsMade++;
    // What is mapped already may have been so by another write, which is still waiting for its commit.
    if (!this.#hasOpenMaps) return;
    const made = this.#mapsMade;
    yield* this.#commit();
    this.#mapsDurable = Math.max(this.#mapsDurable, made);
  }

  get #hasOpenMaps(): boolean {
    return this.#mapsMade > this.#mapsDurable;
  }

  *#writeCompressed(offset: number, bytes: Uint8Array): Task<void> {
    const { clusterBytes } = this;
    const { compressedWriter } = this.#parts;
    const batchBytes = compressedWriter.batchClusters * clusterBytes;
    for (let from = 0; from < bytes.length; from += batchBytes) {
      const packed = yield* compressedWriter.compress(bytes.subarray(from, from + batchBytes));
      for (const [i, data] of packed.entries()) {
        const start = from + i * clusterBytes;
        const cluster = bytes.subarray(start, start + clusterBytes);
        const at = offset + start;
        yield* this.#changeTask(
          at,
          cluster.length,
          () => {
            const { writer } = this.#parts;
            if (data === undefined) return writer.write(at, cluster);
            return writer.writeCompressed(at / clusterBytes, data);
          },
          {},
        );
      }
    }
  }

  *#exclusively<T>(body: () => Task<T>): Task<T> {
    return yield* exclusively(this.#parts, () => this.#commit(), body, this.#parts.gate);
  }

  *#commit(): Task<void> {
    yield* this.#mapPending();
    yield* this.#parts.core.log.commit();
    this.#noteActivity();
  }

  /**
   * The usual write without a task: its bytes go where the mapping says, and nothing else changes. The
   * write lock is free; where the device takes its time, it is held until the device has answered.
   */
  #writeInPlace(hostOffset: number, guestOffset: number, bytes: Uint8Array): void | Promise<void> {
    const { core, writer } = this.#parts;
    let pending: void | Promise<void>;
    try {
      pending = core.data.put(hostOffset, guestOffset, bytes);
    } catch (error) {
      throw this.#noted(error);
    }
    this.#activity++;
    if (isPromise(pending)) return this.#writtenLater(pending, guestOffset, bytes.length);
    writer.noteInPlace(guestOffset, bytes.length);
    core.data.noteWritten();
  }

  async #writtenLater(pending: Promise<void>, guestOffset: number, lengthBytes: number): Promise<void> {
    const { core, writer } = this.#parts;
    void core.writeLock.acquire(); // free, and nobody ran in between
    try {
      await pending;
      writer.noteInPlace(guestOffset, lengthBytes);
      core.data.noteWritten();
    } catch (error) {
      throw this.#noted(error);
    } finally {
      core.writeLock.release();
    }
  }

  /**
   * Clusters that are being filled are mapped: what was written to them is acknowledged by what comes next. Others may
   * have filled the log while this one waited for the lock; then it is committed as it is, and once more.
   */
  *#mapPending(): Task<void> {
    const { core, pending } = this.#parts;
    while (!pending.isEmpty) {
      if (core.log.isBacklogged) yield* core.log.commit();
      yield* wait(core.writeLock.acquire());
      try {
        if (!core.log.isBacklogged) return yield* this.#parts.mapPending();
      } finally {
        core.writeLock.release();
      }
    }
  }

  /** One timer at a time: where something came meanwhile, it waits once more. */
  #noteActivity(): void {
    this.#activity++;
    const { idleMs } = this.#parts.tuning;
    if (idleMs <= 0 || this.#idleTimer !== undefined || this.#closed) return;
    const seen = this.#activity;
    const timer = setTimeout(() => {
      this.#idleTimer = undefined;
      if (this.#closed) return;
      if (this.#activity !== seen) this.#noteActivity();
      // A failure is kept, and told to the next who writes or flushes.
      else if (this.journalStatus()?.state === 'dirty' || this.#parts.core.isMarkedDirty)
        this.quiesce().catch(() => undefined);
    }, idleMs);
    this.#idleTimer = timer;
    // In Node a timer keeps the process alive unless told not to; in a browser it is a number.
    if (typeof timer === 'object') (timer as { unref?(): void }).unref?.();
  }

  /** An operation of many changes may be under way: rest comes after it. */
  *#quiesce(): Task<void> {
    yield* this.#parts.operations.exclusive(() => this.#quiesceAlone());
  }

  *#quiesceAlone(): Task<void> {
    yield* this.#mapPending();
    yield* this.#parts.bitmaps.store();
    yield* this.#parts.core.log.quiesce();
  }

  *#guarded<T>(body: () => Task<T>): Task<T> {
    return yield* this.#guard(this.#exclusively(body));
  }

  /** One at a time; the write lock is for `body` to take. */
  *#operation<T>(body: () => Task<T>): Task<T> {
    return yield* this.#guard(
      this.#parts.operations.exclusive(() => {
        this.#refuseWrite(0, 0);
        return body();
      }),
    );
  }

  /** A failure of the device below, or a bug, ends writing. */
  *#guard<T>(task: Task<T>): Task<T> {
    try {
      return yield* task;
    } catch (error) {
      throw this.#noted(error);
    }
  }

  /** Keep a failure that ends writing. @returns the error that was given */
  #noted(error: unknown): unknown {
    // Nothing is changed before all that a change needs has been read: what could not be read is told, no more.
    if (error instanceof StorageError && error.code === 'READ_FAILED') return error;
    if (error instanceof StorageError || error instanceof InvariantError) this.#failure ??= error;
    else if (!(error instanceof Qcow2Error)) {
      this.#failure ??= new StorageError('WRITE_FAILED', 'the device below failed', {}, error);
    }
    return error;
  }

  #refuseClosed(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the image is closed');
  }

  #refuseFailed(): void {
    const failure = this.#failure ?? (this.readOnly ? undefined : this.#parts.core.log.failure);
    if (failure === undefined) return;
    const message = `an earlier write or flush failed (${failure.code}); reopen the image to recover`;
    throw new StateError('FAILED_EARLIER', message, {}, failure);
  }

  #refuseUnsupported(): void {
    const feature = this.#parts.unsupportedFeature;
    if (feature !== undefined) {
      throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `the image uses ${feature}`, { feature });
    }
    if (this.#parts.isLocked) throw needsSecret();
  }

  /** What keeps guest bytes from being reached. */
  #refuseUnreachable(): void {
    this.#refuseUnsupported();
    if (this.#parts.core.data.isMissing) refuseMissing(this.header);
  }

  #refuseWrite(offset: number, lengthBytes: number): void {
    this.#refuseClosed();
    if (this.readOnly) throw new StateError('READ_ONLY', 'the image was opened read-only');
    checkRange(offset, lengthBytes, this.sizeBytes);
    this.#refuseUnreachable();
    this.#refuseFailed();
  }
}
