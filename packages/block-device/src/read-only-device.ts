/** A device that may be looked at and not touched, whatever the one below allows: a backing file, for instance. */
import { StateError } from '@qcow2/spec';
import type { BlockDevice, ByteOrigin, DeviceCapabilities, Extent, ReadOptions } from './block-device.ts';
import { checkRange } from './request.ts';
import { readOnlyCapabilities, UnwritableDevice } from './unwritable-device.ts';

export class ReadOnlyDevice extends UnwritableDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  protected override readonly readOnlyMessage = 'the device is read-only';
  readonly #below: BlockDevice;
  #closed = false;

  /** Closing this closes `below`. */
  constructor(below: BlockDevice) {
    super();
    this.#below = below;
    this.capabilities = {
      ...below.capabilities,
      ...readOnlyCapabilities,
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

  origin(offset: number, lengthBytes: number): ByteOrigin | undefined {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return { device: this.#below, offset, lengthBytes };
  }

  close(): void | Promise<void> {
    this.#closed = true;
    return this.#below.close();
  }

  protected override checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the device is closed');
  }
}
