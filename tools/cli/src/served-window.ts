/** `serve --offset`: a disk from one place of another on. What stands before it can not be reached. */
import type {
  BlockDevice,
  DeviceCapabilities,
  Extent,
  FlushOptions,
  ReadOptions,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';
import { checkRange } from '@qcow2/block-device';
import type { NbdMetadataContext } from '@qcow2/nbd';
import { StateError, UnsupportedFeatureError } from '@qcow2/spec';
import { CommandFailure } from './failures.ts';

/** Closing it closes the disk below. */
class DiskWindow implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly sizeBytes: number;
  readonly #below: BlockDevice;
  readonly #start: number;
  #closed = false;

  constructor(below: BlockDevice, start: number) {
    this.#below = below;
    this.#start = start;
    this.sizeBytes = below.sizeBytes - start;
    this.capabilities = { ...below.capabilities, growable: false, resize: false };
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    checkRange(offset, into.length, this.sizeBytes);
    return this.#below.read(this.#start + offset, into, options);
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    checkRange(offset, bytes.length, this.sizeBytes);
    return this.#below.write(this.#start + offset, bytes, options);
  }

  flush(options?: FlushOptions): void | Promise<void> {
    const range = options?.range;
    if (range === undefined) return this.#below.flush(options);
    return this.#below.flush({ ...options, range: { ...range, offset: this.#start + range.offset } });
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    checkRange(offset, lengthBytes, this.sizeBytes);
    return this.#below.discard(this.#start + offset, lengthBytes, options);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    checkRange(offset, lengthBytes, this.sizeBytes);
    return this.#below.writeZeroes(this.#start + offset, lengthBytes, options);
  }

  async extents(offset: number, lengthBytes: number): Promise<readonly Extent[]> {
    checkRange(offset, lengthBytes, this.sizeBytes);
    const extents = await this.#below.extents(this.#start + offset, lengthBytes);
    return extents.map((extent) => ({ ...extent, offset: extent.offset - this.#start }));
  }

  resize(): never {
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'a part of a disk has the size that it has');
  }

  close(): void | Promise<void> {
    this.#closed = true;
    return this.#below.close();
  }
}

/** @throws CommandFailure in QEMU's words where the disk ends before `start` */
export function diskFrom(disk: BlockDevice, start: number): BlockDevice {
  if (start === 0) return disk;
  if (start > disk.sizeBytes) {
    throw new CommandFailure(
      `Offset (${start}) cannot be greater than size of the containing file (${disk.sizeBytes})`,
    );
  }
  return new DiskWindow(disk, start);
}

/** What a metadata context of the whole disk says, by the offsets of the window. */
export function contextFrom(context: NbdMetadataContext, start: number): NbdMetadataContext {
  if (start === 0) return context;
  return {
    name: context.name,
    status: (offset, lengthBytes, maximumRuns) => context.status(start + offset, lengthBytes, maximumRuns),
  };
}
