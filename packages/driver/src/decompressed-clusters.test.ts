import { describe, expect, it } from 'vitest';
import { DecompressedClusters } from './decompressed-clusters.ts';

const clusterBytes = 1024;
const place = (hostOffset: number, lengthBytes = 512) => ({ hostOffset, lengthBytes });
const cluster = (byte: number): Uint8Array => new Uint8Array(clusterBytes).fill(byte);
const newCache = (clusters: number, onFilled = () => {}) =>
  new DecompressedClusters(clusterBytes, clusters * clusterBytes, onFilled);
const never = (): never => {
  throw new TypeError('made again');
};

describe('DecompressedClusters', () => {
  it('keeps what was used last', () => {
    const cache = newCache(2);
    for (const at of [0, 5000, 0, 9000]) cache.get(place(at), () => cluster(at / 1000));
    expect(cache.get(place(0), never)).toEqual(cluster(0));
    expect(cache.get(place(9000), never)).toEqual(cluster(9));
    expect(cache.get(place(5000), () => cluster(55))).toEqual(cluster(55));
    expect(cache.counters).toEqual({ hits: 3, misses: 4, bytes: 2 * clusterBytes });
  });

  it('tells data of one beginning and different lengths apart', () => {
    const cache = newCache(4);
    cache.get(place(0, 512), () => cluster(1));
    expect(cache.get(place(0, 1024), () => cluster(2))).toEqual(cluster(2));
    expect(cache.get(place(0, 512), never)).toEqual(cluster(1));
  });

  it('shares what is being made, and forgets it where it fails', async () => {
    const cache = newCache(2);
    const { promise, reject } = Promise.withResolvers<Uint8Array>();
    const first = cache.get(place(0), () => promise);
    expect(cache.get(place(0), never)).toBe(first);
    reject(new TypeError('damaged'));
    await expect(first).rejects.toThrow('damaged');
    await Promise.resolve();
    expect(cache.get(place(0), () => cluster(3))).toEqual(cluster(3));
  });

  it('forgets what begins in a host cluster, and what is being made of it', async () => {
    const cache = newCache(4);
    cache.get(place(1500), () => cluster(1));
    cache.get(place(100), () => cluster(2));
    const { promise, resolve } = Promise.withResolvers<Uint8Array>();
    cache.get(place(1100), () => promise);
    cache.forget(1);
    cache.forget(7);
    resolve(cluster(9));
    await promise;
    expect(cache.counters.bytes).toBe(clusterBytes);
    expect(cache.get(place(1100), () => cluster(4))).toEqual(cluster(4));
    expect(cache.get(place(1500), () => cluster(5))).toEqual(cluster(5));
    expect(cache.get(place(100), never)).toEqual(cluster(2));
  });

  it('gives back what nobody used for a while, and says when it begins to hold something', () => {
    let filled = 0;
    const cache = newCache(4, () => filled++);
    expect(cache.isEmpty).toBe(true);
    cache.get(place(0), () => cluster(1));
    cache.get(place(5000), () => cluster(2));
    cache.dropUnused();
    cache.get(place(0), never);
    cache.dropUnused();
    expect(cache.counters.bytes).toBe(clusterBytes);
    cache.dropUnused();
    expect(cache.isEmpty).toBe(true);
    cache.get(place(0), () => cluster(1));
    expect(filled).toBe(2);
  });

  it('keeps nothing where nothing may be kept', () => {
    const cache = newCache(0);
    cache.get(place(0), () => cluster(1));
    expect(cache.isEmpty).toBe(true);
  });
});
