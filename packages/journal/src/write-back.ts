/**
 * Write-back: rounds that bring what is durable in the log in place, so that the tail can follow.
 *
 * A round takes what was durable when it began (its *cut* is the last such record), lets the client settle
 * its guest writes, and writes the host bytes. When everything that it settled is durable in the log, and a flush
 * has completed that began after its last write, every effect of the records up to the cut is in place and
 * flushed: the tail passes them [JRN-WB-002, JRN-WB-003].
 *
 * Crash argument. In-place bytes are written only from durable records, and not while they are pending only: a
 * crash in between leaves any mix of old and new sectors there, and replay writes the new ones again.
 *
 * Everything here runs under the engine's mutex.
 */
import { type BlockDevice, isPromise, type PatchMap, type PatchRun, type Task } from '@qcow2/block-device';
import type { JournalClient } from './client.ts';
import type { CounterCells } from './counters.ts';
import type { FlushClock } from './flush-clock.ts';
import type { LogSpace } from './log-space.ts';
import type { PendingChanges } from './pending-changes.ts';
import type { RingGeometry } from './ring.ts';

export interface WriteBackOptions {
  readonly device: BlockDevice;
  readonly client: JournalClient;
  readonly changes: PendingChanges;
  readonly space: LogSpace;
  readonly clock: FlushClock;
  readonly counters: CounterCells;
  readonly ring: RingGeometry;
  /** Submit again the intents that the tail is about to pass. */
  readonly repeatIntents: () => void;
  /** Share of the ring in use from which write-back runs. */
  readonly startAt: number;
}

export interface Round {
  /** Records up to this one are out of the log when the round is done. */
  readonly cut: number;
  readonly draining: PatchMap;
  readonly runs: Iterator<PatchRun>;
  /** Bytes to be done, as far as known at the start. */
  readonly workBytes: number;
  clientDone: boolean;
  drained: boolean;
  /** Number of the last submission that settles something of it: the tail waits for all up to there. */
  lastSubmission: number;
  /** The flush after which the tail moves; 0 until everything is written. */
  doneAtFlush: number;
}

export class WriteBack {
  readonly #options: WriteBackOptions;
  readonly #startBytes: number;
  readonly #paceBytes: number;
  #round: Round | undefined;
  /** Where the head stood at the last step. */
  #paceStart = 0;

  constructor(options: WriteBackOptions) {
    this.#options = options;
    const { lengthBytes, blockBytes } = options.ring;
    const blocks = (share: number): number => Math.max(1, Math.floor((lengthBytes * share) / blockBytes));
    this.#startBytes = blocks(options.startAt) * blockBytes;
    this.#paceBytes = Math.max(blockBytes, Math.min(blocks(1 / 64) * blockBytes, 1 << 20));
  }

  get round(): Round | undefined {
    return this.#round;
  }

  /** In steps that keep up with the log, so that no single flush pays for many. */
  *pace(durableSequence: number): Task<void> {
    const { space } = this.#options;
    if (this.#round === undefined) {
      if (space.usedBytes < this.#startBytes) return;
      this.begin(durableSequence);
    }
    const round = this.#round!;
    const progress = space.headLog - this.#paceStart;
    const finishing = round.clientDone && round.drained;
    if (progress < this.#paceBytes && !finishing) return;
    this.#paceStart = space.headLog;
    // Done when the log has grown by as much again as it held when the round began.
    const share = Math.min(1, progress / this.#startBytes);
    yield* this.step(Math.max(this.#paceBytes, Math.ceil(round.workBytes * share)));
  }

  /** Begin a round over all that is durable now. */
  begin(durableSequence: number): Round {
    const { changes, client, counters, space, repeatIntents } = this.#options;
    // Before the first step, so that the round waits for them as for what it settles.
    repeatIntents();
    const draining = changes.beginDraining();
    const workBytes = client.beginRound() + draining.setBytes;
    this.#paceStart = space.headLog;
    counters.rounds++;
    this.#round = {
      cut: durableSequence,
      draining,
      runs: draining.runs(),
      workBytes,
      clientDone: false,
      drained: false,
      lastSubmission: 0,
      doneAtFlush: 0,
    };
    return this.#round;
  }

  /** Settle and write about `budgetBytes` more of the round under way. */
  *step(budgetBytes: number): Task<void> {
    const round = this.#round!;
    const { client, changes, clock } = this.#options;
    if (!round.clientDone) {
      round.clientDone = yield* client.stepRound(budgetBytes);
      // What was settled before the round counts too: its change may wait in the queue still.
      round.lastSubmission = changes.submitted;
    }
    yield* this.#drain(round, budgetBytes);
    const settled = round.clientDone && changes.durable >= round.lastSubmission;
    if (settled && round.drained && round.doneAtFlush === 0) round.doneAtFlush = clock.next;
  }

  *#drain(round: Round, budgetBytes: number): Task<void> {
    const { device, clock, counters } = this.#options;
    let left = budgetBytes;
    while (!round.drained && left > 0) {
      const next = round.runs.next();
      if (next.done === true) {
        round.drained = true;
        return;
      }
      const { offset, bytes } = next.value;
      const done = device.write(offset, bytes, { event: 'journal_write_back' });
      if (isPromise(done)) yield done;
      clock.noteWrite();
      counters.writtenBackBytes += bytes.length;
      left -= Math.max(bytes.length, 512);
    }
  }

  /** A flush has completed: the round may be done with it, and the tail moves. */
  flushed(flush: number): void {
    const round = this.#round;
    if (round === undefined || round.doneAtFlush === 0 || flush < round.doneAtFlush) return;
    this.#options.space.passThrough(round.cut);
    this.#options.changes.endDraining();
    this.#round = undefined;
  }
}
