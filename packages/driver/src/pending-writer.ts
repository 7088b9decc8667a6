/**
 * Delayed copy on write: guest bytes go into a host cluster that nothing refers to, and the cluster is mapped
 * when it is whole, or when something asks for the mapping.
 *
 * Crash argument. A pending cluster is reserved in memory and free on disk: a crash loses it with what no
 * flush has covered. Its mapping is submitted when all its bytes are written (`afterData`): it becomes durable
 * only after a flush that covers them. So a crash leaves the old mapping, or the new one with all its bytes.
 * A guest's flush maps what is pending before it commits, so no acknowledged byte is left out.
 *
 * Where the log takes copies and fills, what is not written when the mapping is asked for stays where it is, and the
 * log says so (`PendingFills`). Else it is brought in first. A read that fails while that is done changes nothing: the cluster stays pending, with what it has.
 *
 * Everything here holds the write lock.
 */
import { isPromise, type Task } from '@qcow2/block-device';
import { StorageError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { ClusterReader } from './cluster-reader.ts';
import { sectorBytes } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { L2Allocator } from './l2-allocation.ts';
import { leaveRest } from './later-parts.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import { MetadataUpdate } from './metadata-update.ts';
import { PendingCluster, type PendingClusters } from './pending-clusters.ts';
import type { ClusterRange } from './sector-map.ts';
import { mapped, rangesOf } from './sub-clusters.ts';

/** Bytes for a cluster, at their place in it. */
export interface Piece {
  readonly inCluster: number;
  readonly bytes: Uint8Array;
}

/** However much room the log has: the work that a flush may find is bounded. */
const mostPending = 64;
/** What mapping one takes in a record at most. */
const changeBytesPerCluster = 512;

export class PendingWriter {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #allocator: Allocator;
  readonly #reader: ClusterReader;
  readonly #l2: L2Allocator;
  readonly #clusters: PendingClusters;

  constructor(
    core: ImageCore,
    mappings: MappingTable,
    allocator: Allocator,
    reader: ClusterReader,
    l2: L2Allocator,
    clusters: PendingClusters,
  ) {
    this.#core = core;
    this.#mappings = mappings;
    this.#allocator = allocator;
    this.#reader = reader;
    this.#l2 = l2;
    this.#clusters = clusters;
  }

  get(guestCluster: number): PendingCluster | undefined {
    return this.#clusters.get(guestCluster);
  }

  /**
   * Write a piece of a cluster that is pending, or becomes so: its mapping leads to nothing that may be written.
   * Where the piece fills it, it is mapped.
   */
  *write(guestCluster: number, mapping: Mapping, piece: Piece): Task<void> {
    const known = this.#clusters.get(guestCluster);
    if (known !== undefined) {
      yield* this.#put(known, mapping, piece);
      if (known.written.isFull) yield* this.map(known);
      return;
    }
    yield* this.#makeRoom();
    const cluster = yield* this.#open(guestCluster, mapping);
    try {
      yield* this.#put(cluster, mapping, piece);
    } catch (error) {
      if (!cluster.reused) this.#allocator.unreserve(cluster.hostOffset / this.#core.clusterBytes, 1);
      throw error;
    }
    this.#clusters.add(cluster);
    if (cluster.written.isFull) yield* this.map(cluster);
  }

  /**
   * Map everything that is pending, in guest order. What can not be read keeps its cluster from being mapped, not the
   * others.
   * @throws READ_FAILED, the first such failure, when the others are mapped
   */
  *mapAll(): Task<void> {
    let failure: StorageError | undefined;
    for (const cluster of this.#clusters.sorted()) {
      try {
        yield* this.map(cluster);
      } catch (error) {
        if (!(error instanceof StorageError) || error.code !== 'READ_FAILED') throw error;
        failure ??= error;
      }
    }
    if (failure !== undefined) throw failure;
  }

  /** Map a pending cluster; what nobody has written is brought in first. */
  *map(cluster: PendingCluster): Task<void> {
    const { clusterBytes } = this.#core;
    const { guestCluster, hostOffset, reused } = cluster;
    const mapping = yield* this.#mappings.lookup(guestCluster);
    yield* this.#l2.prepare(guestCluster);
    const update = new MetadataUpdate(this.#core, this.#mappings, this.#allocator);
    const { entry, rest } = mapped(mapping, clusterBytes, cluster, cluster.written.gaps());
    const left =
      !this.#reader.readsAsZeros(guestCluster, mapping) &&
      leaveRest(this.#core, update, mapping, cluster, rest);
    if (!left) yield* this.#complete(cluster, mapping, rest);
    if (!reused) {
      update.addReference(hostOffset / clusterBytes);
      update.dropMapping(mapping);
    }
    update.setEntry(guestCluster, entry);
    const overZeros = cluster.fresh && this.#reader.readsAsZeros(guestCluster, mapping);
    yield* update.submit({ required: true, afterData: true, overZeros });
    this.#clusters.delete(cluster);
  }

  /** Its guest cluster got another mapping: what was written is forgotten. */
  drop(cluster: PendingCluster): void {
    this.#clusters.delete(cluster);
    if (!cluster.reused) this.#allocator.giveBack(cluster.hostOffset / this.#core.clusterBytes);
  }

  *#makeRoom(): Task<void> {
    const limit = Math.floor(this.#core.log.changeBytes / changeBytesPerCluster);
    const most = Math.max(1, Math.min(mostPending, limit));
    while (this.#clusters.count >= most) yield* this.map(this.#clusters.oldest()!);
  }

  *#open(guestCluster: number, mapping: Mapping): Task<PendingCluster> {
    const { clusterBytes } = this.#core;
    // Now, while the writer is there to hear that there is no room for it.
    yield* this.#l2.prepare(guestCluster);
    // Nobody reads there yet.
    const own = this.#core.data.ownPlace(guestCluster, mapping);
    const { first, fresh } = own ?? (yield* this.#allocator.allocate());
    const place = { guestCluster, hostOffset: first * clusterBytes, fresh, reused: own !== undefined };
    const cluster = new PendingCluster(place, clusterBytes);
    // Where sub-clusters of it hold data, that is written.
    const allocated = own === undefined ? 0 : (mapping.subclusters?.allocated ?? 0);
    for (const { start, end } of rangesOf(allocated, clusterBytes, { start: 0, end: clusterBytes })) {
      cluster.written.setTouched(start, end);
    }
    return cluster;
  }

  /** In whole sectors: where a sector gets its first bytes and not all of them, the rest is read. */
  *#put(cluster: PendingCluster, mapping: Mapping, { inCluster, bytes }: Piece): Task<void> {
    const end = inCluster + bytes.length;
    const { written, hostOffset } = cluster;
    const base = cluster.guestCluster * this.#core.clusterBytes;
    const head = inCluster % sectorBytes !== 0 && !written.hasSectorOf(inCluster);
    const tail = end % sectorBytes !== 0 && !written.hasSectorOf(end);
    if (!head && !tail) {
      yield* this.#core.data.write(hostOffset + inCluster, base + inCluster, bytes);
    } else {
      const from = head ? inCluster - (inCluster % sectorBytes) : inCluster;
      const to = tail ? Math.ceil(end / sectorBytes) * sectorBytes : end;
      const sectors = new Uint8Array(to - from);
      if (head) yield* this.#readUnder(cluster, mapping, from, sectors.subarray(0, sectorBytes));
      if (tail) {
        const last = to - sectorBytes;
        if (!head || last > from) {
          yield* this.#readUnder(cluster, mapping, last, sectors.subarray(last - from));
        }
      }
      sectors.set(bytes, inCluster - from);
      yield* this.#core.data.write(hostOffset + from, base + from, sectors);
    }
    written.setTouched(inCluster, end);
  }

  /** Bring in what nobody has written and the mapping needs: every gap is read and written once. */
  *#complete(cluster: PendingCluster, mapping: Mapping, gaps: readonly ClusterRange[]): Task<void> {
    const { written, hostOffset, guestCluster, fresh } = cluster;
    if (gaps.length === 0) return;
    const base = guestCluster * this.#core.clusterBytes;
    const zeros = this.#reader.readsAsZeros(guestCluster, mapping);
    if (zeros && fresh) return;
    for (const { start, end } of gaps) {
      const bytes = new Uint8Array(end - start);
      if (!zeros) yield* this.#readUnder(cluster, mapping, start, bytes);
      yield* this.#core.data.writeAround(hostOffset + start, base + start, bytes);
      // Where a later gap can not be read, this one is not read again.
      written.setTouched(start, end);
    }
  }

  /** What the guest saw there before the cluster was pending. */
  *#readUnder(
    { guestCluster }: PendingCluster,
    mapping: Mapping,
    inCluster: number,
    into: Uint8Array,
  ): Task<void> {
    const at = guestCluster * this.#core.clusterBytes + inCluster;
    const done = this.#reader.readMapped(mapping, at, inCluster, into);
    if (isPromise(done)) yield done;
  }
}
