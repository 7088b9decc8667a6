/**
 * `serve --cache` and `--detect-zeroes`: what is done with a client's writes and flushes on their way to the disk.
 *
 * Files are used through the page cache whatever the mode. What a mode promises of durability is kept: with `writethrough` and
 * `directsync` a write, a discard and a write of zeros are durable before they are answered, as if each asked for it; with `unsafe`
 * a flush is answered at once, and what a crash of the machine leaves is anybody's guess.
 */
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';
import { StateError } from '@qcow2/spec';
import { isZero } from './zero-search.ts';

export interface WritePolicy {
  /** When a change is durable: when a flush that follows it was answered, when it was itself, or not by any promise. */
  readonly durable: 'by flush' | 'at once' | 'never';
  /** What is done with a write of nothing but zeros: written as it is, kept as zeros, or given back as well. */
  readonly zeroes: 'off' | 'on' | 'unmap';
}

/** What serves without a word of the caller. */
export const plainPolicy: WritePolicy = { durable: 'by flush', zeroes: 'off' };

/** The disk under a policy; the disk itself where there is nothing to do. Closing it closes the disk. */
export function withWritePolicy(disk: BlockDevice, policy: WritePolicy): BlockDevice {
  const isPlain = policy.durable === plainPolicy.durable && policy.zeroes === plainPolicy.zeroes;
  return isPlain ? disk : new PolicedDevice(disk, policy);
}

class PolicedDevice implements BlockDevice {
  readonly #disk: BlockDevice;
  readonly #policy: WritePolicy;
  #closed = false;

  constructor(disk: BlockDevice, policy: WritePolicy) {
    this.#disk = disk;
    this.#policy = policy;
  }

  get capabilities(): DeviceCapabilities {
    return this.#disk.capabilities;
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    return this.#disk.read(offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    const { zeroes } = this.#policy;
    if (zeroes === 'off' || bytes.length === 0 || !isZero(bytes, 0, bytes.length)) {
      return this.#disk.write(offset, bytes, this.#forced(options));
    }
    return this.writeZeroes(offset, bytes.length, { ...options, mayUnmap: zeroes === 'unmap' });
  }

  flush(options?: FlushOptions): void | Promise<void> {
    if (this.#policy.durable !== 'never') return this.#disk.flush(options);
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    return this.#disk.discard(offset, lengthBytes, this.#forced(options));
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    return this.#disk.writeZeroes(offset, lengthBytes, this.#forced(options));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#disk.extents(offset, lengthBytes);
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#disk.resize(sizeBytes);
  }

  close(): void | Promise<void> {
    this.#closed = true;
    return this.#disk.close();
  }

  #forced<T extends WriteOptions>(options: T | undefined): T | WriteOptions | undefined {
    switch (this.#policy.durable) {
      case 'by flush':
        return options;
      case 'at once':
        return { ...options, fua: true };
      case 'never':
        return options?.fua === true ? { ...options, fua: false } : options;
    }
  }
}
