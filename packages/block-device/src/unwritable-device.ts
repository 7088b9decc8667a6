/**
 * What every device that is only read says to who would write: one base for files of a server, blobs, snapshots, and for
 * what is only looked at. Reading, extents and closing are the device's own.
 */
import { StateError } from '@qcow2/spec';
import type { DeviceCapabilities } from './block-device.ts';

/** The capabilities that such a device does not have. */
export const readOnlyCapabilities = {
  write: false,
  growable: false,
  resize: false,
  discard: false,
  writeZeroes: false,
  fua: false,
} as const satisfies Partial<DeviceCapabilities>;

export abstract class UnwritableDevice {
  /** What the error says. */
  protected abstract readonly readOnlyMessage: string;

  /** @throws CLOSED */
  protected abstract checkOpen(): void;

  /** @throws READ_ONLY, CLOSED */
  write(): never {
    return this.#refuse();
  }

  /** @throws READ_ONLY, CLOSED */
  discard(): never {
    return this.#refuse();
  }

  /** @throws READ_ONLY, CLOSED */
  writeZeroes(): never {
    return this.#refuse();
  }

  /** @throws READ_ONLY, CLOSED */
  resize(): never {
    return this.#refuse();
  }

  /** Nothing: nothing was written. @throws CLOSED */
  flush(): void {
    this.checkOpen();
  }

  #refuse(): never {
    this.checkOpen();
    throw new StateError('READ_ONLY', this.readOnlyMessage);
  }
}
