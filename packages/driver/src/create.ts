/**
 * Making a new, empty image: header, refcount table and one refcount block, L1 table; with preallocated
 * metadata or a journal where asked for. The header is written last, when all else is durable: what a crash
 * leaves before that is no image.
 */
import { type BlockDevice, run, type Task, wait } from '@qcow2/block-device';
import {
  encodeBackingFormat,
  encodeEncryptionHeaderPointer,
  encodeExternalDataFile,
  encodeFeatureNames,
  encodeHeader,
  type HeaderExtension,
  type Qcow2Header,
  refcountCodec,
  writeRefcountTableEntry,
} from '@qcow2/codec';
import type { Random } from '@qcow2/journal';
import {
  autoclearFeatures,
  compatibleFeatures,
  compressionTypes,
  cryptMethods,
  featureNames,
  incompatibleFeatures,
  mappingSizes,
  qcow2Limits,
  StateError,
} from '@qcow2/spec';
import type { NewEncryption, PreparedEncryption } from './encryption.ts';
import { Qcow2Image } from './image.ts';
import { openParts } from './open.ts';
import type { ImageParts, JournalOptions } from './parts.ts';

export interface CreateOptions {
  /** Size of the guest's disk; a multiple of 512. */
  readonly sizeBytes: number;
  /** 2 (compat 0.10) or 3 (compat 1.1); default 3. */
  readonly version?: 2 | 3;
  /** A power of two from 512 B to 2 MiB; default 64 KiB. */
  readonly clusterBytes?: number;
  /** 1, 2, 4, … 64; default 16; version 2 has 16 only. */
  readonly refcountBits?: number;
  readonly lazyRefcounts?: boolean;
  /** Clusters have 32 parts that are allocated one by one; for version 3 and clusters of 16 KiB and more. Default false. */
  readonly extendedL2?: boolean;
  /** A name, stored and not followed. */
  readonly backingFile?: string;
  readonly backingFormat?: string;
  /**
   * An external data file, which holds the guest's bytes in the image's place: a device of the caller's, and the name
   * by which the image remembers it, stored and not followed. It is made as long as the disk, where it can be.
   */
  readonly dataFile?: {
    readonly device: BlockDevice;
    readonly name: string;
    /** The file alone is a raw image of the disk, at every moment. What it holds by now is what the disk holds. */
    readonly raw?: boolean;
  };
  /** `metadata`: every guest cluster gets its host cluster now. */
  readonly preallocation?: 'off' | 'metadata';
  readonly journal?: JournalOptions | false;
  /** How clusters are compressed that are written so; default `deflate`, which alone version 2 has. */
  readonly compressionType?: keyof typeof compressionTypes;
  /** Guest bytes will stand encrypted. */
  readonly encryption?: NewEncryption;
  readonly random?: Random;
}

/**
 * Write a new image over a device, which must be empty and growable. Durable on return; the device stays
 * open and the caller's.
 * @throws INVALID_ARGUMENT for an option outside the format's limits
 */
export async function createImage(device: BlockDevice, options: CreateOptions): Promise<void> {
  const header = plan(options);
  const prepared = await options.encryption?.prepare();
  await run(writeEmpty(device, header, options, prepared));
  // A raw data file shows what it has from the first moment: every cluster is mapped [DAT-006].
  const isRaw = options.dataFile?.raw === true;
  if (
    isRaw ||
    options.preallocation === 'metadata' ||
    (options.journal !== undefined && options.journal !== false)
  ) {
    await complete(device, options, prepared);
  }
}

function* writeEmpty(
  device: BlockDevice,
  header: Qcow2Header,
  options: CreateOptions,
  prepared: PreparedEncryption | undefined,
): Task<void> {
  if (options.dataFile !== undefined) yield* prepareDataFile(options.dataFile.device, options.sizeBytes);
  const clusterBytes = 2 ** header.clusterBits;
  const l1Clusters = Math.ceil((header.l1Entries * 8) / clusterBytes);
  const encryptionClusters = Math.ceil((prepared?.headerBytes ?? 0) / clusterBytes);
  const layout = placeTables(header, l1Clusters, encryptionClusters);
  header.refcountTableOffset = clusterBytes;
  header.refcountTableClusters = layout.tableClusters;
  header.l1Offset = layout.l1Cluster * clusterBytes;
  const table = new Uint8Array(layout.tableClusters * clusterBytes);
  const refcounts = refcountCodec(header.refcountOrder);
  const perBlock = refcounts.entriesPerBlock(clusterBytes);
  for (let i = 0; i < layout.blockCount; i++) {
    const offset = (layout.firstBlock + i) * clusterBytes;
    writeRefcountTableEntry(new DataView(table.buffer), i * 8, offset);
    const block = new Uint8Array(clusterBytes);
    const inUse = Math.max(0, Math.min(perBlock, layout.clusters - i * perBlock));
    for (let index = 0; index < inUse; index++) refcounts.set(new DataView(block.buffer), index, 1);
    yield* wait(device.write(offset, block, { event: 'refblock_alloc_write' }));
  }
  yield* wait(device.write(header.refcountTableOffset, table, { event: 'reftable_grow' }));
  yield* wait(
    device.writeZeroes(header.l1Offset, l1Clusters * clusterBytes, { event: 'l1_grow_write_table' }),
  );
  if (prepared !== undefined) {
    const headerOffset = (layout.clusters - encryptionClusters) * clusterBytes;
    yield* writeEncryptionHeader(device, headerOffset, encryptionClusters * clusterBytes, prepared);
    const pointer = { headerOffset, headerLengthBytes: prepared.headerBytes };
    header.cryptMethod = cryptMethods.luks;
    header.extensions.push(encodeEncryptionHeaderPointer(pointer, clusterBytes));
  }
  yield* wait(device.flush({ event: 'flush_metadata' }));
  yield* wait(device.write(0, encodeHeader(header), { event: 'header_update' }));
  yield* wait(device.flush({ event: 'flush_metadata' }));
}

/** As long as the disk, and durable so. @throws INVALID_ARGUMENT where it is shorter and can not grow */
function* prepareDataFile(device: BlockDevice, sizeBytes: number): Task<void> {
  const { resize, growable } = device.capabilities;
  const isShort = device.sizeBytes < sizeBytes;
  refuse(isShort && !resize && !growable, 'dataFile', 'the data file is shorter than the disk');
  if (isShort && resize) yield* wait(device.resize(sizeBytes));
  yield* wait(device.flush({ event: 'flush_data' }));
}

/** What was prepared, and zeros around it [FDE-004]. */
function* writeEncryptionHeader(
  device: BlockDevice,
  hostOffset: number,
  lengthBytes: number,
  { pieces }: PreparedEncryption,
): Task<void> {
  yield* wait(device.writeZeroes(hostOffset, lengthBytes, { event: 'encryption_header' }));
  for (const { at, bytes } of pieces) {
    yield* wait(device.write(hostOffset + at, bytes, { event: 'encryption_header' }));
  }
}

/** Header, refcount table, refcount blocks, L1 table, encryption header, in this order; enough blocks to count them all. */
function placeTables(header: Qcow2Header, l1Clusters: number, encryptionClusters: number) {
  const clusterBytes = 2 ** header.clusterBits;
  const perBlock = refcountCodec(header.refcountOrder).entriesPerBlock(clusterBytes);
  let blockCount = 1;
  for (;;) {
    const tableClusters = Math.ceil((blockCount * 8) / clusterBytes);
    const clusters = 1 + tableClusters + blockCount + Math.max(1, l1Clusters) + encryptionClusters;
    const needed = Math.ceil(clusters / perBlock);
    if (needed <= blockCount) {
      const firstBlock = 1 + tableClusters;
      return { tableClusters, blockCount, firstBlock, l1Cluster: firstBlock + blockCount, clusters };
    }
    blockCount = needed;
  }
}

function plan(options: CreateOptions): Qcow2Header {
  const version = options.version ?? 3;
  const clusterBits = checkedPower('clusterBytes', options.clusterBytes ?? 65536, 9, 21);
  const refcountOrder = checkedPower('refcountBits', options.refcountBits ?? 16, 0, 6);
  refuse(version === 2 && refcountOrder !== 4, 'refcountBits', 'a version 2 image has refcounts of 16 bits');
  const compressionType = compressionTypes[options.compressionType ?? 'deflate'];
  const compressed = version === 2 && compressionType !== 0;
  const isDraft = typeof options.journal === 'object' && options.journal.profile === 'draft-2013';
  refuse(isDraft && compressionType !== 0, 'compressionType', 'a journal of the draft stands in its place');
  refuse(compressed, 'compressionType', 'version 2 has no other compression than deflate');
  refuse(version === 2 && options.lazyRefcounts === true, 'lazyRefcounts', 'version 2 has no lazy refcounts');
  const { sizeBytes, dataFile, encryption } = options;
  refuse(version === 2 && dataFile !== undefined, 'dataFile', 'a version 2 image has no external data file');
  const rawOverBacking = dataFile?.raw === true && options.backingFile !== undefined;
  refuse(rawOverBacking, 'dataFile', 'a raw data file and a backing file exclude each other');
  const hiddenRaw = dataFile?.raw === true && encryption !== undefined;
  refuse(hiddenRaw, 'dataFile', 'a raw data file is not encrypted');
  // Version 2 has no zero clusters, and a cluster that nobody has written shows noise.
  const shows = version === 2 && encryption !== undefined && options.preallocation === 'metadata';
  refuse(shows, 'preallocation', 'an encrypted image of version 2 has no clusters that read as zeros');
  const extendedL2 = options.extendedL2 === true;
  refuse(version === 2 && extendedL2, 'extendedL2', 'version 2 has no extended L2 entries');
  const isSmall = clusterBits < mappingSizes.extendedL2MinClusterBits;
  refuse(extendedL2 && isSmall, 'extendedL2', 'extended L2 entries need clusters of 16 KiB or more');
  refuse(!Number.isSafeInteger(sizeBytes) || sizeBytes < 0, 'sizeBytes', 'not a size in bytes');
  const entriesPerTable = 2 ** (clusterBits - (extendedL2 ? 4 : 3));
  const l1Entries = Math.ceil(sizeBytes / (2 ** clusterBits * entriesPerTable));
  const tooLarge = l1Entries * 8 > qcow2Limits.maxL1TableBytes;
  refuse(tooLarge, 'sizeBytes', 'too large for this cluster size: the L1 table may have 32 MiB');
  const extensions: HeaderExtension[] = [];
  if (options.backingFile !== undefined && options.backingFormat !== undefined) {
    extensions.push(encodeBackingFormat(options.backingFormat));
  }
  if (dataFile !== undefined && dataFile.name !== '') extensions.push(encodeExternalDataFile(dataFile.name));
  // In a cluster of one or two sectors the names would leave no room for anything else.
  if (version > 2 && clusterBits >= 12) extensions.push(encodeFeatureNames([...featureNames]));
  return {
    version,
    backingFileOffset: 0,
    backingFileLengthBytes: 0,
    clusterBits,
    sizeBytes,
    cryptMethod: 0,
    l1Entries,
    l1Offset: 0,
    refcountTableOffset: 0,
    refcountTableClusters: 0,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatibleFeatures:
      (dataFile === undefined ? 0n : incompatibleFeatures.externalDataFile) |
      (compressionType === 0 ? 0n : incompatibleFeatures.compressionType) |
      (extendedL2 ? incompatibleFeatures.extendedL2 : 0n),
    compatibleFeatures: options.lazyRefcounts === true ? compatibleFeatures.lazyRefcounts : 0n,
    autoclearFeatures: dataFile?.raw === true ? autoclearFeatures.rawExternalData : 0n,
    refcountOrder,
    headerLengthBytes: version === 2 ? 72 : 112,
    compressionType,
    unknownHeaderBytes: new Uint8Array(version === 2 ? 0 : 7),
    extensions,
    ...(options.backingFile === undefined ? {} : { backingFileName: options.backingFile }),
  };
}

async function complete(
  device: BlockDevice,
  options: CreateOptions,
  prepared: PreparedEncryption | undefined,
): Promise<void> {
  const random = options.random === undefined ? {} : { random: options.random };
  const dataFile = options.dataFile === undefined ? {} : { dataFile: options.dataFile.device };
  const unlock = prepared === undefined ? {} : { encryption: prepared.encryption };
  const parts = await run(
    openParts(device, { backing: 'none', lazyRefcounts: false, ...dataFile, ...random, ...unlock }),
  );
  const mapsAll = options.preallocation === 'metadata' || options.dataFile?.raw === true;
  if (mapsAll) await run(preallocate(parts));
  const image = new Qcow2Image(parts);
  await image.quiesce();
  if (options.journal !== undefined && options.journal !== false) await image.enableJournal(options.journal);
  image.abandon();
}

/** Every guest cluster gets a host cluster, which the file grows over and nobody has written. */
function* preallocate(parts: ImageParts): Task<void> {
  const { core, allocator } = parts;
  const count = Math.ceil(core.header.sizeBytes / core.clusterBytes);
  for (let done = 0; done < count; ) done += yield* parts.preallocate(done, count - done);
  yield* allocator.extendFile();
}

function checkedPower(field: string, value: number, min: number, max: number): number {
  const power = Math.log2(value);
  const valid = Number.isInteger(power) && power >= min && power <= max;
  refuse(!valid, field, `a power of two from ${2 ** min} to ${2 ** max}`);
  return power;
}

function refuse(condition: boolean, field: string, message: string): void {
  if (condition) throw new StateError('INVALID_ARGUMENT', message, { field });
}
