import { run, type Task } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { TableCache, type TableSlice } from './table-cache.ts';

const sliceBytes = 512;

/** A cache over bytes that name their place, read at once or when the test says. */
function cacheOf(options: { slices?: number; later?: boolean } = {}) {
  const reads: number[] = [];
  const held: { resolve: () => void; reject: (error: Error) => void }[] = [];
  const cache = new TableCache({
    sliceBytes,
    maxBytes: (options.slices ?? 8) * sliceBytes,
    load: (hostOffset, into) => {
      reads.push(hostOffset);
      into.fill(hostOffset / sliceBytes);
      if (options.later !== true) return;
      return new Promise<void>((resolve, reject) => held.push({ resolve, reject }));
    },
  });
  return { cache, reads, held };
}

function get(cache: TableCache, at: number): TableSlice {
  const slice = run(cache.load(at));
  if (slice instanceof Promise) throw new TypeError('the cache had to wait');
  return slice;
}

describe('a table cache', () => {
  it('reads a slice once, whatever place in it is asked for, and without waiting where the loader does not', () => {
    const { cache, reads } = cacheOf();
    for (const at of [1024, 1025, 1535]) expect(get(cache, at).hostOffset).toBe(1024);
    expect(get(cache, 1024).bytes[0]).toBe(2);
    expect(cache.peek(1300)?.hostOffset).toBe(1024);
    expect(cache.peek(512)).toBeUndefined();
    expect(reads).toEqual([1024]);
    expect(cache.counters).toMatchObject({ misses: 1, bytes: sliceBytes });
  });

  it('forgets the slice that was not used for longest, and never holds more than its bound', () => {
    const { cache, reads } = cacheOf({ slices: 4 });
    for (let i = 0; i < 4; i++) get(cache, i * sliceBytes);
    get(cache, 0);
    get(cache, 4 * sliceBytes);
    expect(cache.peek(sliceBytes)).toBeUndefined();
    expect(cache.peek(0)).toBeDefined();
    for (let i = 0; i < 100; i++) get(cache, i * sliceBytes);
    expect(cache.counters.bytes).toBeLessThanOrEqual(4 * sliceBytes);
    expect(cache.counters.evictions).toBeGreaterThan(90);
    expect(reads.length).toBe(cache.counters.misses);
  });

  it('lets two that ask for a slice at once share a read', async () => {
    const { cache, reads, held } = cacheOf({ later: true });
    const both = [run(cache.load(512)), run(cache.load(600))];
    expect(reads).toEqual([512]);
    held[0]!.resolve();
    const [first, second] = await Promise.all(both);
    expect(second).toBe(first);
  });

  it('keeps nothing of a read that failed; who waited for it reads again', async () => {
    const { cache, reads, held } = cacheOf({ later: true });
    const first = Promise.resolve(run(cache.load(512)));
    const second = Promise.resolve(run(cache.load(512)));
    held[0]!.reject(new RangeError('broken'));
    await expect(first).rejects.toThrow('broken');
    expect(cache.peek(512)).toBeUndefined();
    expect(reads).toEqual([512, 512]);
    held[1]!.resolve();
    expect((await second).hostOffset).toBe(512);
  });

  it('believes what was put in while a read of the same place was under way', async () => {
    const { cache, held } = cacheOf({ later: true });
    const reading = Promise.resolve(run(cache.load(512)));
    cache.put(512, new Uint8Array(sliceBytes).fill(77));
    held[0]!.resolve();
    expect((await reading).bytes[0]).toBe(77);
  });

  it('puts back a slice that was evicted, and gives the one that is there otherwise', () => {
    const { cache } = cacheOf({ slices: 4 });
    const mine = get(cache, 0);
    expect(cache.restore(mine)).toBe(mine);
    for (let i = 1; i < 10; i++) get(cache, i * sliceBytes);
    expect(cache.peek(0)).toBeUndefined();
    mine.bytes[0] = 99;
    const restored = cache.restore(mine);
    expect(restored.bytes).toBe(mine.bytes);
    expect(cache.peek(0)?.view.getUint8(0)).toBe(99);
  });

  it('drops what is freed, and reads it anew', () => {
    const { cache, reads } = cacheOf();
    for (const at of [0, 512, 1024, 1536]) get(cache, at);
    cache.drop(512, 1024);
    expect([0, 512, 1024, 1536].map((at) => cache.peek(at) !== undefined)).toEqual([
      true,
      false,
      false,
      true,
    ]);
    get(cache, 512);
    expect(reads.filter((at) => at === 512)).toHaveLength(2);
    cache.clear();
    expect(cache.counters.bytes).toBe(0);
  });

  it('agrees with a map under any order of requests', () => {
    const { cache } = cacheOf({ slices: 5 });
    const content = new Map<number, number>();
    let state = 1;
    const below = (limit: number): number => {
      state = (Math.imul(state, 48271) >>> 0) % 0x7fffffff;
      return state % limit;
    };
    const task = function* (): Task<void> {
      for (let turn = 0; turn < 3000; turn++) {
        const index = below(12);
        const slice = yield* cache.load(index * sliceBytes);
        expect(slice.hostOffset).toBe(index * sliceBytes);
        // What is changed is lost with the slice here: there is no log behind this loader.
        if (cache.peek(index * sliceBytes) !== slice) continue;
        content.set(index, slice.bytes[0]!);
        if (below(4) === 0) cache.put(index * sliceBytes, new Uint8Array(sliceBytes).fill(index));
        if (below(9) === 0) cache.drop(index * sliceBytes, sliceBytes);
      }
    };
    void run(task());
    for (const [index, value] of content) expect(value).toBe(index);
  });
});
