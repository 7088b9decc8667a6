/**
 * Opening an image: header, features, journal, tables, in an order in which nothing is followed before it
 * has been checked.
 *
 * No name that the image holds is ever followed here: the backing device is the caller's decision. For a
 * reader a dirty journal is replayed into memory and looked through; nothing is written. For a writer
 * replay ends in an ordinary clean image before the first request is taken, so a crash meanwhile finds the
 * same log, and perhaps records that continue it.
 */
import { type BlockDevice, readPadded, run, type Task, wait } from '@qcow2/block-device';
import {
  type ClusterCompression,
  decodeHeader,
  decodeSnapshotTable,
  type Qcow2Header,
  unknownIncompatibleFeatures,
} from '@qcow2/codec';
import { draftReplayCount } from '@qcow2/codec/journal/draft-2013';
import {
  type DraftArea,
  lastSynced,
  type Random,
  type RecoveredIntent,
  ReplayView,
  recoverDraftLog,
  replayDraftLog,
} from '@qcow2/journal';
import {
  autoclearFeatures,
  compatibleFeatures,
  compressionTypes,
  cryptMethods,
  FormatError,
  incompatibleFeatures,
  qcow2Limits,
  StateError,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import type { CacheOptions } from './cache-sizes.ts';
import { refuseMissing } from './data-area.ts';
import { draftHostArea, draftRefcounts, isReferenced, refuseSmallRing } from './draft-journal.ts';
import { writeDraftDirtyBit } from './draft-log.ts';
import type { GuestCipher, ImageEncryption } from './encryption.ts';
import { needsSecret, refuseOtherEncryption, unlockCipher } from './encryption-header.ts';
import type { PassDiscard } from './host-discard.ts';
import { Qcow2Image } from './image.ts';
import { ImageCore } from './image-core.ts';
import { checkIntents, resolveIntents } from './intent-handlers.ts';
import {
  areaIsOurs,
  boundJournal,
  defaultJournalBytes,
  formerBlockBytes,
  hasOtherJournals,
  isJournalDirty,
  isJournalValid,
} from './journal-binding.ts';
import { loadHeader } from './load-header.ts';
import {
  allocateBehindFile,
  isOursByReferences,
  keepAutoclear,
  prepareForRepair,
  tryRecover,
} from './open-for-repair.ts';
import { defaultTuning, ImageParts, type JournalTuning } from './parts.ts';
import { rebuildRefcounts } from './refcount-rebuild.ts';

export interface OpenOptions {
  readonly readOnly?: boolean;
  /**
   * Where reads of unallocated clusters go: a device that the caller opened, or `none` for zeros. An image
   * that names a backing file is refused with NO_POLICY where this is not given. Closed with the image.
   */
  readonly backing?: BlockDevice | 'none';
  /**
   * The external data file of an image that has one: a device that the caller opened. Without it metadata can be looked
   * at; a writer is refused with NO_POLICY at once, a reader when it reads guest bytes. Closed with the image.
   */
  readonly dataFile?: BlockDevice;
  /** For salts and ids; default `crypto.getRandomValues`. */
  readonly random?: Random;
  /** How much metadata is held in memory, and for how long; see `CacheOptions` for what is taken without it. */
  readonly cache?: CacheOptions;
  /**
   * Without a journal: let refcounts stay behind while the image is open, and mark it as dirty meanwhile. Default: as
   * the image says (compatible bit `lazyRefcounts`). Not for version 2.
   */
  readonly lazyRefcounts?: boolean;
  /**
   * `unmap`: clusters that were freed, by a discard of the guest above all, are discarded in the device below, so that a
   * file gets holes. `ignore` (default): they keep their space until they are used again.
   */
  readonly discard?: 'ignore' | 'unmap';
  /** Which freed clusters these are. Of what is not said: all with `unmap`, none without. */
  readonly passDiscard?: Partial<PassDiscard>;
  readonly journal?: Partial<JournalTuning>;
  /**
   * What compressed clusters are compressed and decompressed with. Without it deflate is read, on the caller's thread;
   * zstd is not, and nothing is compressed.
   */
  readonly compression?: ClusterCompression;
  /**
   * What opens an encrypted image. Without it metadata can be looked at: guest bytes are refused with NO_SECRET, and so is
   * opening for writing.
   */
  readonly encryption?: ImageEncryption;
}

/** With the cipher that came of `encryption`. */
type UnlockedOptions = PartsOptions & { readonly cipher: GuestCipher | undefined };

/**
 * Open an image on a device. A dirty journal is replayed: for a reader into memory, for a writer into the
 * image, durable on return. The device is the image's from now on, unless this throws.
 * @throws FormatError where the image is damaged; UNSUPPORTED_FEATURE for a feature that is not served (a
 *   writer is refused at once, a reader when it reads guest bytes); NO_POLICY; NO_SECRET, WRONG_SECRET; JOURNAL_DAMAGED
 */
export async function openImage(device: BlockDevice, options: OpenOptions = {}): Promise<Qcow2Image> {
  return await run(open(device, options));
}

/** Open an image to look at it: read-only, no name followed, every kind of image that can be decoded. */
export async function probeImage(device: BlockDevice): Promise<Qcow2Image> {
  return await openImage(device, { readOnly: true, backing: 'none' });
}

function* open(device: BlockDevice, options: OpenOptions): Task<Qcow2Image> {
  const parts = yield* openParts(device, options);
  return new Qcow2Image(parts);
}

export interface PartsOptions extends OpenOptions {
  /**
   * For writing by a repair, which believes no refcounts: marks that say that the image is damaged are no refusal and no
   * reason to rebuild anything, guest bytes are not asked for, and nothing is allocated below the end of the file.
   */
  readonly forRepair?: boolean;
}

/** The parts of an opened image. For `openImage`, and for check and repair, which look at the same tables. */
export function* openParts(device: BlockDevice, given: PartsOptions): Task<ImageParts> {
  const readOnly = given.readOnly ?? false;
  if (!readOnly && !device.capabilities.write) {
    throw new StateError('READ_ONLY', 'the device below can not be written; open the image read-only');
  }
  const { header, draft } = yield* loadHeader(device);
  refuseUnknown(header);
  const cipher = yield* unlockCipher(device, header, given.encryption);
  const options = { ...given, cipher };
  if (draft !== undefined) return yield* openDraftParts(device, { header, draft }, options);
  const dirty = isJournalDirty(header);
  const area = dirty || isJournalValid(header) ? boundJournal(header) : undefined;
  if (dirty && (area === undefined || !isJournalValid(header))) {
    throw new FormatError('JOURNAL_DAMAGED', 'the image is marked as dirty, and its journal is gone', {
      hostOffset: 72,
      field: 'incompatibleFeatures',
      clause: 'JRN-BIND-018',
    });
  }
  if (dirty && hasOtherJournals(header)) {
    throw new UnsupportedFeatureError(
      'UNSUPPORTED_FEATURE',
      'the image must be replayed from several journals',
      {
        feature: 'journals of kind other',
        clause: 'JRN-MULTI-001',
      },
    );
  }
  const parts = newParts(device, header, options, readOnly);
  const log = dirty && area !== undefined ? yield* parts.recover(area) : undefined;
  if (log !== undefined && !log.hostWrites.isEmpty) {
    // The log may hold a newer header: a moved refcount table, a larger disk.
    yield* adoptReplayedHeader(parts, log.hostWrites);
  }
  if (log !== undefined && area !== undefined) {
    refuseBeyondDisk(parts);
    // The last records may have come through a crash and the file's growth not: a change takes nine bytes at least.
    parts.core.noteEnd(device.sizeBytes + (area.lengthBytes / 8) * parts.core.clusterBytes);
    parts.core.journalArea = area;
    if (readOnly) parts.core.readPatch = (at, into) => log.hostWrites.apply(at, into);
    else parts.useJournal(area, log, true);
  }
  yield* loadWhole(parts);
  if (log !== undefined) checkIntents(parts, log.openIntents);
  if (readOnly) return parts;
  refuseForWriting(parts, options.forRepair);
  if (options.forRepair === true) yield* allocateBehindFile(parts);
  if (options.forRepair === true && !dirty) yield* prepareForRepair(parts);
  else {
    const { forRepair = false } = options;
    yield* prepareForWriting(parts, { dirty, openIntents: log?.openIntents ?? [], forRepair });
  }
  // A repair does not rely on them, and changes nothing that they speak of.
  if (options.forRepair !== true) yield* parts.bitmaps.load();
  return parts;
}

/**
 * An image of the profile draft-2013. A dirty one is first looked at as replay will leave it, through a device that
 * shows that: a reader stays there. A writer replays when nothing that it sees there is to be refused.
 */
function* openDraftParts(device: BlockDevice, found: FoundDraft, options: UnlockedOptions): Task<ImageParts> {
  const readOnly = options.readOnly ?? false;
  let { header, draft } = found;
  if (isJournalDirty(header)) {
    throw new FormatError(
      'JOURNAL_DAMAGED',
      'the image is marked as dirty for a journal that it does not name',
      {
        hostOffset: 72,
        field: 'incompatibleFeatures',
        clause: 'JRN-BIND-018',
      },
    );
  }
  const make = function* (through: BlockDevice, forReading: boolean): Task<ImageParts> {
    const parts = newParts(through, header, options, forReading);
    parts.draftArea = draft;
    parts.core.journalArea = draftHostArea(draft, parts.core.clusterBytes);
    yield* loadWhole(parts);
    return parts;
  };
  let replayed: ImageParts['draftReplayed'];
  if (header.draftJournal?.dirty === true) {
    const log = yield* recoverDraftLog(device, draft);
    refuseCopiedCipherText(header, log.copiesAt);
    const view = new ReplayView(device, log.effects);
    ({ header } = yield* reloadDraft(view, found));
    const seen = yield* make(view, true);
    if (log.transactions > 0) replayed = { records: log.transactions, payloadBytes: log.dataBytes };
    seen.draftReplayed = replayed;
    if (readOnly) return seen;
    refuseForWriting(seen, options.forRepair);
    refuseSmallRing(draft);
    yield* refuseTakenClusters(seen, draft);
    draft = yield* replayDraftLog(device, draft);
    // Nobody can have opened it meanwhile: from now on that is vouched for.
    if (header.draftJournal !== undefined) header.draftJournal = { ...header.draftJournal, sealed: true };
    yield* writeDraftDirtyBit(device, header, false);
    yield* wait(device.flush({ event: 'flush_metadata' }));
    ({ header } = yield* reloadDraft(device, found));
  }
  const parts = yield* make(device, readOnly);
  parts.draftReplayed = replayed;
  if (readOnly) return parts;
  refuseForWriting(parts, options.forRepair);
  refuseSmallRing(draft);
  if (options.forRepair === true) yield* allocateBehindFile(parts);
  yield* prepareDraft(parts, draft);
  return parts;
}

/** @throws BAD_FIELD for a copy in an encrypted image, which would mean other bytes in another place [JD13-DESC-019] */
function refuseCopiedCipherText({ cryptMethod }: Qcow2Header, copiesAt: number | undefined): void {
  if (copiesAt === undefined || cryptMethod === cryptMethods.none) return;
  const context = { hostOffset: copiesAt, clause: 'JD13-DESC-019' };
  throw new FormatError('BAD_FIELD', 'the journal of an encrypted image holds a copy', context);
}

interface FoundDraft {
  readonly header: Qcow2Header;
  readonly draft: DraftArea;
}

/** The header as it stands now, which names the same journal as before. @throws BAD_FIELD [JD13-DESC-014] */
function* reloadDraft(device: BlockDevice, before: FoundDraft): Task<FoundDraft> {
  let cause: unknown;
  try {
    const { header, draft } = yield* loadHeader(device);
    const sameClusters = header.clusterBits === before.header.clusterBits;
    const same = sameClusters && draft?.hostOffset === before.draft.hostOffset;
    if (draft !== undefined && same && !isJournalDirty(header)) {
      refuseOtherEncryption(before.header, header);
      return { header, draft };
    }
  } catch (error) {
    const clause = error instanceof FormatError ? error.context.clause : undefined;
    if (clause !== 'FEA-010' && clause !== 'JD13-BIND-008') throw error;
    cause = error;
  }
  const context = { hostOffset: 104, field: 'journalOffset', clause: 'JD13-DESC-014' };
  throw new FormatError('BAD_FIELD', 'the journal would change where it is bound', context, cause);
}

/** Nobody can have opened a dirty image: what was taken of its journal is damage. */
function* refuseTakenClusters({ core, allocator }: ImageParts, draft: DraftArea): Task<void> {
  const area = draftHostArea(draft, core.clusterBytes);
  if ((yield* draftRefcounts(core, allocator, area)).more === 0) return;
  throw new FormatError('JOURNAL_DAMAGED', 'clusters of the live journal are in use by something else', {
    hostOffset: area.hostOffset,
    clause: 'JD13-BIND-005',
  });
}

/** A clean image of the profile: its journal goes on, or, where somebody may have been there, another is made. */
function* prepareDraft(parts: ImageParts, draft: DraftArea): Task<void> {
  const { core, allocator, snapshots } = parts;
  const area = draftHostArea(draft, core.clusterBytes);
  const binding = core.header.draftJournal;
  const counts = yield* draftRefcounts(core, allocator, area);
  const isLeftOver = draftReplayCount(draft.header) !== 0;
  if (isLeftOver && binding?.sealed === true) {
    throw new FormatError('JOURNAL_DAMAGED', 'the image is clean, and its journal has something to replay', {
      hostOffset: area.hostOffset + 24,
      field: 'committedSequence',
      clause: 'JD13-BIND-010',
    });
  }
  const ours =
    !isLeftOver &&
    counts.more === 0 &&
    (binding?.sealed === true || (counts.zero === 0 && !(yield* isReferenced(core, snapshots, area))));
  if (!ours) {
    // The old range may belong to somebody now: it is not touched, and not spared either.
    parts.useOrderedWrites();
    delete core.header.draftJournal;
    parts.draftArea = undefined;
    yield* parts.writeHeader();
    yield* parts.makeDraftJournal({ blockBytes: 2 ** draft.header.blockSizeOrder });
  } else {
    parts.useDraftJournal(draft, yield* lastSynced(core.device, draft));
    const header = core.header;
    if (binding !== undefined && !binding.sealed) header.draftJournal = { ...binding, sealed: true };
    if (binding?.sealed !== true || header.autoclearFeatures !== 0n) {
      header.autoclearFeatures = 0n;
      yield* parts.writeHeader();
    }
    if (counts.zero === 0) return;
  }
  for (let next: number | undefined = 0; next !== undefined; ) {
    next = yield* parts.countDraftClusters(next, 1);
    yield* core.log.commit();
  }
  yield* core.log.quiesce();
}

function* loadWhole(parts: ImageParts): Task<void> {
  yield* parts.core.loadTables();
  parts.snapshots = yield* loadSnapshots(parts.core);
}

function newParts(
  device: BlockDevice,
  header: Qcow2Header,
  options: UnlockedOptions,
  readOnly: boolean,
): ImageParts {
  const named = header.backingFileName !== undefined && header.backingFileName !== '';
  if (named && options.backing === undefined) {
    throw new StateError(
      'NO_POLICY',
      'the image names a backing file, and the caller did not say what to do',
      {
        path: header.backingFileName,
        clause: 'HDR-003',
      },
    );
  }
  if (named && options.backing === 'none' && !readOnly && isJournalDirty(header)) {
    // Settling what the log holds completes clusters with what stands in the backing file.
    throw new StateError('NO_POLICY', 'to replay the journal for writing, the backing file is needed', {
      path: header.backingFileName,
      clause: 'HDR-003',
    });
  }
  const backing = options.backing === 'none' ? undefined : options.backing;
  const { cache, cipher, compression, dataFile } = options;
  checkDataFile(device, header, dataFile, readOnly);
  const all = options.discard === 'unmap';
  const { request = all, snapshot = all, other = all } = options.passDiscard ?? {};
  const passDiscard = { request, snapshot, other };
  const files = { device, header, backing, dataFile };
  const core = new ImageCore({ ...files, cache, cipher, compression, readOnly, passDiscard });
  const lazy = (header.compatibleFeatures & compatibleFeatures.lazyRefcounts) !== 0n;
  if (options.lazyRefcounts === true && header.version < 3) {
    // No context: QEMU's words.
    const message = 'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level';
    throw new UnsupportedFeatureError('UNSUPPORTED_OPTION', message);
  }
  const random = options.random ?? ((into) => crypto.getRandomValues(into as Uint8Array<ArrayBuffer>));
  const parts = new ImageParts(core, { ...defaultTuning, ...options.journal }, random);
  parts.lazyRefcounts = options.lazyRefcounts ?? lazy;
  return parts;
}

function* adoptReplayedHeader(
  parts: ImageParts,
  writes: { apply(hostOffset: number, into: Uint8Array): void },
): Task<void> {
  const { core } = parts;
  const bytes = new Uint8Array(core.clusterBytes);
  yield* wait(readPadded(core.device, 0, bytes));
  writes.apply(0, bytes);
  // Tables that the log moved may stand where the file does not reach yet: their place is checked below, by
  // what the table's own clauses say, and not against the file's length.
  const replayed = decodeHeader(bytes);
  refuseOtherEncryption(core.header, replayed);
  if (!isJournalDirty(replayed)) {
    throw new FormatError('BAD_FIELD', 'the journal would clear its own dirty bit', {
      hostOffset: 72,
      field: 'incompatibleFeatures',
      clause: 'JRN-DESC-014',
    });
  }
  Object.assign(core.header, replayed);
}

/** @throws BAD_FIELD where the log holds bytes for a guest cluster that the disk does not have */
function refuseBeyondDisk({ core, overlay }: ImageParts): void {
  const clusters = Math.ceil(core.header.sizeBytes / core.clusterBytes);
  const beyond = overlay.sorted().at(-1);
  if (beyond === undefined || beyond.guestCluster < clusters) return;
  throw new FormatError('BAD_FIELD', 'the journal holds a guest write beyond the end of the disk', {
    guestOffset: beyond.guestCluster * core.clusterBytes,
    hostOffset: core.journalArea?.hostOffset,
    field: 'guestOffset',
    clause: 'JRN-DESC-030',
  });
}

function refuseUnknown(header: Qcow2Header): void {
  const unknown = unknownIncompatibleFeatures(header);
  if (unknown.length === 0) {
    refuseUnknownCompression(header);
    return;
  }
  const names = unknown.map(({ bit, name }) => name ?? `bit ${bit}`).join(', ');
  throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `unsupported qcow2 feature(s): ${names}`, {
    feature: names,
    hostOffset: 72,
    field: 'incompatibleFeatures',
    clause: 'FEA-006',
  });
}

/** [HDR-034] */
function refuseUnknownCompression({ compressionType }: Qcow2Header): void {
  if (Object.values<number>(compressionTypes).includes(compressionType)) return;
  throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'a compression type that is not known', {
    feature: `compression type ${compressionType}`,
    hostOffset: 104,
    field: 'compressionType',
    value: compressionType,
    clause: 'HDR-034',
  });
}

/**
 * @throws INVALID_ARGUMENT for a data file of an image that has none, or one that is the image itself; READ_ONLY;
 *   NO_POLICY for a writer that names none
 */
function checkDataFile(
  device: BlockDevice,
  header: Qcow2Header,
  dataFile: BlockDevice | undefined,
  readOnly: boolean,
): void {
  const isExternal = (header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n;
  if (dataFile === undefined) {
    if (isExternal && !readOnly) refuseMissing(header);
    return;
  }
  if (!isExternal || dataFile === device) {
    const message = isExternal ? 'the data file is the image itself' : 'the image has no external data file';
    throw new StateError('INVALID_ARGUMENT', message, { field: 'dataFile', clause: 'DAT-001' });
  }
  if (!readOnly && !dataFile.capabilities.write) {
    throw new StateError('READ_ONLY', 'the data file can not be written; open the image read-only');
  }
}

function refuseForWriting(parts: ImageParts, forRepair = false): void {
  const { core, draftArea } = parts;
  // A repair looks at no guest bytes; but to replay is to settle some.
  const noGuestBytes = forRepair && !isJournalDirty(core.header);
  if (parts.isLocked && !noGuestBytes) throw needsSecret();
  if (core.data.isExternal && core.data.isRaw && core.cipher !== undefined) {
    const feature = 'a raw data file that is encrypted';
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', `the image uses ${feature}`, { feature });
  }
  const { incompatibleFeatures: mask } = core.header;
  if (core.data.isExternal && core.header.snapshotCount > 0) {
    const message = 'an image with an external data file has snapshots; it can be opened read-only';
    throw new FormatError('BAD_FIELD', message, {
      hostOffset: 60,
      field: 'snapshotCount',
      value: core.header.snapshotCount,
      clause: 'FEA-003',
    });
  }
  if ((mask & incompatibleFeatures.corrupt) !== 0n && !forRepair) {
    throw new FormatError('BAD_FIELD', 'the image is marked as corrupt; it can be opened read-only', {
      hostOffset: 72,
      field: 'incompatibleFeatures',
      clause: 'FEA-002',
    });
  }
  const needsRefcounts = isJournalDirty(core.header) || (draftArea !== undefined && !forRepair);
  if ((mask & incompatibleFeatures.dirty) !== 0n && needsRefcounts) {
    // To replay is to allocate, which needs refcounts; to rebuild them needs what the journal holds.
    throw new FormatError('BAD_FIELD', 'refcounts may be wrong, and the journal needs them', {
      hostOffset: 72,
      field: 'incompatibleFeatures',
      clause: 'LAZ-008',
    });
  }
}

interface WriterOptions {
  readonly dirty: boolean;
  readonly openIntents: readonly RecoveredIntent[];
  /** Only a dirty image is prepared for a repair here. */
  readonly forRepair: boolean;
}

function* prepareForWriting(parts: ImageParts, { dirty, openIntents, forRepair }: WriterOptions): Task<void> {
  const { core, allocator } = parts;
  const { header } = core;
  const bound = boundJournal(header);
  if (dirty) {
    const ours =
      bound !== undefined &&
      (yield* forRepair ? isOursByReferences(parts, bound) : areaIsOurs(core, allocator, bound));
    if (!ours) {
      throw new FormatError('JOURNAL_DAMAGED', 'clusters of the live journal are in use by something else', {
        hostOffset: bound?.hostOffset,
        clause: 'JRN-BIND-016',
      });
    }
    yield* parts.reassertLog(bound);
    // Before the image can come to rest [JRN-INTENT-006].
    yield* resolveIntents(parts, openIntents);
    yield* core.log.quiesce();
    yield* clearForeignAutoclear(parts);
    return;
  }
  parts.useOrderedWrites();
  if (core.isMarkedDirty) {
    yield* clearForeignAutoclear(parts);
    parts.repaired = yield* rebuildRefcounts(parts);
  }
  if (bound === undefined) {
    yield* clearForeignAutoclear(parts);
    return;
  }
  const ours = isJournalValid(header) && (yield* areaIsOurs(core, allocator, bound));
  if (ours) core.journalArea = bound;
  yield* clearForeignAutoclear(parts);
  const log = ours ? yield* tryRecover(parts, bound) : undefined;
  if (log === undefined) {
    // The old range may belong to somebody now: it is not touched, and not spared either.
    core.journalArea = undefined;
    const blockBytes = yield* formerBlockBytes(core, bound);
    // An area behind the file's end is nobody's: who opens does not write as much as a damaged header says [JRN-BIND-025].
    const isHeld = bound.hostOffset + bound.lengthBytes <= core.device.sizeBytes;
    const sizeBytes = isHeld ? bound.lengthBytes : Math.min(bound.lengthBytes, defaultJournalBytes);
    yield* parts.makeJournal({ sizeBytes, blockBytes });
  } else {
    parts.useJournal(bound, log, false);
  }
}

/**
 * We do not keep these up to date when we write; who knows them finds that out by the cleared bit [FEA-012]. A
 * journal of a version that is not known is one of them [JRN-BIND-022].
 */
function* clearForeignAutoclear(parts: ImageParts): Task<void> {
  const journal = boundJournal(parts.core.header) === undefined ? 0n : autoclearFeatures.journalValid;
  yield* keepAutoclear(parts, journal | autoclearFeatures.rawExternalData | autoclearFeatures.bitmaps);
}

/** Head, extra data, id and name of a snapshot, and the padding, at their largest. */
const largestSnapshotBytes = 40 + 1024 + 2 * 65535 + 8;

function* loadSnapshots(core: ImageCore): Task<ImageParts['snapshots']> {
  const { header } = core;
  if (header.snapshotCount === 0) return [];
  const available = core.device.sizeBytes - header.snapshotsOffset;
  const most = Math.min(qcow2Limits.maxSnapshotTableBytes, header.snapshotCount * largestSnapshotBytes);
  const bytes = new Uint8Array(Math.max(0, Math.min(available, most)));
  yield* wait(core.readPatched(header.snapshotsOffset, bytes));
  const options = { hostOffset: header.snapshotsOffset, clusterBytes: core.clusterBytes };
  const { snapshots, lengthBytes } = decodeSnapshotTable(bytes, header.snapshotCount, options);
  core.snapshotTableBytes = lengthBytes;
  return snapshots;
}
