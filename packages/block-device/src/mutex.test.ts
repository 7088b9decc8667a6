import { InvariantError } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { Mutex } from './mutex.ts';
import { isPromise, run, type Task, wait } from './task.ts';

describe('Mutex', () => {
  it('is taken synchronously when it is free', () => {
    const mutex = new Mutex();
    expect(mutex.acquire()).toBe(undefined);
    expect(mutex.locked).toBe(true);
    mutex.release();
    expect(mutex.locked).toBe(false);
    expect(mutex.acquire()).toBe(undefined);
  });

  it('serves waiters in the order in which they came, and nobody overtakes', async () => {
    const mutex = new Mutex();
    const order: string[] = [];
    mutex.acquire();
    const waiting = ['a', 'b', 'c'].map(async (name) => {
      await mutex.acquire();
      order.push(name);
      mutex.release();
    });
    mutex.release();
    // The lock was handed to a, who has not run yet: a newcomer has to queue behind c.
    const late = mutex.acquire();
    expect(isPromise(late)).toBe(true);
    await Promise.all(waiting);
    await late;
    order.push('late');
    expect(order).toEqual(['a', 'b', 'c', 'late']);
    mutex.release();
    expect(mutex.locked).toBe(false);
  });

  it('keeps tasks apart across their waits', async () => {
    const mutex = new Mutex();
    let inside = 0;
    let most = 0;
    function* body(): Task<void> {
      inside++;
      most = Math.max(most, inside);
      yield* wait(Promise.resolve());
      inside--;
    }
    await Promise.all([1, 2, 3].map(() => run(mutex.exclusive(body))));
    expect(most).toBe(1);
    expect(mutex.locked).toBe(false);
  });

  it('is released when the body throws', () => {
    const mutex = new Mutex();
    // biome-ignore lint/correctness/useYield: a body that fails at once is the case under test
    function* failing(): Task<void> {
      throw new RangeError('inside');
    }
    expect(() => run(mutex.exclusive(failing))).toThrow(RangeError);
    expect(mutex.locked).toBe(false);
  });

  it('refuses a release that nobody is owed', () => {
    expect(() => new Mutex().release()).toThrow(InvariantError);
  });
});
