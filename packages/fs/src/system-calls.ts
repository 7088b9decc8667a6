/**
 * The few calls of the operating system that a file device needs, as one small interface: what a test
 * replaces to count them, to make them fail, or to play a block device. Failures are those of Node, with an
 * errno name in `code`; who calls them maps these (`file-error.ts`).
 */
import fs from 'node:fs';
import { type NativeCalls, nativeSupport } from './native-calls.ts';

export type FileKind =
  | 'file'
  | 'block-device'
  | 'character-device'
  | 'directory'
  | 'fifo'
  | 'socket'
  | 'other';

export interface FileStatus {
  readonly kind: FileKind;
  /** As `fstat` says: 0 for devices. */
  readonly sizeBytes: number;
  /** Which file it is: the number of its file system's device, and its own there. */
  readonly device: number;
  readonly inode: number;
}

export interface FileCalls {
  /** @returns the file descriptor */
  open(path: string, flags: number, mode: number): number;
  close(fd: number): void;
  status(fd: number): FileStatus;
  truncate(fd: number, sizeBytes: number): void;
  /** fsync: data and all metadata, for directories. */
  synchronize(fd: number): void;

  /** pread on the caller's thread. @returns bytes read, 0 at the end, possibly fewer than asked for */
  readSync(fd: number, into: Uint8Array, start: number, lengthBytes: number, offset: number): number;
  /** pwrite on the caller's thread. @returns bytes written, possibly fewer than asked for */
  writeSync(fd: number, bytes: Uint8Array, start: number, lengthBytes: number, offset: number): number;
  /** fdatasync on the caller's thread. */
  datasyncSync(fd: number): void;

  /** The same three in the thread pool. */
  read(fd: number, into: Uint8Array, start: number, lengthBytes: number, offset: number): Promise<number>;
  write(fd: number, bytes: Uint8Array, start: number, lengthBytes: number, offset: number): Promise<number>;
  datasync(fd: number): Promise<void>;

  /** What Node has no call for; undefined where it can not be had. */
  readonly native: NativeCalls | undefined;
}

/** The real ones. */
export const nodeCalls: FileCalls = {
  open: (path, flags, mode) => fs.openSync(path, flags, mode),
  close: (fd) => fs.closeSync(fd),
  status: (fd) => {
    const stats = fs.fstatSync(fd);
    return { kind: kindOf(stats), sizeBytes: stats.size, device: stats.dev, inode: stats.ino };
  },
  truncate: (fd, sizeBytes) => fs.ftruncateSync(fd, sizeBytes),
  synchronize: (fd) => fs.fsyncSync(fd),
  readSync: (fd, into, start, lengthBytes, offset) => fs.readSync(fd, into, start, lengthBytes, offset),
  writeSync: (fd, bytes, start, lengthBytes, offset) => fs.writeSync(fd, bytes, start, lengthBytes, offset),
  datasyncSync: (fd) => fs.fdatasyncSync(fd),
  read: (fd, into, start, lengthBytes, offset) =>
    new Promise((resolve, reject) => {
      fs.read(fd, into, start, lengthBytes, offset, (error, count) =>
        error ? reject(error) : resolve(count),
      );
    }),
  write: (fd, bytes, start, lengthBytes, offset) =>
    new Promise((resolve, reject) => {
      fs.write(fd, bytes, start, lengthBytes, offset, (error, count) =>
        error ? reject(error) : resolve(count),
      );
    }),
  datasync: (fd) =>
    new Promise((resolve, reject) => {
      fs.fdatasync(fd, (error) => (error ? reject(error) : resolve()));
    }),
  get native() {
    return nativeSupport().calls;
  },
};

function kindOf(stats: fs.Stats): FileKind {
  if (stats.isFile()) return 'file';
  if (stats.isBlockDevice()) return 'block-device';
  if (stats.isCharacterDevice()) return 'character-device';
  if (stats.isDirectory()) return 'directory';
  if (stats.isFIFO()) return 'fifo';
  return stats.isSocket() ? 'socket' : 'other';
}
