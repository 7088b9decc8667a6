/**
 * Two writers on one image destroy it. A lock that QEMU's programs know as well goes to the open file (`FileDevice.lock`), on
 * 64-bit Linux with koffi. Where there is none, this keeps two processes of ours apart, and ours from QEMU's:
 *
 * - among us: whoever opens an image for writing binds an abstract unix socket that is named by the file's
 *   device and inode. The kernel gives such a name to one process at a time and takes it back when that process
 *   ends, however it ends: nothing stale stays behind, and hard links to one file are one file.
 * - from those who do lock the file: /proc/locks shows it. Byte 101 says "I write", byte 201 says "nobody else may".
 *
 * What that does not do: hold off a QEMU that comes later, or a writer that comes after a reader. On Linux only;
 * elsewhere nothing is locked.
 */
import { readFileSync, statSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { type FileDevice, type ImageUse, imageInUse, nativeSupport } from '@qcow2/fs';

export interface ImageLock {
  release(): void;
}

/** Nothing to release: the lock ends with the open file, or there is none. */
const unlocked: ImageLock = { release: () => undefined };

/**
 * Lock a file that is open, for as long as it is.
 * @throws StorageError IN_USE
 */
export async function lockOpened(device: FileDevice, use: ImageUse): Promise<ImageLock> {
  if (device.lock(use)) return unlocked;
  if (use === 'writer' || use === 'raw-writer' || use === 'data-writer') return await bindWriter(device.path);
  if (use === 'reader') await checkNoWriter(device.path);
  return unlocked;
}

/**
 * Lock a file that is to be emptied, where opening it with a lock can not.
 * @throws StorageError IN_USE
 */
export async function lockToOverwrite(path: string): Promise<ImageLock> {
  return nativeSupport().calls === undefined ? await bindWriter(path) : unlocked;
}

/** Take the one place for writers of a file that exists. */
async function bindWriter(path: string): Promise<ImageLock> {
  if (process.platform !== 'linux') return unlocked;
  const { dev, ino } = statSync(path);
  if (isLocked(dev, ino, [writesAt, sharesNoWriteAt])) throw imageInUse(path, '"write"');
  const server = await bindName(dev, ino);
  if (server === 'taken') throw imageInUse(path, '"write"');
  return server === undefined ? unlocked : { release: () => server.close() };
}

/** Make sure that nobody writes to a file at this moment. */
async function checkNoWriter(path: string): Promise<void> {
  if (process.platform !== 'linux') return;
  const { dev, ino } = statSync(path);
  if (isLocked(dev, ino, [writesAt])) throw imageInUse(path, 'shared "write"');
  const server = await bindName(dev, ino);
  if (server === 'taken') throw imageInUse(path, 'shared "write"');
  server?.close();
}

const writesAt = 101;
const sharesNoWriteAt = 201;

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

function isLocked(dev: number, ino: number, bytes: readonly number[]): boolean {
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
