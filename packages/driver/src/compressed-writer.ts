/**
 * Writing compressed clusters: compressed side by side, with no lock held; put into the file and mapped one after the
 * other, under the write lock.
 *
 * Crash argument. As for every new cluster: the data is in its place before the change that maps it is submitted
 * (`afterData`), so that change is durable only after a flush that covers the data. A crash leaves the old mapping, or the
 * new one with all its data. Data that is durable is never written over; see `ByteAllocator` for what stands beside it.
 */
import { run, type Task, wait, waitAll } from '@qcow2/block-device';
import { writeCompressedEntry } from '@qcow2/codec';
import { StateError, UnsupportedFeatureError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import { ByteAllocator, type BytePlace } from './byte-allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { JobGate } from './job-gate.ts';
import type { L2Allocator } from './l2-allocation.ts';
import type { MappingTable } from './mapping.ts';
import { MetadataUpdate } from './metadata-update.ts';

export class CompressedWriter {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #allocator: Allocator;
  readonly #l2: L2Allocator;
  readonly #gate: JobGate;
  readonly #places: ByteAllocator;

  /** @param gate that decompressing jobs pass as well */
  constructor(core: ImageCore, mappings: MappingTable, allocator: Allocator, l2: L2Allocator, gate: JobGate) {
    this.#core = core;
    this.#mappings = mappings;
    this.#allocator = allocator;
    this.#l2 = l2;
    this.#gate = gate;
    this.#places = new ByteAllocator(core, allocator);
  }

  /** Clusters that are worth being compressed before any of them is placed. */
  get batchClusters(): number {
    return 4 * Math.max(1, this.#core.compression.parallelJobs);
  }

  /**
   * Whether a range can be written in compressed form.
   * @throws INVALID_ARGUMENT for a range that does not begin and end with clusters, or with the disk;
   *   UNSUPPORTED_OPERATION where nothing can be compressed
   */
  check(offset: number, lengthBytes: number): void {
    const { clusterBytes, header, compression, l2Format } = this.#core;
    const end = offset + lengthBytes;
    if (offset % clusterBytes !== 0 || (end % clusterBytes !== 0 && end !== header.sizeBytes)) {
      const context = { guestOffset: offset, lengthBytes, clause: 'CMP-005' };
      throw new StateError('INVALID_ARGUMENT', 'only whole clusters can be compressed', context);
    }
    const reason =
      compression.compress === undefined
        ? 'the image was opened with nothing to compress clusters with'
        : l2Format.externalData
          ? 'an image with an external data file has no compressed clusters'
          : header.cryptMethod !== 0
            ? 'an encrypted image gets no compressed clusters'
            : undefined;
    if (reason !== undefined) throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', reason);
  }

  /**
   * Compressed data for each cluster of `bytes`, of which the last may be incomplete; undefined for one that does
   * not get smaller. No lock is held, and `bytes` must stay as it is.
   */
  *compress(bytes: Uint8Array): Task<(Uint8Array | undefined)[]> {
    const { clusterBytes } = this.#core;
    const jobs: (Uint8Array | undefined | Promise<Uint8Array | undefined>)[] = [];
    for (let at = 0; at < bytes.length; at += clusterBytes) {
      try {
        jobs.push(run(this.#compressOne(bytes.subarray(at, at + clusterBytes))));
      } catch (error) {
        // Others may be under way: they are waited for first.
        jobs.push(Promise.reject(error));
        break;
      }
    }
    return yield* waitAll(jobs);
  }

  *#compressOne(bytes: Uint8Array): Task<Uint8Array | undefined> {
    const { clusterBytes, compression, header } = this.#core;
    const held = 2 * clusterBytes;
    yield* wait(this.#gate.enter(held));
    try {
      let cluster = bytes;
      if (bytes.length < clusterBytes) {
        cluster = new Uint8Array(clusterBytes);
        cluster.set(bytes);
      }
      const data = yield* wait(compression.compress?.(header.compressionType, cluster));
      return data !== undefined && data.length < clusterBytes ? data : undefined;
    } finally {
      this.#gate.leave(held);
    }
  }

  /**
   * Put data into the file and let a guest cluster lead to it, in place of what it leads to now. Holds: the write lock.
   * @param settles what the overlay has of the cluster is out of date with the same change; the caller drops it
   */
  *place(guestCluster: number, data: Uint8Array, settles: boolean): Task<void> {
    const { clusterBytes, clusterBits } = this.#core;
    yield* this.#l2.prepare(guestCluster);
    const before = yield* this.#mappings.lookup(guestCluster);
    const place = yield* this.#places.allocate(data.length);
    try {
      const entry = { kind: 'compressed', hostOffset: place.hostOffset, lengthBytes: data.length } as const;
      // Refused before anything is changed.
      writeCompressedEntry(new DataView(new ArrayBuffer(8)), 0, clusterBits, place.hostOffset, data.length);
      this.#core.refuseMetadata(place.hostOffset, data.length);
      yield* this.#core.writeInPlace(place.hostOffset, data, 'write_compressed');
      const update = new MetadataUpdate(this.#core, this.#mappings, this.#allocator);
      countPlace(update, place);
      update.dropMapping(before);
      update.setEntry(guestCluster, entry);
      if (settles) update.settled(guestCluster * clusterBytes, clusterBytes);
      yield* update.submit({ required: true, afterData: true });
    } catch (error) {
      this.#places.giveBack(place);
      throw error;
    }
    this.#places.keep(place, data.length);
  }
}

function countPlace(update: MetadataUpdate, { shared, reserved }: BytePlace): void {
  if (shared !== undefined) update.shareReference(shared);
  if (reserved !== undefined) update.addReference(reserved);
}
