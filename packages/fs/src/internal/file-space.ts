/**
 * Where a regular file has bytes of its own and where holes, and the changes of that which take no bytes.
 *
 * What the file system can not do it says when it is asked (tmpfs makes holes and no zeroed ranges, FAT
 * neither): that is remembered, and not asked again. A hole that is made and not flushed may be there after a crash
 * or not, like any write; half of a long one may be.
 *
 * Short runs of zeros are better written: a hole changes the file system's own metadata, which the next
 * fdatasync then has to commit.
 */
import { type Extent, pushExtent, type Task, wait } from '@qcow2/block-device';
import { errnoOf } from '../file-error.ts';
import type { AllocationChange, NativeCalls } from '../native-calls.ts';

export interface SpaceChange {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly threaded: boolean;
}

/** Zeros of fewer bytes than this are written. */
const shortZeroesBytes = 64 * 1024;
/** One answer names at most so many extents. */
const mostExtents = 1024;
const interruptLimit = 1000;

export class FileSpace {
  readonly #fd: number;
  readonly #native: NativeCalls | undefined;
  readonly #unsupported = new Set<AllocationChange>();

  /** @param native undefined where the system has no such calls, or the file is none */
  constructor(fd: number, native: NativeCalls | undefined) {
    this.#fd = fd;
    this.#native = native;
  }

  get tellsHoles(): boolean {
    return this.#native !== undefined;
  }

  get punches(): boolean {
    return this.#native !== undefined && !this.#unsupported.has('punch-hole');
  }

  get zeroes(): boolean {
    if (this.#native === undefined) return false;
    return !this.#unsupported.has('zero-range') || this.#punchesAndFills;
  }

  get #punchesAndFills(): boolean {
    return this.punches && !this.#unsupported.has('keep-size');
  }

  /** @returns false where nothing was done, because it can not be */
  punch(range: SpaceChange): Task<boolean> {
    return this.#change('punch-hole', range);
  }

  /** Set space aside, and let the file grow. @returns as `punch` */
  allocate(range: SpaceChange): Task<boolean> {
    return this.#change('extend', range);
  }

  /** Make a range inside the file read as zeros. @returns false where they have to be written */
  *zero(range: SpaceChange & { readonly keepSpace: boolean }): Task<boolean> {
    if (range.lengthBytes < shortZeroesBytes) return false;
    if (!range.keepSpace && (yield* this.#change('punch-hole', range))) return true;
    if (yield* this.#change('zero-range', range)) return true;
    // Between the two the range reads as zeros already; a crash there costs the space that was set aside.
    if (!this.#punchesAndFills || !(yield* this.#change('punch-hole', range))) return false;
    return yield* this.#change('keep-size', range);
  }

  /** What stands between two places within the file: at least one extent unless they are the same. */
  extents(from: number, end: number): Extent[] {
    const found: Extent[] = [];
    if (this.#native === undefined) {
      pushExtent(found, { offset: from, lengthBytes: end - from, kind: 'data' });
      return found;
    }
    for (let at = from; at < end && found.length + 2 <= mostExtents; ) {
      const dataAt = Math.min(this.#native.seek(this.#fd, 'data', at) ?? end, end);
      pushExtent(found, { offset: at, lengthBytes: dataAt - at, kind: 'hole' });
      if (dataAt === end) break;
      // Where a hole was made between the two answers, one byte of it counts as data still.
      const holeAt = Math.max(this.#native.seek(this.#fd, 'hole', dataAt) ?? end, dataAt + 1);
      at = Math.min(holeAt, end);
      pushExtent(found, { offset: dataAt, lengthBytes: at - dataAt, kind: 'data' });
    }
    return found;
  }

  *#change(change: AllocationChange, range: SpaceChange): Task<boolean> {
    if (this.#native === undefined || this.#unsupported.has(change)) return false;
    const { offset, lengthBytes } = range;
    for (let attempt = 1; ; attempt++) {
      try {
        if (range.threaded) yield* wait(this.#native.allocateInThread(this.#fd, change, offset, lengthBytes));
        else this.#native.allocate(this.#fd, change, offset, lengthBytes);
        return true;
      } catch (error) {
        const errno = errnoOf(error);
        if (errno === 'EINTR' && attempt < interruptLimit) continue;
        if (errno !== 'ENOTSUP' && errno !== 'EOPNOTSUPP' && errno !== 'ENOSYS') throw error;
        this.#unsupported.add(change);
        return false;
      }
    }
  }
}
