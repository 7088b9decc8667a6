/**
 * An open qcow2 image: a BlockDevice whose bytes are the guest's disk.
 * This is its face; how what is asked of it is run, under which lock and until which failure, is `ImageRequests`'.
 */
import {
  type BlockDevice,
  type ByteOrigin,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  type FlushOptions,
  type ReadOptions,
  run,
  type Task,
  type WriteOptions,
  type WriteZeroesOptions,
  wait,
} from '@qcow2/block-device';
import type { Qcow2Header, Snapshot } from '@qcow2/codec';
import { type Qcow2Error, StateError, UnsupportedFeatureError } from '@qcow2/spec';
import { amendImage, type HeaderAmendment } from './amend-header.ts';
import { type BackingName, checkBacking, nameBacking } from './backing-file.ts';
import {
  addBitmap,
  clearBitmap,
  enableBitmap,
  mergeBitmap,
  type NewBitmap,
  removeBitmap,
} from './bitmap-operations.ts';
import type { BitmapInfo, DirtyRange } from './bitmaps.ts';
import { copyClusters } from './cluster-copier.ts';
import { readL1 } from './detached-table.ts';
import type { EncryptionHeaderArea } from './encryption.ts';
import { encryptionHeaderArea } from './encryption-header.ts';
import { guestExtents, guestOrigin, type PlacedExtent, placedExtents } from './extents.ts';
import type { ImageCacheCounters } from './image-core.ts';
import { ImageRequests } from './image-requests.ts';
import type { ZeroMode } from './image-writer.ts';
import type { ImageInfo } from './info.ts';
import type { JournalSizes, JournalStatus } from './journal-status.ts';
import type { ImageParts, JournalOptions } from './parts.ts';
import type { RefcountRepair } from './refcount-rebuild.ts';
import { changeRefcountWidth } from './refcount-width.ts';
import { type ResizeOptions, resizeDisk } from './resize.ts';
import { SnapshotDevice } from './snapshot-device.ts';
import { applySnapshot, createSnapshot, deleteSnapshot, type NewSnapshot } from './snapshot-operations.ts';
import { chooseSnapshot, type SnapshotChoice } from './snapshot-table.ts';

export class Qcow2Image implements BlockDevice {
  readonly #parts: ImageParts;
  readonly #requests: ImageRequests;
  readonly capabilities: DeviceCapabilities;

  /** Made by `openImage` only. */
  constructor(parts: ImageParts) {
    this.#parts = parts;
    this.#requests = new ImageRequests(parts);
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
    this.#requests.refuseClosed();
    checkRange(offset, into.length, this.sizeBytes);
    this.#requests.refuseUnreachable();
    return this.#parts.reader.read(offset, into);
  }

  /**
   * Write guest bytes. A later read sees them when this is done; durable after a flush, or with `fua`.
   * @throws OUT_OF_RANGE, READ_ONLY, CLOSED, FAILED_EARLIER, NO_SPACE, WRITE_FAILED, UNSUPPORTED_FEATURE for
   *   a cluster of a kind that is not served, FormatError for a damaged mapping
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    return this.#requests.write(offset, bytes, options?.fua === true);
  }

  /**
   * Write whole clusters (the last one of the disk may be incomplete) in compressed form, packed behind each other.
   * A cluster that does not get smaller is written as it is. `bytes` must stay as it is until this is done; then a
   * later read sees them. Durable after a flush.
   * @throws as `write`; INVALID_ARGUMENT for other than whole clusters; UNSUPPORTED_OPERATION where the image was opened
   *   without `compression` that compresses
   */
  writeCompressed(offset: number, bytes: Uint8Array): void | Promise<void> {
    this.#requests.refuseWrite(offset, bytes.length);
    this.#parts.compressedWriter.check(offset, bytes.length);
    return run(this.#requests.guard(this.#writeCompressed(offset, bytes)));
  }

  /** Whole clusters are copied by the device below; of an encrypted image none are. @throws as `write` */
  async copyFrom(source: ByteOrigin, offset: number): Promise<number> {
    this.#requests.refuseWrite(offset, source.lengthBytes);
    return await copyClusters(this.#parts, this.#requests, source, offset);
  }

  origin(offset: number, lengthBytes: number): ByteOrigin | undefined | Promise<ByteOrigin | undefined> {
    const { core, mappings } = this.#readable(offset, lengthBytes);
    return run(guestOrigin(core, mappings, this.#parts, offset, lengthBytes));
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#requests.refuseWrite(offset, lengthBytes);
    return this.#zero(offset, lengthBytes, { unmap: options?.mayUnmap ?? false, discard: false }, options);
  }

  /** Whole clusters in the range give their space back; parts of clusters stay as they are. */
  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#requests.refuseWrite(offset, lengthBytes);
    return this.#zero(offset, lengthBytes, { unmap: true, discard: true }, options);
  }

  /**
   * The image has nothing of its own in a range any more: it shows the backing file, or zeros. Whole clusters only, the last one of
   * the disk among them; parts of clusters stay as they are. A crash leaves each cluster as it was, or shown.
   * @throws as `writeZeroes`; UNSUPPORTED_OPERATION for a raw data file, which is the disk
   */
  showBacking(offset: number, lengthBytes: number): void | Promise<void> {
    this.#requests.refuseWrite(offset, lengthBytes);
    if (this.#parts.core.data.isRaw) {
      const message = 'an image with a raw data file shows no backing file';
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message);
    }
    const show = (from: number, length: number): Task<void> =>
      this.#parts.writer.zero(offset + from, length, { unmap: true, discard: true, show: true });
    return this.#requests.change(offset, lengthBytes, show);
  }

  /**
   * Name another backing file, or none; nothing of it is opened, and what this open image shows stays as it was opened. So it is to be closed
   * next: what is discarded, or uncovered by growth, would still be so over the old one. What was written
   * before is durable before the name is, and the name on return. A crash leaves the old name and format, or the new.
   * @throws INVALID_ARGUMENT for a name that no image can have, or beside a raw data file; NO_SPACE where the header's cluster has no room.
   *   Nothing is changed then
   */
  async changeBacking(backing: BackingName | undefined): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    checkBacking(this.header, backing);
    await this.#rewriteHeader((header) => nameBacking(header, backing));
  }

  /**
   * Another version (close the image next), lazy refcounts or none, another width; durable on return. A crash leaves each as it was, or new.
   * @throws UNSUPPORTED_OPERATION for what version 2 can not have; INVALID_ARGUMENT for a refcount that does not fit; NO_SPACE
   */
  async amend(amendment: HeaderAmendment): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    const changeWidth = (bits: number) => changeRefcountWidth(this.#parts, this.#requests, bits);
    await amendImage(this, amendment, changeWidth, (step) => this.#rewriteHeader(step));
  }

  async #rewriteHeader(change: (header: Qcow2Header) => void): Promise<void> {
    const wanted = { ...this.header };
    change(wanted);
    await this.#refuseFirst(() => this.#parts.headerRefusal(wanted));
    const rewrite = (): Task<boolean> => this.#parts.rewriteHeader(change);
    do await this.quiesce();
    while (!(await run(this.#requests.operation(() => this.#requests.exclusively(rewrite)))));
  }

  /** Make durable every write that was done when this was called. Concurrent flushes share one commit. */
  flush(_options?: FlushOptions): void | Promise<void> {
    this.#requests.refuseClosed();
    if (this.readOnly) return;
    this.#requests.refuseFailed();
    return run(this.#requests.guard(this.#requests.commit()));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    const { core, mappings } = this.#readable(offset, lengthBytes);
    return run(guestExtents(core, mappings, this.#parts, offset, lengthBytes));
  }

  #readable(offset: number, lengthBytes: number): ImageParts {
    this.#requests.refuseClosed();
    checkRange(offset, lengthBytes, this.sizeBytes);
    this.#requests.refuseUnreachable();
    return this.#parts;
  }

  /** As `extents`, and where in the file the bytes stand. @throws as `extents` */
  placedExtents(
    offset: number,
    lengthBytes: number,
  ): readonly PlacedExtent[] | Promise<readonly PlacedExtent[]> {
    const { core, mappings } = this.#readable(offset, lengthBytes);
    return run(placedExtents(core, mappings, this.#parts, offset, lengthBytes));
  }

  /**
   * Give the disk another size. With options only: a disk's size is not a guest's request to change, who has but the device.
   * Larger is as `grow`. Smaller takes what lies behind the new end away for good: guests' changes wait meanwhile, a crash leaves the one size or
   * the other (without a journal of v1 it may leak clusters), and it is durable on return.
   * @throws UNSUPPORTED_OPERATION without options, for a version 2 image that has snapshots; INVALID_ARGUMENT for a smaller size
   *   without `shrink`, for 0, beyond the format's limits; FormatError where what is given back is damaged
   */
  resize(sizeBytes: number, options?: ResizeOptions): void | Promise<void> {
    this.#requests.refuseClosed();
    if (options !== undefined) return this.#resize(sizeBytes, options);
    throw new UnsupportedFeatureError(
      'UNSUPPORTED_OPERATION',
      'an image is not resized by a request; say how, or use grow',
    );
  }

  async #resize(sizeBytes: number, { shrink = false, preallocation = 'off' }: ResizeOptions): Promise<void> {
    checkSize(sizeBytes);
    this.#requests.refuseWrite(0, 0);
    await run(
      this.#requests.operation(() => {
        const before = this.sizeBytes;
        if (sizeBytes < before && !shrink) {
          throw new StateError('INVALID_ARGUMENT', 'a disk becomes smaller only where that is asked for', {
            field: 'sizeBytes',
            value: sizeBytes,
          });
        }
        return resizeDisk(this.#parts, sizeBytes, preallocation);
      }),
    );
    this.#parts.core.fitCaches();
  }

  /**
   * Make the disk larger; the new bytes read as zeros, whatever a longer backing file has there. Durable after a
   * flush; a crash leaves the one size or the other. Guests go on meanwhile; where the
   * image has bitmaps they wait, and a crash leaves those with the disk or inconsistent [BMP-007].
   * @throws UNSUPPORTED_OPERATION for a smaller size (see `resize`), and for a version 2 image that has snapshots;
   *   INVALID_ARGUMENT beyond the format's limits
   */
  async grow(sizeBytes: number): Promise<void> {
    checkSize(sizeBytes);
    this.#requests.refuseWrite(0, 0);
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
    this.#requests.refuseWrite(0, 0);
    return await run(this.#requests.operation(() => createSnapshot(this.#parts, snapshot)));
  }

  /**
   * Give the disk the content and the size that it has in a snapshot; what it held is gone. The snapshot stays. As `createSnapshot` in
   * what waits and what a crash leaves. Durable on return.
   * @throws INVALID_ARGUMENT where there is no such snapshot, and as `createSnapshot`
   */
  async applySnapshot(choice: SnapshotChoice): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    await run(this.#requests.operation(() => applySnapshot(this.#parts, choice)));
    this.#parts.core.fitCaches();
  }

  /**
   * Forget a snapshot; what only it referred to is free. Guests go on meanwhile. A crash as with `createSnapshot`. Devices that
   * show it end. Durable on return.
   * @throws INVALID_ARGUMENT where there is no such snapshot; FormatError where what it leads to is damaged
   */
  async deleteSnapshot(choice: SnapshotChoice): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    await run(this.#requests.operation(() => deleteSnapshot(this.#parts, choice)));
  }

  /**
   * A snapshot's disk, to be read; the image may be open for reading only. Its L1 table is held in memory until it is closed. Closing
   * it leaves the image open.
   * @throws INVALID_ARGUMENT where there is no such snapshot; TRUNCATED, OVERLAP where its table can not stand there
   */
  async openSnapshot(choice: SnapshotChoice): Promise<BlockDevice> {
    this.#requests.refuseClosed();
    this.#requests.refuseUnreachable();
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
    this.#requests.refuseClosed();
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
    this.#requests.refuseClosed();
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
    this.#requests.refuseWrite(0, 0);
    await run(this.#requests.operation(change));
    await run(this.#requests.guard(this.#requests.commit()));
  }

  /**
   * Write back everything that the journal holds: the file is an ordinary clean image on return. Writing may
   * go on. Without a journal: the same as a flush.
   */
  async quiesce(): Promise<void> {
    await this.#requests.rest();
  }

  /**
   * Add a journal to an image that has none. Durable on return.
   * @throws INVALID_ARGUMENT for sizes that no journal has; NO_SPACE where the header's cluster has no room to name
   *   it, or the device none to hold it: the first of these changes nothing, and writing goes on
   */
  async enableJournal(options: JournalOptions = {}): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    await this.#refuseFirst(() => this.#parts.journalRefusal(options.profile));
    // A write may come between the two and leave something in the log; then once more.
    do await this.quiesce();
    while (
      !(await run(
        this.#requests.operation(() => this.#requests.exclusively(() => this.#parts.enableJournal(options))),
      ))
    );
    if (options.profile === 'draft-2013') await this.#countJournal(1);
  }

  /**
   * Another journal in place of the one that the image has, of the same profile or not: the old one is taken away
   * whole, then the new one is made. A crash meanwhile leaves the image with the one, with none, or with the other,
   * and nothing leaked. Durable on return.
   * @throws as `enableJournal`; NO_SPACE where the header's cluster has no room for each step, and nothing is changed
   */
  async convertJournal(options: JournalOptions): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    this.#parts.checkJournal(options);
    await this.#refuseFirst(() => this.#parts.conversionRefusal(options.profile));
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
    this.#requests.refuseWrite(0, 0);
    const status = this.journalStatus();
    if (status?.profile === 'draft-2013') {
      const { profile, lengthBytes, blockBytes } = status;
      await this.convertJournal({ profile, sizeBytes: lengthBytes, blockBytes, ...sizes });
      return;
    }
    await this.#refuseFirst(() => this.#parts.journalRefusal());
    do await this.quiesce();
    while (!(await run(this.#requests.guarded(() => this.#parts.resizeJournal(sizes)))));
  }

  /**
   * Change the encryption header, one at a time: who may open the image from now on. The key, and so the guest's data, stays.
   * What is durable when is `change`'s to say.
   * @throws UNSUPPORTED_OPERATION where the image has none; what `change` throws
   */
  async changeEncryptionHeader<T>(change: (header: EncryptionHeaderArea) => Promise<T>): Promise<T> {
    this.#requests.refuseWrite(0, 0);
    const { device, encryptionHeader } = this.#parts.core;
    if (encryptionHeader === undefined) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'the image has no encryption header');
    }
    return await run(
      this.#requests.operation(() => wait(change(encryptionHeaderArea(device, encryptionHeader, false)))),
    );
  }

  /** What speaks against a change, outside of what ends writing: nothing was written yet. */
  async #refuseFirst(why: () => Task<Qcow2Error | undefined>): Promise<void> {
    const refusal = await run(this.#requests.exclusively(why));
    if (refusal !== undefined) throw refusal;
  }

  /** Write everything back and take the journal away. Durable on return. */
  async disableJournal(): Promise<void> {
    this.#requests.refuseWrite(0, 0);
    do await this.#countJournal(0);
    while (
      !(await run(
        this.#requests.operation(() => this.#requests.exclusively(() => this.#parts.disableJournal())),
      ))
    );
  }

  /** The clusters of a draft's journal count as used, or as free, from now on; then nothing is left in the log. */
  async #countJournal(refcount: 0 | 1): Promise<void> {
    let next: number | undefined = 0;
    while (next !== undefined) {
      const from: number = next;
      next = await run(this.#requests.guarded(() => this.#parts.countDraftClusters(from, refcount)));
      await run(this.#requests.guard(this.#requests.commit()));
    }
    await this.quiesce();
  }

  /**
   * Bring everything in place, durable, the image clean; let go of the devices, backing and data file included.
   * After a failed write or flush nothing is written: the image stays as recovery will find it.
   */
  async close(): Promise<void> {
    if (this.#requests.isClosed) return;
    try {
      if (!this.readOnly && this.#requests.failure === undefined) {
        await run(this.#requests.guard(this.#requests.quiesce()));
        await run(this.#requests.guard(this.#parts.trimFile()));
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
    this.#requests.end();
    for (const device of this.#parts.snapshotDevices) device.end();
    if (!this.readOnly) this.#parts.core.log.stop?.();
    this.#parts.core.cacheCleaner.stop();
  }

  #zero(offset: number, lengthBytes: number, mode: ZeroMode, options?: WriteOptions): void | Promise<void> {
    const zero = (from: number, length: number): Task<void> =>
      this.#parts.writer.zero(offset + from, length, mode);
    return this.#requests.change(offset, lengthBytes, zero, options);
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
        yield* this.#requests.changeTask(
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
}
