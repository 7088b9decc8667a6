/**
 * The image's own knowledge of its journal: the header extension, the autoclear bit, and whether the range
 * that the extension names can be trusted (JRN-BIND).
 *
 * The clusters of the area have refcount 0. So a writer that does not know journals may hand them out; it
 * clears the autoclear bit first if it follows the specification. At open both are asked: the bit, and the
 * refcounts of the range. Where either says that somebody may have been there, the old range is left alone
 * for good and a new journal is made elsewhere. A dirty image can not have been opened by anyone else, so
 * there the same finding is damage.
 */
import type { Task } from '@qcow2/block-device';
import {
  decodeFeatureNames,
  encodeFeatureNames,
  type FeatureName,
  findHeaderExtension,
  type HeaderExtension,
  type Qcow2Header,
} from '@qcow2/codec';
import {
  decodeJournalExtension,
  encodeJournalExtension,
  isUsableGeometry,
  journalGeometry,
} from '@qcow2/codec/journal/v1';
import { formatArea, type Random, readSlots } from '@qcow2/journal';
import {
  autoclearFeatures,
  FormatError,
  featureNames,
  headerExtensionTypes,
  hostOffset,
  incompatibleFeatures,
  Qcow2Error,
  StateError,
  StorageError,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { HostArea, ImageCore } from './image-core.ts';

export const defaultJournalBytes = 16 * 1024 * 1024;
export const defaultJournalBlockBytes = 4096;

/** Where the header says that the main journal is; undefined where it names none. */
export function boundJournal(header: Qcow2Header): HostArea | undefined {
  return journalsOf(header)?.find((journal) => journal.kind === 'main');
}

/** Whether the image has journals besides the main one, which nobody here serves (JRN-MULTI-001). */
export function hasOtherJournals(header: Qcow2Header): boolean {
  return journalsOf(header)?.some((journal) => journal.kind !== 'main') ?? false;
}

/**
 * What the extension names. Where the valid bit is clear its data counts for nothing but that somebody once
 * wanted a journal [JRN-BIND-017]: damaged or unknown then, it is as if it named none.
 */
function journalsOf(header: Qcow2Header) {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.journal);
  if (data === undefined) return undefined;
  try {
    const clusterBytes = 2 ** header.clusterBits;
    return decodeJournalExtension(data, { hostOffset: hostOffset(0), clusterBytes }).journals;
  } catch (error) {
    if (isJournalDirty(header) || !(error instanceof Qcow2Error)) throw error;
    return undefined;
  }
}

export function isJournalDirty(header: Qcow2Header): boolean {
  return (header.incompatibleFeatures & incompatibleFeatures.journalDirty) !== 0n;
}

export function isJournalValid(header: Qcow2Header): boolean {
  return (header.autoclearFeatures & autoclearFeatures.journalValid) !== 0n;
}

/** Whether nobody has taken clusters of the area, and it overlaps nothing that the header names. */
export function* areaIsOurs(core: ImageCore, allocator: Allocator, area: HostArea): Task<boolean> {
  const { clusterBytes, header, device } = core;
  const end = area.hostOffset + area.lengthBytes;
  if (area.hostOffset < clusterBytes || end > device.sizeBytes) return false;
  const tables = [
    [header.l1Offset, header.l1Entries * 8],
    [header.refcountTableOffset, header.refcountTableClusters * clusterBytes],
    [header.snapshotsOffset, header.snapshotCount > 0 ? clusterBytes : 0],
  ] as const;
  if (tables.some(([at, length]) => length > 0 && at < end && area.hostOffset < at + length)) return false;
  for (let at = area.hostOffset; at < end; at += clusterBytes) {
    if ((yield* allocator.refcount(at / clusterBytes)) !== 0) return false;
  }
  return true;
}

/**
 * Make a new journal behind the end of the file and bind it in the header value (which the caller writes).
 * The area is whole and durable on return.
 */
export function* makeJournal(
  core: ImageCore,
  allocator: Allocator,
  options: { sizeBytes?: number | undefined; blockBytes?: number | undefined; random: Random },
): Task<HostArea> {
  const { clusterBytes, header } = core;
  if (header.version < 3) {
    const message = 'a version 2 image has no feature bits to bind a journal with; upgrade it to compat=1.1';
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JRN-BIND-019' });
  }
  const blockBytes = options.blockBytes ?? defaultBlockBytes(clusterBytes);
  const lengthBytes = journalLength(options.sizeBytes ?? defaultJournalBytes, blockBytes, clusterBytes);
  const area = { hostOffset: yield* freeRange(core, allocator, lengthBytes), lengthBytes };
  yield* formatArea(core.device, area, blockBytes, options.random);
  allocator.noteUse(area.hostOffset / clusterBytes, lengthBytes / clusterBytes);
  bindJournal(header, area);
  return area;
}

/** The header with a journal, wherever it will stand: to see whether there is room to name it. */
export function withJournal(header: Qcow2Header): Qcow2Header {
  const value = { ...header };
  if (value.version >= 3) {
    const clusterBytes = 2 ** header.clusterBits;
    bindJournal(value, { hostOffset: clusterBytes, lengthBytes: Math.max(clusterBytes, 65536) });
  }
  return value;
}

/**
 * The block size of the journal that once stood in an area, if its slots can still be read: for the one that
 * takes its place. What stands there may be anything by now, and is believed in nothing else.
 */
export function* formerBlockBytes(core: ImageCore, area: HostArea): Task<number | undefined> {
  if (area.hostOffset + area.lengthBytes > core.device.sizeBytes) return undefined;
  try {
    const { newer } = yield* readSlots(core.device, area);
    const blockBytes = 2 ** newer.blockSizeOrder;
    return blockBytes > core.clusterBytes ? undefined : blockBytes;
  } catch (error) {
    if (error instanceof FormatError || error instanceof UnsupportedFeatureError) return undefined;
    throw error;
  }
}

/** A journal block is no larger than a cluster (JRN-SLOT). */
function defaultBlockBytes(clusterBytes: number): number {
  return Math.min(clusterBytes, defaultJournalBlockBytes);
}

export function journalLength(sizeBytes: number, blockBytes: number, clusterBytes: number): number {
  const lengthBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
  const isPower = Number.isInteger(Math.log2(blockBytes));
  if (!isPower || blockBytes < 512 || blockBytes > clusterBytes) {
    const context = { field: 'blockBytes', value: blockBytes, clause: 'JRN-SLOT-004' };
    throw new StateError(
      'INVALID_ARGUMENT',
      'a journal block is a power of two from 512 to the cluster size',
      context,
    );
  }
  const fits = lengthBytes >= 65536 && lengthBytes <= 1 << 30;
  if (!fits || !isUsableGeometry(journalGeometry(lengthBytes, blockBytes), blockBytes)) {
    const context = { field: 'sizeBytes', value: sizeBytes, clause: 'JRN-BIND-008' };
    throw new StateError(
      'INVALID_ARGUMENT',
      'a journal is from 64 KiB to 1 GiB, and holds at least eight blocks',
      context,
    );
  }
  return lengthBytes;
}

/** The first range behind the end of the file that no refcount counts. */
export function* freeRange(core: ImageCore, allocator: Allocator, lengthBytes: number): Task<number> {
  const { clusterBytes } = core;
  const { capabilities, sizeBytes } = core.device;
  if (!capabilities.resize && !capabilities.growable) return yield* freeTail(core, allocator, lengthBytes);
  let start = Math.ceil(sizeBytes / clusterBytes);
  const count = lengthBytes / clusterBytes;
  for (let i = 0; i < count; i++) {
    if ((yield* allocator.refcount(start + i)) === 0) continue;
    start += i + 1;
    i = -1;
  }
  return start * clusterBytes;
}

/** The last clusters of a device that has the size that it has. @throws NO_SPACE where one of them is in use */
function* freeTail(core: ImageCore, allocator: Allocator, lengthBytes: number): Task<number> {
  const { clusterBytes } = core;
  const end = Math.floor(core.device.sizeBytes / clusterBytes);
  const start = end - lengthBytes / clusterBytes;
  for (let cluster = start; cluster < end; cluster++) {
    if (cluster >= 1 && (yield* allocator.refcount(cluster)) === 0) continue;
    throw new StorageError('NO_SPACE', 'the device has no room at its end for the journal');
  }
  return start * clusterBytes;
}

function bindJournal(header: Qcow2Header, area: HostArea): void {
  const journals = [
    {
      kind: 'main' as const,
      flags: 0,
      hostOffset: hostOffset(area.hostOffset),
      lengthBytes: area.lengthBytes,
    },
  ];
  const extension = {
    type: headerExtensionTypes.journal,
    data: encodeJournalExtension({ version: 1, journals }),
  };
  const others = header.extensions.filter(
    ({ type }) => type !== headerExtensionTypes.journal && type !== headerExtensionTypes.featureNameTable,
  );
  header.extensions = [...others, extension, journalFeatureNames(header)];
  header.autoclearFeatures |= autoclearFeatures.journalValid;
}

/** Forget the journal: no extension, no bits. The range is free space from then on. */
export function unbindJournal(header: Qcow2Header): void {
  header.extensions = header.extensions.filter(({ type }) => type !== headerExtensionTypes.journal);
  header.autoclearFeatures &= ~autoclearFeatures.journalValid;
}

/** The image's own names, and ours for the two bits, so that QEMU refuses a dirty image by name. */
function journalFeatureNames(header: Qcow2Header): HeaderExtension {
  const data = findHeaderExtension(header.extensions, headerExtensionTypes.featureNameTable);
  const names: FeatureName[] = data === undefined ? [] : namesOrNone(data);
  const ours = featureNames.filter(({ bit }) => bit === 63);
  const others = names.filter(({ type, bit }) => !ours.some((row) => row.type === type && row.bit === bit));
  // In a header cluster of one or two sectors there is room for the two that matter.
  const kept = 2 ** header.clusterBits < 4096 ? [] : others;
  return encodeFeatureNames([...kept, ...ours]);
}

function namesOrNone(data: Uint8Array): FeatureName[] {
  try {
    return decodeFeatureNames(data);
  } catch (error) {
    if (error instanceof FormatError) return [];
    throw error;
  }
}
