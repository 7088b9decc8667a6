/** From errno names to this project's errors: by what the caller can do, not by what the kernel felt. */
import { Qcow2Error, StateError, StorageError } from '@qcow2/spec';

export type FileOperation = 'open' | 'read' | 'write' | 'flush' | 'resize' | 'close';

const operationCodes = {
  open: 'READ_FAILED',
  read: 'READ_FAILED',
  write: 'WRITE_FAILED',
  flush: 'FLUSH_FAILED',
  resize: 'WRITE_FAILED',
  close: 'WRITE_FAILED',
} as const satisfies Record<FileOperation, string>;

/** The errno name of a Node error, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Worth trying again at once. */
export function isPassing(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === 'EINTR' || errno === 'EAGAIN';
}

export interface FilePlace {
  readonly path: string;
  readonly offset?: number;
  readonly lengthBytes?: number;
}

/**
 * The error to throw for a failed call, with the original as its `cause` and where it happened in its context.
 * An error of ours passes through unchanged.
 */
export function fileError(error: unknown, operation: FileOperation, place: FilePlace): Qcow2Error {
  if (error instanceof Qcow2Error) return error;
  const { path } = place;
  const context = { path, hostOffset: place.offset, lengthBytes: place.lengthBytes };
  const errno = errnoOf(error);
  const message = `${path}: ${operation} failed: ${error instanceof Error ? error.message : String(error)}`;
  // A failed flush is one whatever its errno: what it was to make durable is lost, space or not.
  if (operation === 'flush') return new StorageError('FLUSH_FAILED', message, context, error);
  switch (errno) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new StorageError('NOT_FOUND', message, context, error);
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
    case 'EEXIST':
      return new StorageError('ACCESS_DENIED', message, context, error);
    case 'EBUSY':
    case 'ETXTBSY':
      return new StorageError('IN_USE', message, context, error);
    case 'ENOSPC':
    case 'EDQUOT':
    case 'EFBIG':
      return new StorageError('NO_SPACE', message, context, error);
    case 'EISDIR':
    case 'ENXIO':
    case 'ESPIPE':
    case 'ELOOP':
    case 'ENAMETOOLONG':
      return new StateError('INVALID_ARGUMENT', message, context, error);
    default:
      return new StorageError(operationCodes[operation], message, context, error);
  }
}
