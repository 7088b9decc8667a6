/**
 * The device that inputs stand on: bytes that are mutated in place and put back for the next input, and a guard
 * that counts what is asked of it and forbids what nobody may do.
 *
 * Cost is what is touched: the bytes of the base are one buffer, writes and mutations mark pages, and `reset`
 * copies the marked pages back. What is written far behind the base is kept in pages of its own, so a write at
 * 2^50 costs a page and not a disk.
 *
 * A budget of operations and bytes stands for time: code that goes round for ever over the device ends with
 * ABORTED and is a finding, and no clock is asked. (Code that goes round without the device is for the watchdog.)
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  type IoEvent,
  type WriteOptions,
} from '@qcow2/block-device';
import { StateError } from '@qcow2/spec';

const pageBytes = 1024;

export interface DeviceBudget {
  readonly operations: number;
  /** Bytes read and written together. */
  readonly bytes: number;
}

/** Told of every change before it is made; a text says why it may not be. */
export type WriteGuard = (
  offset: number,
  lengthBytes: number,
  event: IoEvent | undefined,
) => string | undefined;

export class GuardedDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities = {
    write: true,
    growable: true,
    resize: true,
    discard: true,
    writeZeroes: true,
    fua: true,
    extents: false,
    preferredBlockBytes: 1,
  };
  /** What the input is: mutators change it through `touch`. */
  readonly bytes: Uint8Array;
  readonly #base: Uint8Array;
  readonly #baseBytes: number;
  readonly #marked: Uint8Array;
  #markedPages: number[] = [];
  readonly #far = new Map<number, Uint8Array>();
  #sizeBytes: number;
  #budget: DeviceBudget;

  operations = 0;
  transferredBytes = 0;
  /** Writes, discards, resizes. */
  changes = 0;
  readOnly = false;
  overBudget = false;
  guard: WriteGuard | undefined;
  /** What the guard forbade. */
  violation: string | undefined;

  /** @param spareBytes room behind the base's end that is kept in the one buffer */
  constructor(base: Uint8Array, budget: DeviceBudget, spareBytes = 1 << 18) {
    const capacity = Math.ceil((base.length + spareBytes) / pageBytes) * pageBytes;
    this.#base = new Uint8Array(capacity);
    this.#base.set(base);
    this.#baseBytes = base.length;
    this.bytes = this.#base.slice();
    this.#marked = new Uint8Array(capacity / pageBytes);
    this.#sizeBytes = base.length;
    this.#budget = budget;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** As the base is, with a new budget. */
  reset(): void {
    for (const page of this.#markedPages) {
      const at = page * pageBytes;
      this.bytes.set(this.#base.subarray(at, at + pageBytes), at);
      this.#marked[page] = 0;
    }
    this.#markedPages = [];
    this.#far.clear();
    this.#sizeBytes = this.#baseBytes;
    this.rearm();
  }

  /** A new budget and no guard; the bytes stay. */
  rearm(): void {
    this.operations = 0;
    this.transferredBytes = 0;
    this.changes = 0;
    this.readOnly = false;
    this.overBudget = false;
    this.guard = undefined;
    this.violation = undefined;
  }

  /** A mutator will change the range of `bytes`. */
  touch(offset: number, lengthBytes: number): void {
    const last = Math.min(this.#marked.length - 1, Math.floor((offset + lengthBytes - 1) / pageBytes));
    for (let page = Math.floor(offset / pageBytes); page <= last; page++) {
      if (this.#marked[page] === 1) continue;
      this.#marked[page] = 1;
      this.#markedPages.push(page);
    }
  }

  /** A mutator cuts the file off. */
  cut(sizeBytes: number): void {
    this.#clear(sizeBytes, this.#sizeBytes);
    this.#sizeBytes = Math.min(sizeBytes, this.#sizeBytes);
  }

  read(offset: number, into: Uint8Array): void {
    this.#count(into.length);
    checkRange(offset, into.length, this.#sizeBytes);
    const near = Math.max(0, Math.min(into.length, this.bytes.length - offset));
    if (near > 0) into.set(this.bytes.subarray(offset, offset + near));
    for (let done = near; done < into.length; ) {
      const inPage = (offset + done) % pageBytes;
      const count = Math.min(into.length - done, pageBytes - inPage);
      const page = this.#far.get((offset + done - inPage) / pageBytes);
      if (page === undefined) into.fill(0, done, done + count);
      else into.set(page.subarray(inPage, inPage + count), done);
      done += count;
    }
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void {
    this.#change(offset, bytes.length, options?.event);
    this.#put(offset, bytes);
  }

  flush(): void {
    this.#count(0);
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void {
    checkRange(offset, lengthBytes, this.#sizeBytes);
    this.#change(offset, lengthBytes, options?.event);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteOptions): void {
    this.#change(offset, lengthBytes, options?.event);
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + lengthBytes);
    this.#clear(offset, offset + lengthBytes);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#count(0);
    checkRange(offset, lengthBytes, this.#sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(sizeBytes: number): void {
    this.#change(Math.max(0, sizeBytes - 1), sizeBytes > this.#sizeBytes ? 1 : 0, undefined);
    if (sizeBytes < this.#sizeBytes) this.#clear(sizeBytes, this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  close(): void {}

  #count(lengthBytes: number): void {
    this.operations++;
    this.transferredBytes += lengthBytes;
    if (this.operations <= this.#budget.operations && this.transferredBytes <= this.#budget.bytes) return;
    this.overBudget = true;
    throw new StateError('ABORTED', 'the budget of device operations is used up');
  }

  #change(offset: number, lengthBytes: number, event: IoEvent | undefined): void {
    this.#count(lengthBytes);
    checkRange(offset, lengthBytes, Number.MAX_SAFE_INTEGER);
    this.changes++;
    const why = this.readOnly
      ? 'written though it was opened read-only'
      : this.guard?.(offset, lengthBytes, event);
    if (why === undefined) return;
    this.violation ??= `${event ?? 'change'} of ${lengthBytes} bytes at ${offset}: ${why}`;
  }

  #put(offset: number, bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.length);
    const near = Math.max(0, Math.min(bytes.length, this.bytes.length - offset));
    if (near > 0) {
      this.touch(offset, near);
      this.bytes.set(bytes.subarray(0, near), offset);
    }
    for (let done = near; done < bytes.length; ) {
      const inPage = (offset + done) % pageBytes;
      const count = Math.min(bytes.length - done, pageBytes - inPage);
      const index = (offset + done - inPage) / pageBytes;
      const page = this.#far.get(index) ?? new Uint8Array(pageBytes);
      this.#far.set(index, page);
      page.set(bytes.subarray(done, done + count), inPage);
      done += count;
    }
  }

  #clear(offset: number, end: number): void {
    const near = Math.min(end, this.bytes.length);
    if (offset < near) {
      this.touch(offset, near - offset);
      this.bytes.fill(0, offset, near);
    }
    for (const [index, page] of this.#far) {
      const at = index * pageBytes;
      if (at < end && at + pageBytes > offset)
        page.fill(0, Math.max(0, offset - at), Math.min(pageBytes, end - at));
    }
  }
}
