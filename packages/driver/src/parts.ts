/**
 * An open image, put together: the parts that `Qcow2Image` hands requests to, and the two ways to log.
 */
import { Mutex, readPadded, type Task, wait } from '@qcow2/block-device';
import { encodeHeader, type Qcow2Header, type Snapshot } from '@qcow2/codec';
import type { DetachedTableIntent } from '@qcow2/codec/journal/v1';
import {
  type DraftArea,
  DraftEngine,
  JournalEngine,
  type PlacedTransaction,
  type Random,
  type RecoveredLog,
  reassertLog,
  recoverLog,
} from '@qcow2/journal';
import { cryptMethods, type Qcow2Error, UnsupportedFeatureError } from '@qcow2/spec';
import { Allocator } from './allocator.ts';
import { hasBitmaps, ImageBitmaps } from './bitmaps.ts';
import { ClusterCopier } from './cluster-copier.ts';
import { ClusterReader } from './cluster-reader.ts';
import { ClusterWriter, type PreallocatedKind } from './cluster-writer.ts';
import { CompressedReader } from './compressed-reader.ts';
import { CompressedWriter } from './compressed-writer.ts';
import {
  countDraftClusters,
  defaultDraftBlockBytes,
  draftHostArea,
  draftLength,
  makeDraftJournal,
  withDraftJournal,
} from './draft-journal.ts';
import { DraftLog, ImageDraftClient } from './draft-log.ts';
import { GuestOverlay } from './guest-overlay.ts';
import { refusalToReplace, replaceHeader } from './header-update.ts';
import type { HostArea, ImageCore } from './image-core.ts';
import { ImageWriter } from './image-writer.ts';
import { type ImageInfo, imageInfo } from './info.ts';
import {
  boundJournal,
  defaultJournalBlockBytes,
  defaultJournalBytes,
  isJournalDirty,
  isJournalValid,
  journalLength,
  makeJournal,
  unbindJournal,
  withJournal,
} from './journal-binding.ts';
import { ImageJournalClient, OverlaySink } from './journal-client.ts';
import type { JournalProfile, JournalStatus } from './journal-status.ts';
import { JournalledLog } from './journalled-log.ts';
import { MappingTable } from './mapping.ts';
import { GuestGate } from './operation.ts';
import { OrderedLog } from './ordered-log.ts';
import { PendingClusters } from './pending-clusters.ts';
import { PendingFills } from './pending-fills.ts';
import type { RefcountRepair } from './refcount-rebuild.ts';
import type { SnapshotDevice } from './snapshot-device.ts';

export interface JournalTuning {
  /**
   * Pieces of at least this many bytes go in place at once, not through the overlay, where with what is gathered
   * since the last flush they are more than `directFlushBytes`.
   */
  readonly directWriteBytes: number;
  /** Unlogged bytes in memory above which they settle without waiting for a flush. */
  readonly overlayBytes: number;
  /** Unlogged bytes at a flush above which they are written in place and not logged. */
  readonly directFlushBytes: number;
  /**
   * Milliseconds without a request after which the image writes everything back and is clean (JRN-WB-010); 0:
   * never. The timer does not keep a process alive.
   */
  readonly idleMs: number;
  /** Share of the ring in use from which write-back runs. */
  readonly writeBackAt: number;
  /** Profile draft-2013: milliseconds that a change waits for a commit at most; 0: until somebody asks for one. */
  readonly commitIntervalMs: number;
  /** Profile draft-2013: bytes of changed metadata that are committed without waiting for a flush. */
  readonly commitDataBytes: number;
}

/** What a journal is to be like: v1 with the default sizes where nothing else is said. */
export interface JournalOptions {
  readonly profile?: JournalProfile | undefined;
  readonly sizeBytes?: number | undefined;
  readonly blockBytes?: number | undefined;
}

/** What changing the mapping of one cluster takes in a record at most: L2 entry, two refcounts, settled range, L2 table. */
const changeBytesPerCluster = 200;

export const defaultTuning: JournalTuning = {
  directWriteBytes: 64 * 1024,
  overlayBytes: 1024 * 1024,
  directFlushBytes: 256 * 1024,
  idleMs: 0,
  writeBackAt: 0.25,
  commitIntervalMs: 5000,
  commitDataBytes: 1024 * 1024,
};

export class ImageParts {
  readonly core: ImageCore;
  readonly mappings: MappingTable;
  readonly overlay: GuestOverlay;
  /** Clusters that the guest is filling. */
  readonly pending = new PendingClusters();
  readonly allocator: Allocator;
  readonly reader: ClusterReader;
  readonly clusterWriter: ClusterWriter;
  readonly compressedWriter: CompressedWriter;
  readonly copier: ClusterCopier;
  readonly bitmaps = new ImageBitmaps(this);
  /** Held by operations of many changes, and by whatever must not meet one: rest, and changes of the journal. */
  readonly operations = new Mutex();
  /** Closed while an operation needs the disk to stand still. */
  readonly gate = new GuestGate();
  readonly tuning: JournalTuning;
  /** What was put right when the image was opened; undefined where nothing had to be. */
  repaired: RefcountRepair | undefined;
  /** Without a journal, refcounts may stay behind while the image is open. */
  lazyRefcounts = false;
  snapshots: readonly Snapshot[] = [];
  /** Tables that operations under way have detached, as a dirty journal says. */
  detachedTables: readonly DetachedTableIntent[] = [];
  /** Devices that show snapshots. */
  readonly snapshotDevices = new Set<SnapshotDevice>();
  writer: ImageWriter;
  readonly #random: Random;
  #engine: JournalEngine | undefined;
  #client: ImageJournalClient | undefined;
  #replayed: RecoveredLog | undefined;
  #draft: DraftEngine | undefined;
  /** The draft's journal header as it was found, and what was replayed of it. */
  draftArea: DraftArea | undefined;
  draftReplayed: { readonly records: number; readonly payloadBytes: number } | undefined;

  constructor(core: ImageCore, tuning: JournalTuning, random: Random) {
    this.core = core;
    this.tuning = tuning;
    this.#random = random;
    this.mappings = new MappingTable(core);
    this.overlay = new GuestOverlay(core.clusterBytes);
    this.allocator = new Allocator(core);
    const { mappings, allocator, overlay, pending } = this;
    const compressed = new CompressedReader(core);
    this.reader = new ClusterReader(core, mappings, overlay, allocator, pending, compressed);
    this.clusterWriter = new ClusterWriter(core, mappings, allocator, this.reader, overlay, pending);
    const { l2 } = this.clusterWriter;
    this.copier = new ClusterCopier(core, mappings, this.clusterWriter, overlay, pending);
    this.compressedWriter = new CompressedWriter(core, mappings, allocator, l2, compressed.gate);
    this.writer = this.#imageWriter(0, 0);
  }

  /** The image is encrypted, and there is nothing to open it with: its guest bytes are nobody's. */
  get isLocked(): boolean {
    return this.core.header.cryptMethod !== cryptMethods.none && this.core.cipher === undefined;
  }

  info(): ImageInfo {
    return imageInfo(this.core.header, this.snapshots);
  }

  /** What shows a snapshot that is deleted shows nothing any more. */
  snapshotIsGone(snapshot: Snapshot): void {
    for (const device of this.snapshotDevices) if (device.snapshot.id === snapshot.id) device.end();
  }

  journalStatus(): JournalStatus | undefined {
    if (this.core.header.draftJournal !== undefined) return this.#draftStatus();
    const area = boundJournal(this.core.header);
    if (area === undefined) return undefined;
    const { header } = this.core;
    const valid = isJournalValid(header);
    const replayed = this.#replayed;
    return {
      version: 1,
      profile: 'v1',
      ...area,
      blockBytes: this.#engine?.ring.blockBytes ?? replayed?.ring.blockBytes,
      state: isJournalDirty(header) ? 'dirty' : valid ? 'clean' : 'stale',
      use: this.#engine?.use,
      counters: this.#engine?.counters,
      replayed:
        replayed === undefined || replayed.records.length === 0
          ? undefined
          : { records: replayed.records.length, payloadBytes: replayed.payloadBytes },
    };
  }

  #draftStatus(): JournalStatus | undefined {
    const { core, draftArea } = this;
    if (draftArea === undefined) return undefined;
    return {
      version: undefined,
      profile: 'draft-2013',
      hostOffset: draftArea.hostOffset,
      lengthBytes: draftArea.header.journalLengthBytes,
      blockBytes: draftArea.ring.blockBytes,
      state: core.header.draftJournal?.dirty === true ? 'dirty' : 'clean',
      use: this.#draft?.use,
      counters: this.#draft?.counters,
      replayed: this.draftReplayed,
    };
  }

  /** Read the log of a dirty image: guest writes into the overlay, host writes to be laid over what is read. */
  *recover(area: HostArea): Task<RecoveredLog> {
    const { fills, data } = this.core;
    // A data file has no copies and fills: they name places of the image file [JRN-COPY-010].
    const sink = new OverlaySink(this.core, this.overlay, data.isExternal ? undefined : fills);
    this.#replayed = yield* recoverLog(this.core.device, area, sink);
    return this.#replayed;
  }

  /** Read the log of a clean image, whose records, if it has any, mean nothing. */
  *readCleanLog(area: HostArea): Task<RecoveredLog> {
    const { clusterBytes } = this.core;
    const ignored = new OverlaySink(
      this.core,
      new GuestOverlay(clusterBytes),
      new PendingFills(clusterBytes),
    );
    return yield* recoverLog(this.core.device, area, ignored);
  }

  /** Make durable what `recover` found, before anything relies on it. */
  *reassertLog(area: HostArea): Task<void> {
    if (this.#replayed !== undefined) yield* reassertLog(this.core.device, area, this.#replayed);
  }

  /** From now on changes go to the journal in `area`, which goes on from `log`. */
  useJournal(area: HostArea, log: RecoveredLog, dirty: boolean): JournalEngine {
    const client = new ImageJournalClient(this.core, this.overlay, this.clusterWriter, this.allocator);
    const engine = new JournalEngine({
      device: this.core.device,
      area,
      client,
      random: this.#random,
      log,
      dirty,
      directBytes: this.tuning.directFlushBytes,
      writeBackAt: this.tuning.writeBackAt,
    });
    this.#client = client;
    this.#engine = engine;
    this.core.journalArea = area;
    this.bitmaps.restart();
    // What was written in place and not flushed is owed by the new log.
    engine.noteDeviceWrite();
    this.core.log = new JournalledLog(engine, !this.core.data.isExternal);
    if (this.core.cipher?.mayLog === false) {
      this.writer = this.#imageWriter(0, 0);
      return engine;
    }
    const { directWriteBytes, directFlushBytes } = this.tuning;
    this.writer = this.#imageWriter(
      directWriteBytes,
      Math.min(directFlushBytes, engine.ring.lengthBytes / 8),
    );
    return engine;
  }

  /** From now on changes go to the draft's journal, which has nothing to replay. */
  useDraftJournal(area: DraftArea, last: PlacedTransaction | undefined): void {
    const { core, tuning } = this;
    this.#draft = new DraftEngine({
      device: core.device,
      area,
      client: new ImageDraftClient(core, this.allocator, this.clusterWriter),
      last,
      commitDataBytes: tuning.commitDataBytes,
      writeBackAt: tuning.writeBackAt,
    });
    // What was written in place and not flushed is owed by the new log.
    this.#draft.noteDeviceWrite();
    this.draftArea = area;
    core.journalArea = draftHostArea(area, core.clusterBytes);
    core.log = new DraftLog(this.#draft, tuning.commitIntervalMs);
    this.writer = this.#imageWriter(0, 0);
  }

  /** From now on changes are written without a journal: in order, or with lazy refcounts. */
  useOrderedWrites(): void {
    this.#engine = undefined;
    this.#client = undefined;
    this.#draft = undefined;
    this.core.journalArea = undefined;
    this.bitmaps.restart();
    const lazy = this.lazyRefcounts ? { writeMark: (dirty: boolean) => this.core.writeDirtyMark(dirty) } : {};
    this.core.log = new OrderedLog(this.core.device, {
      beforeFlush: () => this.#extendFile(),
      releaseFreed: () => this.#releaseFreed(),
      reachBytes: () => this.allocator.reachBytes,
      ...lazy,
    });
    this.core.log.noteDeviceWrite();
    this.writer = this.#imageWriter(0, 0);
  }

  /** So much is unlogged that it settles without waiting for a flush. A small ring must have room for its changes. */
  get overlayIsFull(): boolean {
    return this.overlayIsFullWith(0);
  }

  /** Whether it were with so many more guest bytes. */
  overlayIsFullWith(bytes: number): boolean {
    const ringBytes = this.#engine?.ring.lengthBytes ?? 0;
    return this.overlay.dirtyBytes + bytes > Math.min(this.tuning.overlayBytes, ringBytes / 8);
  }

  /** Somebody holds the write lock, or something is to be done before the next change. */
  get mustWaitToWrite(): boolean {
    const { core, allocator, gate } = this;
    return core.writeLock.locked || gate.isClosed || allocator.hasPendingFrees || core.log.isBacklogged;
  }

  /** So much is in memory, settled and not durable, that it is committed without waiting for a flush. */
  get mustCommit(): boolean {
    const ringBytes = this.#engine?.ring.lengthBytes ?? 0;
    return this.core.log.isBacklogged || this.overlay.validBytes > ringBytes + 4 * this.tuning.overlayBytes;
  }

  /** Guest bytes that one operation may change before it lets a commit in between. */
  get pieceBytes(): number {
    return (
      Math.max(1, Math.floor(this.core.log.changeBytes / changeBytesPerCluster)) * this.core.clusterBytes
    );
  }

  /** What is pending is mapped. Holds: the write lock. @throws READ_FAILED where the rest of a cluster can not be read */
  *mapPending(): Task<void> {
    yield* this.clusterWriter.pending.mapAll();
  }

  /** What is in the overlay and in no record goes in place. Holds: the write lock. */
  *settleUnlogged(): Task<void> {
    if (this.#client !== undefined) yield* this.#client.settleUnloggedLocked();
  }

  /** Map up to `wanted` unallocated clusters to fresh ones without writing them. Returns how many. */
  *preallocate(guestCluster: number, wanted: number, says?: PreallocatedKind): Task<number> {
    return yield* this.clusterWriter.preallocate(guestCluster, wanted, says);
  }

  /** Whether a journal like this can be made in the image. @throws INVALID_ARGUMENT, UNSUPPORTED_OPERATION */
  checkJournal({ profile, sizeBytes, blockBytes }: JournalOptions): void {
    const { header, clusterBytes } = this.core;
    if (header.version < 3) {
      const message =
        'a version 2 image has no feature bits to bind a journal with; upgrade it to compat=1.1';
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JRN-BIND-019' });
    }
    const wanted = sizeBytes ?? defaultJournalBytes;
    if (profile === 'draft-2013') draftLength(wanted, blockBytes ?? defaultDraftBlockBytes, clusterBytes);
    else journalLength(wanted, blockBytes ?? Math.min(clusterBytes, defaultJournalBlockBytes), clusterBytes);
  }

  /** False where something has come to wait in the log meanwhile. Holds: the write lock. */
  *enableJournal(options: JournalOptions): Task<boolean> {
    if (this.#engine !== undefined || this.#draft !== undefined) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'the image has a journal already');
    }
    if (!this.isAtRest || !this.bitmaps.isAtRest) return false;
    if (options.profile === 'draft-2013') yield* this.makeDraftJournal(options);
    else yield* this.makeJournal(options);
    return true;
  }

  /**
   * A new journal of the draft's, bound and durable on return; its clusters are to be counted next. Holds: the write
   * lock, or nobody else has the image yet.
   */
  *makeDraftJournal(options: JournalOptions): Task<void> {
    const { core } = this;
    const old = yield* this.#headerCluster();
    const before = { ...core.header };
    try {
      const area = yield* makeDraftJournal(core, this.allocator, options);
      yield* replaceHeader(core.device, old, core.header);
      this.useDraftJournal(area, undefined);
    } catch (error) {
      Object.assign(core.header, before, { draftJournal: before.draftJournal });
      throw error;
    }
  }

  /**
   * Give a piece of the draft's clusters the refcount that they are to have, through the log. Holds: the write lock, or
   * nobody else has the image yet.
   * @returns where to go on; undefined where nothing is left to do
   */
  *countDraftClusters(from: number, refcount: 0 | 1): Task<number | undefined> {
    const { core } = this;
    if (this.#draft === undefined || this.draftArea === undefined) return undefined;
    const area = draftHostArea(this.draftArea, core.clusterBytes);
    const maxClusters = Math.max(1, Math.floor(core.log.changeBytes / changeBytesPerCluster));
    const piece = { area, from: Math.max(from, area.hostOffset), refcount, maxClusters };
    const next = yield* countDraftClusters(core, this.allocator, this.clusterWriter.update(), piece);
    return next < area.hostOffset + area.lengthBytes ? next : undefined;
  }

  /** Bits 0 and 2 say "bitmaps" and "external data file" today, and other things in the draft's profile. */
  #refusalBesideData(profile: JournalProfile): Qcow2Error | undefined {
    if (profile !== 'draft-2013') return undefined;
    if (hasBitmaps(this.core)) {
      const message = 'a journal of the draft of 2013 and bitmaps exclude each other';
      return new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JD13-BIND-008' });
    }
    if (!this.core.data.isExternal) return undefined;
    const message = 'a journal of the draft of 2013 and an external data file exclude each other';
    return new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JD13-BIND-012' });
  }

  /** Why the header can not name a journal of a profile, known before anything is written; undefined: it can. */
  *journalRefusal(profile: JournalProfile = 'v1'): Task<Qcow2Error | undefined> {
    const { header } = this.core;
    return (
      this.#refusalBesideData(profile) ??
      refusalOfProfile(header, profile) ??
      refusalToReplace(yield* this.#headerCluster(), boundTo(header, profile))
    );
  }

  /** The same for a journal in the place of another one, which is taken away first. */
  *conversionRefusal(profile: JournalProfile = 'v1'): Task<Qcow2Error | undefined> {
    const without = { ...this.core.header };
    delete without.draftJournal;
    unbindJournal(without);
    return (
      this.#refusalBesideData(profile) ??
      refusalOfProfile(without, profile) ??
      refusalToReplace(yield* this.#headerCluster(), without) ??
      refusalToReplace(encodeHeader(without), boundTo(without, profile))
    );
  }

  /**
   * A new journal in the place of the one there is, whose range is free space from then on. It stands elsewhere,
   * whole and durable before the header names it: so the header, whichever of its steps a crash leaves, names a
   * journal that is whole, and the image is clean with both [JRN-BIND-024]. False where something has come to wait
   * in the log meanwhile. Holds: the write lock.
   */
  *resizeJournal(options: {
    sizeBytes?: number | undefined;
    blockBytes?: number | undefined;
  }): Task<boolean> {
    const old = this.core.journalArea;
    if (this.#engine === undefined || old === undefined) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'the image has no journal');
    }
    if (!this.#isQuiet(this.#engine)) return false;
    yield* this.makeJournal({
      sizeBytes: options.sizeBytes ?? old.lengthBytes,
      blockBytes: options.blockBytes ?? this.#engine.ring.blockBytes,
    });
    const { clusterBytes } = this.core;
    this.allocator.unreserve(old.hostOffset / clusterBytes, old.lengthBytes / clusterBytes);
    return true;
  }

  /** Nothing waits, and with a journal the image is clean: the header is as the file has it. */
  get isAtRest(): boolean {
    if (this.#engine !== undefined) return this.#isQuiet(this.#engine);
    return this.core.log.isIdle && !this.allocator.hasPendingFrees && this.pending.isEmpty;
  }

  /** Why the header can not be replaced by this one, known before anything is written. */
  *headerRefusal(header: Qcow2Header): Task<Qcow2Error | undefined> {
    return refusalToReplace(yield* this.#headerCluster(), header);
  }

  /**
   * Change the header in steps, durable on return. False, and nothing is changed, where something waits in the log. Holds:
   * the write lock.
   */
  *rewriteHeader(change: (header: Qcow2Header) => void): Task<boolean> {
    if (!this.isAtRest) return false;
    const { header } = this.core;
    const before = { ...header };
    const old = yield* this.#headerCluster();
    change(header);
    try {
      yield* replaceHeader(this.core.device, old, header);
    } catch (error) {
      Object.assign(header, before);
      throw error;
    }
    return true;
  }

  /** The image is clean, and nothing waits anywhere. */
  #isQuiet(engine: JournalEngine): boolean {
    const nothingWaits = this.overlay.isEmpty && this.pending.isEmpty && this.core.fills.isEmpty;
    return !engine.use.dirty && engine.isIdle && nothingWaits;
  }

  /** A new journal, bound and durable on return. Holds: the write lock, or nobody else has the image yet. */
  *makeJournal(options: { sizeBytes?: number | undefined; blockBytes?: number | undefined }): Task<void> {
    const { core } = this;
    const old = yield* this.#headerCluster();
    // `replaceHeader` may fail for lack of room: until it is done the value stays as it was.
    const before = { extensions: core.header.extensions, autoclear: core.header.autoclearFeatures };
    const area = yield* makeJournal(core, this.allocator, { ...options, random: this.#random });
    try {
      yield* replaceHeader(core.device, old, core.header);
    } catch (error) {
      core.header.extensions = before.extensions;
      core.header.autoclearFeatures = before.autoclear;
      throw error;
    }
    this.useJournal(area, yield* this.readCleanLog(area), false);
  }

  /** False where something has come to wait in the log meanwhile. Holds: the write lock. */
  *disableJournal(): Task<boolean> {
    if (this.#draft !== undefined) return yield* this.#disableDraft(this.#draft);
    if (this.#engine === undefined) return true;
    if (!this.#isQuiet(this.#engine) || !this.bitmaps.isAtRest) return false;
    const old = yield* this.#headerCluster();
    unbindJournal(this.core.header);
    yield* replaceHeader(this.core.device, old, this.core.header);
    this.useOrderedWrites();
    return true;
  }

  /** Its clusters count as free by now, and nobody else was given one. */
  *#disableDraft(engine: DraftEngine): Task<boolean> {
    const { core } = this;
    if (engine.use.dirty || !engine.isIdle || !this.pending.isEmpty) return false;
    const old = yield* this.#headerCluster();
    delete core.header.draftJournal;
    yield* replaceHeader(core.device, old, core.header);
    core.log.stop?.();
    this.draftArea = undefined;
    this.useOrderedWrites();
    return true;
  }

  *writeHeader(): Task<void> {
    yield* replaceHeader(this.core.device, yield* this.#headerCluster(), this.core.header);
  }

  *#headerCluster(): Task<Uint8Array> {
    const bytes = new Uint8Array(this.core.clusterBytes);
    yield* wait(readPadded(this.core.device, 0, bytes));
    return bytes;
  }

  *#extendFile(): Task<void> {
    const { allocator } = this;
    if (!allocator.fileIsShort && !(this.lazyRefcounts && allocator.wantsFileAhead)) return;
    // Under the lock: a resize must not come late and cut off what a write has added meanwhile.
    yield* this.core.writeLock.exclusive(() => allocator.extendFile(this.lazyRefcounts));
  }

  /** A clean end, when everything is durable: the file is as long as what is in use again. */
  *trimFile(): Task<void> {
    yield* this.allocator.trimFile();
  }

  /** The ordered log has made mappings durable: count down what they referred to. Takes the write lock. */
  *#releaseFreed(): Task<void> {
    if (!this.allocator.hasPendingFrees) return;
    yield* this.core.writeLock.exclusive(() => this.allocator.freePending());
  }

  #imageWriter(directBytes: number, littleBytes: number): ImageWriter {
    const { core, mappings, reader, overlay, pending } = this;
    return new ImageWriter(
      core,
      mappings,
      reader,
      this.clusterWriter,
      this.compressedWriter,
      overlay,
      pending,
      directBytes,
      littleBytes,
    );
  }
}

/** The draft's journal is named where today's header says how clusters are compressed [JD13-BIND-011]. */
function refusalOfProfile(header: Qcow2Header, profile: JournalProfile): Qcow2Error | undefined {
  if (profile !== 'draft-2013' || header.compressionType === 0) return undefined;
  const message = 'an image with another compression than deflate has no room for a journal of the draft';
  const context = { field: 'compressionType', value: header.compressionType, clause: 'JD13-BIND-011' };
  return new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, context);
}

/** The header with a journal of a profile, wherever it will stand. */
function boundTo(header: Qcow2Header, profile: JournalProfile): Qcow2Header {
  return profile === 'v1' ? withJournal(header) : withDraftJournal(header);
}
