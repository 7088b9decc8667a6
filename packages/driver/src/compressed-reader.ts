/**
 * Reading compressed clusters: the data from the file, decompressed by whoever was given for it, several at once, and kept
 * for the next read of the same cluster.
 *
 * Two buffers of a job are as large as a descriptor and a cluster say at most: two clusters of data, one of content. The
 * gate counts both, so a request over many clusters is served in steps.
 *
 * Compressed data stands in the image file wherever other guest data does, and is not encrypted: it does not go through
 * the `DataArea`.
 *
 * Who calls holds the write lock, or has begun a read (`Allocator.beginRead`): so what a mapping leads to is not handed
 * out again while its data is being read. What is kept is forgotten when it is (`DecompressedClusters`).
 */
import { isPromise, readPadded, run, type Task, wait } from '@qcow2/block-device';
import { FormatError, InvariantError } from '@qcow2/spec';
import type { HostArea, ImageCore } from './image-core.ts';
import { JobGate } from './job-gate.ts';

/** Bytes of data and content that jobs under way may hold, those of the compressing ones included. */
const maxJobBytes = 32 * 1024 * 1024;

export class CompressedReader {
  readonly #core: ImageCore;
  readonly gate: JobGate;

  constructor(core: ImageCore) {
    this.#core = core;
    this.gate = new JobGate(Math.max(1, core.compression.parallelJobs), maxJobBytes);
  }

  /**
   * Fill `into` from a place in the cluster that the data makes.
   * @throws COMPRESSED_DAMAGED; OVERLAP, TRUNCATED where no compressed data can be [CMP-011]; UNSUPPORTED_FEATURE
   */
  read(data: HostArea, inCluster: number, into: Uint8Array): void | Promise<void> {
    const cluster = this.#core.decompressed.get(data, () => run(this.#decompress(data)));
    if (isPromise(cluster)) {
      return cluster.then((bytes) => into.set(bytes.subarray(inCluster, inCluster + into.length)));
    }
    into.set(cluster.subarray(inCluster, inCluster + into.length));
  }

  *#decompress(data: HostArea): Task<Uint8Array> {
    const { clusterBytes, device, header, compression } = this.#core;
    this.#core.refuseMetadata(data.hostOffset, data.lengthBytes);
    const held = data.lengthBytes + clusterBytes;
    yield* wait(this.gate.enter(held));
    try {
      const bytes = new Uint8Array(data.lengthBytes);
      yield* wait(readPadded(device, data.hostOffset, bytes, { event: 'read_compressed' }));
      const made = compression.decompress(header.compressionType, bytes, clusterBytes);
      const cluster = yield* wait(made);
      if (cluster.length === clusterBytes) return cluster;
      throw new InvariantError('a decompressed cluster of another length than a cluster');
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      const { clause, value } = error.context;
      throw new FormatError(error.code, 'a compressed cluster is damaged', { ...data, clause, value }, error);
    } finally {
      this.gate.leave(held);
    }
  }
}
