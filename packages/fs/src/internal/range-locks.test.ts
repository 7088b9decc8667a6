import { run, type Task, wait } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { RangeLocks } from './range-locks.ts';

/** Starts holders of ranges; each logs its name when it has its range, and keeps it until it is let go. */
function holders() {
  const locks = new RangeLocks();
  const log: string[] = [];
  const start = (name: string, from: number, end: number, writes: boolean) => {
    const gate = Promise.withResolvers<void>();
    function* hold(): Task<void> {
      const lock = yield* locks.acquire(from, end, writes);
      log.push(name);
      yield* wait(gate.promise);
      locks.release(lock);
    }
    const done = run(hold());
    return async () => {
      gate.resolve();
      await done;
      // Whoever waited for this one hears of it in the microtasks that follow.
      for (let i = 0; i < 5; i++) await Promise.resolve();
    };
  };
  return { locks, log, start };
}

describe('RangeLocks', () => {
  it('lets requests through at once that do not overlap, and reads that do', () => {
    const { locks, log, start } = holders();
    start('a', 0, 10, true);
    start('b', 10, 20, true);
    start('c', 20, 30, false);
    start('d', 25, 35, false);
    expect(log).toEqual(['a', 'b', 'c', 'd']);
    expect(locks.conflicts(30, 40, true)).toBe(true);
    expect(locks.conflicts(30, 40, false)).toBe(false);
    expect(locks.conflicts(35, 40, true)).toBe(false);
  });

  it('serves overlapping requests in the order in which they came', async () => {
    const { locks, log, start } = holders();
    const a = start('write a', 0, 10, true);
    const b = start('read b', 5, 15, false);
    const c = start('write c', 12, 20, true);
    const d = start('read d', 0, 3, false);
    expect(log).toEqual(['write a']);
    await a();
    expect(log).toEqual(['write a', 'read b', 'read d']);
    await b();
    expect(log).toEqual(['write a', 'read b', 'read d', 'write c']);
    await c();
    await d();
    expect(locks.conflicts(0, Number.POSITIVE_INFINITY, true)).toBe(false);
  });

  it('gives everything to one who asks for everything, after all before and before all after', async () => {
    const { log, start } = holders();
    const before = start('before', 100, 200, true);
    const all = start('all', 0, Number.POSITIVE_INFINITY, true);
    start('after', 500, 600, false);
    expect(log).toEqual(['before']);
    await before();
    expect(log).toEqual(['before', 'all']);
    await all();
    expect(log).toEqual(['before', 'all', 'after']);
  });
});
