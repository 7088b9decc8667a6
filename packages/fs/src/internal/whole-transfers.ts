/**
 * Reads and writes of more than one call: the system may do less than it is asked for, or be interrupted. On the
 * caller's thread or in the thread pool, call after call.
 */
import { type Task, wait } from '@qcow2/block-device';
import { StorageError } from '@qcow2/spec';
import { fileError, isPassing } from '../file-error.ts';
import type { FileCalls } from '../system-calls.ts';

export interface OpenedFile {
  readonly path: string;
  readonly fd: number;
  readonly calls: FileCalls;
}

/** The most that one system call is asked for; Node takes no more than 2^31 - 1. */
export const callLimitBytes = 2 ** 30;
/** How often a call that was interrupted, or had to be tried again, is repeated without any progress. */
const retryLimit = 1000;

/** Fill `into`. @throws SHORT_READ where the file ends in it; READ_FAILED */
export function* readWhole(
  file: OpenedFile,
  offset: number,
  into: Uint8Array,
  threaded: boolean,
): Task<void> {
  const call = threaded ? file.calls.read : file.calls.readSync;
  for (let done = 0; done < into.length; ) {
    const lengthBytes = Math.min(into.length - done, callLimitBytes);
    const at = offset + done;
    const count = yield* persist(file, 'read', at, lengthBytes, () =>
      call(file.fd, into, done, lengthBytes, at),
    );
    if (count === 0) {
      // Inside the size that it had: someone else has cut the file.
      const context = { path: file.path, hostOffset: at, lengthBytes };
      throw new StorageError('SHORT_READ', `${file.path} ends before ${offset + into.length} bytes`, context);
    }
    done += count;
  }
}

/**
 * Write all of `bytes`.
 * @param written called for each call that succeeded, with its place and how much it wrote
 * @throws WRITE_FAILED, NO_SPACE
 */
export function* writeWhole(
  file: OpenedFile,
  offset: number,
  bytes: Uint8Array,
  threaded: boolean,
  written: (offset: number, writtenBytes: number) => void,
): Task<void> {
  const call = threaded ? file.calls.write : file.calls.writeSync;
  for (let done = 0; done < bytes.length; ) {
    const lengthBytes = Math.min(bytes.length - done, callLimitBytes);
    const at = offset + done;
    const count = yield* persist(file, 'write', at, lengthBytes, () =>
      call(file.fd, bytes, done, lengthBytes, at),
    );
    written(at, count);
    done += count;
  }
}

/** One system call, repeated while it is interrupted or writes nothing. Failures come out mapped. */
function* persist(
  { path }: OpenedFile,
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
      if (!isPassing(error)) throw fileError(error, operation, { path, offset, lengthBytes });
    }
  }
  throw new StorageError(
    operation === 'read' ? 'READ_FAILED' : 'WRITE_FAILED',
    `${path}: no progress in ${retryLimit} attempts`,
    { path, hostOffset: offset, lengthBytes },
  );
}
