/**
 * Two writers on one image destroy it. This keeps two processes of ours apart, and ours from QEMU's:
 *
 * - among us: whoever opens an image for writing binds an abstract unix socket that is named by the file's
 *   device and inode. The kernel gives such a name to one process at a time and takes it back when that process
 *   ends, however it ends: nothing stale stays behind, and hard links to one file are one file.
 * - from QEMU: it locks bytes of the file (open file description locks, which Node can not take); /proc/locks
 *   shows them. Byte 101 says "I write", byte 201 says "nobody else may".
 *
 * What it does not do: hold off a QEMU that comes later, or a writer that comes after a reader. Linux only;
 * elsewhere nothing is locked.
 */
import { readFileSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { StorageError } from '@qcow2/spec';

export interface ImageLock {
  release(): void;
}

const unlocked: ImageLock = { release: () => undefined };

/**
 * Take the one place for writers of a file that exists.
 * @throws StorageError IN_USE
 */
export async function lockForWriting(path: string): Promise<ImageLock> {
  if (process.platform !== 'linux') return unlocked;
  const { dev, ino } = statSync(path);
  if (isLockedByQemu(dev, ino, [writesAt, sharesNoWriteAt])) throw inUse(path, '"write" lock');
  const server = await bindName(dev, ino);
  if (server === 'taken') throw inUse(path, '"write" lock');
  return server === undefined ? unlocked : { release: () => server.close() };
}

/**
 * Make sure that nobody writes to a file at this moment.
 * @throws StorageError IN_USE
 */
export async function checkNoWriter(path: string): Promise<void> {
  if (process.platform !== 'linux') return;
  const { dev, ino } = statSync(path);
  if (isLockedByQemu(dev, ino, [writesAt])) throw inUse(path, 'shared "write" lock');
  const server = await bindName(dev, ino);
  if (server === 'taken') throw inUse(path, 'shared "write" lock');
  server?.close();
}

const writesAt = 101;
const sharesNoWriteAt = 201;

function inUse(path: string, lock: string): StorageError {
  return new StorageError('IN_USE', `Failed to get ${lock}\nIs another process using the image [${path}]?`, {
    path,
  });
}

/** @returns undefined where the system does not let us bind such names: then there is no lock */
function bindName(dev: number, ino: number): Promise<Server | 'taken' | undefined> {
  const server = createServer().unref();
  return new Promise((resolve) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      resolve(error.code === 'EADDRINUSE' ? 'taken' : undefined);
    });
    server.listen({ path: `\0qcow2-image-${dev}-${ino}` }, () => resolve(server));
  });
}

function isLockedByQemu(dev: number, ino: number, bytes: readonly number[]): boolean {
  const file = `${hex(major(dev))}:${hex(minor(dev))}:${ino}`;
  return locks()
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, kind, , , , where]) => kind === 'OFDLCK' && where === file)
    .some(([, , , , , , from, to]) => bytes.some((byte) => Number(from) <= byte && byte <= Number(to)));
}

function locks(): string {
  try {
    return readFileSync('/proc/locks', 'utf8');
  } catch {
    return '';
  }
}

/** How Linux packs device numbers: twelve bits of major between the low and the high bits of minor. */
function major(dev: number): number {
  return Math.floor(dev / 2 ** 8) & 0xfff;
}

function minor(dev: number): number {
  return (dev & 0xff) | (Math.floor(dev / 2 ** 12) & 0xfff00);
}

function hex(value: number): string {
  return value.toString(16).padStart(2, '0');
}
