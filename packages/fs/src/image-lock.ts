/**
 * Locks on images as QEMU's programs take them, so that theirs and ours hold each other off.
 *
 * There are four things to do with an image, numbered below. Whoever does one holds a shared lock on byte 100 plus
 * its number; whoever can not stand that others do it, one on byte 200 plus its number. Both go to the open file
 * description: they end with it, however the process ends. Nobody ever takes an exclusive lock; it is asked for, of the
 * byte that would stand in the way, and the answer says whether somebody else is there.
 *
 * First all of one's own bytes are taken, then all others are asked about, and where one is taken one's own
 * are given back. So of two that come at once at least one sees the other, and perhaps both do.
 *
 * A lock is a courtesy: it keeps out those who ask. It says nothing of the bytes that it stands on, which an image
 * has there as well.
 */
import { StorageError } from '@qcow2/spec';
import { describeHolder, findHolder } from './internal/lock-holder.ts';
import type { NativeCalls } from './native-calls.ts';
import type { FileStatus } from './system-calls.ts';

/** What one is going to do with an image, and so what others may do meanwhile. */
export type ImageUse =
  /** write to an image: nobody else writes or changes its size, and who reads must be ready for that */
  | 'writer'
  /** read an image: nobody writes meanwhile */
  | 'reader'
  /** write to a raw disk: others may write too, but nobody changes its size */
  | 'raw-writer'
  /** write to the data file of an image, and change its size: nobody else does that */
  | 'data-writer'
  /** read a raw disk that others may write to */
  | 'raw-reader'
  /** look at whatever is there, while anybody does anything (QEMU's force-share) */
  | 'shared';

/** Their numbers are their places. */
const things = ['consistent read', 'write', 'write unchanged', 'resize'] as const;
type Thing = 0 | 1 | 2 | 3;

interface Claim {
  readonly does: readonly Thing[];
  readonly refuses: readonly Thing[];
}

const claims: Readonly<Record<ImageUse, Claim>> = {
  writer: { does: [0, 1, 3], refuses: [1, 3] },
  reader: { does: [0], refuses: [1, 3] },
  'raw-writer': { does: [0, 1], refuses: [3] },
  'data-writer': { does: [0, 1, 3], refuses: [3] },
  'raw-reader': { does: [0], refuses: [3] },
  shared: { does: [0], refuses: [] },
};

const doneAt = 100;
const refusedAt = 200;

export interface LockedFile extends Pick<FileStatus, 'device' | 'inode'> {
  readonly path: string;
  readonly fd: number;
}

/** What one open file holds. */
export class ImageLock {
  readonly #file: LockedFile;
  readonly #native: NativeCalls;
  #held: readonly number[] = [];

  constructor(file: LockedFile, native: NativeCalls) {
    this.#file = file;
    this.#native = native;
  }

  /**
   * Hold what a use needs, in place of what was held so far. On failure that is held still.
   * @throws IN_USE, in QEMU's words, and with the name of who is there where the system tells it
   */
  take(use: ImageUse): void {
    const { does, refuses } = claims[use];
    const wanted = [...does.map((thing) => doneAt + thing), ...refuses.map((thing) => refusedAt + thing)];
    const added = wanted.filter((byte) => !this.#held.includes(byte));
    try {
      for (const byte of added) {
        if (!this.#native.lock(this.#file.fd, 'shared', byte, 1)) throw this.#inUse('a', byte);
      }
      for (const thing of does) this.#checkFree(refusedAt + thing, `"${things[thing]}"`);
      for (const thing of refuses) this.#checkFree(doneAt + thing, `shared "${things[thing]}"`);
    } catch (error) {
      this.#release(added);
      throw error;
    }
    this.#release(this.#held.filter((byte) => !wanted.includes(byte)));
    this.#held = wanted;
  }

  #checkFree(byte: number, lock: string): void {
    if (this.#native.isLocked(this.#file.fd, 'exclusive', byte, 1)) throw this.#inUse(lock, byte);
  }

  #release(bytes: readonly number[]): void {
    for (const byte of bytes) this.#native.unlock(this.#file.fd, byte, 1);
  }

  #inUse(lock: string, byte: number): StorageError {
    return imageInUse(this.#file.path, lock, describeHolder(findHolder(this.#file, byte)));
  }
}

/** @param holder a sentence, or nothing */
export function imageInUse(path: string, lock: string, holder = ''): StorageError {
  const question = `Failed to get ${lock} lock\nIs another process using the image [${path}]?`;
  return new StorageError('IN_USE', holder === '' ? question : `${question}\n${holder}`, { path });
}
