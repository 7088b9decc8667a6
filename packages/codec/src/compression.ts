/**
 * What turns clusters into compressed data and back: the face behind which the ways to do it stand, and the one that
 * needs nothing but this package.
 */
import { compressionTypes } from '@qcow2/spec';
import { unservedCompression } from './compression-errors.ts';
import { inflate } from './inflate.ts';

/**
 * Ways to compress and decompress clusters. Each call is about one cluster and knows nothing of others, so that calls
 * may run side by side.
 */
export interface ClusterCompression {
  /** Calls that are worth having under way at once; 1 where they run on the caller's thread. */
  readonly parallelJobs: number;
  /**
   * The cluster that stands in `bytes` in compressed form, with other bytes perhaps behind it. The result is the
   * caller's; `bytes` is the callee's until then.
   * @param type a value of `compressionTypes`
   * @throws COMPRESSED_DAMAGED [CMP-008, CMP-009]; UNSUPPORTED_FEATURE for a type that is not served
   */
  decompress(type: number, bytes: Uint8Array, clusterBytes: number): Uint8Array | Promise<Uint8Array>;
  /**
   * Compressed data for a cluster, or undefined where it would not be shorter than the cluster [CMP-013]. Absent where
   * nothing can be compressed.
   * @throws UNSUPPORTED_FEATURE for a type that is not served
   */
  compress?(type: number, cluster: Uint8Array): Uint8Array | undefined | Promise<Uint8Array | undefined>;
}

/** Reads deflate, on the caller's thread and in any environment; nothing else. */
export const inflateOnly: ClusterCompression = {
  parallelJobs: 1,
  decompress(type, bytes, clusterBytes) {
    if (type !== compressionTypes.deflate) throw unservedCompression(type);
    const cluster = new Uint8Array(clusterBytes);
    inflate(bytes, cluster);
    return cluster;
  },
};
