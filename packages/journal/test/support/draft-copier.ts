/** A client of the draft's engine that makes copies: each is brought in a round, unless somebody has taken it away. */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import type { DraftClient, DraftEngine, HostCopy } from '../../src/index.ts';

const nothing = function* (): Task<void> {
  yield* wait(undefined);
};

export class DraftCopier implements DraftClient {
  readonly #device: BlockDevice;
  readonly #note: (act: string) => void;
  #committed: HostCopy[] = [];
  #round: HostCopy[] = [];
  /** Copies that a replay may still make: their sources stay as they are. */
  readonly live = new Set<HostCopy>();

  constructor(device: BlockDevice, note: (act: string) => void = () => {}) {
    this.#device = device;
    this.#note = note;
  }

  /** Submit a microtransaction that holds the copy. */
  submit(engine: DraftEngine, copy: HostCopy): void {
    this.live.add(copy);
    engine.submit({
      copies: [copy],
      required: true,
      afterData: false,
      onDurable: () => this.#committed.push(copy),
      onRetired: () => this.live.delete(copy),
    });
  }

  /** Its target is written in place by somebody: it is not to be made. */
  forget(copy: HostCopy): void {
    this.#committed = this.#committed.filter((each) => each !== copy);
    this.#round = this.#round.filter((each) => each !== copy);
  }

  beginRound(): number {
    this.#round = this.#committed;
    this.#committed = [];
    return this.roundBytes;
  }

  get roundBytes(): number {
    return this.#round.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  }

  *stepRound(maxBytes: number): Task<number> {
    let copied = 0;
    while (copied < maxBytes && this.#round.length > 0) {
      const { targetHostOffset, sourceHostOffset, lengthBytes } = this.#round.shift()!;
      const bytes = new Uint8Array(lengthBytes);
      yield* wait(this.#device.read(sourceHostOffset, bytes, { event: 'cow_read' }));
      yield* wait(this.#device.write(targetHostOffset, bytes, { event: 'cow_write' }));
      copied += lengthBytes;
    }
    return copied;
  }

  *markDirty(): Task<void> {
    this.#note('dirty');
    yield* nothing();
  }

  *markClean(): Task<void> {
    this.#note('clean');
    yield* nothing();
  }

  *beforeFlush(): Task<void> {
    this.#note('flush');
    yield* nothing();
  }
}
