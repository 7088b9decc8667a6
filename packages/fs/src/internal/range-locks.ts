/**
 * Who may touch which bytes while calls are under way in the thread pool.
 *
 * The kernel does not promise that a read beside a write gets whole sectors (several Linux file systems copy
 * without a lock), nor in which order two overlapping writes land if each takes several calls. The contract does,
 * so requests that overlap, one of them a write, go one after the other, in the order in which they came.
 *
 * Invariant: a request waits only for requests that came before it, so there is always one that can go on.
 */
import { type Task, waitAll } from '@qcow2/block-device';

export interface RangeLock {
  readonly from: number;
  readonly end: number;
  readonly writes: boolean;
}

interface Held extends RangeLock {
  /** Made when somebody waits for this one. */
  released: PromiseWithResolvers<void> | undefined;
}

export class RangeLocks {
  readonly #held = new Set<Held>();

  /** Whether a request would have to wait now. */
  conflicts(from: number, end: number, writes: boolean): boolean {
    for (const one of this.#held) if (overlaps(one, from, end, writes)) return true;
    return false;
  }

  /** Take part in the queue, and wait for all before that conflict. To be released by the holder. */
  *acquire(from: number, end: number, writes: boolean): Task<RangeLock> {
    const waiting: Promise<void>[] = [];
    for (const one of this.#held) {
      if (!overlaps(one, from, end, writes)) continue;
      one.released ??= Promise.withResolvers<void>();
      waiting.push(one.released.promise);
    }
    const lock: Held = { from, end, writes, released: undefined };
    this.#held.add(lock);
    yield* waitAll(waiting);
    return lock;
  }

  release(lock: RangeLock): void {
    const held = lock as Held;
    this.#held.delete(held);
    held.released?.resolve();
  }
}

function overlaps(one: RangeLock, from: number, end: number, writes: boolean): boolean {
  return (writes || one.writes) && from < one.end && one.from < end;
}
