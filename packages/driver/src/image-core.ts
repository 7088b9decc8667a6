/**
 * What the parts of an open image share: the device, the decoded header, the two tables that are held whole
 * (L1 and refcount table), the caches of slices, and the log that takes changes.
 *
 * Invariants: `l1` and `refcountTable` are what the image means now; whoever changes them submits the same
 * change to `log`. Everything that changes metadata holds `writeLock`.
 */
import {
  type BlockDevice,
  type IoEvent,
  isPromise,
  Mutex,
  type ReadOptions,
  readPadded,
  type Task,
  wait,
} from '@qcow2/block-device';
import { type CacheCounters, TableCache } from '@qcow2/cache';
import {
  type ClusterCompression,
  inflateOnly,
  type L2Format,
  l2EntryBytes,
  type Qcow2Header,
  type RefcountCodec,
  refcountCodec,
} from '@qcow2/codec';
import { FormatError, incompatibleFeatures, StateError } from '@qcow2/spec';
import { CacheCleaner } from './cache-cleaner.ts';
import { type CacheOptions, cacheSizes } from './cache-sizes.ts';
import { DataArea } from './data-area.ts';
import { ImageBesideData } from './data-file.ts';
import { DecompressedClusters } from './decompressed-clusters.ts';
import type { GuestCipher } from './encryption.ts';
import { encryptionHeaderRange } from './encryption-header.ts';
import { HostDiscard, type PassDiscard } from './host-discard.ts';
import type { MetadataLog } from './metadata-log.ts';
import { PendingFills } from './pending-fills.ts';

/** Byte offset of the incompatible feature mask in the header (HDR-015). */
const incompatibleAt = 72;

export interface HostArea {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

export interface CoreOptions {
  readonly device: BlockDevice;
  readonly header: Qcow2Header;
  readonly backing: BlockDevice | undefined;
  /** Of an image with an external data file: that file. Without it no guest byte can be read. */
  readonly dataFile?: BlockDevice | undefined;
  readonly cache?: CacheOptions | undefined;
  readonly compression?: ClusterCompression | undefined;
  /** Of an encrypted image that is opened for its data. */
  readonly cipher?: GuestCipher | undefined;
  readonly readOnly: boolean;
  /** Give the space of freed clusters back to the device. */
  readonly passDiscard: PassDiscard;
}

/** Of the two metadata caches, and of the one of decompressed clusters. */
export interface ImageCacheCounters {
  readonly l2: CacheCounters;
  readonly refcount: CacheCounters;
  readonly decompressed: DecompressedClusters['counters'];
}

export class ImageCore {
  /** The image file. Its flush is one of the data file too, where there is one. */
  readonly device: BlockDevice;
  readonly header: Qcow2Header;
  readonly backing: BlockDevice | undefined;
  /** Where guest data stands: its bytes are read and written there only. */
  readonly data: DataArea;
  /** Undefined in an encrypted image that is only looked at. */
  readonly cipher: GuestCipher | undefined;
  /** Written by nobody but whoever changes its key slots. */
  readonly encryptionHeader: HostArea | undefined;
  readonly readOnly: boolean;
  /** Undefined where space is not given back. */
  readonly hostDiscard: HostDiscard | undefined;
  readonly clusterBits: number;
  readonly clusterBytes: number;
  readonly l2Format: L2Format;
  readonly l2EntryBytes: number;
  readonly l2Entries: number;
  refcounts: RefcountCodec;
  refcountsPerBlock: number;
  /** Slices of L2 tables, and of refcount blocks. */
  readonly l2Cache: TableCache;
  readonly refcountCache: TableCache;
  /** Contents of compressed clusters. */
  readonly decompressed: DecompressedClusters;
  readonly compression: ClusterCompression;
  readonly cacheCleaner: CacheCleaner;
  readonly #cacheOptions: CacheOptions;
  readonly writeLock = new Mutex();
  /** Parts of clusters whose bytes stand elsewhere still. */
  readonly fills: PendingFills;
  l1: DataView;
  refcountTable: DataView;
  /** Of the snapshot table, where the header names one; known once it is read. */
  snapshotTableBytes = 0;
  /** The bitmap directory and the tables of bitmaps, as far as they are known. */
  bitmapAreas: readonly HostArea[] = [];
  /** The journal's area: neither allocated nor written by anyone but the engine. */
  journalArea: HostArea | undefined;
  #log: MetadataLog | undefined;
  #endBytes = 0;

  constructor(options: CoreOptions) {
    const { header } = options;
    const { dataFile } = options;
    this.device =
      dataFile === undefined ? options.device : new ImageBesideData(options.device, () => this.data.flush());
    this.header = header;
    this.backing = options.backing;
    this.data = new DataArea(this, dataFile, options.cipher);
    this.cipher = options.cipher;
    this.encryptionHeader = encryptionHeaderRange(header);
    this.readOnly = options.readOnly;
    this.clusterBits = header.clusterBits;
    this.clusterBytes = 2 ** header.clusterBits;
    this.fills = new PendingFills(this.clusterBytes);
    const { device, passDiscard } = options;
    const gives =
      Object.values(passDiscard).includes(true) && !options.readOnly && device.capabilities.discard;
    this.hostDiscard = gives ? new HostDiscard(device, this.clusterBytes, passDiscard) : undefined;
    this.l2Format = {
      clusterBits: header.clusterBits,
      version: header.version,
      extended: (header.incompatibleFeatures & incompatibleFeatures.extendedL2) !== 0n,
      externalData: (header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n,
    };
    this.l2EntryBytes = l2EntryBytes(this.l2Format);
    this.l2Entries = this.clusterBytes / this.l2EntryBytes;
    this.refcounts = refcountCodec(header.refcountOrder);
    this.refcountsPerBlock = this.refcounts.entriesPerBlock(this.clusterBytes);
    this.l1 = new DataView(new ArrayBuffer(0));
    this.refcountTable = new DataView(new ArrayBuffer(0));
    this.noteEnd(options.device.sizeBytes);
    this.#cacheOptions = options.cache ?? {};
    const sizes = this.#cacheSizes();
    const load =
      (event: IoEvent) =>
      (hostOffset: number, into: Uint8Array): void | Promise<void> =>
        this.#loadTable(hostOffset, into, event);
    const onFilled = (): void => this.cacheCleaner.noteFilled();
    const l2 = { sliceBytes: sizes.l2SliceBytes, maxBytes: sizes.l2Bytes };
    const refcount = { sliceBytes: sizes.refcountSliceBytes, maxBytes: sizes.refcountBytes };
    this.l2Cache = new TableCache({ ...l2, load: load('l2_load'), onFilled });
    this.refcountCache = new TableCache({ ...refcount, load: load('refblock_load'), onFilled });
    this.compression = options.compression ?? inflateOnly;
    this.decompressed = new DecompressedClusters(this.clusterBytes, sizes.decompressedBytes, onFilled);
    const caches = [this.l2Cache, this.refcountCache, this.decompressed];
    this.cacheCleaner = new CacheCleaner(caches, sizes.cleanIntervalMs);
  }

  get cacheCounters(): ImageCacheCounters {
    const { l2Cache, refcountCache, decompressed } = this;
    return {
      l2: l2Cache.counters,
      refcount: refcountCache.counters,
      decompressed: decompressed.counters,
    };
  }

  /** The image has other refcounts than before, under a table that stands elsewhere; the header says so. */
  useRefcounts(refcounts: RefcountCodec, table: DataView): void {
    this.refcounts = refcounts;
    this.refcountsPerBlock = refcounts.entriesPerBlock(this.clusterBytes);
    this.refcountTable = table;
    this.refcountCache.clear();
  }

  /** The disk has another size: what its L2 tables can take has changed. */
  fitCaches(): void {
    this.l2Cache.limit(this.#cacheSizes().l2Bytes);
  }

  #cacheSizes() {
    const { clusterBytes, l2EntryBytes, header } = this;
    return cacheSizes(this.#cacheOptions, { clusterBytes, l2EntryBytes, sizeBytes: header.sizeBytes });
  }

  /** Clusters up to here are in the file, or will be before anything refers to them. */
  noteEnd(endBytes: number): void {
    const whole = Math.ceil(endBytes / this.clusterBytes) * this.clusterBytes;
    this.#endBytes = Math.max(this.#endBytes, whole);
  }

  get log(): MetadataLog {
    if (this.#log === undefined) throw new StateError('READ_ONLY', 'the image was opened read-only');
    return this.#log;
  }

  set log(log: MetadataLog) {
    this.#log = log;
  }

  /** Replayed host writes that a reader looks through; a writer's log holds them itself. */
  readPatch: ((hostOffset: number, into: Uint8Array) => void) | undefined;

  /** Read metadata as the image means it now: what the device holds, with what waits in the log over it. */
  readPatched(hostOffset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    const done = readPadded(this.device, hostOffset, into, options);
    if (isPromise(done)) return this.#patchLater(done, hostOffset, into);
    this.#patch(hostOffset, into);
  }

  /** A slice of an L2 table or a refcount block. @throws TRUNCATED, OVERLAP for an entry that leads to no such thing */
  #loadTable(hostOffset: number, into: Uint8Array, event: IoEvent): void | Promise<void> {
    this.refuseNoTable(hostOffset, into.length);
    return this.readPatched(hostOffset, into, { event });
  }

  /** @throws TRUNCATED, OVERLAP for a range in which no table can stand that is not held whole */
  refuseNoTable(hostOffset: number, lengthBytes: number): void {
    this.refuseOutside(hostOffset, lengthBytes);
    this.#refuseHeld(hostOffset, lengthBytes, 'a table entry leads to metadata of another kind', 'LIM-019');
  }

  #patch(hostOffset: number, into: Uint8Array): void {
    this.readPatch?.(hostOffset, into);
    this.#log?.patch(hostOffset, into);
  }

  async #patchLater(first: Promise<void>, hostOffset: number, into: Uint8Array): Promise<void> {
    // What the log held when the read began may stand on the device when it ends, and be read neither from
    // there (too early) nor from here (too late): then read again.
    let before = this.#log?.generation;
    await first;
    while (this.#log?.generation !== before) {
      before = this.#log?.generation;
      await readPadded(this.device, hostOffset, into);
    }
    this.#patch(hostOffset, into);
  }

  /** Refcounts may be behind (FEA-001). */
  get isMarkedDirty(): boolean {
    return (this.header.incompatibleFeatures & incompatibleFeatures.dirty) !== 0n;
  }

  /**
   * Mark the image as dirty, or take the mark away. Durable after the next
   * flush. The mask stands in the first sector, so a crash leaves the old one or the new.
   */
  *writeDirtyMark(dirty: boolean): Task<void> {
    const { header } = this;
    const others = header.incompatibleFeatures & ~incompatibleFeatures.dirty;
    header.incompatibleFeatures = dirty ? others | incompatibleFeatures.dirty : others;
    const mask = new Uint8Array(8);
    new DataView(mask.buffer).setBigUint64(0, header.incompatibleFeatures);
    yield* wait(this.device.write(incompatibleAt, mask, { event: 'dirty_bit' }));
  }

  /** Host clusters that hold a byte of the range, in order. */
  hostClustersOf({ hostOffset, lengthBytes }: HostArea): number[] {
    const first = Math.floor(hostOffset / this.clusterBytes);
    const last = Math.floor((hostOffset + lengthBytes - 1) / this.clusterBytes);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  /** Load both tables that are held whole. Their sizes were checked with the header. */
  *loadTables(): Task<void> {
    const l1 = new Uint8Array(this.header.l1Entries * 8);
    yield* wait(this.readPatched(this.header.l1Offset, l1, { event: 'l1_load' }));
    this.l1 = new DataView(l1.buffer);
    const table = new Uint8Array(this.header.refcountTableClusters * this.clusterBytes);
    yield* wait(this.readPatched(this.header.refcountTableOffset, table, { event: 'reftable_load' }));
    this.refcountTable = new DataView(table.buffer);
  }

  /**
   * Write a table to the device past the log. Noted when it is done, not when it begins: a flush that starts in
   * between does not cover it, and must not take the note away.
   */
  *writeInPlace(hostOffset: number, bytes: Uint8Array, event: IoEvent): Task<void> {
    const done = this.device.write(hostOffset, bytes, { event });
    if (isPromise(done)) yield done;
    this.log.noteDeviceWrite();
  }

  /**
   * Whether guest data may go to a range of the file.
   * @throws OVERLAP for a range that touches the header, a table held whole, or the journal; TRUNCATED for one that
   *   is not in the file
   */
  refuseMetadata(hostOffset: number, lengthBytes: number): void {
    this.#refuseHeld(hostOffset, lengthBytes, 'a guest cluster is mapped onto metadata', 'L2E-008');
    this.refuseOutside(hostOffset, lengthBytes);
  }

  /** @throws REFCOUNT_WRONG where the refcounts give away what is in use: the image is damaged [LIM-020] */
  refuseTaken(hostOffset: number, lengthBytes: number): void {
    if (!this.#isHeld(hostOffset, lengthBytes)) return;
    throw new FormatError('REFCOUNT_WRONG', 'a cluster that holds metadata counts as free', {
      hostOffset,
      lengthBytes,
      clause: 'LIM-020',
    });
  }

  isInside(hostOffset: number, lengthBytes: number): boolean {
    return hostOffset + lengthBytes <= this.#endBytes;
  }

  /** @throws TRUNCATED, OVERLAP for an entry of a bitmap table that does not lead to a place for bits */
  refuseBits(hostOffset: number, lengthBytes: number): void {
    this.refuseOutside(hostOffset, lengthBytes);
    this.#refuseHeld(hostOffset, lengthBytes, 'the bits of a bitmap stand on other metadata', 'LIM-019');
  }

  /** @throws TRUNCATED for a range that is not in the file, nor about to be */
  refuseOutside(hostOffset: number, lengthBytes: number): void {
    if (this.isInside(hostOffset, lengthBytes)) return;
    throw new FormatError('TRUNCATED', 'an entry leads beyond the end of the file', {
      hostOffset,
      lengthBytes,
      clause: 'LIM-018',
    });
  }

  #refuseHeld(hostOffset: number, lengthBytes: number, message: string, clause: string): void {
    if (!this.#isHeld(hostOffset, lengthBytes)) return;
    throw new FormatError('OVERLAP', message, { hostOffset, lengthBytes, clause });
  }

  #isHeld(hostOffset: number, lengthBytes: number): boolean {
    const { header } = this;
    const { journalArea: journal, encryptionHeader: encryption } = this;
    return (
      hostOffset < this.clusterBytes ||
      touches(hostOffset, lengthBytes, header.l1Offset, header.l1Entries * 8) ||
      touches(hostOffset, lengthBytes, header.refcountTableOffset, this.refcountTable.byteLength) ||
      touches(hostOffset, lengthBytes, header.snapshotsOffset, this.snapshotTableBytes) ||
      (journal !== undefined && touches(hostOffset, lengthBytes, journal.hostOffset, journal.lengthBytes)) ||
      (encryption !== undefined &&
        touches(hostOffset, lengthBytes, encryption.hostOffset, encryption.lengthBytes)) ||
      this.bitmapAreas.some((area) => touches(hostOffset, lengthBytes, area.hostOffset, area.lengthBytes))
    );
  }
}

function touches(offset: number, length: number, areaOffset: number, areaLength: number): boolean {
  return offset < areaOffset + areaLength && areaOffset < offset + length;
}
