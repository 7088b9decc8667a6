/**
 * The journal of the profile draft-2013 in an image: making it, counting its clusters, taking it away, and whether
 * what the header names can be used (JD13-BIND-…).
 *
 * The draft gives its clusters refcount 1. A crash must leak none of them, so they are counted while the journal is
 * bound, through the journal itself: made with refcount 0 behind all that is in use, written whole and flushed,
 * bound in one step, then counted. Taken away the other way round: uncounted through the journal, then unbound.
 * Between the two a crash leaves a bound journal some of whose clusters have refcount 0, which the next writer
 * counts up again. Nobody else takes them meanwhile: in a clean image autoclear bit 63 stands in for the draft's bit 0.
 * QEMU, which knows bit 0 as its own, clears bit 63 and rewrites the header when it opens the image for writing, and
 * the journal offset goes with it.
 */
import { type Task, wait } from '@qcow2/block-device';
import {
  classifyL2Entry,
  clusterKind,
  type Qcow2Header,
  readCompressedOffset,
  readEntryOffset,
} from '@qcow2/codec';
import { type DraftArea, formatDraftArea, minWritableRingBlocks } from '@qcow2/journal';
import { draftJournal, headerExtensionTypes, StateError, UnsupportedFeatureError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { HostArea, ImageCore } from './image-core.ts';
import { defaultJournalBytes, freeRange } from './journal-binding.ts';
import type { MetadataUpdate } from './metadata-update.ts';

/** A change takes whole data blocks in this journal: small ones cost least. */
export const defaultDraftBlockBytes = 512;

const minDraftBytes = 64 * 1024;
const maxDraftBytes = 1 << 30;
/** Behind the header of a new journal: fewer can be written through, slowly. */
export const minNewDraftBlocks = 32;

/** Clusters that the journal takes: its last one may be used in part. */
export function draftHostArea(area: DraftArea, clusterBytes: number): HostArea {
  const lengthBytes = Math.ceil(area.header.journalLengthBytes / clusterBytes) * clusterBytes;
  return { hostOffset: area.hostOffset, lengthBytes };
}

/** Make a new, empty journal behind the end of the file and bind it in the header value, which the caller writes. */
export function* makeDraftJournal(
  core: ImageCore,
  allocator: Allocator,
  options: { sizeBytes?: number | undefined; blockBytes?: number | undefined },
): Task<DraftArea> {
  const { clusterBytes, header } = core;
  if (header.version < 3) {
    const message = 'a version 2 image has no feature bits to bind a journal with; upgrade it to compat=1.1';
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'JD13-BIND-003' });
  }
  const blockBytes = options.blockBytes ?? defaultDraftBlockBytes;
  const lengthBytes = draftLength(options.sizeBytes ?? defaultJournalBytes, blockBytes, clusterBytes);
  const location = { hostOffset: yield* freeRange(core, allocator, lengthBytes), lengthBytes };
  const area = yield* formatDraftArea(core.device, location, blockBytes);
  allocator.noteUse(location.hostOffset / clusterBytes, lengthBytes / clusterBytes);
  bindDraft(header, location.hostOffset);
  return area;
}

function bindDraft(header: Qcow2Header, hostOffset: number): void {
  header.draftJournal = { hostOffset, dirty: false, sealed: true };
  header.extensions = header.extensions.filter(({ type }) => type !== headerExtensionTypes.journal);
  if (header.headerLengthBytes < draftJournal.minHeaderLengthBytes) {
    header.headerLengthBytes = draftJournal.minHeaderLengthBytes;
    header.unknownHeaderBytes = new Uint8Array(draftJournal.minHeaderLengthBytes - 105);
  }
}

/** The header with a journal of the draft's, wherever it will stand: to see whether there is room to name it. */
export function withDraftJournal(header: Qcow2Header): Qcow2Header {
  const value = { ...header };
  if (value.version >= 3) bindDraft(value, 2 ** header.clusterBits);
  return value;
}

export function draftLength(sizeBytes: number, blockBytes: number, clusterBytes: number): number {
  const isPower = Number.isInteger(Math.log2(blockBytes));
  if (!isPower || blockBytes < 512 || blockBytes > clusterBytes) {
    const context = { field: 'blockBytes', value: blockBytes, clause: 'JD13-HDR-004' };
    const message = 'a journal block is a power of two from 512 to the cluster size';
    throw new StateError('INVALID_ARGUMENT', message, context);
  }
  const lengthBytes = Math.ceil(sizeBytes / clusterBytes) * clusterBytes;
  const ringBlocks = Math.floor(lengthBytes / blockBytes) - 1;
  if (!(lengthBytes >= minDraftBytes && lengthBytes <= maxDraftBytes) || ringBlocks < minNewDraftBlocks) {
    const context = { field: 'sizeBytes', value: sizeBytes, clause: 'JD13-HDR-003' };
    const message = `a journal is from 64 KiB to 1 GiB, and has at least ${minNewDraftBlocks} blocks behind its header`;
    throw new StateError('INVALID_ARGUMENT', message, context);
  }
  return lengthBytes;
}

/** @throws UNSUPPORTED_FEATURE for a ring of too few blocks: a change must fit half of it */
export function refuseSmallRing(area: DraftArea): void {
  const ringBlocks = area.ring.lengthBytes / area.ring.blockBytes;
  if (ringBlocks >= minWritableRingBlocks) return;
  const message = `a journal of fewer than ${minWritableRingBlocks} blocks is not written through; open the image read-only`;
  throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', message, {
    feature: 'a journal of few blocks',
    hostOffset: area.hostOffset + 8,
    value: ringBlocks,
    clause: 'JD13-HDR-003',
  });
}

/**
 * Give clusters of the area the refcount that they are to have, as many as one change takes, through the log. Holds:
 * the write lock, or nobody else has the image yet.
 * @returns where to go on, the area's end when all have it
 */
export function* countDraftClusters(
  core: ImageCore,
  allocator: Allocator,
  update: MetadataUpdate,
  piece: {
    readonly area: HostArea;
    readonly from: number;
    readonly refcount: 0 | 1;
    readonly maxClusters: number;
  },
): Task<number> {
  const { area, refcount, maxClusters } = piece;
  const { clusterBytes } = core;
  const end = area.hostOffset + area.lengthBytes;
  let at = piece.from;
  let changed = 0;
  for (; at < end && changed < maxClusters; at += clusterBytes) {
    const cluster = at / clusterBytes;
    if ((yield* allocator.refcount(cluster)) === refcount) continue;
    if (refcount === 1) {
      if (changed === 0 || !allocator.hasBlockFor(cluster)) yield* allocator.coverRange(cluster, 1);
      update.addReference(cluster);
    } else update.dropReference(cluster);
    changed++;
  }
  if (changed > 0) yield* update.submit({ required: true, afterData: false });
  return at;
}

/** How the clusters of a bound journal are counted. */
export function* draftRefcounts(core: ImageCore, allocator: Allocator, area: HostArea) {
  const found = { zero: 0, one: 0, more: 0 };
  const end = area.hostOffset + area.lengthBytes;
  for (let at = area.hostOffset; at < end; at += core.clusterBytes) {
    const refcount = yield* allocator.refcount(at / core.clusterBytes);
    if (refcount === 0) found.zero++;
    else if (refcount === 1) found.one++;
    else found.more++;
  }
  return found;
}

/**
 * Whether anything of the image refers into the area. For a journal that a stranger may have taken clusters of: all
 * tables are read.
 */
export function* isReferenced(
  core: ImageCore,
  snapshots: readonly { readonly l1Offset: number; readonly l1Entries: number }[],
  area: HostArea,
): Task<boolean> {
  const { header, clusterBytes, refcountTable } = core;
  const end = area.hostOffset + area.lengthBytes;
  const touches = (at: number, lengthBytes: number): boolean =>
    at !== 0 && lengthBytes > 0 && at < end && area.hostOffset < at + lengthBytes;
  if (touches(header.l1Offset, header.l1Entries * 8)) return true;
  if (touches(header.refcountTableOffset, refcountTable.byteLength)) return true;
  if (header.snapshotCount > 0 && touches(header.snapshotsOffset, clusterBytes)) return true;
  for (let at = 0; at < refcountTable.byteLength; at += 8) {
    if (touches(readEntryOffset(refcountTable, at), clusterBytes)) return true;
  }
  const l1Tables = [core.l1];
  for (const { l1Offset, l1Entries } of snapshots) {
    if (touches(l1Offset, l1Entries * 8)) return true;
    const bytes = new Uint8Array(l1Entries * 8);
    yield* wait(core.readPatched(l1Offset, bytes));
    l1Tables.push(new DataView(bytes.buffer));
  }
  for (const l1 of l1Tables) {
    for (let at = 0; at < l1.byteLength; at += 8) {
      const table = readEntryOffset(l1, at);
      if (table === 0) continue;
      if (touches(table, clusterBytes) || (yield* tableRefers(core, table, touches))) return true;
    }
  }
  return false;
}

function* tableRefers(
  core: ImageCore,
  table: number,
  touches: (at: number, lengthBytes: number) => boolean,
): Task<boolean> {
  const { clusterBytes, l2EntryBytes, l2Format, clusterBits } = core;
  const bytes = new Uint8Array(clusterBytes);
  yield* wait(core.readPatched(table, bytes));
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < clusterBytes; at += l2EntryBytes) {
    const compressed = classifyL2Entry(view, at, l2Format) === clusterKind.compressed;
    const offset = compressed ? readCompressedOffset(view, at, clusterBits) : readEntryOffset(view, at);
    // A compressed cluster is not longer than one, and may begin anywhere.
    if (touches(offset, compressed ? 2 * clusterBytes : clusterBytes)) return true;
  }
  return false;
}
