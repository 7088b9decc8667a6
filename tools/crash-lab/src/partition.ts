/**
 * Two files on one disk, so that the lab records what is done to both in one order, and takes the disk apart as ever:
 * first the data file, of a bounded length, and behind it the image file, which grows. When the data file is cut, what it loses becomes
 * zeros on the disk; to whoever opens it next it is as long as ever, and zeros are what is there.
 *
 * What makes them two is that a flush of one says nothing of the other: it is passed on with the range that it is for, and the
 * crash model takes nothing else for durable (`crash-point.ts`). Storage keeps no order between them in any case.
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  type FlushOptions,
  type ReadOptions,
  type WriteOptions,
  type WriteZeroesOptions,
} from '@qcow2/block-device';

export class Partition implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly #disk: BlockDevice;
  readonly #start: number;
  readonly #lengthBytes: number | undefined;
  /** Of a bounded one: its end, as long as this lives. */
  #endBytes: number;

  /** @param lengthBytes undefined: to the end of the disk, wherever that is */
  constructor(disk: BlockDevice, start: number, lengthBytes?: number) {
    this.#disk = disk;
    this.#start = start;
    this.#lengthBytes = lengthBytes;
    this.#endBytes = lengthBytes ?? Number.MAX_SAFE_INTEGER - start;
    this.capabilities = { ...disk.capabilities, growable: lengthBytes === undefined };
  }

  get sizeBytes(): number {
    return this.#lengthBytes === undefined ? Math.max(0, this.#disk.sizeBytes - this.#start) : this.#endBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    checkRange(offset, into.length, this.sizeBytes);
    return this.#disk.read(this.#start + offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#check(offset, bytes.length);
    return this.#disk.write(this.#start + offset, bytes, options);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    this.#check(offset, lengthBytes);
    return this.#disk.writeZeroes(this.#start + offset, lengthBytes, options);
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    this.#check(offset, lengthBytes);
    return this.#disk.discard(this.#start + offset, lengthBytes, options);
  }

  flush(options?: FlushOptions): void | Promise<void> {
    const range = { offset: this.#start, lengthBytes: this.#lengthBytes ?? Number.POSITIVE_INFINITY };
    return this.#disk.flush({ ...options, range });
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    checkRange(offset, lengthBytes, this.sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(sizeBytes: number): void | Promise<void> {
    if (this.#lengthBytes === undefined) return this.#disk.resize(this.#start + sizeBytes);
    checkRange(0, sizeBytes, this.#lengthBytes);
    const lost = Math.max(0, this.#endBytes - sizeBytes);
    this.#endBytes = sizeBytes;
    if (lost > 0) return this.#disk.writeZeroes(this.#start + sizeBytes, lost, { event: 'write_data' });
  }

  /** Does nothing: the disk outlives whoever used it. */
  close(): void {}

  #check(offset: number, lengthBytes: number): void {
    checkRange(offset, lengthBytes, this.#endBytes);
  }
}
