/**
 * The native calls, bound to the C library of this process.
 *
 * Numbers and structures are those of Linux on 64-bit little-endian machines: `struct flock` is
 * { short type, short whence, 4 bytes of padding, long start, long length, int pid, padding }. The prototypes say
 * `void *` where C has `...`: on these machines both are passed alike.
 */
import { getSystemErrorName } from 'node:util';
import { StateError } from '@qcow2/spec';
import type { AllocationChange, FileLockKind, NativeCalls } from '../native-calls.ts';

/** As much of koffi as is used. */
export interface Koffi {
  load(path: null): {
    func(prototype: string): NativeFunction;
    func(name: string, result: string, parameters: readonly unknown[]): NativeFunction;
  };
  struct(members: Readonly<Record<string, string>>): unknown;
  pointer(type: unknown): unknown;
  /** Of the last call, also of the one whose callback runs. */
  errno(): number;
}

interface NativeFunction {
  (...values: unknown[]): unknown;
  async(...values: unknown[]): void;
}

const allocationFlags: Readonly<Record<AllocationChange, number>> = {
  extend: 0,
  'keep-size': 0x01,
  'punch-hole': 0x02 | 0x01,
  'zero-range': 0x10 | 0x01,
};
const seekWhence = { data: 3, hole: 4 } as const;
const withoutWaiting = 8;
const lockTypes: Readonly<Record<FileLockKind | 'none', number>> = { shared: 0, exclusive: 1, none: 2 };
const lockCommand = { ask: 36, set: 37 } as const;
const lockBytes = 32;

/** Where one call failed: what Node's own errors look like, so that one function maps both. */
class NativeCallError extends Error {
  override readonly name = 'NativeCallError';
  readonly code: string;
  readonly syscall: string;

  constructor(syscall: string, errno: number) {
    const code = getSystemErrorName(-errno);
    super(`${code}: ${syscall}`);
    this.code = code;
    this.syscall = syscall;
  }
}

/** The library, and what its last call had to say. */
interface Libc {
  readonly functions: ReturnType<Koffi['load']>;
  readonly koffi: Koffi;
  failure(syscall: string): NativeCallError;
  lastCode(): string;
}

/** @throws where koffi is not what it should be, or the library lacks a function */
export function bindLibc(koffi: Koffi): NativeCalls {
  const libc: Libc = {
    functions: koffi.load(null),
    koffi,
    failure: (syscall) => new NativeCallError(syscall, koffi.errno()),
    lastCode: () => getSystemErrorName(-koffi.errno()),
  };
  return { ...spaceCalls(libc), ...transferCalls(libc), ...lockCalls(libc) };
}

function spaceCalls({
  functions,
  failure,
  lastCode,
}: Libc): Pick<NativeCalls, 'allocate' | 'allocateInThread' | 'seek'> {
  const fallocate = functions.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
  const lseek = functions.func('int64_t lseek(int fd, int64_t offset, int whence)');
  return {
    allocate(fd, change, offset, lengthBytes) {
      checkNumbers(offset, lengthBytes);
      if (fallocate(fd, allocationFlags[change], offset, lengthBytes) !== 0) throw failure('fallocate');
    },

    allocateInThread(fd, change, offset, lengthBytes) {
      checkNumbers(offset, lengthBytes);
      return new Promise((resolve, reject) => {
        const done = (error: unknown, result: unknown): void => {
          if (error) reject(error);
          else if (result === 0) resolve();
          else reject(failure('fallocate'));
        };
        fallocate.async(fd, allocationFlags[change], offset, lengthBytes, done);
      });
    },

    seek(fd, what, offset) {
      checkNumbers(offset);
      const at = Number(lseek(fd, offset, seekWhence[what]));
      if (at >= 0) return at;
      if (lastCode() === 'ENXIO') return undefined;
      throw failure('lseek');
    },
  };
}

function transferCalls({
  functions,
  koffi,
  failure,
  lastCode,
}: Libc): Pick<NativeCalls, 'readCached' | 'copyRange' | 'copyRangeInThread'> {
  const iovec = koffi.pointer(koffi.struct({ base: 'void *', lengthBytes: 'size_t' }));
  const preadv2 = functions.func('preadv2', 'int64_t', ['int', iovec, 'int', 'int64_t', 'int']);
  const copyFileRange = functions.func(
    'int64_t copy_file_range(int from, void *fromOffset, int to, void *toOffset, size_t length, unsigned int flags)',
  );
  return {
    readCached(fd, into, offset) {
      checkNumbers(offset);
      const parts = { base: into, lengthBytes: into.length };
      const count = Number(preadv2(fd, parts, 1, offset, withoutWaiting));
      if (count >= 0) return count;
      // ENOTSUP: a file system that can not say.
      if (['EAGAIN', 'ENOTSUP', 'EOPNOTSUPP'].includes(lastCode())) return undefined;
      throw failure('preadv2');
    },

    copyRange(from, fromOffset, to, toOffset, lengthBytes) {
      checkNumbers(fromOffset, toOffset, lengthBytes);
      const source = BigInt64Array.of(BigInt(fromOffset));
      const target = BigInt64Array.of(BigInt(toOffset));
      const count = Number(copyFileRange(from, source, to, target, lengthBytes, 0));
      if (count < 0) throw failure('copy_file_range');
      return count;
    },

    copyRangeInThread(from, fromOffset, to, toOffset, lengthBytes) {
      checkNumbers(fromOffset, toOffset, lengthBytes);
      const offsets = [fromOffset, toOffset].map((offset) => BigInt64Array.of(BigInt(offset)));
      return new Promise((resolve, reject) => {
        const done = (error: unknown, result: unknown): void => {
          // The call writes to both until it is done; nothing else holds them.
          offsets.length = 0;
          const count = Number(result);
          if (error) reject(error);
          else if (count >= 0) resolve(count);
          else reject(failure('copy_file_range'));
        };
        copyFileRange.async(from, offsets[0], to, offsets[1], lengthBytes, 0, done);
      });
    },
  };
}

function lockCalls({
  functions,
  failure,
  lastCode,
}: Libc): Pick<NativeCalls, 'lock' | 'unlock' | 'isLocked'> {
  const fcntl = functions.func('int fcntl(int fd, int command, void *argument)');
  const set = (fd: number, kind: FileLockKind | 'none', offset: number, lengthBytes: number): boolean =>
    fcntl(fd, lockCommand.set, flock(lockTypes[kind], offset, lengthBytes)) === 0;
  return {
    lock(fd, kind, offset, lengthBytes) {
      if (set(fd, kind, offset, lengthBytes)) return true;
      if (lastCode() === 'EAGAIN' || lastCode() === 'EACCES') return false;
      throw failure('fcntl');
    },

    unlock(fd, offset, lengthBytes) {
      if (!set(fd, 'none', offset, lengthBytes)) throw failure('fcntl');
    },

    isLocked(fd, kind, offset, lengthBytes) {
      const request = flock(lockTypes[kind], offset, lengthBytes);
      if (fcntl(fd, lockCommand.ask, request) !== 0) throw failure('fcntl');
      return new DataView(request.buffer).getInt16(0, true) !== lockTypes.none;
    },
  };
}

function flock(type: number, offset: number, lengthBytes: number): Uint8Array<ArrayBuffer> {
  checkNumbers(offset, lengthBytes);
  const view = new DataView(new ArrayBuffer(lockBytes));
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(offset), true);
  view.setBigInt64(16, BigInt(lengthBytes), true);
  return new Uint8Array(view.buffer);
}

/** Beyond this a number would reach the kernel as another one. */
function checkNumbers(...values: readonly number[]): void {
  for (const value of values) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    throw new StateError('INVALID_ARGUMENT', `${value} is no offset or length of a file`, { value });
  }
}
