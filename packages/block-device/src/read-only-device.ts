/** A device that may be looked at and not touched, whatever the one below allows: a backing file, for instance. */
import { StateError } from '@qcow2/spec';
import type { BlockDevice, DeviceCapabilities, Extent, FlushOptions, ReadOptions } from './block-device.ts';

export class ReadOnlyDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly #below: BlockDevice;
  #closed = false;

  /** Closing this closes `below`. */
  constructor(below: BlockDevice) {
    this.#below = below;
    this.capabilities = {
      ...below.capabilities,
      write: false,
      growable: false,
      resize: false,
      discard: false,
      writeZeroes: false,
      fua: false,
    };
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    return this.#below.read(offset, into, options);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#below.extents(offset, lengthBytes);
  }

  write(): never {
    return this.#refuse();
  }

  discard(): never {
    return this.#refuse();
  }

  writeZeroes(): never {
    return this.#refuse();
  }

  resize(): never {
    return this.#refuse();
  }

  /** Nothing: nothing was written. */
  flush(_options?: FlushOptions): void {
    this.#checkOpen();
  }

  close(): void | Promise<void> {
    this.#closed = true;
    return this.#below.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
  }

  #refuse(): never {
    this.#checkOpen();
    throw new StateError('READ_ONLY', 'the device is read-only');
  }
}
