/**
 * A device that answers late: requests wait in a list and are carried out in an order drawn from a seed, as
 * a disk with a queue does. A system that relies on an order it did not wait for shows it here; so does one
 * that changes a buffer while it is lent.
 *
 * Invariants: a request is carried out after it was asked for and before its promise resolves; each is in
 * the end; requests that wait at the same time may pass each other, flushes included.
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
import { InvariantError } from '@qcow2/spec';
import type { SeededRandom } from './random.ts';

export class DelayingDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #random: SeededRandom;
  readonly #waiting: (() => void)[] = [];
  #pumping = false;

  constructor(below: BlockDevice, random: SeededRandom) {
    this.#below = below;
    this.#random = random;
  }

  get capabilities(): DeviceCapabilities {
    return this.#below.capabilities;
  }

  get sizeBytes(): number {
    return this.#below.sizeBytes;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    // A read that overtakes is no hazard of its own: mostly answered at once, as from the page cache.
    if (!this.#random.chance(4)) return this.#below.read(offset, into, options);
    return this.#later(() => this.#below.read(offset, into, options));
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void> {
    const asked = bytes.slice();
    return this.#later(() => {
      if (bytes.some((byte, index) => byte !== asked[index])) {
        throw new InvariantError('the buffer of a write was changed while it was lent', {
          hostOffset: offset,
          lengthBytes: bytes.length,
        });
      }
      return this.#below.write(offset, asked, options);
    });
  }

  flush(options?: FlushOptions): void | Promise<void> {
    return this.#later(() => this.#below.flush(options));
  }

  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void> {
    return this.#later(() => this.#below.discard(offset, lengthBytes, options));
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void> {
    return this.#later(() => this.#below.writeZeroes(offset, lengthBytes, options));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    return this.#below.extents(offset, lengthBytes);
  }

  resize(sizeBytes: number): void | Promise<void> {
    return this.#later(() => this.#below.resize(sizeBytes));
  }

  close(): void | Promise<void> {
    return this.#below.close();
  }

  #later(perform: () => void | Promise<void>): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          resolve(perform());
        } catch (error) {
          reject(error);
        }
      });
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    setImmediate(() => {
      this.#pumping = false;
      const [next] = this.#waiting.splice(this.#random.below(this.#waiting.length), 1);
      next?.();
      if (this.#waiting.length > 0) this.#pump();
    });
  }
}
