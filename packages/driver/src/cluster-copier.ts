/**
 * Whole clusters whose bytes stand in another device: the device below copies them to where the image has them.
 *
 * Crash argument. As for bytes that are written (`ClusterWriter`): a new cluster is filled before the change that maps it is
 * submitted, and `DataArea.copy` notes what it did with the log as a write does, so a flush covers the bytes before anything on disk
 * leads to them. Of a cluster that was filled in part nothing is mapped, and its place is given back.
 *
 * `ClusterCopier` holds the write lock; `copyClusters` takes it.
 */
import { type ByteOrigin, checkRange, type Task } from '@qcow2/block-device';
import { type ClusterWriter, longestRun } from './cluster-writer.ts';
import type { GuestOverlay } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { ImageRequests } from './image-requests.ts';
import type { MappingTable } from './mapping.ts';
import type { ImageParts } from './parts.ts';
import type { PendingClusters } from './pending-clusters.ts';
import { isInPlace } from './sub-clusters.ts';

/** Clusters that are copied at once. */
interface CopyRun {
  readonly count: number;
  /** Where they stand, in a row; undefined: they get new places. */
  readonly hostOffset: number | undefined;
}

export class ClusterCopier {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #writer: ClusterWriter;
  readonly #overlay: GuestOverlay;
  readonly #pending: PendingClusters;

  constructor(
    core: ImageCore,
    mappings: MappingTable,
    writer: ClusterWriter,
    overlay: GuestOverlay,
    pending: PendingClusters,
  ) {
    this.#core = core;
    this.#mappings = mappings;
    this.#writer = writer;
    this.#overlay = overlay;
    this.#pending = pending;
  }

  /**
   * @returns clusters that were copied, from the first on: up to one of which something waits in memory or in the log, or to where
   *   the device below does not copy
   */
  *copy(guestCluster: number, count: number, source: ByteOrigin): Task<number> {
    const { clusterBytes } = this.#core;
    let done = 0;
    while (done < count) {
      const run = yield* this.#nextRun(guestCluster + done, count - done);
      if (run.count === 0) break;
      const from = { ...source, offset: source.offset + done * clusterBytes };
      const copied = yield* this.#copyRun(guestCluster + done, run, from);
      if (copied === 0) break;
      done += copied;
    }
    return done;
  }

  *#copyRun(guestCluster: number, { count, hostOffset }: CopyRun, source: ByteOrigin): Task<number> {
    const { clusterBytes, data } = this.#core;
    if (hostOffset === undefined) {
      return yield* this.#writer.newRun(guestCluster, count, (place, _, lengthBytes) =>
        data.copy(place, { ...source, lengthBytes }),
      );
    }
    const copied = yield* data.copy(hostOffset, { ...source, lengthBytes: count * clusterBytes });
    return Math.floor(copied / clusterBytes);
  }

  /** Clusters that go one way: into their own places, which stand in a row, or into new ones. */
  *#nextRun(guestCluster: number, limit: number): Task<CopyRun> {
    const { clusterBytes, fills } = this.#core;
    let first: number | undefined;
    let count = 0;
    for (; count < Math.min(limit, longestRun); count++) {
      const cluster = guestCluster + count;
      if (this.#overlay.get(cluster) !== undefined || this.#pending.get(cluster) !== undefined) break;
      const mapping = yield* this.#mappings.lookup(cluster);
      const { hostOffset } = mapping;
      if (hostOffset !== 0 && fills.touches(hostOffset, clusterBytes)) break;
      const inPlace = isInPlace(mapping, clusterBytes, 0, clusterBytes);
      const start = inPlace ? hostOffset - count * clusterBytes : undefined;
      if (count === 0) first = start;
      else if (start !== first) break;
    }
    return { count, hostOffset: first };
  }
}

/** A guest range, piece by piece as a write. @returns bytes copied, whole clusters from the front on. @throws as a write */
export async function copyClusters(
  { core, copier }: ImageParts,
  requests: ImageRequests,
  source: ByteOrigin,
  offset: number,
): Promise<number> {
  const { clusterBytes, data } = core;
  checkRange(source.offset, source.lengthBytes, source.device.sizeBytes);
  if (offset % clusterBytes !== 0 || !data.takesCopies) return 0;
  const wholeBytes = source.lengthBytes - (source.lengthBytes % clusterBytes);
  let copied = 0;
  const copy = function* (from: number, length: number): Task<void> {
    // Where one piece ended early, nothing behind it counts.
    if (copied < from) return;
    const part = { ...source, offset: source.offset + from };
    const clusters = yield* copier.copy((offset + from) / clusterBytes, length / clusterBytes, part);
    copied += clusters * clusterBytes;
  };
  await requests.change(offset, wholeBytes, copy, { mapsFirst: data.isRaw });
  return copied;
}
