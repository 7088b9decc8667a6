/**
 * A lock for tasks: synchronous where it is free, first come first served where it is not.
 *
 * Invariant: the lock passes from the one who releases it straight to the longest waiting, so nobody who
 * comes between release and wake-up can overtake, and `locked` stays true meanwhile.
 */
import { InvariantError } from '@qcow2/spec';
import { type Task, wait } from './task.ts';

export class Mutex {
  #locked = false;
  readonly #waiting: (() => void)[] = [];

  get locked(): boolean {
    return this.#locked;
  }

  /** Take the lock: at once where it is free, else a promise that resolves when it is the caller's. */
  acquire(): void | Promise<void> {
    if (!this.#locked) {
      this.#locked = true;
      return;
    }
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  /** @throws INVARIANT if nobody holds the lock */
  release(): void {
    if (!this.#locked) throw new InvariantError('a mutex was released that nobody holds');
    const next = this.#waiting.shift();
    if (next === undefined) this.#locked = false;
    else next();
  }

  /** Run a task while holding the lock; it is released when the task ends, however it ends. */
  *exclusive<T>(body: () => Task<T>): Task<T> {
    yield* wait(this.acquire());
    try {
      return yield* body();
    } finally {
      this.release();
    }
  }
}
