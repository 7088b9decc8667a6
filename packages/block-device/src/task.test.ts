import { describe, expect, it } from 'vitest';
import { isPromise, run, type Task, wait, waitAll } from './task.ts';

function* sum(...values: (number | Promise<number>)[]): Task<number> {
  let total = 0;
  for (const value of values) total += yield* wait(value);
  return total;
}

describe('run', () => {
  it('returns the result itself when nothing had to be waited for', () => {
    expect(run(sum(1, 2, 3))).toBe(6);
  });

  it('returns a promise from the first wait on', async () => {
    const result = run(sum(1, Promise.resolve(2), 3, Promise.resolve(4)));
    expect(isPromise(result)).toBe(true);
    expect(await result).toBe(10);
  });

  it("runs on the caller's stack until the first promise", async () => {
    const trace: string[] = [];
    function* task(): Task<void> {
      trace.push('before');
      yield* wait(undefined);
      trace.push('still before');
      yield* wait(Promise.resolve());
      trace.push('after');
    }
    const done = run(task());
    trace.push('returned');
    await done;
    expect(trace).toEqual(['before', 'still before', 'returned', 'after']);
  });

  it('throws synchronously before the first wait', () => {
    // biome-ignore lint/correctness/useYield: a task that fails at once is the case under test
    function* failing(): Task<void> {
      throw new RangeError('at once');
    }
    expect(() => run(failing())).toThrow(RangeError);
  });

  it('rejects after it', async () => {
    function* failing(): Task<void> {
      yield* wait(Promise.resolve());
      throw new RangeError('later');
    }
    await expect(run(failing())).rejects.toThrow(RangeError);
  });

  it('throws rejections into the task, so that catch and finally work', async () => {
    const trace: string[] = [];
    function* task(): Task<string> {
      try {
        yield* wait(Promise.reject(new RangeError('below')));
        return 'not reached';
      } catch (error) {
        trace.push(error instanceof RangeError ? 'caught' : 'something else');
        // A task that has failed once can wait again.
        return yield* wait(Promise.resolve('recovered'));
      } finally {
        trace.push('finally');
      }
    }
    expect(await run(task())).toBe('recovered');
    expect(trace).toEqual(['caught', 'finally']);
  });

  it('lets falsy rejections through as failures', async () => {
    await expect(run(sum(Promise.reject(undefined)))).rejects.toBe(undefined);
  });
});

describe('waitAll', () => {
  it('is synchronous when every value is at hand', () => {
    expect(run(waitAll([1, 2, 3]))).toEqual([1, 2, 3]);
    expect(run(waitAll([]))).toEqual([]);
  });

  it('keeps the order of its values, whichever settles first', async () => {
    const late = Promise.withResolvers<number>();
    const result = run(waitAll([late.promise, Promise.resolve(2), 3]));
    late.resolve(1);
    expect(await result).toEqual([1, 2, 3]);
  });

  it('waits for every value before it throws the first failure in the list', async () => {
    const slow = Promise.withResolvers<number>();
    let settled = false;
    const result = run(waitAll([slow.promise, Promise.reject(new RangeError('second')), 3]));
    const watched = (result as Promise<number[]>).finally(() => {
      settled = true;
    });
    watched.catch(() => undefined);
    for (let i = 0; i < 10; i++) await Promise.resolve();
    expect(settled).toBe(false);
    slow.reject(new TypeError('first'));
    await expect(watched).rejects.toThrow(TypeError);
  });
});

describe('isPromise', () => {
  it('tells promises from values', () => {
    expect(isPromise(Promise.resolve(1))).toBe(true);
    for (const value of [undefined, null, 0, 'then', {}, new Uint8Array(1)]) {
      expect(isPromise<unknown>(value)).toBe(false);
    }
  });
});
