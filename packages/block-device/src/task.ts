/**
 * Code written once for synchronous and asynchronous devices.
 *
 * A device answers `void | Promise<void>`. Code that calls one is written as a **task**, a generator that
 * yields only the promises that it really has to wait for: `run` steps it on the caller's stack until the
 * first yielded promise, and from there on the microtask queue. Where everything is at hand, a task is a
 * function call that returns its result; where something is not, the same code becomes a promise.
 *
 *     function* copy(from: BlockDevice, to: BlockDevice, into: Uint8Array): Task<void> {
 *       yield* wait(from.read(0, into));
 *       yield* wait(to.write(0, into));
 *     }
 *     const done = run(copy(a, b, buffer)); // undefined, or a promise
 *
 * Invariants: a task never yields anything but a promise; a promise that rejects is thrown into the task at
 * its `yield`, so try/catch/finally work as written; between two yields a task runs without interruption,
 * so state shared by tasks needs a lock only across yields.
 */

/** A computation that yields promises to wait for, and returns a T. Started by `run`, or by `yield*` of another. */
export type Task<T> = Generator<Promise<unknown>, T, unknown>;

/** True for a promise (or anything with a `then`), false for every value that is at hand. */
export function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return value !== null && typeof value === 'object' && 'then' in value && typeof value.then === 'function';
}

/**
 * The value, waited for only if it is a promise. In a loop that runs once per cluster,
 * `const done = device.read(…); if (isPromise(done)) yield done;` is the same without a generator object.
 */
export function* wait<T>(value: T | Promise<T>): Task<T> {
  if (!isPromise(value)) return value;
  // A runner resumes a task with what the yielded promise resolved to, which for this one is a T.
  return (yield value) as T;
}

/**
 * All values, in order, waited for together. Every one is settled before this returns or throws, so buffers
 * lent to the operations are free again either way.
 * @throws the failure that stands first in the list
 */
export function* waitAll<T>(values: readonly (T | Promise<T>)[]): Task<T[]> {
  if (!values.some(isPromise)) return values as T[];
  const settled = (yield Promise.allSettled(values)) as PromiseSettledResult<T>[];
  return settled.map((outcome) => {
    if (outcome.status === 'rejected') throw outcome.reason;
    return outcome.value;
  });
}

/**
 * Start an operation for each item, and wait for them together. Where one fails at once, no further one is started. Every
 * one is settled before this returns, throws or rejects, so buffers lent to the operations are free again.
 * @throws the failure that stands first in the order of the items
 */
export function startAll<T>(
  items: Iterable<T>,
  start: (item: T) => void | Promise<void>,
): void | Promise<void> {
  const started: Promise<void>[] = [];
  try {
    for (const item of items) {
      const pending = start(item);
      if (isPromise(pending)) started.push(pending);
    }
  } catch (error) {
    if (started.length === 0) throw error;
    started.push(Promise.reject(error));
  }
  if (started.length > 0) return run(allSettled(started));
}

function* allSettled(started: readonly Promise<void>[]): Task<void> {
  yield* waitAll(started);
}

/**
 * Run a task to its end: its result at once where it never waited, else a promise of it.
 * @throws what the task throws, on the caller's stack before its first wait, as a rejection after it
 */
export function run<T>(task: Task<T>): T | Promise<T> {
  const step = task.next();
  return step.done === true ? step.value : runOn(task, step.value);
}

async function runOn<T>(task: Task<T>, first: Promise<unknown>): Promise<T> {
  let awaited = first;
  for (;;) {
    let value: unknown;
    let failed = false;
    try {
      value = await awaited;
    } catch (error) {
      value = error;
      failed = true;
    }
    const step = failed ? task.throw(value) : task.next(value);
    if (step.done === true) return step.value;
    awaited = step.value;
  }
}
