/**
 * Operations of many changes: made in sections under the write lock, with commits in between, so that guests
 * go on meanwhile and the log never has to hold all of it.
 *
 * One operation at a time (`ImageParts.operations`), and no rest or change of the journal while one is under way.
 */
import { type Task, wait } from '@qcow2/block-device';
import type { ImageParts } from './parts.ts';

/**
 * Run `body` under the write lock, with room in the log for a change of the usual size [JRN-FAIL-003].
 * @param commit makes durable what waits in the log; it takes the lock itself
 */
export function* exclusively<T>(parts: ImageParts, commit: () => Task<void>, body: () => Task<T>): Task<T> {
  const { core, allocator } = parts;
  for (;;) {
    yield* wait(core.writeLock.acquire());
    // Others may have filled the log while this one waited for the lock. A commit takes the lock itself.
    if (core.readOnly || !core.log.isBacklogged) break;
    core.writeLock.release();
    yield* commit();
  }
  try {
    if (allocator.hasPendingFrees) yield* allocator.freePending();
    return yield* body();
  } finally {
    core.writeLock.release();
  }
}

/** One section of an operation; commits where the log has become full. */
export function* section<T>(parts: ImageParts, body: () => Task<T>): Task<T> {
  const { log } = parts.core;
  const result = yield* exclusively(parts, () => log.commit(), body);
  if (parts.mustCommit) yield* log.commit();
  return result;
}
