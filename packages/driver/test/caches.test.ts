/** The two metadata caches of an open image: bounds, slices, cleaning, and that no size of them changes a byte. */
import { MemoryDevice } from '@qcow2/block-device';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage } from '../src/index.ts';
import { random } from './support/random.ts';

const clusterBytes = 4096;
/** Eight L2 tables. */
const sizeBytes = 16 * 1024 * 1024;

async function newImage(journal: boolean): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  await createImage(device, {
    sizeBytes,
    clusterBytes,
    journal: journal ? { sizeBytes: 1 << 20 } : false,
  });
  return device;
}

/** The device stays open when the image on it is closed. */
class Kept extends MemoryDevice {
  override close(): void {
    // The next image opens on it.
  }
}

afterEach(() => vi.useRealTimers());

const smallest: NonNullable<OpenOptions['cache']> = { cacheSizeBytes: 0, l2CacheEntryBytes: 512 };

describe('metadata caches', () => {
  it.each([
    ['a journal', true, smallest],
    ['a journal', true, { l2CacheSizeBytes: 4096, l2CacheEntryBytes: 1024 }],
    ['ordered writes', false, smallest],
    ['ordered writes', false, { l2CacheSizeBytes: 4096, l2CacheEntryBytes: 1024 }],
  ])('of any size show the same bytes, with %s, %s, %o', async (_name, journal, cache) => {
    const device = await newImage(journal);
    const model = new Uint8Array(sizeBytes);
    const rng = random(7);
    const image = await openImage(device, { cache });
    for (let turn = 0; turn < 1200; turn++) {
      const offset = rng.below(sizeBytes / 512 - 40) * 512;
      const lengthBytes = (1 + rng.below(40)) * 512;
      const kind = rng.below(8);
      if (kind === 0) await image.flush();
      else if (kind === 1) {
        await image.writeZeroes(offset, lengthBytes, { mayUnmap: true });
        model.fill(0, offset, offset + lengthBytes);
      } else {
        const bytes = new Uint8Array(lengthBytes).fill(1 + (turn % 255));
        await image.write(offset, bytes);
        model.set(bytes, offset);
      }
      const counters = image.cacheCounters();
      for (const one of [counters.l2, counters.refcount]) {
        expect(one.bytes).toBeLessThanOrEqual(one.maxBytes);
      }
    }
    const content = new Uint8Array(sizeBytes);
    await image.read(0, content);
    expect(Buffer.compare(content, model)).toBe(0);
    expect(image.cacheCounters().l2.evictions).toBeGreaterThan(100);
    await image.quiesce();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0 });
    await image.close();
  });

  it('read as much of a table as an entry of the cache has', async () => {
    const device = new Kept();
    await createImage(device, { sizeBytes, clusterBytes });
    const first = await openImage(device);
    await first.write(0, new Uint8Array(512).fill(1));
    await first.close();
    for (const l2CacheEntryBytes of [512, 2048, 4096]) {
      const image = await openImage(device, { cache: { l2CacheEntryBytes } });
      await image.read(0, new Uint8Array(512));
      await image.read(512 * 1024, new Uint8Array(512));
      const { l2 } = image.cacheCounters();
      // The second one's entry stands 1024 bytes further on in the table.
      expect(l2.misses).toBe(l2CacheEntryBytes === 512 ? 2 : 1);
      expect(l2.bytes).toBe(l2.misses * l2CacheEntryBytes);
      await image.close();
    }
  });

  it('forget what nobody used for an interval, and leave no timer behind', async () => {
    vi.useFakeTimers();
    const device = await newImage(false);
    const image = await openImage(device, {
      cache: { cacheCleanIntervalMs: 1000, l2CacheEntryBytes: 512 },
    });
    for (const at of [0, 4]) await image.write(at * 1024 * 1024, new Uint8Array(512).fill(1));
    await image.flush();
    const held = image.cacheCounters().l2.bytes;
    expect(held).toBeGreaterThan(0);
    expect(vi.getTimerCount()).toBe(1);
    vi.advanceTimersByTime(1000);
    expect(image.cacheCounters().l2.bytes).toBe(held);
    const into = new Uint8Array(512);
    await image.read(0, into);
    vi.advanceTimersByTime(1000);
    expect(image.cacheCounters().l2).toMatchObject({ bytes: 512, cleaned: held / 512 - 1 });
    vi.advanceTimersByTime(2000);
    expect(image.cacheCounters()).toMatchObject({ l2: { bytes: 0 }, refcount: { bytes: 0 } });
    // Empty caches need no timer; the next miss starts one.
    expect(vi.getTimerCount()).toBe(0);
    await image.read(4 * 1024 * 1024, into);
    expect(into[0]).toBe(1);
    expect(vi.getTimerCount()).toBe(1);
    await image.close();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('are never cleaned with an interval of 0', async () => {
    vi.useFakeTimers();
    const image = await openImage(await newImage(false), { cache: { cacheCleanIntervalMs: 0 } });
    await image.write(0, new Uint8Array(512).fill(1));
    expect(vi.getTimerCount()).toBe(0);
    await image.close();
  });

  it('have room for the tables of a disk that has grown', async () => {
    const image = await openImage(await newImage(false));
    expect(image.cacheCounters().l2.maxBytes).toBe((sizeBytes / clusterBytes) * 8);
    await image.grow(4 * sizeBytes);
    expect(image.cacheCounters().l2.maxBytes).toBe(((4 * sizeBytes) / clusterBytes) * 8);
    await image.close();
  });
});
