/**
 * Operations of many changes: made in sections under the write lock, with commits in between, so that guests
 * go on meanwhile and the log never has to hold all of it.
 *
 * One operation at a time (`ImageParts.operations`), and no rest or change of the journal while one is under way.
 */
import { type Task, wait } from '@qcow2/block-device';
import { InvariantError, Qcow2Error, StorageError } from '@qcow2/spec';
import type { ImageParts } from './parts.ts';

/** Guests' changes pass here: while it is closed the disk stands still, and operations and the log go on. */
export class GuestGate {
  #closed: { readonly opened: Promise<void>; readonly open: () => void } | undefined;
  /** How often it was closed and not opened again: an operation within another closes it too. */
  #depth = 0;

  get isClosed(): boolean {
    return this.#closed !== undefined;
  }

  /** Resolves when it is open next; undefined: it is. */
  get opened(): Promise<void> | undefined {
    return this.#closed?.opened;
  }

  close(): void {
    if (this.#depth++ > 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#closed = { opened: promise, open: resolve };
  }

  open(): void {
    if (--this.#depth > 0) return;
    this.#closed?.open();
    this.#closed = undefined;
  }
}

/**
 * Run `body` while no guest changes the disk: all that guests have changed so far is in place and durable, and nothing is left to be
 * brought in. Reads go on. Holds: `operations`, and not the write lock.
 */
export function* whileGuestsWait<T>(parts: ImageParts, body: () => Task<T>): Task<T> {
  const { core, gate, overlay, pending } = parts;
  gate.close();
  try {
    yield* section(parts, () => parts.mapPending());
    yield* core.log.quiesce();
    if (!overlay.isEmpty || !pending.isEmpty || !core.fills.isEmpty) {
      throw new InvariantError('guest bytes wait in an image at rest', { clause: 'JRN-COMMIT-014' });
    }
    return yield* body();
  } finally {
    gate.open();
  }
}

/**
 * Run `body` under the write lock, with room in the log for a change of the usual size [JRN-FAIL-003].
 * @param commit makes durable what waits in the log; it takes the lock itself
 * @param gate what guests ask for waits until it is open
 */
export function* exclusively<T>(
  parts: ImageParts,
  commit: () => Task<void>,
  body: () => Task<T>,
  gate?: GuestGate,
): Task<T> {
  const { core, allocator } = parts;
  for (;;) {
    yield* wait(core.writeLock.acquire());
    // While this one waited for the lock, others may have filled the log, or closed the gate. A commit takes the lock itself.
    const opened = gate?.opened;
    if (opened === undefined && (core.readOnly || !core.log.isBacklogged)) break;
    core.writeLock.release();
    if (opened === undefined) yield* commit();
    else yield opened;
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

/** The section by which an operation is done: behind its change nothing can fail that would undo it. */
export function* lastSection<T>(parts: ImageParts, body: () => Task<T>): Task<T> {
  return yield* exclusively(parts, () => parts.core.log.commit(), body);
}

/** After these the log takes nothing any more: what is left of an operation is recovery's. */
export function endsWriting(error: unknown): boolean {
  if (!(error instanceof Qcow2Error)) return true;
  if (error instanceof InvariantError || error.code === 'FAILED_EARLIER') return true;
  return error instanceof StorageError && error.code !== 'READ_FAILED';
}

/**
 * Run `body`; where it fails and writing has not ended, `undo` leaves the image as it was before.
 * @throws what `body` throws; WRITE_FAILED with `message` where the image could not be left as it was
 */
export function* orUndo<T>(body: () => Task<T>, undo: () => Task<void>, message: string): Task<T> {
  try {
    return yield* body();
  } catch (error) {
    if (!endsWriting(error)) yield* orEndWriting(undo, message);
    throw error;
  }
}

/** Run what must not be left half done: whatever it fails for ends writing, so that recovery completes it. */
export function* orEndWriting<T>(body: () => Task<T>, message: string): Task<T> {
  try {
    return yield* body();
  } catch (cause) {
    if (cause instanceof Error && endsWriting(cause)) throw cause;
    throw new StorageError('WRITE_FAILED', `${message}; reopen the image to recover`, {}, cause);
  }
}
