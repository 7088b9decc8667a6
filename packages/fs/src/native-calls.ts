/**
 * What Linux can do with files and Node has no call for: holes, space set aside, locks that belong to an open
 * file, reads that never wait for the disk.
 *
 * The calls come from the C library that Node itself runs on, through koffi, an optional dependency. Where
 * they can not be had (another system, 32 bits, koffi not installed, `QCOW2_NATIVE=off`) there are none, and
 * `nativeSupport` says why: whoever uses them declares a capability less and goes on. Nothing here is loaded
 * before the first file is opened.
 *
 * Failures look like Node's: an error with the errno name in `code`, to be mapped by `file-error.ts`. Offsets
 * and lengths are bytes; buffers are the caller's and are used until the call returns.
 */
import { createRequire } from 'node:module';
import { bindLibc, type Koffi } from './internal/libc.ts';

/** What `fallocate` is to do with a range; the file's size never changes, but by `extend`. */
export type AllocationChange =
  /** set space aside where there is none; bytes stay as they are */
  | 'keep-size'
  /** the same, and the file grows to the end of the range */
  | 'extend'
  /** give the space back; the range reads as zeros */
  | 'punch-hole'
  /** the range reads as zeros, with its space kept */
  | 'zero-range';

export type FileLockKind = 'shared' | 'exclusive';

export interface NativeCalls {
  /** fallocate on the caller's thread. */
  allocate(fd: number, change: AllocationChange, offset: number, lengthBytes: number): void;
  /** The same in the thread pool. */
  allocateInThread(fd: number, change: AllocationChange, offset: number, lengthBytes: number): Promise<void>;
  /**
   * lseek to the next data or hole at or after `offset`; the end of the file counts as a hole.
   * @returns undefined where none follows
   */
  seek(fd: number, what: 'data' | 'hole', offset: number): number | undefined;
  /** preadv2 that takes what is in the page cache. @returns bytes read; undefined where it would have to wait */
  readCached(fd: number, into: Uint8Array, offset: number): number | undefined;
  /** copy_file_range: bytes from file to file inside the kernel. @returns bytes copied, 0 at the source's end */
  copyRange(from: number, fromOffset: number, to: number, toOffset: number, lengthBytes: number): number;
  /** The same in the thread pool. */
  copyRangeInThread(
    from: number,
    fromOffset: number,
    to: number,
    toOffset: number,
    lengthBytes: number,
  ): Promise<number>;
  /** Take a lock of the open file description, without waiting. @returns whether it was to be had */
  lock(fd: number, kind: FileLockKind, offset: number, lengthBytes: number): boolean;
  unlock(fd: number, offset: number, lengthBytes: number): void;
  /** Whether another open file description holds a lock that stands in the way of this one. */
  isLocked(fd: number, kind: FileLockKind, offset: number, lengthBytes: number): boolean;
}

export type NativeSupport =
  | { readonly calls: NativeCalls; readonly missing: undefined }
  /** `missing` says why, in a few words. */
  | { readonly calls: undefined; readonly missing: string };

/** What decides whether there are native calls; for tests. */
export interface NativeSurroundings {
  readonly platform: string;
  readonly architecture: string;
  /** The value of the environment variable QCOW2_NATIVE. */
  readonly wish: string | undefined;
  /** Loads koffi, or throws. */
  readonly load: () => unknown;
}

/** Where the kernel's structures and numbers are those of `internal/libc.ts`. */
const knownArchitectures: readonly string[] = ['x64', 'arm64', 'riscv64', 'loong64'];

/** Look for the calls, anew each time. Throws nothing. */
export function findNativeCalls(around: NativeSurroundings): NativeSupport {
  const missing = (why: string): NativeSupport => ({ calls: undefined, missing: why });
  if (around.wish === 'off') return missing('switched off by QCOW2_NATIVE');
  if (around.platform !== 'linux') return missing(`not known for ${around.platform}`);
  if (!knownArchitectures.includes(around.architecture)) {
    return missing(`not known for Linux on ${around.architecture}`);
  }
  try {
    return { calls: bindLibc(around.load() as Koffi), missing: undefined };
  } catch (error) {
    const reason = error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    return missing(`koffi can not be used: ${reason}`);
  }
}

let found: NativeSupport | undefined;

/** The native calls of this process, looked for once. */
export function nativeSupport(): NativeSupport {
  found ??= findNativeCalls({
    platform: process.platform,
    architecture: process.arch,
    wish: process.env.QCOW2_NATIVE,
    load: () => createRequire(import.meta.url)('koffi'),
  });
  return found;
}
