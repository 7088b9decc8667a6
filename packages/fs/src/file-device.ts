/**
 * A file of Node as a BlockDevice.
 *
 * Reads and writes are pread and pwrite on the caller's thread (or, on wish, in the thread pool): bytes that
 * are in the page cache cost a system call and no detour through the event loop. One body of code serves both,
 * as tasks.
 *
 * Invariants:
 *  - No call touches a byte outside the range that was asked for.
 *  - `sizeBytes` is the file's size, given that nobody else changes it: writes only raise it, and ftruncate, which
 *    could lower it, runs only while no write that could have raised it is under way.
 *  - Requests that overlap, one of them a write, never run at once (`range-locks.ts`).
 *  - A file descriptor is closed only when no call that uses it is under way.
 *  - Once fdatasync has failed, writes and flushes are refused (`data-sync.ts`); reads still work.
 */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  type FlushOptions,
  isPromise,
  type ReadOptions,
  run,
  type Task,
  type WriteOptions,
  type WriteZeroesOptions,
  wait,
} from '@qcow2/block-device';
import { StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import { errnoOf, fileError } from './file-error.ts';
import type { FlushMode } from './flush-policy.ts';
import { DataSync } from './internal/data-sync.ts';
import { InFlight } from './internal/in-flight.ts';
import { RangeLocks } from './internal/range-locks.ts';
import type { FileCalls } from './system-calls.ts';

/** The most that one system call is asked for; Node takes no more than 2^31 - 1. */
const callLimitBytes = 2 ** 30;
/** Zeros are written in pieces of this size. */
const zeroes = new Uint8Array(256 * 1024);
/** Longer runs of zeros than this are written in the thread pool: nobody can say how long they take. */
const syncZeroesLimitBytes = 4 * 1024 * 1024;
/** How often a call that was interrupted, or had to be tried again, is repeated without any progress. */
const retryLimit = 1000;

export interface FileDeviceState {
  readonly path: string;
  readonly fd: number;
  readonly calls: FileCalls;
  readonly readOnly: boolean;
  /** A regular file, which can grow and shrink; otherwise a disk of fixed size. */
  readonly regular: boolean;
  readonly sizeBytes: number;
  readonly maxSizeBytes: number;
  readonly io: 'sync' | 'async';
  readonly flush: FlushMode;
}

export class FileDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly path: string;
  readonly #fd: number;
  readonly #calls: FileCalls;
  readonly #async: boolean;
  readonly #maxSizeBytes: number;
  readonly #sync: DataSync;
  readonly #ranges = new RangeLocks();
  /** Every call in the thread pool. */
  readonly #inFlight = new InFlight();
  #sizeBytes: number;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** Takes ownership of the file descriptor. Made by `openFile`. */
  constructor(state: FileDeviceState) {
    const write = !state.readOnly;
    this.capabilities = {
      write,
      growable: write && state.regular,
      resize: write && state.regular,
      discard: false,
      writeZeroes: false,
      fua: false,
      extents: false,
      preferredBlockBytes: 4096,
    };
    this.path = state.path;
    this.#fd = state.fd;
    this.#calls = state.calls;
    this.#async = state.io === 'async';
    this.#maxSizeBytes = state.maxSizeBytes;
    this.#sizeBytes = state.sizeBytes;
    this.#sync = new DataSync(state.path, state.fd, state.calls, state.flush, this.#inFlight);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(offset: number, into: Uint8Array, _options?: ReadOptions): void | Promise<void> {
    this.#checkOpen();
    checkRange(offset, into.length, this.#sizeBytes);
    const end = offset + into.length;
    if (this.#async || this.#ranges.conflicts(offset, end, false)) {
      return this.#tracked(this.#alone(offset, end, false, () => this.#read(offset, into)));
    }
    const count = this.#attempt('read', offset, into);
    if (count < into.length) return run(this.#readFully(offset + count, into.subarray(count), false));
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#admitWrite(offset, bytes.length);
    const end = offset + bytes.length;
    if (this.#async || this.#ranges.conflicts(offset, end, true)) {
      const writing = () => this.#writeFully(offset, bytes, this.#async);
      return this.#tracked(this.#durably(options, this.#alone(offset, end, true, writing)));
    }
    this.#sync.touch();
    const count = this.#attempt('write', offset, bytes);
    this.#grownTo(offset, count);
    if (count < bytes.length) {
      const rest = this.#writeFully(offset + count, bytes.subarray(count), false);
      return this.#tracked(this.#durably(options, rest));
    }
    if (options?.fua === true) return this.#sync.flush();
  }

  flush(_options?: FlushOptions): void | Promise<void> {
    this.#checkOpen();
    if (this.capabilities.write) return this.#sync.flush();
  }

  discard(offset: number, lengthBytes: number, _options?: WriteOptions): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.#sizeBytes);
  }

  /** Zeros are written where the file has bytes; beyond its end it is extended without being written. */
  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#admitWrite(offset, lengthBytes);
    const end = offset + lengthBytes;
    const threaded = this.#async || Math.min(end, this.#sizeBytes) - offset > syncZeroesLimitBytes;
    // ftruncate must not cut off a write that is under way, so it needs everything beyond for itself.
    const mayTruncate = end > this.#sizeBytes;
    const lockedEnd = mayTruncate ? Number.POSITIVE_INFINITY : end;
    const zeroing = () => this.#zero(offset, end, threaded, mayTruncate);
    return this.#tracked(this.#durably(options, this.#alone(offset, lockedEnd, true, zeroing)));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(sizeBytes: number): void | Promise<void> {
    this.#checkWritable();
    if (!this.capabilities.resize) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', `${this.path} has a fixed size`);
    }
    checkSize(sizeBytes);
    this.#checkSpace(sizeBytes);
    return this.#tracked(this.#alone(0, Number.POSITIVE_INFINITY, true, () => this.#truncate(sizeBytes)));
  }

  close(): void | Promise<void> {
    if (this.#closed) return this.#closing;
    this.#closed = true;
    if (!this.#inFlight.busy) return this.#closeDescriptor();
    this.#closing = Promise.resolve(this.#inFlight.idle()).then(() => this.#closeDescriptor());
    return this.#closing;
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', `${this.path} is closed`, { path: this.path });
  }

  #checkWritable(): void {
    this.#checkOpen();
    if (!this.capabilities.write) {
      throw new StateError('READ_ONLY', `${this.path} was opened read-only`, { path: this.path });
    }
    this.#sync.checkHealthy();
  }

  #checkSpace(sizeBytes: number): void {
    if (sizeBytes <= this.#maxSizeBytes) return;
    const { path } = this;
    throw new StorageError('NO_SPACE', `${path} may not grow beyond ${this.#maxSizeBytes} bytes`, { path });
  }

  #admitWrite(offset: number, lengthBytes: number): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.capabilities.growable ? Number.MAX_SAFE_INTEGER : this.#sizeBytes);
    if (lengthBytes > 0 && offset + lengthBytes > this.#sizeBytes) this.#checkSpace(offset + lengthBytes);
  }

  /** Run a task that may use the descriptor across waits. */
  #tracked<T>(task: Task<T>): T | Promise<T> {
    this.#inFlight.enter();
    let outcome: T | Promise<T>;
    try {
      outcome = run(task);
    } catch (error) {
      this.#inFlight.leave();
      throw error;
    }
    if (isPromise(outcome)) return outcome.finally(() => this.#inFlight.leave());
    this.#inFlight.leave();
    return outcome;
  }

  /** The usual case without a generator: one call that does it all. @returns bytes done, perhaps fewer */
  #attempt(operation: 'read' | 'write', offset: number, bytes: Uint8Array): number {
    if (bytes.length === 0) return 0;
    const lengthBytes = Math.min(bytes.length, callLimitBytes);
    try {
      return operation === 'read'
        ? this.#calls.readSync(this.#fd, bytes, 0, lengthBytes, offset)
        : this.#calls.writeSync(this.#fd, bytes, 0, lengthBytes, offset);
    } catch (error) {
      if (isPassing(error)) return 0;
      throw fileError(error, operation, { path: this.path, offset, lengthBytes });
    }
  }

  /** Run when every earlier request that overlaps is done, and keep later ones waiting. */
  *#alone<T>(from: number, end: number, writes: boolean, body: () => Task<T>): Task<T> {
    const lock = yield* this.#ranges.acquire(from, end, writes);
    try {
      // While this waited, a flush may have failed.
      if (writes) this.#sync.checkHealthy();
      return yield* body();
    } finally {
      this.#ranges.release(lock);
    }
  }

  *#durably(options: WriteOptions | undefined, writing: Task<void>): Task<void> {
    yield* writing;
    if (options?.fua === true) yield* wait(this.#sync.flush());
  }

  *#read(offset: number, into: Uint8Array): Task<void> {
    // Again: the file may have been shortened while this waited.
    checkRange(offset, into.length, this.#sizeBytes);
    yield* this.#readFully(offset, into, this.#async);
  }

  *#readFully(offset: number, into: Uint8Array, threaded: boolean): Task<void> {
    const call = threaded ? this.#calls.read : this.#calls.readSync;
    for (let done = 0; done < into.length; ) {
      const lengthBytes = Math.min(into.length - done, callLimitBytes);
      const at = offset + done;
      const count = yield* this.#persist('read', at, lengthBytes, () =>
        call(this.#fd, into, done, lengthBytes, at),
      );
      if (count === 0) {
        // Inside `sizeBytes`: someone else has cut the file.
        const context = { path: this.path, hostOffset: at, lengthBytes };
        throw new StorageError('SHORT_READ', `${this.path} ends before ${this.#sizeBytes} bytes`, context);
      }
      done += count;
    }
  }

  *#writeFully(offset: number, bytes: Uint8Array, threaded: boolean): Task<void> {
    const call = threaded ? this.#calls.write : this.#calls.writeSync;
    try {
      for (let done = 0; done < bytes.length; ) {
        const lengthBytes = Math.min(bytes.length - done, callLimitBytes);
        const at = offset + done;
        const count = yield* this.#persist('write', at, lengthBytes, () =>
          call(this.#fd, bytes, done, lengthBytes, at),
        );
        this.#grownTo(at, count);
        done += count;
      }
    } finally {
      // Also after a failure: some of it may have been written. At the end, because a flush that started
      // meanwhile need not have seen this write.
      this.#sync.touch();
    }
  }

  /** Call by call: after a failure the file ends where the last successful one left it. */
  #grownTo(offset: number, writtenBytes: number): void {
    if (writtenBytes > 0) this.#sizeBytes = Math.max(this.#sizeBytes, offset + writtenBytes);
  }

  /** One system call, repeated while it is interrupted or writes nothing. Failures come out mapped. */
  *#persist(
    operation: 'read' | 'write',
    offset: number,
    lengthBytes: number,
    call: () => number | Promise<number>,
  ): Task<number> {
    for (let attempt = 1; attempt <= retryLimit; attempt++) {
      try {
        const count = yield* wait(call());
        if (count > 0 || operation === 'read') return count;
      } catch (error) {
        if (!isPassing(error)) throw fileError(error, operation, { path: this.path, offset, lengthBytes });
      }
    }
    const context = { path: this.path, hostOffset: offset, lengthBytes };
    throw new StorageError(
      operation === 'read' ? 'READ_FAILED' : 'WRITE_FAILED',
      `${this.path}: no progress in ${retryLimit} attempts`,
      context,
    );
  }

  *#zero(offset: number, end: number, threaded: boolean, mayTruncate: boolean): Task<void> {
    // Without leave to truncate, zeros are written to the very end: the file was shortened while this waited.
    const writtenEnd = mayTruncate ? Math.min(end, this.#sizeBytes) : end;
    for (let at = offset; at < writtenEnd; at += zeroes.length) {
      yield* this.#writeFully(at, zeroes.subarray(0, Math.min(zeroes.length, writtenEnd - at)), threaded);
    }
    if (end > offset && end > this.#sizeBytes) yield* this.#truncate(end);
  }

  // biome-ignore lint/correctness/useYield: a task for the sake of `#alone`; ftruncate is always synchronous
  *#truncate(sizeBytes: number): Task<void> {
    try {
      this.#calls.truncate(this.#fd, sizeBytes);
      this.#sizeBytes = sizeBytes;
    } catch (error) {
      throw fileError(error, 'resize', { path: this.path, lengthBytes: sizeBytes });
    } finally {
      this.#sync.touch();
    }
  }

  #closeDescriptor(): void {
    try {
      this.#calls.close(this.#fd);
    } catch (error) {
      throw fileError(error, 'close', { path: this.path });
    }
  }
}

/** Worth trying again at once. */
function isPassing(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'EINTR' || errno === 'EAGAIN';
}
