/**
 * The header as it stands and as it is to be: what it commits, and from where on it has a reader begin.
 *
 * Every write is one sector, the old one or the new one after a crash, and counts when a flush that begins after it has
 * completed: `DraftSpace` frees nothing before.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import type { FlushClock } from '../flush-clock.ts';
import { type DraftArea, withHeader, writeDraftHeader } from './area.ts';
import type { DraftCounterCells } from './counters.ts';
import type { DraftSpace } from './space.ts';

export interface HeaderWriterOptions {
  readonly device: BlockDevice;
  readonly space: DraftSpace;
  readonly clock: FlushClock;
  readonly counters: DraftCounterCells;
  readonly area: DraftArea;
  /** Nothing to go on behind: the chain begins at block 1 anew, as the next header says. */
  readonly beginsAnew: boolean;
}

export class HeaderWriter {
  readonly #options: HeaderWriterOptions;
  #area: DraftArea;
  #committedSequence: number;

  constructor(options: HeaderWriterOptions) {
    this.#options = options;
    this.#area = options.area;
    this.#committedSequence = options.area.header.committedSequence;
    if (options.beginsAnew && options.area.header.syncedIndex !== 0) this.#beginAnew();
  }

  get committedSequence(): number {
    return this.#committedSequence;
  }

  get syncedSequence(): number {
    return this.#area.header.syncedSequence;
  }

  /** The next header commits the transactions up to this one: a flush has made them durable. */
  commitThrough(sequence: number): void {
    this.#committedSequence = sequence;
  }

  /** Write the header as it is to be now. A flush that begins later makes it durable. */
  *write(): Task<void> {
    const { space, clock } = this.#options;
    const next = space.nextHeader(this.#area.header, this.#committedSequence, clock.next);
    this.#area = withHeader(this.#area, next);
    yield* this.#writeSector();
  }

  /** Everything is synced: write a header in which the chain begins at block 1 anew. */
  *writeAnew(): Task<void> {
    this.#beginAnew();
    yield* this.#writeSector();
  }

  #beginAnew(): void {
    const { header } = this.#area;
    const syncedSequence = this.#committedSequence;
    this.#area = withHeader(this.#area, { ...header, syncedIndex: 0, syncedSequence });
  }

  *#writeSector(): Task<void> {
    const { device, clock, counters } = this.#options;
    yield* writeDraftHeader(device, this.#area);
    clock.noteWrite();
    counters.headerWrites++;
  }
}
