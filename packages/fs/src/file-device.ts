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
  type ByteOrigin,
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
import { errnoOf, fileError, isPassing } from './file-error.ts';
import type { FlushMode } from './flush-policy.ts';
import { ImageLock, type ImageUse } from './image-lock.ts';
import { DataSync } from './internal/data-sync.ts';
import { FileSpace } from './internal/file-space.ts';
import { InFlight } from './internal/in-flight.ts';
import { RangeLocks } from './internal/range-locks.ts';
import { callLimitBytes, type OpenedFile, readWhole, writeWhole } from './internal/whole-transfers.ts';
import type { NativeCalls } from './native-calls.ts';
import type { FileCalls, FileStatus } from './system-calls.ts';

/** Zeros are written in pieces of this size. */
const zeroes = new Uint8Array(256 * 1024);
/** Longer runs of zeros and holes than this are made in the thread pool: nobody can say how long they take. */
const syncZeroesLimitBytes = 4 * 1024 * 1024;
/** What is asked of the file system's blocks; theirs are no larger, as a rule. */
const blockBytes = 4096;

export interface FileDeviceState {
  readonly path: string;
  readonly fd: number;
  readonly calls: FileCalls;
  readonly readOnly: boolean;
  readonly ignoreDiscard: boolean;
  /** A regular file can grow and shrink; anything else is a disk of fixed size. */
  readonly status: FileStatus;
  readonly sizeBytes: number;
  readonly maxSizeBytes: number;
  readonly io: IoMode;
  readonly flush: FlushMode;
}

/**
 * Where reads and writes run: on the caller's thread, in the thread pool, or (`cached`) on the caller's thread
 * except for reads that would have to wait for the disk.
 */
export type IoMode = 'sync' | 'async' | 'cached';

export class FileDevice implements BlockDevice {
  readonly path: string;
  readonly #fd: number;
  readonly #calls: FileCalls;
  readonly #file: OpenedFile;
  readonly #async: boolean;
  /** Where reads are first tried without waiting. */
  readonly #readCached: NativeCalls['readCached'] | undefined;
  readonly #space: FileSpace;
  readonly #maxSizeBytes: number;
  readonly #sync: DataSync;
  readonly #ranges = new RangeLocks();
  readonly #lock: ImageLock | undefined;
  #locked = false;
  /** Every call in the thread pool. */
  readonly #inFlight = new InFlight();
  #capabilities: DeviceCapabilities;
  #sizeBytes: number;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** Takes ownership of the file descriptor. Made by `openFile`. */
  constructor(state: FileDeviceState) {
    const write = !state.readOnly;
    const regular = state.status.kind === 'file';
    const native = state.calls.native;
    this.#space = new FileSpace(state.fd, regular ? native : undefined);
    if (native !== undefined)
      this.#lock = new ImageLock({ ...state.status, path: state.path, fd: state.fd }, native);
    this.#capabilities = {
      write,
      growable: write && regular,
      resize: write && regular,
      discard: write && !state.ignoreDiscard && this.#space.punches,
      writeZeroes: write && this.#space.zeroes,
      fua: false,
      extents: this.#space.tellsHoles,
      preferredBlockBytes: blockBytes,
    };
    this.path = state.path;
    this.#fd = state.fd;
    this.#calls = state.calls;
    this.#file = state;
    // Without a call that does not wait, a read that might has to go to the pool.
    this.#readCached = state.io === 'cached' ? native?.readCached : undefined;
    this.#async = state.io === 'async' || (state.io === 'cached' && this.#readCached === undefined);
    this.#maxSizeBytes = state.maxSizeBytes;
    this.#sizeBytes = state.sizeBytes;
    this.#sync = new DataSync(state.path, state.fd, state.calls, state.flush, this.#inFlight);
  }

  /**
   * Whether the file system can give space back shows when it is first asked to: where it can not, `discard` or
   * `writeZeroes` is not claimed from then on.
   */
  get capabilities(): DeviceCapabilities {
    return this.#capabilities;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Times that fdatasync was called, for flushes that had something to make durable. */
  get syncs(): number {
    return this.#sync.syncs;
  }

  read(offset: number, into: Uint8Array, _options?: ReadOptions): void | Promise<void> {
    this.#checkOpen();
    checkRange(offset, into.length, this.#sizeBytes);
    const end = offset + into.length;
    if (this.#async || this.#ranges.conflicts(offset, end, false)) {
      return this.#tracked(this.#alone(offset, end, false, () => this.#read(offset, into)));
    }
    const count = this.#attempt('read', offset, into);
    if (count === into.length) return;
    const rest = () => this.#readFully(offset + count, into.subarray(count), this.#readCached !== undefined);
    return this.#readCached === undefined
      ? run(rest())
      : this.#tracked(this.#alone(offset, end, false, rest));
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

  /** Whole blocks of the range become a hole; the bytes around them stay as they are. */
  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    if (!this.#capabilities.discard) return;
    const from = Math.ceil(offset / blockBytes) * blockBytes;
    const end = offset + lengthBytes;
    const lockedEnd = Math.ceil(end / blockBytes) * blockBytes;
    if (from >= end) return;
    const punching = () => this.#punch(from, end, this.#isLong(lengthBytes));
    return this.#tracked(this.#durably(options, this.#alone(from, lockedEnd, true, punching)));
  }

  /**
   * Long runs become a hole (`mayUnmap`) or space that reads as zeros, short ones are written; beyond its end
   * the file is extended without being written.
   */
  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#admitWrite(offset, lengthBytes);
    const end = offset + lengthBytes;
    const threaded = this.#isLong(Math.min(end, this.#sizeBytes) - offset);
    const keepSpace = options?.mayUnmap !== true;
    // ftruncate must not cut off a write that is under way, so it needs everything beyond for itself.
    const mayTruncate = end > this.#sizeBytes;
    const lockedEnd = mayTruncate ? Number.POSITIVE_INFINITY : end;
    const zeroing = () => this.#zero(offset, end, { threaded, mayTruncate, keepSpace });
    return this.#tracked(this.#durably(options, this.#alone(offset, lockedEnd, true, zeroing)));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    try {
      return this.#space.extents(offset, offset + lengthBytes);
    } catch (error) {
      throw fileError(error, 'read', { path: this.path, offset, lengthBytes });
    }
  }

  /** From another file, by the kernel, in the thread pool. */
  copyFrom({ device, offset: from, lengthBytes }: ByteOrigin, offset: number): number | Promise<number> {
    checkRange(from, lengthBytes, device.sizeBytes);
    this.#admitWrite(offset, lengthBytes);
    const { native } = this.#calls;
    if (lengthBytes === 0 || native === undefined || device === this || !(device instanceof FileDevice))
      return 0;
    const copying = () => this.#copy(native, device, from, offset, lengthBytes);
    return this.#tracked(this.#alone(offset, offset + lengthBytes, true, copying));
  }

  /**
   * Set space aside, so that writing there can not fail for want of it; the bytes stay what they are. The file grows
   * to the end of the range, new bytes read as zeros. Durable after a flush.
   * @throws UNSUPPORTED_OPERATION where the system or the file system can not; NO_SPACE, WRITE_FAILED, READ_ONLY, CLOSED
   */
  preallocate(offset: number, lengthBytes: number): void | Promise<void> {
    this.#admitWrite(offset, lengthBytes);
    if (lengthBytes === 0) return;
    const allocating = () => this.#preallocate(offset, lengthBytes);
    return this.#tracked(this.#alone(offset, Number.POSITIVE_INFINITY, true, allocating));
  }

  /**
   * Hold the lock that QEMU's programs would for this use, in place of the one that is held; it ends with `close`.
   * @returns false where the system has no such locks: then none is held
   * @throws IN_USE where another's use does not go with it, and what was held before is held still; CLOSED
   */
  lock(use: ImageUse): boolean {
    this.#checkOpen();
    if (this.#lock === undefined) return false;
    try {
      this.#lock.take(use);
    } catch (error) {
      throw fileError(error, 'open', { path: this.path });
    }
    this.#locked = true;
    return true;
  }

  /** Whether a lock is held. */
  get locked(): boolean {
    return this.#locked && !this.#closed;
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

  #isLong(lengthBytes: number): boolean {
    return this.#async || lengthBytes > syncZeroesLimitBytes;
  }

  /** The usual case without a generator: one call that does it all. @returns bytes done, perhaps fewer */
  #attempt(operation: 'read' | 'write', offset: number, bytes: Uint8Array): number {
    if (bytes.length === 0) return 0;
    const lengthBytes = Math.min(bytes.length, callLimitBytes);
    try {
      if (operation === 'read' && this.#readCached !== undefined)
        return this.#readCached(this.#fd, bytes.subarray(0, lengthBytes), offset) ?? 0;
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

  #readFully(offset: number, into: Uint8Array, threaded: boolean): Task<void> {
    return readWhole(this.#file, offset, into, threaded);
  }

  *#writeFully(offset: number, bytes: Uint8Array, threaded: boolean): Task<void> {
    try {
      yield* writeWhole(this.#file, offset, bytes, threaded, (at, count) => this.#grownTo(at, count));
    } finally {
      // Also after a failure: some of it may have been written. At the end, because a flush that started
      // meanwhile need not have seen this write.
      this.#sync.touch();
    }
  }

  /**
   * A source that is being written to is not waited for: two files that are copied to each other would wait for ever. Any failure
   * ends the copy where it stands: who reads and writes the rest meets it again, and knows of which file it is.
   */
  *#copy(
    native: NativeCalls,
    source: FileDevice,
    from: number,
    to: number,
    lengthBytes: number,
  ): Task<number> {
    const end = from + lengthBytes;
    if (source.#closed || source.#ranges.conflicts(from, end, false)) return 0;
    const lock = yield* source.#ranges.acquire(from, end, false);
    source.#inFlight.enter();
    let done = 0;
    try {
      while (done < lengthBytes) {
        const most = Math.min(lengthBytes - done, callLimitBytes);
        const call = native.copyRangeInThread(source.#fd, from + done, this.#fd, to + done, most);
        const count = yield* wait(call);
        if (count === 0) break;
        this.#grownTo(to + done, count);
        done += count;
      }
    } catch (error) {
      if (errnoOf(error) === undefined) throw error;
    } finally {
      this.#sync.touch();
      source.#ranges.release(lock);
      source.#inFlight.leave();
    }
    return done;
  }

  /** Call by call: after a failure the file ends where the last successful one left it. */
  #grownTo(offset: number, writtenBytes: number): void {
    if (writtenBytes > 0) this.#sizeBytes = Math.max(this.#sizeBytes, offset + writtenBytes);
  }

  *#zero(
    offset: number,
    end: number,
    how: { readonly threaded: boolean; readonly mayTruncate: boolean; readonly keepSpace: boolean },
  ): Task<void> {
    // Without leave to truncate, zeros are written to the very end: the file was shortened while this waited.
    const writtenEnd = how.mayTruncate ? Math.min(end, this.#sizeBytes) : end;
    const insideEnd = Math.min(writtenEnd, this.#sizeBytes);
    const zeroing = { offset, end: insideEnd, lengthBytes: insideEnd - offset, ...how };
    const done = (yield* this.#changeSpace(zeroing, () => this.#space.zero(zeroing))) ? insideEnd : offset;
    for (let at = done; at < writtenEnd; at += zeroes.length) {
      yield* this.#writeFully(at, zeroes.subarray(0, Math.min(zeroes.length, writtenEnd - at)), how.threaded);
    }
    if (end > offset && end > this.#sizeBytes) yield* this.#truncate(end);
  }

  *#punch(from: number, askedEnd: number, threaded: boolean): Task<void> {
    // The file may have been shortened while this waited, or have grown beyond what was its last block.
    const blockEnd =
      (askedEnd >= this.#sizeBytes ? Math.ceil : Math.floor)(askedEnd / blockBytes) * blockBytes;
    const range = { offset: from, end: blockEnd, lengthBytes: blockEnd - from, threaded };
    yield* this.#changeSpace(range, () => this.#space.punch(range));
  }

  *#preallocate(offset: number, lengthBytes: number): Task<void> {
    const { path } = this;
    const range = { offset, lengthBytes, threaded: true };
    try {
      if (yield* this.#changeSpace(range, () => this.#space.allocate(range))) return;
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', `${path}: no space can be set aside`, {
        path,
      });
    } finally {
      // Also after a failure: some file systems set aside what there was, and let the file grow over it.
      if (this.capabilities.growable) this.#sizeBytes = this.#calls.status(this.#fd).sizeBytes;
    }
  }

  /** A change of the file's space, with what follows from it. @returns false where the file system has no such change */
  *#changeSpace(
    range: { readonly offset: number; readonly lengthBytes: number },
    change: () => Task<boolean>,
  ): Task<boolean> {
    if (range.lengthBytes <= 0) return false;
    try {
      return yield* change();
    } catch (error) {
      throw fileError(error, 'write', { path: this.path, ...range });
    } finally {
      this.#sync.touch();
      const { discard, writeZeroes } = this.#capabilities;
      const { punches, zeroes } = this.#space;
      if ((discard && !punches) || (writeZeroes && !zeroes)) {
        this.#capabilities = {
          ...this.#capabilities,
          discard: discard && punches,
          writeZeroes: writeZeroes && zeroes,
        };
      }
    }
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
