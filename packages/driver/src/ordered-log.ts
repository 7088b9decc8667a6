/**
 * The metadata log of an image without a journal: two flushes for a guest flush that changed mappings, one
 * where it did not. The crash argument is that of `OrderedWrites`.
 */
import { type BlockDevice, Mutex, type Task } from '@qcow2/block-device';
import { OrderedWrites } from '@qcow2/cache';
import { Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import type { MetadataChange, MetadataLog } from './metadata-log.ts';

export interface OrderedLogHooks {
  /** Make the file long enough for every cluster handed out. */
  readonly beforeFlush: () => Task<void>;
  /** Count down the references whose mappings are gone for good. Queues refcount writes. */
  readonly releaseFreed: () => Task<void>;
}

/** Changed bytes that may wait for a flush. */
const maxPendingBytes = 1 << 20;

export class OrderedLog implements MetadataLog {
  readonly lateFrees = true;
  readonly #writes: OrderedWrites;
  readonly #hooks: OrderedLogHooks;
  readonly #mutex = new Mutex();
  #dataWritten = false;
  #requested = 0;
  #covered = 0;
  #generation = 0;
  #failure: Qcow2Error | undefined;

  constructor(device: BlockDevice, hooks: OrderedLogHooks) {
    this.#writes = new OrderedWrites(device);
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
    try {
      yield* this.#hooks.beforeFlush();
      const dataWritten = this.#dataWritten;
      this.#dataWritten = false;
      yield* this.#writes.flush(dataWritten);
      this.#generation++;
      yield* this.#hooks.releaseFreed();
    } catch (error) {
      this.#failure ??=
        error instanceof Qcow2Error
          ? error
          : new StorageError('WRITE_FAILED', 'the device failed while metadata was written', {}, error);
      throw this.#failure;
    }
    this.#covered = covers;
  }

  *quiesce(): Task<void> {
    // What a commit frees is counted down in memory when it is done, and written by the next one.
    do yield* this.commit();
    while (!this.#writes.isEmpty);
  }

  #refuseFailed(): void {
    if (this.#failure === undefined) return;
    const message = `an earlier write or flush failed (${this.#failure.code}); reopen the image`;
    throw new StateError('FAILED_EARLIER', message, {}, this.#failure);
  }
}
