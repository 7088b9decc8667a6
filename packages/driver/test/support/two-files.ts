/** An image file and its data file, whose requests are told in one order. */
import type {
  BlockDevice,
  FlushOptions,
  IoEvent,
  WriteOptions,
  WriteZeroesOptions,
} from '@qcow2/block-device';
import { CountingDevice } from './counting-device.ts';

export interface Told {
  readonly file: 'image' | 'data';
  readonly what: 'write' | 'flush' | 'resize';
  readonly event?: IoEvent | undefined;
}

class TellingDevice extends CountingDevice {
  readonly #file: Told['file'];
  readonly #told: Told[];

  constructor(below: BlockDevice, file: Told['file'], told: Told[]) {
    super(below);
    this.#file = file;
    this.#told = told;
  }

  override write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    this.#told.push({ file: this.#file, what: 'write', event: options?.event });
    return super.write(offset, bytes, options);
  }

  override writeZeroes(
    offset: number,
    lengthBytes: number,
    options?: WriteZeroesOptions,
  ): void | Promise<void> {
    this.#told.push({ file: this.#file, what: 'write', event: options?.event });
    return super.writeZeroes(offset, lengthBytes, options);
  }

  override resize(sizeBytes: number): void | Promise<void> {
    this.#told.push({ file: this.#file, what: 'resize' });
    return super.resize(sizeBytes);
  }

  override flush(options?: FlushOptions): void | Promise<void> {
    this.#told.push({ file: this.#file, what: 'flush', event: options?.event });
    return super.flush(options);
  }
}

export interface TwoFiles {
  readonly image: CountingDevice;
  readonly data: CountingDevice;
  readonly told: Told[];
}

export function twoFiles(image: BlockDevice, data: BlockDevice): TwoFiles {
  const told: Told[] = [];
  return {
    image: new TellingDevice(image, 'image', told),
    data: new TellingDevice(data, 'data', told),
    told,
  };
}
