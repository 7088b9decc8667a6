/**
 * A device in memory: a sparse map of pages, so that its size may be anything up to 2^53 - 1.
 *
 * Invariants: a page that is absent reads as zeros and costs nothing; bytes of a page at or beyond
 * `sizeBytes` are zero, so growing never shows old bytes; work is proportional to the pages that exist,
 * never to the length of a range of zeros.
 *
 * Everything is synchronous. `flush` does nothing: what is durable is for a device around this one to say.
 */
import { StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import type {
  BlockDevice,
  ByteOrigin,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from './block-device.ts';
import { checkRange, checkSize, pushExtent } from './request.ts';

export interface MemoryDeviceOptions {
  /** Size at the start; 0 if not given. */
  readonly sizeBytes?: number;
  /** Granularity of allocation and of `extents`; 4096 if not given. */
  readonly pageBytes?: number;
  /** Growing beyond this fails with NO_SPACE; 2^53 - 1 if not given. */
  readonly maxSizeBytes?: number;
  /** Overrides of the defaults, which are: everything, and blocks of 1 byte. What is switched off is refused (or, discard, ignored). */
  readonly capabilities?: Partial<DeviceCapabilities>;
}

const everything: DeviceCapabilities = {
  write: true,
  growable: true,
  resize: true,
  discard: true,
  writeZeroes: true,
  fua: true,
  extents: true,
  preferredBlockBytes: 1,
};

export class MemoryDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly #pageBytes: number;
  readonly #maxSizeBytes: number;
  readonly #pages = new Map<number, Uint8Array>();
  #sizeBytes: number;
  #closed = false;

  /** @throws INVALID_ARGUMENT for a size or page size that can not be */
  constructor(options: MemoryDeviceOptions = {}) {
    const { sizeBytes = 0, pageBytes = 4096, maxSizeBytes = Number.MAX_SAFE_INTEGER } = options;
    checkSize(sizeBytes);
    if (!Number.isSafeInteger(pageBytes) || pageBytes < 1) {
      throw new StateError('INVALID_ARGUMENT', 'not a page size', { field: 'pageBytes', value: pageBytes });
    }
    this.capabilities = { ...everything, ...options.capabilities };
    this.#pageBytes = pageBytes;
    this.#maxSizeBytes = maxSizeBytes;
    this.#sizeBytes = sizeBytes;
  }

  /** A device that holds a copy of `bytes`. Pages of zeros are left out. */
  static fromBytes(bytes: Uint8Array, options: Omit<MemoryDeviceOptions, 'sizeBytes'> = {}): MemoryDevice {
    const device = new MemoryDevice({ ...options, sizeBytes: bytes.length });
    for (let offset = 0; offset < bytes.length; offset += device.#pageBytes) {
      const part = bytes.subarray(offset, offset + device.#pageBytes);
      if (part.some((byte) => byte !== 0)) device.#put(offset, part);
    }
    return device;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** Bytes of memory that pages take. */
  get allocatedBytes(): number {
    return this.#pages.size * this.#pageBytes;
  }

  /** A copy of all bytes, also of a closed device. Only for sizes that fit into an array. */
  snapshot(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#sizeBytes);
    for (const [index, page] of this.#pages) {
      const offset = index * this.#pageBytes;
      all.set(page.subarray(0, Math.min(page.length, this.#sizeBytes - offset)), offset);
    }
    return all;
  }

  /** An open device of its own with the same size, bytes and options. */
  clone(): MemoryDevice {
    const twin = new MemoryDevice({
      sizeBytes: this.#sizeBytes,
      pageBytes: this.#pageBytes,
      maxSizeBytes: this.#maxSizeBytes,
      capabilities: this.capabilities,
    });
    for (const [index, page] of this.#pages) twin.#pages.set(index, page.slice());
    return twin;
  }

  read(offset: number, into: Uint8Array, _options?: ReadOptions): void {
    this.#checkOpen();
    checkRange(offset, into.length, this.#sizeBytes);
    for (let done = 0; done < into.length; ) {
      const { index, start, count } = this.#piece(offset + done, into.length - done);
      const page = this.#pages.get(index);
      if (page === undefined) into.fill(0, done, done + count);
      else into.set(page.subarray(start, start + count), done);
      done += count;
    }
  }

  write(offset: number, bytes: Uint8Array, _options?: WriteOptions): void {
    this.#admitWrite(offset, bytes.length);
    this.#put(offset, bytes);
  }

  flush(_options?: FlushOptions): void {
    this.#checkOpen();
  }

  discard(offset: number, lengthBytes: number, _options?: WriteOptions): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    if (!this.capabilities.discard) return;
    const first = Math.ceil(offset / this.#pageBytes);
    const end = this.#wholePagesEnd(offset + lengthBytes);
    if (first < end) this.#dropPages(first, end);
  }

  writeZeroes(offset: number, lengthBytes: number, _options?: WriteZeroesOptions): void {
    this.#admitWrite(offset, lengthBytes);
    if (lengthBytes === 0) return;
    this.#clear(offset, offset + lengthBytes);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    const end = offset + lengthBytes;
    const extents: Extent[] = [];
    if (!this.capabilities.extents) {
      pushExtent(extents, { offset, lengthBytes, kind: 'data' });
      return extents;
    }
    let at = offset;
    for (const index of this.#pagesBetween(
      Math.floor(offset / this.#pageBytes),
      Math.ceil(end / this.#pageBytes),
    )) {
      const from = Math.max(at, index * this.#pageBytes);
      const to = Math.min(end, (index + 1) * this.#pageBytes);
      pushExtent(extents, { offset: at, lengthBytes: from - at, kind: 'hole' });
      pushExtent(extents, { offset: from, lengthBytes: to - from, kind: 'data' });
      at = to;
    }
    pushExtent(extents, { offset: at, lengthBytes: end - at, kind: 'hole' });
    return extents;
  }

  resize(sizeBytes: number): void {
    this.#checkWritable();
    if (!this.capabilities.resize) {
      throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'this device has a fixed size');
    }
    checkSize(sizeBytes);
    this.#checkSpace(sizeBytes);
    if (sizeBytes < this.#sizeBytes) this.#clear(sizeBytes, this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  /** Of memory. */
  copyFrom({ device, offset: from, lengthBytes }: ByteOrigin, offset: number): number {
    checkRange(from, lengthBytes, device.sizeBytes);
    this.#admitWrite(offset, lengthBytes);
    if (!(device instanceof MemoryDevice)) return 0;
    const bytes = new Uint8Array(lengthBytes);
    device.read(from, bytes);
    this.#put(offset, bytes);
    return lengthBytes;
  }

  close(): void {
    this.#closed = true;
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
  }

  #checkWritable(): void {
    this.#checkOpen();
    if (!this.capabilities.write) throw new StateError('READ_ONLY', 'the device is read-only');
  }

  #checkSpace(sizeBytes: number): void {
    if (sizeBytes > this.#maxSizeBytes) {
      throw new StorageError('NO_SPACE', `the device can not grow beyond ${this.#maxSizeBytes} bytes`);
    }
  }

  /** Refuse a write that may not be, and grow the device for one that may. */
  #admitWrite(offset: number, lengthBytes: number): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.capabilities.growable ? Number.MAX_SAFE_INTEGER : this.#sizeBytes);
    if (lengthBytes === 0 || offset + lengthBytes <= this.#sizeBytes) return;
    this.#checkSpace(offset + lengthBytes);
    this.#sizeBytes = offset + lengthBytes;
  }

  #put(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const { index, start, count } = this.#piece(offset + done, bytes.length - done);
      let page = this.#pages.get(index);
      if (page === undefined) {
        page = new Uint8Array(this.#pageBytes);
        this.#pages.set(index, page);
      }
      page.set(bytes.subarray(done, done + count), start);
      done += count;
    }
  }

  /** Make a range read as zeros: whole pages (one that ends with the device is whole) go, partial ones are filled. */
  #clear(offset: number, end: number): void {
    const first = Math.ceil(offset / this.#pageBytes);
    const last = this.#wholePagesEnd(end);
    if (first < last) this.#dropPages(first, last);
    this.#zero(offset, Math.min(end, first * this.#pageBytes));
    if (last >= first) this.#zero(last * this.#pageBytes, end);
  }

  /** Zero a range that lies within one page. */
  #zero(offset: number, end: number): void {
    if (offset >= end) return;
    const index = Math.floor(offset / this.#pageBytes);
    this.#pages.get(index)?.fill(0, offset - index * this.#pageBytes, end - index * this.#pageBytes);
  }

  /** Index after the last page that a range up to `end` covers to the page's end, or to the device's. */
  #wholePagesEnd(end: number): number {
    return end >= this.#sizeBytes ? Math.ceil(end / this.#pageBytes) : Math.floor(end / this.#pageBytes);
  }

  #dropPages(first: number, end: number): void {
    for (const index of this.#pagesBetween(first, end)) this.#pages.delete(index);
  }

  /** Indices, ascending, of the pages that exist in [first, end): by the shorter way of finding them. */
  #pagesBetween(first: number, end: number): number[] {
    const found: number[] = [];
    if (end - first <= this.#pages.size) {
      for (let index = first; index < end; index++) if (this.#pages.has(index)) found.push(index);
      return found;
    }
    for (const index of this.#pages.keys()) if (index >= first && index < end) found.push(index);
    return found.sort((a, b) => a - b);
  }

  /** The part of a request that falls into the page at `offset`. */
  #piece(offset: number, lengthBytes: number): { index: number; start: number; count: number } {
    const index = Math.floor(offset / this.#pageBytes);
    const start = offset - index * this.#pageBytes;
    return { index, start, count: Math.min(lengthBytes, this.#pageBytes - start) };
  }
}
