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
import type { SeededRandom } from '@qcow2/seeded';
import { InvariantError } from '@qcow2/spec';

export class DelayingDevice implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #random: SeededRandom;
  readonly #readsLast: boolean;
  readonly #waiting: { readonly perform: () => void; readonly isRead: boolean }[] = [];
  #pumping = false;

  /** @param readsLast a read that waits is passed by whatever else waits: what it is to read is changed before, if anybody dares */
  constructor(below: BlockDevice, random: SeededRandom, readsLast = false) {
    this.#below = below;
    this.#random = random;
    this.#readsLast = readsLast;
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
    return this.#later(() => this.#below.read(offset, into, options), true);
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

  #later(body: () => void | Promise<void>, isRead = false): Promise<void> {
    return new Promise((resolve, reject) => {
      const perform = () => {
        try {
          resolve(body());
        } catch (error) {
          reject(error);
        }
      };
      this.#waiting.push({ perform, isRead });
      this.#pump();
    });
  }

  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    setImmediate(() => {
      this.#pumping = false;
      const others = this.#readsLast ? this.#waiting.filter(({ isRead }) => !isRead) : [];
      const from = others.length > 0 ? others : this.#waiting;
      const next = from[this.#random.below(from.length)];
      if (next !== undefined) this.#waiting.splice(this.#waiting.indexOf(next), 1);
      next?.perform();
      if (this.#waiting.length > 0) this.#pump();
    });
  }
}
