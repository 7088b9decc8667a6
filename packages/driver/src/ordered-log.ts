/**
 * The metadata log of an image without a journal: two flushes for a guest flush that changed mappings, one
 * where it did not. The crash argument is that of `OrderedWrites`.
 *
 * With lazy refcounts (`hooks.writeMark`) refcounts stay behind while the image is marked as dirty, and a commit takes one
 * flush wherever its bytes may come with the mapping; see `LazyWrites`. `quiesce` writes them and takes the mark away.
 */
import { type BlockDevice, Mutex, type Task } from '@qcow2/block-device';
import { LazyWrites, OrderedWrites, type WriteMark } from '@qcow2/cache';
import { Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import type { MetadataChange, MetadataLog } from './metadata-log.ts';

export interface OrderedLogHooks {
  /** Make the file long enough for every cluster handed out. */
  readonly beforeFlush: () => Task<void>;
  /** Count down the references whose mappings are gone for good. Queues refcount writes. */
  readonly releaseFreed: () => Task<void>;
  /** Clusters in use end here. */
  readonly reachBytes: () => number;
  /** Given: refcounts are lazy, and this marks the image as dirty. */
  readonly writeMark?: WriteMark;
}

/** Changed bytes that may wait for a flush. */
const maxPendingBytes = 1 << 20;

export class OrderedLog implements MetadataLog {
  readonly lateFrees = true;
  readonly #writes: OrderedWrites | LazyWrites;
  readonly #hooks: OrderedLogHooks;
  readonly #mutex = new Mutex();
  #dataWritten = false;
  /** Bytes must be durable before a change that waits. */
  #ordered = false;
  #requested = 0;
  #covered = 0;
  #generation = 0;
  #failure: Qcow2Error | undefined;

  constructor(device: BlockDevice, hooks: OrderedLogHooks) {
    this.#writes =
      hooks.writeMark === undefined ? new OrderedWrites(device) : new LazyWrites(device, hooks.writeMark);
    this.#hooks = hooks;
  }

  get failure(): Qcow2Error | undefined {
    return this.#failure;
  }

  get generation(): number {
    return this.#generation;
  }

  get isBacklogged(): boolean {
    return this.#writes.pendingBytes >= maxPendingBytes;
  }

  get changeBytes(): number {
    return maxPendingBytes;
  }

  get isIdle(): boolean {
    return !this.#mutex.locked && this.#writes.isEmpty;
  }

  noteDeviceWrite(): void {
    this.#dataWritten = true;
  }

  submit(change: MetadataChange): void {
    this.#refuseFailed();
    for (const { hostOffset, lengthBytes } of change.revokes) this.#writes.forget(hostOffset, lengthBytes);
    for (const { step, hostOffset, bytes } of change.writes) this.#writes.write(step, hostOffset, bytes);
    if (change.afterData && change.overZeros !== true) this.#ordered = true;
    if (change.onDurable !== undefined) this.#writes.afterMappings(change.onDurable);
  }

  patch(hostOffset: number, into: Uint8Array): void {
    this.#writes.patch(hostOffset, into);
  }

  *commit(): Task<void> {
    const ticket = ++this.#requested;
    yield* this.#mutex.exclusive(() => this.#commitFor(ticket));
  }

  *#commitFor(ticket: number): Task<void> {
    this.#refuseFailed();
    if (this.#covered >= ticket) return;
    const covers = this.#requested;
    yield* this.#orFail(() => this.#flush());
    this.#covered = covers;
  }

  *#flush(): Task<void> {
    yield* this.#hooks.beforeFlush();
    const dataWritten = this.#dataWritten;
    const ordered = this.#ordered;
    this.#dataWritten = false;
    this.#ordered = false;
    if (this.#writes instanceof LazyWrites) {
      yield* this.#writes.flush({ dataWritten, ordered, reachBytes: this.#hooks.reachBytes() });
    } else {
      yield* this.#writes.flush(dataWritten);
    }
    this.#generation++;
    yield* this.#hooks.releaseFreed();
  }

  *quiesce(): Task<void> {
    // What a commit frees is counted down in memory when it is done, and written by the next one.
    do {
      yield* this.commit();
      yield* this.#settle();
    } while (!this.#writes.isEmpty);
  }

  *#settle(): Task<void> {
    const writes = this.#writes;
    if (!(writes instanceof LazyWrites)) return;
    yield* this.#mutex.exclusive(() =>
      this.#orFail(function* settle() {
        yield* writes.settle();
      }),
    );
    this.#generation++;
  }

  /** A failure is kept: from here on nobody knows what is on disk. */
  *#orFail(task: () => Task<void>): Task<void> {
    this.#refuseFailed();
    try {
      yield* task();
    } catch (error) {
      this.#failure ??=
        error instanceof Qcow2Error
          ? error
          : new StorageError('WRITE_FAILED', 'the device failed while metadata was written', {}, error);
      throw this.#failure;
    }
  }

  #refuseFailed(): void {
    if (this.#failure === undefined) return;
    const message = `an earlier write or flush failed (${this.#failure.code}); reopen the image`;
    throw new StateError('FAILED_EARLIER', message, {}, this.#failure);
  }
}
