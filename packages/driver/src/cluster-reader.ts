/**
 * Reading guest bytes: overlay first, then what is written of a pending cluster, then the mapping, then the backing
 * device.
 *
 * Where everything is in the cache and the device answers at once, a read waits for nothing. Pieces that
 * stand side by side in the file are read in one request. Compressed clusters of a request are decompressed side by side.
 */
import { isPromise, run, startAll, type Task, wait, waitAll } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import { InvariantError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { CompressedReader } from './compressed-reader.ts';
import type { GuestOverlay } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import type { PendingCluster, PendingClusters } from './pending-clusters.ts';
import type { FillSource } from './pending-fills.ts';
import { kindRuns } from './sub-clusters.ts';

export class ClusterReader {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #overlay: GuestOverlay;
  readonly #allocator: Allocator;
  readonly #pending: PendingClusters;
  readonly #compressed: CompressedReader;

  constructor(
    core: ImageCore,
    mappings: MappingTable,
    overlay: GuestOverlay,
    allocator: Allocator,
    pending: PendingClusters,
    compressed: CompressedReader,
  ) {
    this.#core = core;
    this.#mappings = mappings;
    this.#overlay = overlay;
    this.#allocator = allocator;
    this.#pending = pending;
    this.#compressed = compressed;
  }

  /**
   * Fill `into` from a guest offset; the range is in bounds. The usual case, part of one cluster whose mapping
   * is at hand and of which the overlay has nothing, takes neither a task nor an array.
   */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    const { clusterBytes } = this.#core;
    const inCluster = offset % clusterBytes;
    const guestCluster = (offset - inCluster) / clusterBytes;
    const alone =
      inCluster + into.length <= clusterBytes &&
      this.#overlay.get(guestCluster) === undefined &&
      this.#pending.get(guestCluster) === undefined;
    const mapping = alone ? this.#mappings.peek(guestCluster) : undefined;
    if (mapping === undefined) return run(this.#readPieces(offset, into));
    const epoch = this.#allocator.beginRead();
    let pending: void | Promise<void>;
    try {
      pending = this.readMapped(mapping, offset, inCluster, into);
    } catch (error) {
      this.#allocator.endRead(epoch);
      throw error;
    }
    if (isPromise(pending)) return pending.finally(() => this.#allocator.endRead(epoch));
    this.#allocator.endRead(epoch);
  }

  *#readPieces(offset: number, into: Uint8Array): Task<void> {
    const { clusterBytes } = this.#core;
    const waiting: Promise<void>[] = [];
    const laidOver: { at: number; bytes: Uint8Array }[] = [];
    const epoch = this.#allocator.beginRead();
    try {
      for (let done = 0; done < into.length; ) {
        const at = offset + done;
        const inCluster = at % clusterBytes;
        const guestCluster = (at - inCluster) / clusterBytes;
        let length = Math.min(into.length - done, clusterBytes - inCluster);
        const held = this.#overlay.get(guestCluster);
        if (held !== undefined) {
          if (this.#overlay.covers(held, inCluster, length)) {
            this.#overlay.apply(held, inCluster, into.subarray(done, done + length));
            done += length;
            continue;
          }
          // Copied now: while the read waits the cluster may be settled, or dropped, and its bytes with it.
          for (const run of this.#overlay.runs(held)) {
            const from = Math.max(run.inCluster, inCluster);
            const to = Math.min(run.inCluster + run.bytes.length, inCluster + length);
            if (from >= to) continue;
            const bytes = run.bytes.slice(from - run.inCluster, to - run.inCluster);
            laidOver.push({ at: done + from - inCluster, bytes });
          }
        }
        const mapping = this.#mappings.peek(guestCluster) ?? (yield* this.#mappings.lookup(guestCluster));
        const open = this.#pending.get(guestCluster);
        if (open !== undefined) {
          this.#readPending(open, mapping, inCluster, into.subarray(done, done + length), waiting);
          done += length;
          continue;
        }
        if (mapping.kind === clusterKind.standard && held === undefined) {
          length = yield* this.#extendRun(mapping, guestCluster, length, into.length - done, inCluster);
        }
        const pending = this.readMapped(mapping, at, inCluster, into.subarray(done, done + length));
        if (isPromise(pending)) waiting.push(later(pending));
        done += length;
      }
      if (waiting.length > 0) yield* waitAll(waiting);
      for (const { at, bytes } of laidOver) into.set(bytes, at);
    } catch (error) {
      // What is under way may still use the caller's buffer, and what the epoch holds.
      if (waiting.length > 0) yield Promise.allSettled(waiting);
      throw error;
    } finally {
      this.#allocator.endRead(epoch);
    }
  }

  /** Sectors that were written from where they stand, the others from where they came from before. */
  #readPending(
    cluster: PendingCluster,
    mapping: Mapping,
    inCluster: number,
    into: Uint8Array,
    waiting: Promise<void>[],
  ): void {
    const base = cluster.guestCluster * this.#core.clusterBytes;
    for (const { start, end, set } of cluster.written.runs(inCluster, inCluster + into.length)) {
      const piece = into.subarray(start - inCluster, end - inCluster);
      const pending = set
        ? this.#core.data.read(cluster.hostOffset + start, base + start, piece)
        : this.readMapped(mapping, base + start, start, piece);
      if (isPromise(pending)) waiting.push(later(pending));
    }
  }

  /** The guest sees zeros in all of the cluster, and that is known without reading. */
  readsAsZeros(guestCluster: number, { kind, subclusters }: Mapping): boolean {
    const { backing, clusterBytes } = this.#core;
    if (kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated) return true;
    if (kind === clusterKind.compressed || kind === clusterKind.standard) return false;
    if (kind === clusterKind.mixed && subclusters?.allocated !== 0) return false;
    return backing === undefined || guestCluster * clusterBytes >= backing.sizeBytes;
  }

  /** Bytes below the overlay: what the mapping, or the backing device, has. */
  readMapped(mapping: Mapping, at: number, inCluster: number, into: Uint8Array): void | Promise<void> {
    switch (mapping.kind) {
      case clusterKind.standard:
        return this.#readHost(mapping.hostOffset + inCluster, at, into);
      case clusterKind.zeroPlain:
      case clusterKind.zeroAllocated:
        into.fill(0);
        return;
      case clusterKind.unallocated:
      case clusterKind.preallocated:
        return this.#readBacking(at, into);
      case clusterKind.compressed:
        return this.#compressed.read(mapping.compressed!, inCluster, into);
      case clusterKind.mixed:
        return this.#readSubclusters(mapping, at, inCluster, into);
      default:
        throw new InvariantError('a cluster kind that nobody knows');
    }
  }

  /** Neighbours of one kind are read in one request. */
  #readSubclusters(mapping: Mapping, at: number, inCluster: number, into: Uint8Array): void | Promise<void> {
    const { clusterBytes } = this.#core;
    return startAll(kindRuns(mapping, clusterBytes, inCluster, inCluster + into.length), (run) => {
      const piece = into.subarray(run.start - inCluster, run.end - inCluster);
      const pieceAt = at + run.start - inCluster;
      return this.readMapped({ ...mapping, kind: run.kind }, pieceAt, run.start, piece);
    });
  }

  /** What stands in place, and what stands elsewhere until it is brought in [JRN-COPY-006]. */
  #readHost(hostOffset: number, at: number, into: Uint8Array): void | Promise<void> {
    const { fills } = this.#core;
    if (fills.isEmpty) return this.#core.data.read(hostOffset, at, into);
    return startAll(fills.segments(hostOffset, into.length), ({ hostOffset: from, lengthBytes, source }) => {
      const start = from - hostOffset;
      const piece = into.subarray(start, start + lengthBytes);
      return source === undefined
        ? this.#core.data.read(from, at + start, piece)
        : this.readSource(source, piece);
    });
  }

  /**
   * Whether what a small write leaves of a cluster can be read when it is brought in: now, while the writer is there to
   * hear that it can not.
   */
  *probe(mapping: Mapping): Task<void> {
    if (mapping.compressed === undefined) return;
    yield* wait(this.#compressed.read(mapping.compressed, 0, new Uint8Array(0)));
  }

  readSource(source: FillSource, into: Uint8Array): void | Promise<void> {
    return source.kind === 'copy'
      ? this.#core.data.readForCopy(source.hostOffset, into)
      : this.#readBacking(source.guestOffset, into);
  }

  #readBacking(at: number, into: Uint8Array): void | Promise<void> {
    const { backing } = this.#core;
    const length = backing === undefined ? 0 : Math.max(0, Math.min(into.length, backing.sizeBytes - at));
    into.fill(0, length);
    if (backing !== undefined && length > 0)
      return backing.read(at, into.subarray(0, length), { event: 'cow_read' });
  }

  *#extendRun(
    mapping: Mapping,
    guestCluster: number,
    length: number,
    wanted: number,
    inCluster: number,
  ): Task<number> {
    const { clusterBytes } = this.#core;
    let run = length;
    for (let i = 1; run < wanted; i++) {
      if (this.#overlay.get(guestCluster + i) !== undefined) break;
      if (this.#pending.get(guestCluster + i) !== undefined) break;
      const next = this.#mappings.peek(guestCluster + i) ?? (yield* this.#mappings.lookup(guestCluster + i));
      if (next.kind !== clusterKind.standard || next.hostOffset !== mapping.hostOffset + i * clusterBytes)
        break;
      run = Math.min(wanted, (i + 1) * clusterBytes - inCluster);
    }
    return run;
  }
}

/** A failure is heard when all are waited for; until then nobody else is to take it for unheard. */
function later(pending: Promise<void>): Promise<void> {
  pending.catch(() => undefined);
  return pending;
}
