import { describe, expect, it } from 'vitest';
import { isPromise, run, startAll, type Task, wait, waitAll } from './task.ts';

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

describe('startAll', () => {
  it('starts all before it waits, and returns at once where nothing has to be waited for', async () => {
    const started: number[] = [];
    expect(startAll([1, 2], (item) => void started.push(item))).toBeUndefined();
    const pending = startAll([3, 4], async (item) => {
      started.push(item);
      await Promise.resolve();
    });
    expect(started).toEqual([1, 2, 3, 4]);
    expect(isPromise(pending)).toBe(true);
    await pending;
  });

  it('throws at once what fails at once, where nothing is under way', () => {
    const fail = (): void => {
      throw new RangeError('at once');
    };
    expect(() => startAll([1], fail)).toThrow(RangeError);
  });

  it('rejects only when all that was started is settled, and starts nothing behind a failure', async () => {
    const trace: string[] = [];
    const start = (item: string): void | Promise<void> => {
      trace.push(item);
      if (item === 'throws') throw new RangeError('at once');
      const later = new Promise<void>((resolve) => setTimeout(resolve, 5));
      return later.then(() => {
        trace.push(`${item} ended`);
        if (item === 'rejects') throw new TypeError('later');
      });
    };
    await expect(startAll(['works', 'throws', 'never'], start)).rejects.toThrow(RangeError);
    expect(trace).toEqual(['works', 'throws', 'works ended']);
    trace.length = 0;
    await expect(startAll(['rejects', 'works'], start)).rejects.toThrow(TypeError);
    expect(trace).toEqual(['rejects', 'works', 'rejects ended', 'works ended']);
    await expect(startAll(['rejects', 'throws'], start)).rejects.toThrow(TypeError);
  });
});
