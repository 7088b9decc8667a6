/**
 * How what is asked of an open image is run: guests' changes in pieces under the write lock, commits, rest, and the
 * end of writing.
 *
 * Reads take no lock. Everything that changes metadata or places guest bytes holds the core's write lock,
 * so two writes to one unallocated cluster can not allocate twice. Flushes wait for no lock; concurrent ones
 * share a commit.
 *
 * A failed write or flush of the device below ends writing for good (fail-stop): what is on disk is not
 * known any more, every later write and flush is refused with FAILED_EARLIER, and a reopen recovers.
 */
import { checkRange, isPromise, run, type Task, wait } from '@qcow2/block-device';
import { InvariantError, Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import { refuseMissing } from './data-area.ts';
import { needsSecret } from './encryption-header.ts';
import { exclusively } from './operation.ts';
import type { ImageParts } from './parts.ts';

export interface ChangeOptions {
  readonly fua?: boolean | undefined;
  /** What is not mapped is mapped to zeros before anything is written there. */
  readonly mapsFirst?: boolean;
}

export class ImageRequests {
  readonly #parts: ImageParts;
  #closed = false;
  #failure: Qcow2Error | undefined;
  /** Of a raw data file: how often clusters were mapped, and how many of these times are durable. */
  #mapsMade = 0;
  #mapsDurable = 0;
  /** Counts changes and flushes: whether anything came since the idle timer was set. */
  #activity = 0;
  #idleTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(parts: ImageParts) {
    this.#parts = parts;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** What ended writing; undefined: nothing did. */
  get failure(): Qcow2Error | undefined {
    return this.#failure ?? (this.#readOnly ? undefined : this.#parts.core.log.failure);
  }

  /** Whether clusters of a raw data file are mapped, and not durably so. */
  get hasOpenMaps(): boolean {
    return this.#mapsMade > this.#mapsDurable;
  }

  get #readOnly(): boolean {
    return this.#parts.core.readOnly;
  }

  get #sizeBytes(): number {
    return this.#parts.core.header.sizeBytes;
  }

  /** Nothing is asked for any more, nor done of itself. */
  end(): void {
    this.#closed = true;
    clearTimeout(this.#idleTimer);
  }

  /** Write back all that the log holds, as `Qcow2Image.quiesce`. */
  async rest(): Promise<void> {
    this.refuseClosed();
    if (this.#readOnly) return;
    this.refuseFailed();
    await run(this.guard(this.quiesce()));
  }

  /** Change a guest range, as `changeTask`. A failure that ends writing is kept. */
  change(
    offset: number,
    lengthBytes: number,
    body: (from: number, length: number) => Task<void>,
    options: ChangeOptions = {},
  ): void | Promise<void> {
    return run(this.guard(this.changeTask(offset, lengthBytes, body, options)));
  }

  /**
   * Change a guest range, each piece of it under the write lock. Pieces end at cluster borders and are as large as
   * what the log has room for [JRN-FAIL-003]; between two of them a full log is committed.
   */
  *changeTask(
    offset: number,
    lengthBytes: number,
    body: (from: number, length: number) => Task<void>,
    { fua, mapsFirst }: ChangeOptions,
  ): Task<void> {
    const parts = this.#parts;
    for (let done = 0; done < lengthBytes; ) {
      const from = done;
      const inCluster = (offset + from) % parts.core.clusterBytes;
      const length = Math.min(lengthBytes - from, parts.pieceBytes - inCluster);
      if (mapsFirst === true) yield* this.#mapFirst(offset + from, length);
      yield* this.#inBitmaps(offset + from, length, () => body(from, length));
      done += length;
      this.#activity++;
      if (parts.bitmaps.isFull) yield* parts.bitmaps.store();
      if (parts.overlayIsFull) yield* this.exclusively(() => parts.settleUnlogged());
      if (parts.mustCommit) yield* this.commit();
    }
    if (fua === true) yield* this.commit();
  }

  /** Change a range that every enabled bitmap has noted before. */
  *#inBitmaps(offset: number, lengthBytes: number, body: () => Task<void>): Task<void> {
    const { bitmaps } = this.#parts;
    const attempt = function* (this: ImageRequests): Task<boolean> {
      // The disk may have become smaller while this one waited.
      checkRange(offset, lengthBytes, this.#sizeBytes);
      if (!bitmaps.note(offset, lengthBytes)) return false;
      yield* body();
      return true;
    }.bind(this);
    while (!(yield* this.exclusively(attempt))) yield* bitmaps.cover(offset, lengthBytes);
  }

  /** A raw data file: what is written to is mapped, and durably so [DAT-005]. */
  *#mapFirst(offset: number, lengthBytes: number): Task<void> {
    if (yield* this.exclusively(() => this.#parts.writer.mapRange(offset, lengthBytes))) this.#mapsMade++;
    // What is mapped already may have been so by another write, which is still waiting for its commit.
    if (!this.hasOpenMaps) return;
    const made = this.#mapsMade;
    yield* this.commit();
    this.#mapsDurable = Math.max(this.#mapsDurable, made);
  }

  /** Run a guest's change under the write lock, with room for it in the log; waits while operations keep guests out. */
  *exclusively<T>(body: () => Task<T>): Task<T> {
    return yield* exclusively(this.#parts, () => this.commit(), body, this.#parts.gate);
  }

  /** Make durable all that was done when this was called. Takes the write lock itself. */
  *commit(): Task<void> {
    yield* this.#mapPending();
    yield* this.#parts.core.log.commit();
    this.#noteActivity();
  }

  /** Write guest bytes, the shortest way there is for them. @throws as `Qcow2Image.write` */
  write(offset: number, bytes: Uint8Array, fua: boolean): void | Promise<void> {
    this.refuseWrite(offset, bytes.length);
    const parts = this.#parts;
    if (!fua && !parts.mustWaitToWrite && !this.hasOpenMaps) {
      const hostOffset = parts.writer.inPlaceOffset(offset, bytes.length);
      if (hostOffset === undefined) {
        if (this.#gatherAtOnce(offset, bytes)) return;
      } else if (parts.bitmaps.note(offset, bytes.length)) {
        return this.#writeInPlace(hostOffset, offset, bytes);
      }
    }
    // The writer is asked for when the lock is held: with the journal it comes and goes.
    const write = (from: number, length: number): Task<void> =>
      parts.writer.write(offset + from, bytes.subarray(from, from + length));
    return this.change(offset, bytes.length, write, { fua, mapsFirst: parts.core.data.isRaw });
  }

  /**
   * The usual write, without a task: its bytes go where the mapping says, and nothing else changes. The
   * write lock is free; where the device takes its time, it is held until the device has answered.
   */
  #writeInPlace(hostOffset: number, guestOffset: number, bytes: Uint8Array): void | Promise<void> {
    const { core, writer } = this.#parts;
    let pending: void | Promise<void>;
    try {
      pending = core.data.put(hostOffset, guestOffset, bytes);
    } catch (error) {
      throw this.#noted(error);
    }
    this.#activity++;
    if (isPromise(pending)) return this.#writtenLater(pending, guestOffset, bytes.length);
    writer.noteInPlace(guestOffset, bytes.length);
    core.data.noteWritten();
  }

  /**
   * The usual write of an image with a journal, without a task: its bytes wait in the overlay, and nothing else is to be done.
   * The write lock is free. Says whether it was such a one.
   */
  #gatherAtOnce(offset: number, bytes: Uint8Array): boolean {
    const parts = this.#parts;
    // What is full is looked after behind a write that takes the long way.
    if (parts.core.data.isRaw || !parts.bitmaps.isEmpty || parts.mustCommit) return false;
    if (parts.overlayIsFullWith(bytes.length) || !parts.writer.gatherAtOnce(offset, bytes)) return false;
    this.#activity++;
    return true;
  }

  async #writtenLater(pending: Promise<void>, guestOffset: number, lengthBytes: number): Promise<void> {
    const { core, writer } = this.#parts;
    void core.writeLock.acquire(); // free, and nobody ran in between
    try {
      await pending;
      writer.noteInPlace(guestOffset, lengthBytes);
      core.data.noteWritten();
    } catch (error) {
      throw this.#noted(error);
    } finally {
      core.writeLock.release();
    }
  }

  /**
   * Clusters that are being filled are mapped: what was written to them is acknowledged by what comes next. Others may
   * have filled the log while this one waited for the lock; then it is committed as it is, and once more.
   */
  *#mapPending(): Task<void> {
    const { core, pending } = this.#parts;
    while (!pending.isEmpty) {
      if (core.log.isBacklogged) yield* core.log.commit();
      yield* wait(core.writeLock.acquire());
      try {
        if (!core.log.isBacklogged) return yield* this.#parts.mapPending();
      } finally {
        core.writeLock.release();
      }
    }
  }

  /** One timer at a time: where something came meanwhile, it waits once more. */
  #noteActivity(): void {
    this.#activity++;
    const { idleMs } = this.#parts.tuning;
    if (idleMs <= 0 || this.#idleTimer !== undefined || this.#closed) return;
    const seen = this.#activity;
    const timer = setTimeout(() => {
      this.#idleTimer = undefined;
      if (this.#closed) return;
      if (this.#activity !== seen) this.#noteActivity();
      // A failure is kept, and told to the next who writes or flushes.
      else if (this.#parts.journalStatus()?.state === 'dirty' || this.#parts.core.isMarkedDirty)
        this.rest().catch(() => undefined);
    }, idleMs);
    this.#idleTimer = timer;
    // In Node a timer keeps the process alive unless told not to; in a browser it is a number.
    if (typeof timer === 'object') (timer as { unref?(): void }).unref?.();
  }

  /** Write back all that the log holds. An operation of many changes may be under way: rest comes after it. */
  *quiesce(): Task<void> {
    yield* this.#parts.operations.exclusive(() => this.#quiesceAlone());
  }

  *#quiesceAlone(): Task<void> {
    yield* this.#mapPending();
    yield* this.#parts.bitmaps.store();
    yield* this.#parts.core.log.quiesce();
  }

  /** `exclusively`, with the failures that end writing kept. */
  *guarded<T>(body: () => Task<T>): Task<T> {
    return yield* this.guard(this.exclusively(body));
  }

  /** One at a time; the write lock is for `body` to take. */
  *operation<T>(body: () => Task<T>): Task<T> {
    return yield* this.guard(
      this.#parts.operations.exclusive(() => {
        this.refuseWrite(0, 0);
        return body();
      }),
    );
  }

  /** A failure of the device below, or a bug, ends writing. */
  *guard<T>(task: Task<T>): Task<T> {
    try {
      return yield* task;
    } catch (error) {
      throw this.#noted(error);
    }
  }

  /** Keep a failure that ends writing. @returns the error that was given */
  #noted(error: unknown): unknown {
    // Nothing is changed before all that a change needs has been read: what could not be read is told, no more.
    if (error instanceof StorageError && error.code === 'READ_FAILED') return error;
    if (error instanceof StorageError || error instanceof InvariantError) this.#failure ??= error;
    else if (!(error instanceof Qcow2Error)) {
      this.#failure ??= new StorageError('WRITE_FAILED', 'the device below failed', {}, error);
    }
    return error;
  }

  refuseClosed(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the image is closed');
  }

  refuseFailed(): void {
    const { failure } = this;
    if (failure === undefined) return;
    const message = `an earlier write or flush failed (${failure.code}); reopen the image to recover`;
    throw new StateError('FAILED_EARLIER', message, {}, failure);
  }

  #refuseUnsupported(): void {
    if (this.#parts.isLocked) throw needsSecret();
  }

  /** What keeps guest bytes from being reached. */
  refuseUnreachable(): void {
    this.#refuseUnsupported();
    if (this.#parts.core.data.isMissing) refuseMissing(this.#parts.core.header);
  }

  refuseWrite(offset: number, lengthBytes: number): void {
    this.refuseClosed();
    if (this.#readOnly) throw new StateError('READ_ONLY', 'the image was opened read-only');
    checkRange(offset, lengthBytes, this.#sizeBytes);
    this.refuseUnreachable();
    this.refuseFailed();
  }
}
