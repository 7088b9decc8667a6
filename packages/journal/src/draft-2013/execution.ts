/**
 * Execution in place: rounds that do what committed transactions say, so that the header can pass them.
 *
 * A round takes what was committed when it began (its *cut* is the head of the log then): the client makes the copies, under its own
 * lock and around what a guest has written since, and the host writes are written here. When all of it is done, the next flush
 * that begins makes it durable, and the transactions up to the cut are synced [JD13-TXN-002].
 *
 * Crash argument. In-place bytes are written only from committed transactions [JD13-TXN-008]: a crash in between leaves
 * any mix of old and new sectors there, and replay writes the new ones again; what it copies has not changed, for a source is
 * pinned until a durable header has passed the copy. How much a step does, and when, moves no
 * order.
 *
 * Everything here runs under the engine's mutex.
 */
import { type BlockDevice, isPromise, type PatchRun, type Task } from '@qcow2/block-device';
import type { FlushClock } from '../flush-clock.ts';
import type { RingGeometry } from '../ring.ts';
import type { DraftClient } from './client.ts';
import type { DraftCounterCells } from './counters.ts';
import type { PendingEffects } from './pending-effects.ts';
import type { DraftSpace } from './space.ts';

export interface ExecutionOptions {
  readonly device: BlockDevice;
  readonly client: DraftClient;
  readonly effects: PendingEffects;
  readonly space: DraftSpace;
  readonly clock: FlushClock;
  readonly counters: DraftCounterCells;
  readonly ring: RingGeometry;
  /** Share of the ring in use from which rounds begin. */
  readonly startAt: number;
}

interface Round {
  /** Transactions up to this log offset are synced when the round is done. */
  readonly cutLog: number;
  readonly runs: Iterator<PatchRun>;
  readonly workBytes: number;
  copied: boolean;
  drained: boolean;
  /** The flush after which they are synced; 0 until everything is written. */
  doneAtFlush: number;
}

export class Execution {
  readonly #options: ExecutionOptions;
  readonly #startBytes: number;
  readonly #paceBytes: number;
  #paceStart: number;
  #round: Round | undefined;

  constructor(options: ExecutionOptions) {
    this.#options = options;
    const { lengthBytes, blockBytes } = options.ring;
    this.#startBytes = Math.max(blockBytes, lengthBytes * options.startAt);
    this.#paceBytes = Math.max(blockBytes, Math.min(lengthBytes / 64, 1 << 20));
    this.#paceStart = options.space.headLog;
  }

  /** A round is under way. */
  get isUnderWay(): boolean {
    return this.#round !== undefined;
  }

  /** In steps that keep up with the log, so that no single flush pays for many. */
  *pace(): Task<void> {
    const { space } = this.#options;
    if (this.#round === undefined) {
      if (space.usedBytes < this.#startBytes) return;
      this.#begin();
    }
    const progress = space.headLog - this.#paceStart;
    if (progress < this.#paceBytes && !this.#round!.drained) return;
    this.#paceStart = space.headLog;
    // Done when the log has grown by as much again as it held when the round began.
    const share = Math.min(1, progress / this.#startBytes);
    yield* this.#step(Math.max(this.#paceBytes, Math.ceil(this.#round!.workBytes * share)));
  }

  /** All of the round under way, or of one that begins now. It is done with the next flush. */
  *stepAll(): Task<void> {
    if (this.#round === undefined) this.#begin();
    yield* this.#step(Number.POSITIVE_INFINITY);
  }

  /** A flush has completed: the round may be done with it. */
  flushed(flush: number): void {
    const round = this.#round;
    if (round === undefined || round.doneAtFlush === 0 || flush < round.doneAtFlush) return;
    this.#options.space.passThrough(round.cutLog);
    this.#options.effects.endDraining();
    this.#round = undefined;
  }

  #begin(): void {
    const { client, effects, space, counters } = this.#options;
    const writes = effects.beginDraining();
    const copyBytes = client.beginRound();
    this.#paceStart = space.headLog;
    counters.rounds++;
    this.#round = {
      cutLog: space.headLog,
      runs: writes.runs(),
      workBytes: writes.setBytes + copyBytes,
      copied: copyBytes === 0,
      drained: false,
      doneAtFlush: 0,
    };
  }

  *#step(budgetBytes: number): Task<void> {
    const { device, client, clock, counters } = this.#options;
    const round = this.#round!;
    let left = budgetBytes;
    while (left > 0 && !round.copied) {
      const copied = yield* client.stepRound(left);
      counters.copiedBytes += copied;
      left -= copied;
      round.copied = client.roundBytes === 0;
    }
    while (left > 0 && !round.drained) {
      const next = round.runs.next();
      if (next.done === true) {
        round.drained = true;
        break;
      }
      const { offset, bytes } = next.value;
      const done = device.write(offset, bytes, { event: 'journal_write_back' });
      if (isPromise(done)) yield done;
      clock.noteWrite();
      counters.writtenBackBytes += bytes.length;
      left -= Math.max(bytes.length, 512);
    }
    if (round.drained && round.copied && round.doneAtFlush === 0) round.doneAtFlush = clock.next;
  }
}
