import { describe, expect, it } from 'vitest';
import { type CacheOptions, cacheSizes } from './cache-sizes.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const GiB = 1024 * MiB;

/** A disk of 1 GiB in clusters of 64 KiB: its L2 tables take 128 KiB. */
const small = { clusterBytes: 64 * KiB, sizeBytes: GiB, l2EntryBytes: 8 };
/** A disk of 1 TiB: 128 MiB of tables. */
const large = { ...small, sizeBytes: 1024 * GiB };

function sizes(options: CacheOptions, geometry = large) {
  const { l2Bytes, refcountBytes } = cacheSizes(options, geometry);
  return [l2Bytes, refcountBytes];
}

describe('sizes of the metadata caches', () => {
  it('are 32 MiB of L2 tables and four clusters of refcounts, and no more than the disk needs', () => {
    expect(sizes({})).toEqual([32 * MiB, 256 * KiB]);
    expect(sizes({}, small)).toEqual([128 * KiB, 256 * KiB]);
    expect(sizes({ l2CacheSizeBytes: 16 * MiB }, small)).toEqual([128 * KiB, 256 * KiB]);
    // Entries of 16 bytes take twice as much.
    expect(sizes({}, { ...small, l2EntryBytes: 16 })).toEqual([256 * KiB, 256 * KiB]);
  });

  it('give what is left of a total to the one that is not named', () => {
    expect(sizes({ cacheSizeBytes: 8 * MiB, l2CacheSizeBytes: 6 * MiB })).toEqual([6 * MiB, 2 * MiB]);
    expect(sizes({ cacheSizeBytes: 8 * MiB, refcountCacheSizeBytes: MiB })).toEqual([7 * MiB, MiB]);
  });

  it('give a total alone to L2 tables first, beyond the least of refcounts', () => {
    expect(sizes({ cacheSizeBytes: 8 * MiB })).toEqual([8 * MiB - 256 * KiB, 256 * KiB]);
    expect(sizes({ cacheSizeBytes: 8 * MiB }, small)).toEqual([128 * KiB, 8 * MiB - 128 * KiB]);
  });

  it('have a least, however little is asked for', () => {
    const least = cacheSizes({ l2CacheSizeBytes: 0, refcountCacheSizeBytes: 0 }, large);
    expect(least).toMatchObject({ l2Bytes: 2 * 4096, l2SliceBytes: 4096, refcountBytes: 256 * KiB });
  });

  it('hold whole tables where all have room, and pieces of 4 KiB where they have not', () => {
    expect(cacheSizes({}, small).l2SliceBytes).toBe(64 * KiB);
    expect(cacheSizes({}, large).l2SliceBytes).toBe(4096);
    expect(cacheSizes({}, { ...large, clusterBytes: 512, sizeBytes: GiB }).l2SliceBytes).toBe(512);
    expect(cacheSizes({ l2CacheEntryBytes: 16 * KiB }, small).l2SliceBytes).toBe(16 * KiB);
  });

  it.each<[CacheOptions, string]>([
    [
      { cacheSizeBytes: MiB, l2CacheSizeBytes: MiB, refcountCacheSizeBytes: 0 },
      'cache-size, l2-cache-size and refcount-cache-size may not be set at the same time',
    ],
    [{ cacheSizeBytes: MiB, l2CacheSizeBytes: 2 * MiB }, 'l2-cache-size may not exceed cache-size'],
    [{ cacheSizeBytes: 1, refcountCacheSizeBytes: 2 }, 'refcount-cache-size may not exceed cache-size'],
    ...[256, 1000, 128 * KiB].map((bytes): [CacheOptions, string] => [
      { l2CacheEntryBytes: bytes },
      'L2 cache entry size must be a power of two between 512 and the cluster size (65536)',
    ]),
    [{ cacheCleanIntervalMs: 2 ** 32 * 1000 }, 'Cache clean interval too big'],
    [{ refcountCacheSizeBytes: 2 ** 47 + 65536 }, 'Refcount cache size too big'],
  ])('refuses %o', (options, message) => {
    expect(() => cacheSizes(options, large)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message }),
    );
  });

  it.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY])('refuses %d bytes', (bytes) => {
    expect(() => cacheSizes({ l2CacheSizeBytes: bytes }, large)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});
