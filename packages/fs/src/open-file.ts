/**
 * Opening: what kind of thing stands at a path, whether it can be a device, how large it is.
 *
 * Nothing is changed before the thing is known to be a regular file or a device: also `create: 'truncate'`
 * truncates only then, by a call of its own. A FIFO or a terminal never makes the opening wait (O_NONBLOCK).
 */
import { constants } from 'node:fs';
import { dirname } from 'node:path';
import { StateError } from '@qcow2/spec';
import { FileDevice, type IoMode } from './file-device.ts';
import { errnoOf, fileError } from './file-error.ts';
import type { FlushMode } from './flush-policy.ts';
import type { ImageUse } from './image-lock.ts';
import { type FileCalls, type FileStatus, nodeCalls } from './system-calls.ts';

export interface OpenFileOptions {
  /** Refuse every change with READ_ONLY; the file is opened for reading only. */
  readonly readOnly?: boolean;
  /**
   * `no` (default): the file must exist. `exclusive`: it must not, and is created empty. `truncate`: it is
   * created, or emptied. A created file's directory entry is durable when `openFile` returns, unless `flush` is `none`.
   */
  readonly create?: 'no' | 'exclusive' | 'truncate';
  /** Permissions of a created file, before the umask; 0o666 if not given. */
  readonly mode?: number;
  /**
   * Where reads and writes run: on the caller's thread (`sync`, default), in the thread pool (`async`), or on
   * the caller's thread except for reads of what is not in the page cache (`cached`; the same as `async` where the system
   * can not tell).
   */
  readonly io?: IoMode;
  /**
   * Where fdatasync runs; `adaptive` if not given, `thread` where `io` is `async`. `none`: it is never called, and what is written is the
   * system's to bring to the disk. For a file that is worth nothing until all of it is there, and can be made again.
   */
  readonly flush?: FlushMode;
  /** `ignore`: `discard` is allowed and does nothing, as where the system has no holes; `unmap` if not given. */
  readonly discard?: 'ignore' | 'unmap';
  /**
   * Take a lock that QEMU's programs know, for as long as the file is open: before anything is changed, the size of
   * an existing file included. Where the system has no such locks none is taken, and `FileDevice.locked` says so.
   */
  readonly lock?: ImageUse;
  /** Growing the file beyond this fails with NO_SPACE; 2^53 - 1 if not given. */
  readonly maxSizeBytes?: number;
  /** For tests: the calls of the operating system. */
  readonly calls?: FileCalls;
}

/**
 * Open a regular file, block device or character device as a BlockDevice.
 * @throws NOT_FOUND; ACCESS_DENIED (permissions, or a file that exists where `exclusive` was asked for); IN_USE;
 *   INVALID_ARGUMENT for a directory, FIFO, socket, or something without an end; NO_SPACE, READ_FAILED
 */
export function openFile(path: string, options: OpenFileOptions = {}): FileDevice {
  const { readOnly = false, create = 'no', io = 'sync', calls = nodeCalls } = options;
  if (readOnly && create !== 'no') {
    throw new StateError('INVALID_ARGUMENT', `${path}: a file that is created can not be read-only`, {
      path,
    });
  }
  let fd: number;
  try {
    fd = calls.open(path, openFlags(readOnly, create), options.mode ?? 0o666);
  } catch (error) {
    throw fileError(error, 'open', { path });
  }
  try {
    const status = calls.status(fd);
    checkKind(path, status);
    const device = new FileDevice({
      path,
      fd,
      calls,
      readOnly,
      status,
      sizeBytes: status.kind === 'file' ? status.sizeBytes : sizeOf(path, fd, calls),
      ignoreDiscard: options.discard === 'ignore',
      maxSizeBytes: options.maxSizeBytes ?? Number.MAX_SAFE_INTEGER,
      io,
      flush: options.flush ?? (io === 'async' ? 'thread' : 'adaptive'),
    });
    if (options.lock !== undefined) device.lock(options.lock);
    if (create === 'truncate' && status.kind === 'file' && status.sizeBytes > 0) device.resize(0);
    if (create !== 'no' && options.flush !== 'none') syncDirectory(dirname(path), calls);
    return device;
  } catch (error) {
    calls.close(fd);
    throw fileError(error, 'open', { path });
  }
}

/**
 * Make a directory's entries durable, after a file in it was created, renamed or removed. Where the system
 * can not do that for directories (Windows, some network file systems), there is nothing to be done, and nothing is.
 * @throws NOT_FOUND, ACCESS_DENIED, FLUSH_FAILED
 */
export function syncDirectory(path: string, calls: FileCalls = nodeCalls): void {
  let fd: number;
  try {
    fd = calls.open(path, constants.O_RDONLY, 0);
  } catch (error) {
    if (process.platform === 'win32') return;
    throw fileError(error, 'open', { path });
  }
  try {
    calls.synchronize(fd);
  } catch (error) {
    if (!['EINVAL', 'ENOTSUP', 'EBADF'].includes(errnoOf(error) ?? '') && process.platform !== 'win32') {
      throw fileError(error, 'flush', { path });
    }
  } finally {
    calls.close(fd);
  }
}

function openFlags(readOnly: boolean, create: 'no' | 'exclusive' | 'truncate'): number {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  const creation = { no: 0, truncate: constants.O_CREAT, exclusive: constants.O_CREAT | constants.O_EXCL }[
    create
  ];
  // Not defined on Windows, where nothing here blocks.
  return access | creation | (constants.O_NONBLOCK ?? 0);
}

function checkKind(path: string, status: FileStatus): void {
  const { kind } = status;
  if (kind === 'file' || kind === 'block-device' || kind === 'character-device') return;
  throw new StateError('INVALID_ARGUMENT', `${path} is a ${kind}, not a file or a disk`, { path });
}

/** Of a device, whose size no status tells. */
function sizeOf(path: string, fd: number, calls: FileCalls): number {
  const probe = new Uint8Array(1);
  const hasByte = (offset: number) => {
    try {
      return calls.readSync(fd, probe, 0, 1, offset) === 1;
    } catch (error) {
      // Some systems answer reads at or beyond a disk's end with an error in place of 0 bytes.
      if (errnoOf(error) === 'EINVAL' || errnoOf(error) === 'ENXIO') return false;
      throw fileError(error, 'open', { path, offset, lengthBytes: 1 });
    }
  };
  return bisectEnd(path, hasByte);
}

/** The offset of the first byte that is not there. */
function bisectEnd(path: string, hasByte: (offset: number) => boolean): number {
  // Nothing real is that large; /dev/zero and the like are.
  const tooLarge = 2 ** 52;
  if (!hasByte(0)) return 0;
  if (hasByte(tooLarge)) throw new StateError('INVALID_ARGUMENT', `${path} has no end`, { path });
  let present = 0;
  let absent = tooLarge;
  while (absent - present > 1) {
    const middle = present + Math.floor((absent - present) / 2);
    if (hasByte(middle)) present = middle;
    else absent = middle;
  }
  return absent;
}
