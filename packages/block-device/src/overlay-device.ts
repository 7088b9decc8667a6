/**
 * A device whose writes stay in memory, over one that is only ever read: an image with a dirty journal is
 * replayed onto an overlay where its file may not be touched, and a crash state is an overlay over what was durable.
 *
 * Invariants:
 *  - The base is never written, flushed, discarded or resized; it must not change meanwhile.
 *  - A page that is present holds all bytes of its range; one that is absent shows the base below
 *    `#baseLimitBytes`, and zeros from there on. The limit only falls (a device that shrinks and grows
 *    again must not show old bytes).
 *  - Bytes of a page at or beyond `sizeBytes` are zero.
 *
 * Concurrency: a write to a part of an absent page first loads the page from the base, which may have to be
 * waited for. Pages are inserted and changed only after that, in one step without waiting, and a page that someone
 * else has inserted meanwhile is used in place of the one loaded: writes side by side lose nothing.
 */
import { StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
import { checkRange, checkSize, pushExtent } from './request.ts';
import { run, type Task, wait, waitAll } from './task.ts';

export interface OverlayDeviceOptions {
  /** Granularity of what is kept in memory; 4096 if not given. */
  readonly pageBytes?: number;
  /** Whether it may grow beyond the base and be resized; true if not given. */
  readonly growable?: boolean;
  /** More memory than this for changed pages fails with NO_SPACE; no limit if not given. */
  readonly maxChangedBytes?: number;
}

export class OverlayDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly #base: BlockDevice;
  readonly #pageBytes: number;
  readonly #maxChangedBytes: number;
  readonly #pages = new Map<number, Uint8Array>();
  /** Stands in the map for every page that was zeroed as a whole; never written. */
  readonly #zeroPage: Uint8Array;
  #sizeBytes: number;
  #baseLimitBytes: number;
  #closed = false;

  /** Closing this closes `base`. */
  constructor(base: BlockDevice, options: OverlayDeviceOptions = {}) {
    const { pageBytes = 4096, growable = true } = options;
    if (!Number.isSafeInteger(pageBytes) || pageBytes < 1) {
      throw new StateError('INVALID_ARGUMENT', 'not a page size', { field: 'pageBytes', value: pageBytes });
    }
    this.#base = base;
    this.#pageBytes = pageBytes;
    this.#maxChangedBytes = options.maxChangedBytes ?? Number.POSITIVE_INFINITY;
    this.#zeroPage = new Uint8Array(pageBytes);
    this.#sizeBytes = base.sizeBytes;
    this.#baseLimitBytes = base.sizeBytes;
    this.capabilities = {
      write: true,
      growable,
      resize: growable,
      discard: false,
      writeZeroes: true,
      fua: true,
      extents: true,
      preferredBlockBytes: pageBytes,
    };
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Memory that changed pages take. */
  get changedBytes(): number {
    return this.#pages.size * this.#pageBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    this.#checkOpen();
    checkRange(offset, into.length, this.#sizeBytes);
    return run(this.#read(offset, into, options));
  }

  write(offset: number, bytes: Uint8Array, _options?: WriteOptions): void | Promise<void> {
    this.#admitWrite(offset, bytes.length);
    if (bytes.length > 0) return run(this.#write(offset, bytes));
  }

  /** Nothing here is ever durable. */
  flush(_options?: FlushOptions): void {
    this.#checkOpen();
  }

  discard(offset: number, lengthBytes: number, _options?: WriteOptions): void {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
  }

  writeZeroes(offset: number, lengthBytes: number, _options?: WriteZeroesOptions): void | Promise<void> {
    this.#admitWrite(offset, lengthBytes);
    if (lengthBytes > 0) return run(this.#zero(offset, offset + lengthBytes));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    return run(this.#extents(offset, offset + lengthBytes));
  }

  resize(sizeBytes: number): void {
    this.#checkOpen();
    if (!this.capabilities.resize) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'this device has a fixed size');
    }
    checkSize(sizeBytes);
    if (sizeBytes < this.#sizeBytes) {
      this.#baseLimitBytes = Math.min(this.#baseLimitBytes, sizeBytes);
      const partial = sizeBytes % this.#pageBytes;
      const kept = Math.ceil(sizeBytes / this.#pageBytes);
      for (const index of this.#pagesBetween(kept, Number.POSITIVE_INFINITY)) this.#pages.delete(index);
      if (partial > 0 && this.#pages.has(kept - 1)) this.#own(kept - 1).fill(0, partial);
    }
    this.#sizeBytes = sizeBytes;
  }

  close(): void | Promise<void> {
    this.#closed = true;
    return this.#base.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
  }

  #admitWrite(offset: number, lengthBytes: number): void {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.capabilities.growable ? Number.MAX_SAFE_INTEGER : this.#sizeBytes);
  }

  *#read(offset: number, into: Uint8Array, options?: ReadOptions): Task<void> {
    const waiting: (void | Promise<void>)[] = [];
    for (let done = 0; done < into.length; ) {
      const index = Math.floor((offset + done) / this.#pageBytes);
      const page = this.#pages.get(index);
      if (page === undefined) {
        // Neighbours that are absent too come with the same read of the base.
        let next = index + 1;
        while (next * this.#pageBytes < offset + into.length && !this.#pages.has(next)) next++;
        const end = Math.min(into.length, next * this.#pageBytes - offset);
        waiting.push(this.#readBase(offset + done, into.subarray(done, end), options));
        done = end;
      } else {
        const start = offset + done - index * this.#pageBytes;
        const count = Math.min(into.length - done, this.#pageBytes - start);
        into.set(page.subarray(start, start + count), done);
        done += count;
      }
    }
    yield* waitAll(waiting);
  }

  #readBase(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    const presentBytes = Math.max(0, Math.min(into.length, this.#baseLimitBytes - offset));
    into.fill(0, presentBytes);
    if (presentBytes > 0) return this.#base.read(offset, into.subarray(0, presentBytes), options);
  }

  *#write(offset: number, bytes: Uint8Array): Task<void> {
    const end = offset + bytes.length;
    const loaded = yield* this.#loadPartial(offset, end);
    this.#checkMemory(offset, end);
    this.#sizeBytes = Math.max(this.#sizeBytes, end);
    for (let done = 0; done < bytes.length; ) {
      const index = Math.floor((offset + done) / this.#pageBytes);
      const start = offset + done - index * this.#pageBytes;
      const count = Math.min(bytes.length - done, this.#pageBytes - start);
      this.#own(index, loaded.get(index)).set(bytes.subarray(done, done + count), start);
      done += count;
    }
  }

  *#zero(offset: number, end: number): Task<void> {
    const loaded = yield* this.#loadPartial(offset, end);
    // A page that ends with the device is covered when the range reaches the device's end.
    const covered =
      Math.max(end, this.#sizeBytes) === end ? Math.ceil(end / this.#pageBytes) * this.#pageBytes : end;
    const first = Math.ceil(offset / this.#pageBytes);
    const afterLast = Math.floor(covered / this.#pageBytes);
    // Only where the base shines through does a page of zeros have to stand in front of it.
    const baseEnd = Math.min(afterLast, Math.ceil(this.#baseLimitBytes / this.#pageBytes));
    this.#checkMemory(offset, Math.min(end, this.#baseLimitBytes));
    this.#sizeBytes = Math.max(this.#sizeBytes, end);
    for (const index of this.#pagesBetween(Math.max(first, baseEnd), afterLast)) this.#pages.delete(index);
    for (let index = first; index < baseEnd; index++) this.#pages.set(index, this.#zeroPage);
    for (const [index, page] of loaded) {
      if (index < first || index >= afterLast) this.#own(index, page);
    }
    for (const index of new Set([
      Math.floor(offset / this.#pageBytes),
      Math.floor((end - 1) / this.#pageBytes),
    ])) {
      if ((index >= first && index < afterLast) || !this.#pages.has(index)) continue;
      const start = index * this.#pageBytes;
      this.#own(index).fill(0, Math.max(0, offset - start), end - start);
    }
  }

  /** What the base holds of the first and last page of a range, where the range covers them in part and they are absent. */
  *#loadPartial(offset: number, end: number): Task<ReadonlyMap<number, Uint8Array>> {
    const loaded = new Map<number, Uint8Array>();
    const waiting: (void | Promise<void>)[] = [];
    for (const index of [Math.floor(offset / this.#pageBytes), Math.floor((end - 1) / this.#pageBytes)]) {
      const start = index * this.#pageBytes;
      const whole = offset <= start && end >= start + this.#pageBytes;
      if (whole || loaded.has(index) || this.#pages.has(index) || start >= this.#baseLimitBytes) continue;
      const page = new Uint8Array(this.#pageBytes);
      loaded.set(index, page);
      waiting.push(this.#readBase(start, page));
    }
    yield* waitAll(waiting);
    return loaded;
  }

  /** The page to write to: what is there, else what was loaded (less what a shrinking has cut off since), else zeros. */
  #own(index: number, loaded?: Uint8Array): Uint8Array {
    const present = this.#pages.get(index);
    if (present !== undefined && present !== this.#zeroPage) return present;
    let page = present === undefined ? loaded : undefined;
    if (page === undefined) page = new Uint8Array(this.#pageBytes);
    else page.fill(0, Math.max(0, Math.min(this.#pageBytes, this.#baseLimitBytes - index * this.#pageBytes)));
    this.#pages.set(index, page);
    return page;
  }

  *#extents(offset: number, end: number): Task<readonly Extent[]> {
    const extents: Extent[] = [];
    const first = Math.floor(offset / this.#pageBytes);
    let at = offset;
    for (const index of [...this.#pagesBetween(first, Math.ceil(end / this.#pageBytes)), Number.NaN]) {
      // NaN stands for the end: no page, just what lies before it.
      const from = Number.isNaN(index) ? end : Math.max(at, index * this.#pageBytes);
      if (at < from) {
        const covered = yield* this.#pushBase(extents, at, from);
        // A base may describe less than it was asked for; so may this.
        if (covered < from) return extents;
      }
      if (Number.isNaN(index)) break;
      at = Math.min(end, (index + 1) * this.#pageBytes);
      const kind = this.#pages.get(index) === this.#zeroPage ? 'zero' : 'data';
      pushExtent(extents, { offset: from, lengthBytes: at - from, kind });
    }
    return extents;
  }

  /** @returns where the description ends */
  *#pushBase(extents: Extent[], offset: number, end: number): Task<number> {
    const baseEnd = Math.min(end, this.#baseLimitBytes);
    let at = offset;
    if (at < baseEnd) {
      for (const extent of yield* wait(this.#base.extents(at, baseEnd - at))) {
        pushExtent(extents, extent);
        at += extent.lengthBytes;
      }
      if (at < baseEnd) return at;
    }
    pushExtent(extents, { offset: at, lengthBytes: end - at, kind: 'hole' });
    return end;
  }

  /** Refuse what would take too much memory, counted before any of it is done. */
  #checkMemory(offset: number, end: number): void {
    if (this.#maxChangedBytes === Number.POSITIVE_INFINITY || end <= offset) return;
    const first = Math.floor(offset / this.#pageBytes);
    const last = Math.ceil(end / this.#pageBytes);
    const present = this.#pagesBetween(first, last).length;
    if ((this.#pages.size + last - first - present) * this.#pageBytes > this.#maxChangedBytes) {
      const context = { field: 'maxChangedBytes', value: this.#maxChangedBytes };
      throw new StorageError(
        'NO_SPACE',
        `an overlay may hold ${this.#maxChangedBytes} changed bytes`,
        context,
      );
    }
  }

  /** Indices, ascending, of the pages that are present in [first, end): by the shorter way of finding them. */
  #pagesBetween(first: number, end: number): number[] {
    const found: number[] = [];
    if (end - first <= this.#pages.size) {
      for (let index = first; index < end; index++) if (this.#pages.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#pages.keys()) if (index >= first && index < end) found.push(index);
    return found.sort((a, b) => a - b);
  }
}
