/**
 * How much memory the two metadata caches take, by QEMU's rules for its options of the same names (docs/qcow2-cache.txt in
 * its repository): L2 tables in slices, refcount blocks beside them, each with a bound of its own.
 *
 * Of `cacheSizeBytes` (both together), `l2CacheSizeBytes` and `refcountCacheSizeBytes` at most two are given; of a total
 * and one of the two, the other is the rest. With a total alone the L2 cache gets as much as the disk can need, and
 * the refcount cache what is left. Without any, the L2 cache has 32 MiB or what the disk needs, whichever is less: that covers
 * 256 GiB at clusters of 64 KiB. The refcount cache has four clusters: allocation is mostly sequential, so more of them
 * seldom help.
 */
import { StateError } from '@qcow2/spec';

export interface CacheOptions {
  /** Bytes of both caches together (`cache-size`). */
  readonly cacheSizeBytes?: number | undefined;
  /** Bytes of L2 tables (`l2-cache-size`); default 32 MiB. Never more than the disk's tables take. */
  readonly l2CacheSizeBytes?: number | undefined;
  /** Bytes of refcount blocks (`refcount-cache-size`); default and least: four clusters. */
  readonly refcountCacheSizeBytes?: number | undefined;
  /**
   * Bytes of a table that are read and held together (`l2-cache-entry-size`): a power of two from 512 to the cluster
   * size. Default 4096, or 64 KiB where the cache holds all tables of the disk; a cluster where that is less.
   */
  readonly l2CacheEntryBytes?: number | undefined;
  /** Bytes of decompressed clusters; default 16 MiB. Beside the others, and no part of `cacheSizeBytes`. */
  readonly decompressedBytes?: number | undefined;
  /** Entries that nobody used for so long are dropped (`cache-clean-interval`, in ms here); default 10 minutes, 0: never. */
  readonly cacheCleanIntervalMs?: number | undefined;
}

/** What of an image decides how much its caches can use. */
export interface CachedGeometry {
  readonly clusterBytes: number;
  readonly sizeBytes: number;
  readonly l2EntryBytes: number;
}

export interface CacheSizes {
  readonly l2Bytes: number;
  readonly l2SliceBytes: number;
  readonly refcountBytes: number;
  readonly refcountSliceBytes: number;
  readonly decompressedBytes: number;
  readonly cleanIntervalMs: number;
}

const defaultL2Bytes = 32 * 1024 * 1024;
const defaultDecompressedBytes = 16 * 1024 * 1024;
const defaultL2SliceBytes = 4096;
const largestDefaultSliceBytes = 65536;
const defaultCleanIntervalMs = 600_000;
/** As QEMU: seconds of 32 bits. A timer of JavaScript waits for 25 days at most, which is long enough for a cache. */
const longestIntervalMs = (2 ** 32 - 1) * 1000;
const longestTimerMs = 2 ** 31 - 1;
const mostRefcountClusters = 2 ** 31 - 1;

/** @throws INVALID_ARGUMENT, in QEMU's words, for values that do not go together */
export function cacheSizes(options: CacheOptions, geometry: CachedGeometry): CacheSizes {
  const { clusterBytes } = geometry;
  refuseNoSizes(options);
  const maxL2Bytes = l2TableBytes(geometry);
  const { l2Bytes, refcountBytes } = share(options, clusterBytes, maxL2Bytes);
  const l2SliceBytes =
    options.l2CacheEntryBytes ??
    Math.min(clusterBytes, l2Bytes >= maxL2Bytes ? largestDefaultSliceBytes : defaultL2SliceBytes);
  if (l2SliceBytes < 512 || l2SliceBytes > clusterBytes || !Number.isInteger(Math.log2(l2SliceBytes))) {
    refuse(`L2 cache entry size must be a power of two between 512 and the cluster size (${clusterBytes})`);
  }
  const cleanIntervalMs = options.cacheCleanIntervalMs ?? defaultCleanIntervalMs;
  if (cleanIntervalMs > longestIntervalMs) refuse('Cache clean interval too big');
  if (refcountBytes / clusterBytes > mostRefcountClusters) refuse('Refcount cache size too big');
  return {
    l2Bytes: Math.max(2 * l2SliceBytes, l2Bytes),
    l2SliceBytes,
    refcountBytes: Math.max(4 * clusterBytes, refcountBytes),
    refcountSliceBytes: Math.min(clusterBytes, largestDefaultSliceBytes),
    decompressedBytes: options.decompressedBytes ?? defaultDecompressedBytes,
    cleanIntervalMs: Math.min(cleanIntervalMs, longestTimerMs),
  };
}

function share(options: CacheOptions, clusterBytes: number, maxL2Bytes: number) {
  const { cacheSizeBytes: total, l2CacheSizeBytes: l2, refcountCacheSizeBytes: refcount } = options;
  const l2Bytes = Math.min(maxL2Bytes, l2 ?? defaultL2Bytes);
  if (total === undefined) return { l2Bytes, refcountBytes: refcount ?? 0 };
  if (l2 !== undefined && refcount !== undefined) {
    refuse('cache-size, l2-cache-size and refcount-cache-size may not be set at the same time');
  }
  if (l2 !== undefined) {
    if (l2 > total) refuse('l2-cache-size may not exceed cache-size');
    return { l2Bytes, refcountBytes: total - l2Bytes };
  }
  if (refcount !== undefined) {
    if (refcount > total) refuse('refcount-cache-size may not exceed cache-size');
    return { l2Bytes: Math.min(maxL2Bytes, total - refcount), refcountBytes: refcount };
  }
  const least = 4 * clusterBytes;
  if (total >= maxL2Bytes + least) return { l2Bytes: maxL2Bytes, refcountBytes: total - maxL2Bytes };
  const refcountBytes = Math.min(total, least);
  return { l2Bytes: total - refcountBytes, refcountBytes };
}

/** All L2 entries that the disk can have, in whole clusters. */
function l2TableBytes({ clusterBytes, sizeBytes, l2EntryBytes }: CachedGeometry): number {
  const entries = Math.ceil(sizeBytes / clusterBytes);
  return Math.ceil((entries * l2EntryBytes) / clusterBytes) * clusterBytes;
}

function refuseNoSizes(options: CacheOptions): void {
  for (const [field, value] of Object.entries(options)) {
    if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) continue;
    throw new StateError('INVALID_ARGUMENT', 'expects a whole number that is not negative', { field, value });
  }
}

/** No context: the words alone are what QEMU's users know. */
function refuse(message: string): never {
  throw new StateError('INVALID_ARGUMENT', message);
}
