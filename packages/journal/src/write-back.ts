/**
 * Write-back: rounds that bring what is durable in the log in place, so that the tail can follow.
 *
 * A round takes what was durable when it began (its *cut* is the last such record), lets the client settle
 * its guest writes, and writes the host bytes. When everything that it settled is durable in the log, and a flush
 * has completed that began after its last write, every effect of the records up to the cut is in place and
 * flushed: the tail passes them [JRN-WB-002, JRN-WB-003].
 *
 * Steadiness [JRN-WB-008]. What a round has to do is spread over the log's growth by three quarters of what makes
 * a round begin, in steps of a few *pieces* (a cluster to settle, a place to write): a step rides on a commit whose
 * flush pays for it, and what that flush pays is mostly by the piece, because each is an extent of its own to
 * the host file system. Few pieces make a step cheap; not fewer, because every flush that covers newly allocated
 * blocks makes the host commit its own journal, however few they are. (ADR on steady write-back.)
 *
 * Crash argument. In-place bytes are written only from durable records [JRN-WB-001]: a crash in between leaves
 * any mix of old and new sectors there, and replay writes the new ones again. How much a step does, and when, moves
 * no order: the tail moves when all is done.
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

/** Pieces that make a step worth its flush: of random small writes, half of them clusters, half entries of tables. */
const stepPieces = 16;
/** A step ends early where its pieces are large: whole clusters, or clusters whose rest is copied. */
const stepBytes = 128 * 1024;

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
  /** Where the log's head stood when it began, and at its last step. */
  readonly startLog: number;
  stepLog: number;
  readonly runs: Iterator<PatchRun>;
  /** Pieces to be done when it began: for the client to settle, and of host bytes. */
  readonly settlePieces: number;
  readonly drainPieces: number;
  drainedPieces: number;
  /** Pieces that make a step: fewer, once steps end early because the pieces are large. */
  stepPieces: number;
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
  /** A round is to be done when the log has grown by so much. */
  readonly #spanBytes: number;
  readonly #longestPauseBytes: number;
  #round: Round | undefined;

  constructor(options: WriteBackOptions) {
    this.#options = options;
    const { lengthBytes, blockBytes } = options.ring;
    this.#startBytes = Math.max(1, Math.floor((lengthBytes * options.startAt) / blockBytes)) * blockBytes;
    this.#spanBytes = (this.#startBytes * 3) / 4;
    this.#longestPauseBytes = Math.max(blockBytes, this.#spanBytes / 8);
  }

  get round(): Round | undefined {
    return this.#round;
  }

  /** A commit is about to flush: do what the log's growth asks for, if it is worth a step. */
  *pace(durableSequence: number): Task<void> {
    const { space } = this.#options;
    if (this.#round === undefined && space.usedBytes < this.#startBytes) return;
    const round = this.#round ?? this.begin(durableSequence);
    if (round.clientDone && round.drained) {
      this.#noteDone(round);
      return;
    }
    const share = Math.min(1, (space.headLog - round.startLog) / this.#spanBytes);
    const owed = this.#settleOwed(round, share) + this.#drainOwed(round, share);
    const paused = space.headLog - round.stepLog;
    if (owed >= round.stepPieces || share === 1 || (owed > 0 && paused >= this.#longestPauseBytes)) {
      yield* this.step(share);
    }
  }

  /** Begin a round over all that is durable now. */
  begin(durableSequence: number): Round {
    const { changes, client, counters, space, repeatIntents } = this.#options;
    // Before the first step, so that the round waits for them as for what it settles.
    repeatIntents();
    const draining: PatchMap = changes.beginDraining();
    client.beginRound();
    counters.rounds++;
    this.#round = {
      cut: durableSequence,
      startLog: space.headLog,
      stepLog: space.headLog,
      runs: draining.runs(),
      settlePieces: client.roundPieces,
      drainPieces: draining.pieceCount,
      drainedPieces: 0,
      stepPieces,
      clientDone: false,
      drained: false,
      lastSubmission: 0,
      doneAtFlush: 0,
    };
    return this.#round;
  }

  /** Settle and write what is to be done of the round when this share of its time has gone; 1: all of it. */
  *step(share: number): Task<void> {
    const round = this.#round!;
    const { client, changes, counters, space } = this.#options;
    counters.writeBackSteps++;
    round.stepLog = space.headLog;
    if (!round.clientDone) {
      const pieces = share === 1 ? Number.POSITIVE_INFINITY : this.#settleOwed(round, share);
      // Who is far behind can not mind the size of what it settles.
      const maxBytes = pieces > 4 * stepPieces ? Number.POSITIVE_INFINITY : stepBytes;
      const before = client.roundPieces;
      if (pieces > 0) yield* client.stepRound(pieces, maxBytes);
      const done = before - client.roundPieces;
      if (done < Math.min(pieces, before)) round.stepPieces = Math.max(1, done);
      round.clientDone = client.roundPieces === 0;
      // What was settled before the round counts too: its change may wait in the queue still.
      round.lastSubmission = changes.submitted;
    }
    yield* this.#drain(round, share === 1 ? Number.POSITIVE_INFINITY : this.#drainOwed(round, share));
    this.#noteDone(round);
  }

  /** How many of the client's pieces are behind what this share of the round asks for. */
  #settleOwed(round: Round, share: number): number {
    const done = round.settlePieces - this.#options.client.roundPieces;
    return Math.max(0, Math.ceil(round.settlePieces * share) - done);
  }

  #drainOwed(round: Round, share: number): number {
    return Math.max(0, Math.ceil(round.drainPieces * share) - round.drainedPieces);
  }

  /** Write runs of host bytes, in host order, until `pieces` of them are done and none is begun. */
  *#drain(round: Round, pieces: number): Task<void> {
    const { device, clock, counters } = this.#options;
    let left = pieces;
    while (!round.drained && (left > 0 || round.drainedPieces >= round.drainPieces)) {
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
      const count = Math.ceil(bytes.length / 32);
      round.drainedPieces += count;
      left -= count;
    }
  }

  #noteDone(round: Round): void {
    const { changes, clock } = this.#options;
    if (!round.clientDone || !round.drained || round.doneAtFlush !== 0) return;
    if (changes.durable >= round.lastSubmission) round.doneAtFlush = clock.next;
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
