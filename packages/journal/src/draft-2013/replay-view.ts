/**
 * A device as it will be when its journal has been replayed: what a reader of a dirty image looks through. Not one
 * byte is written, and nothing is held but what the log holds.
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  ReadOnlyDevice,
  type ReadOptions,
  readPadded,
  run,
  type Task,
  wait,
} from '@qcow2/block-device';
import type { DraftEffects } from './effects.ts';

export class ReplayView implements BlockDevice {
  readonly #below: BlockDevice;
  readonly #refusing: ReadOnlyDevice;
  readonly #effects: DraftEffects;
  readonly sizeBytes: number;

  /** Closing this closes `below`. */
  constructor(below: BlockDevice, effects: DraftEffects) {
    this.#below = below;
    this.#refusing = new ReadOnlyDevice(below);
    this.#effects = effects;
    this.sizeBytes = Math.max(below.sizeBytes, effects.endOffset);
  }

  get capabilities(): DeviceCapabilities {
    return this.#refusing.capabilities;
  }

  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    checkRange(offset, into.length, this.sizeBytes);
    return run(this.#read(offset, into, options));
  }

  *#read(offset: number, into: Uint8Array, options: ReadOptions | undefined): Task<void> {
    yield* wait(readPadded(this.#below, offset, into, options));
    const { copies, writes } = this.#effects;
    for (const { targetHostOffset, sourceHostOffset, lengthBytes } of copies.within(offset, into.length)) {
      const from = targetHostOffset - offset;
      yield* wait(
        readPadded(this.#below, sourceHostOffset, into.subarray(from, from + lengthBytes), options),
      );
    }
    writes.apply(offset, into);
  }

  /** All of it may be data: what the log changes is not told apart. */
  extents(offset: number, lengthBytes: number): readonly Extent[] {
    checkRange(offset, lengthBytes, this.sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  write(): never {
    return this.#refusing.write();
  }

  discard(): never {
    return this.#refusing.discard();
  }

  writeZeroes(): never {
    return this.#refusing.writeZeroes();
  }

  resize(): never {
    return this.#refusing.resize();
  }

  flush(): void {
    this.#refusing.flush();
  }

  close(): void | Promise<void> {
    return this.#refusing.close();
  }
}
