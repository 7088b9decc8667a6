/** What a failed call of the system is called: the C library's words, where scripts may look for them. */
import { describeError } from './failures.ts';

const systemReasons: Readonly<Record<string, string>> = {
  ENOENT: 'No such file or directory',
  ENOTDIR: 'Not a directory',
  EISDIR: 'Is a directory',
  EACCES: 'Permission denied',
  ENXIO: 'No such device or address',
  EPERM: 'Operation not permitted',
  EROFS: 'Read-only file system',
  ENOSPC: 'No space left on device',
  ENAMETOOLONG: 'File name too long',
  ECONNREFUSED: 'Connection refused',
  ECONNRESET: 'Connection reset by peer',
  ETIMEDOUT: 'Connection timed out',
};

/** By the error number of the error, or of the one below it. */
export function systemReason(error: unknown): string {
  return systemReasons[errnoOf(error)] ?? describeError(error);
}

function errnoOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const code = 'code' in error ? String(error.code) : '';
  return code in systemReasons ? code : errnoOf(error.cause);
}
