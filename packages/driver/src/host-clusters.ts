/**
 * What the entries of L2 tables refer to, as refcounts count it: an entry of the usual kinds one host cluster, one of
 * compressed data every host cluster that its data touches. What stands in an external data file is not counted.
 */
import type { Task } from '@qcow2/block-device';
import {
  checkL1Entry,
  checkL2Entry,
  classifyL2Entry,
  clusterKind,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryOffset,
} from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import { ClusterCounts } from './cluster-counts.ts';
import type { ImageCore } from './image-core.ts';
import { refcountFull } from './metadata-update.ts';

export interface HostClusters {
  readonly first: number;
  readonly count: number;
  readonly isCompressed: boolean;
}

const none: HostClusters = { first: 0, count: 0, isCompressed: false };

/** @throws FormatError for an entry that breaks its clauses */
export function hostClustersOf(
  core: ImageCore,
  view: DataView,
  at: number,
  viewOffset: number,
): HostClusters {
  const { l2Format, clusterBits, clusterBytes } = core;
  checkL2Entry(view, at, l2Format, viewOffset);
  const kind = classifyL2Entry(view, at, l2Format);
  if (kind === clusterKind.unallocated || kind === clusterKind.zeroPlain || l2Format.externalData)
    return none;
  if (kind !== clusterKind.compressed) {
    const hostOffset = readEntryOffset(view, at);
    // None: some of its sub-clusters read as zeros, the others show the backing file.
    return hostOffset === 0 ? none : { first: hostOffset / clusterBytes, count: 1, isCompressed: false };
  }
  const offset = readCompressedOffset(view, at, clusterBits);
  const end = offset + readCompressedLengthBytes(view, at, clusterBits);
  const first = Math.floor(offset / clusterBytes);
  return { first, count: Math.ceil(end / clusterBytes) - first, isCompressed: true };
}

/**
 * Refuse to count what an L1 table leads to, before anything is changed: where a refcount has no room to be counted up
 * [SNP-025], and where damage would end the counting half way, or make it endless. Memory: slices of the caches, and two
 * bytes for each cluster of which more than one reference may have to be counted, in pieces.
 * @throws INVALID_ARGUMENT where there is no room; REFCOUNT_WRONG where what is in use counts as free; OVERLAP where the
 *   table leads to one L2 table twice; FormatError for a damaged entry
 */
export function* refuseToCount(
  core: ImageCore,
  allocator: Allocator,
  l1: DataView,
  l1Offset: number,
  way: 'up' | 'down',
): Task<void> {
  const { clusterBytes, clusterBits, l2Entries, l2EntryBytes } = core;
  const room = new RefcountRoom(core, allocator, way);
  const tables = new ClusterCounts();
  if (way === 'down') yield* refuseFree(core, allocator, l1Offset, l1.byteLength);
  for (let index = 0; index < l1.byteLength / 8; index++) {
    checkL1Entry(l1, index * 8, clusterBits, l1Offset);
    const table = readEntryOffset(l1, index * 8);
    if (table === 0) continue;
    if (tables.add(table / clusterBytes) > 1) {
      const message = 'an L1 table leads to one L2 table twice';
      throw new FormatError('OVERLAP', message, { hostOffset: l1Offset + index * 8, clause: 'SNP-020' });
    }
    yield* room.take(table / clusterBytes);
    for (let i = 0; i < l2Entries; i++) {
      const at = table + i * l2EntryBytes;
      const slice = core.l2Cache.peek(at) ?? (yield* core.l2Cache.load(at));
      const { first, count } = hostClustersOf(core, slice.view, at - slice.hostOffset, slice.hostOffset);
      for (let cluster = first; cluster < first + count; cluster++) yield* room.take(cluster);
    }
  }
}

/** @throws REFCOUNT_WRONG where a cluster of a range that is in use counts as free */
export function* refuseFree(
  core: ImageCore,
  allocator: Allocator,
  hostOffset: number,
  lengthBytes: number,
): Task<void> {
  const { clusterBytes } = core;
  for (let at = hostOffset; at < hostOffset + lengthBytes; at += clusterBytes) {
    if ((yield* allocator.refcount(at / clusterBytes)) === 0) throw countsAsFree(at);
  }
}

/** What refers to a cluster whose refcount says that nothing does. */
export function countsAsFree(hostOffset: number): FormatError {
  const context = { hostOffset, clause: 'RCB-001' };
  return new FormatError('REFCOUNT_WRONG', 'a cluster in use counts as free', context);
}

class RefcountRoom {
  readonly #core: ImageCore;
  readonly #allocator: Allocator;
  readonly #way: 'up' | 'down';
  /** References counted to clusters that may have several from one table: no more than they have now. */
  readonly #taken = new ClusterCounts();

  constructor(core: ImageCore, allocator: Allocator, way: 'up' | 'down') {
    this.#core = core;
    this.#allocator = allocator;
    this.#way = way;
  }

  *take(cluster: number): Task<void> {
    const { refcounts, clusterBytes } = this.#core;
    const refcount = yield* this.#allocator.refcount(cluster);
    if (refcount === 0) throw countsAsFree(cluster * clusterBytes);
    if (this.#way === 'down' || 2 * refcount <= refcounts.maxValue) return;
    if (refcount + this.#taken.add(cluster) > refcounts.maxValue) throw refcountFull(this.#core, cluster);
  }
}
