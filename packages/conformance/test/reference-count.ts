/**
 * Counts who references which cluster, as `qemu-img check` does, to compare with what that said about the
 * vectors. Follows what `walkImage` found.
 */
import {
  classifyL2Entry,
  clusterKind,
  l2EntryBytes,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
} from '@qcow2/codec';
import type { ImageWalk, Mapping, Table } from '../src/image-walk.ts';

export interface CheckCounts {
  readonly leaks: number;
  readonly corruptions: number;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
}

export function checkCounts(walk: ImageWalk): CheckCounts {
  const references = countReferences(walk);
  let leaks = 0;
  let corruptions = 0;
  for (const [cluster, refcount] of storedRefcounts(walk)) {
    const counted = references.get(cluster) ?? 0;
    references.delete(cluster);
    if (refcount > counted) leaks++;
    if (refcount < counted) corruptions++;
  }
  // What is referenced and stands in no refcount block has the refcount zero.
  corruptions += references.size + wrongCopiedBits(walk);
  return { leaks, corruptions, ...countMapped(walk) };
}

/** The refcount of a host cluster as its refcount block says it. */
export function refcountOf(walk: ImageWalk, cluster: number): number {
  const perBlock = walk.refcounts.entriesPerBlock(walk.clusterBytes);
  const block = walk.refcountBlocks.get(Math.floor(cluster / perBlock));
  return block === undefined ? 0 : walk.refcounts.get(block.view, cluster % perBlock);
}

function* storedRefcounts(walk: ImageWalk): Generator<readonly [cluster: number, refcount: number]> {
  const perBlock = walk.refcounts.entriesPerBlock(walk.clusterBytes);
  for (const [index, block] of walk.refcountBlocks) {
    for (let entry = 0; entry < perBlock; entry++) {
      const refcount = walk.refcounts.get(block.view, entry);
      if (refcount !== 0) yield [index * perBlock + entry, refcount];
    }
  }
}

function countReferences(walk: ImageWalk): Map<number, number> {
  const counts = new Map<number, number>();
  const add = (at: number, lengthBytes: number): void => {
    const first = Math.floor(at / walk.clusterBytes);
    const last = Math.floor((at + lengthBytes - 1) / walk.clusterBytes);
    for (let cluster = first; cluster <= last; cluster++) counts.set(cluster, (counts.get(cluster) ?? 0) + 1);
  };
  // L2 tables count once for every L1 entry that points at them, all other structures once.
  for (const { kind, at, lengthBytes } of walk.structures) if (kind !== 'l2-table') add(at, lengthBytes);
  for (const mapping of [walk.active, ...walk.snapshotMappings]) {
    for (const table of mapping.l2.values()) add(table.at, walk.clusterBytes);
    for (const [at, lengthBytes] of mappedRanges(walk, mapping)) add(at, lengthBytes);
  }
  for (const table of walk.bitmapTables) {
    for (let at = 0; at < table.view.byteLength; at += 8) {
      const offset = readEntryOffset(table.view, at);
      if (offset !== 0) add(offset, walk.clusterBytes);
    }
  }
  return counts;
}

/** Host ranges in this file that the L2 tables of a mapping name. */
function* mappedRanges(
  walk: ImageWalk,
  mapping: Mapping,
): Generator<readonly [at: number, lengthBytes: number]> {
  const { clusterBits } = walk.header;
  if (walk.l2Format.externalData) return;
  for (const table of mapping.l2.values()) {
    for (const at of entryPositions(walk, table)) {
      if (classifyL2Entry(table.view, at, walk.l2Format) === clusterKind.compressed) {
        const offset = readCompressedOffset(table.view, at, clusterBits);
        const sectorStart = offset - (offset % 512);
        yield [sectorStart, readCompressedLengthBytes(table.view, at, clusterBits) + (offset % 512)];
      } else if (readEntryOffset(table.view, at) !== 0) {
        yield [readEntryOffset(table.view, at), walk.clusterBytes];
      }
    }
  }
}

function* entryPositions(walk: ImageWalk, table: Table): Generator<number> {
  for (let at = 0; at < table.view.byteLength; at += l2EntryBytes(walk.l2Format)) yield at;
}

/** Entries of the active tables whose bit 63 does not say whether the refcount is one. */
function wrongCopiedBits(walk: ImageWalk): number {
  let wrong = 0;
  const look = (view: DataView, at: number): void => {
    const offset = readEntryOffset(view, at);
    if (offset === 0) return;
    const isOne = refcountOf(walk, offset / walk.clusterBytes) === 1;
    if (isOne !== readEntryCopied(view, at)) wrong++;
  };
  const { l1, l2 } = walk.active;
  for (let at = 0; at < l1.view.byteLength; at += 8) look(l1.view, at);
  if (walk.l2Format.externalData) return wrong;
  for (const table of l2.values()) {
    for (const at of entryPositions(walk, table)) {
      if (classifyL2Entry(table.view, at, walk.l2Format) !== clusterKind.compressed) look(table.view, at);
    }
  }
  return wrong;
}

function countMapped(walk: ImageWalk): { allocatedClusters: number; compressedClusters: number } {
  let allocatedClusters = 0;
  let compressedClusters = 0;
  for (const table of walk.active.l2.values()) {
    for (const at of entryPositions(walk, table)) {
      const kind = classifyL2Entry(table.view, at, walk.l2Format);
      if (kind === clusterKind.unallocated || kind === clusterKind.zeroPlain) continue;
      // Sub-clusters that read as zeros need no host cluster.
      const hasHostCluster = walk.l2Format.externalData || readEntryOffset(table.view, at) !== 0;
      if (kind === clusterKind.mixed && !hasHostCluster) continue;
      allocatedClusters++;
      if (kind === clusterKind.compressed) compressedClusters++;
    }
  }
  return { allocatedClusters, compressedClusters };
}
