/**
 * The journal engine: microtransactions in, records on disk, changes written back in place, space freed.
 *
 * State of a change, and what holds it:
 *   submitted  `#queue`       in order; nothing on disk
 *   logged     `#inFlight`    in a record that has been appended, not flushed
 *   durable    `#active`      its record is durable; may be written in place from here on
 *   draining   `#round`       being written in place by the round under way
 *   synced     (nowhere)      in place and flushed; the tail may pass its record
 *
 * Invariants, and why a crash at each point is harmless:
 *  - A record is appended in one piece and is valid or not (CRC): a torn append is no record, and nothing of
 *    it was acknowledged. (JRN-REC)
 *  - In-place bytes are written only from durable records: a crash in between leaves any mix of old and new
 *    sectors there, and replay writes the new ones again. (JRN-WB)
 *  - A microtransaction that makes bytes reachable enters a record only after a flush that began after the
 *    bytes were written: a valid record never leads to bytes that were lost. (JRN-COMMIT)
 *  - The tail passes a record only when everything of it is in place and flushed; ring space is reused only
 *    when the slot that moved the tail is durable: the newest durable slot always finds its whole log.
 *  - No record is appended before the dirty bit is durable, and the bit is cleared only when a slot that
 *    says "empty" is durable: what a clean image holds in its ring is never replayed.
 *  - A failed append, in-place write or flush ends it: the error goes to everybody who waits, later
 *    submissions and commits are refused, and nothing is retried and called good. (G7)
 *
 * Concurrency: commits and write-back run under one mutex; flushes that arrive meanwhile share the next
 * commit. `submit` is synchronous and may come at any time. The client may take locks of its own inside
 * its callbacks, as long as nobody waits for a commit while holding them.
 */
import { type BlockDevice, isPromise, Mutex, PatchMap, type PatchRun, type Task } from '@qcow2/block-device';
import { encodeRecord, type JournalDescriptor } from '@qcow2/codec/journal/v1';
import { InvariantError, Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import { type AreaLocation, type Random, random64, ringOf, writeSlot } from './area.ts';
import { collectBatch } from './batch.ts';
import type { JournalClient } from './client.ts';
import type { JournalCounters, JournalUse } from './counters.ts';
import { LogSpace } from './log-space.ts';
import { descriptorBytesBound, type Microtransaction } from './microtransaction.ts';
import type { RecoveredLog } from './recovery.ts';
import { type RingGeometry, writeRing } from './ring.ts';

export interface EngineOptions {
  readonly device: BlockDevice;
  readonly area: AreaLocation;
  readonly client: JournalClient;
  readonly random: Random;
  /** What `recoverLog` found: an empty log for a clean image. */
  readonly log: RecoveredLog;
  /** True where the image's dirty bit is set and durable. */
  readonly dirty: boolean;
  /** More unlogged guest bytes than this at a flush are written in place, not into the log. */
  readonly directBytes?: number;
  /** Share of the ring in use from which write-back runs. */
  readonly writeBackAt?: number;
}

/** A submitted microtransaction and what must have happened before it may be logged. */
interface Submitted {
  readonly transaction: Microtransaction;
  /** The flush that must have completed: the first that began after the submission. 0: none. */
  readonly afterFlush: number;
  /** Last record when it was submitted: what "settled" refers to. */
  readonly throughSequence: number;
}

interface Round {
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

export class JournalEngine {
  readonly ring: RingGeometry;
  readonly #device: BlockDevice;
  readonly #area: AreaLocation;
  readonly #client: JournalClient;
  readonly #journalId: bigint;
  readonly #mutex = new Mutex();
  readonly #directBytes: number;
  readonly #writeBackBytes: number;
  readonly #reserveBytes: number;
  readonly #maxRecordBytes: number;
  readonly #paceBytes: number;

  #queue: Submitted[] = [];
  /** What the queue takes in records, at most. */
  #queueBytes = 0;
  /** Microtransactions so far; they become durable in the order in which they were submitted. */
  #submissions = 0;
  #durableSubmissions = 0;
  readonly #inFlight = new PatchMap();
  #active: PatchMap;
  #round: Round | undefined;

  readonly #space: LogSpace;
  readonly #salt: bigint;
  /** The next record opens a life with the fresh salt. */
  #lifePending = true;
  #nextSequence: number;
  #durableSequence: number;
  /** Logged and waiting for the flush that makes them durable. */
  #loggedWaiting: Submitted[] = [];

  #flushesStarted = 0;
  #flushesCompleted = 0;
  #unflushed = false;
  #dirty: boolean;
  #commitsRequested = 0;
  #commitsCovered = 0;
  #paceStart = 0;
  #failure: Qcow2Error | undefined;

  readonly #counters = {
    records: 0,
    recordBytes: 0,
    payloadBytes: 0,
    microtransactions: 0,
    submittedBytes: 0,
    loggedBytes: 0,
    flushes: 0,
    commits: 0,
    sharedCommits: 0,
    writtenBackBytes: 0,
    rounds: 0,
    stalls: 0,
    slotWrites: 0,
  };

  constructor(options: EngineOptions) {
    const { log } = options;
    this.#device = options.device;
    this.#area = options.area;
    this.#client = options.client;
    this.#dirty = options.dirty;
    this.ring = ringOf(options.area, log.ring.blockBytes);
    this.#journalId = log.slot.journalId;
    this.#salt = random64(options.random);
    this.#active = log.hostWrites;
    this.#space = new LogSpace(this.ring, log);
    this.#nextSequence = this.#space.last.sequence + 1;
    this.#durableSequence = this.#space.last.sequence;
    const { lengthBytes, blockBytes } = this.ring;
    const blocks = (share: number): number => Math.max(1, Math.floor((lengthBytes * share) / blockBytes));
    this.#directBytes = options.directBytes ?? 256 * 1024;
    this.#writeBackBytes = blocks(options.writeBackAt ?? 0.25) * blockBytes;
    this.#reserveBytes = blocks(3 / 8) * blockBytes;
    this.#maxRecordBytes = Math.min(blocks(0.25) * blockBytes, 16 << 20);
    this.#paceBytes = Math.max(blockBytes, Math.min(blocks(1 / 64) * blockBytes, 1 << 20));
  }

  /** The error that ended all writing, if one did. */
  get failure(): Qcow2Error | undefined {
    return this.#failure;
  }

  get counters(): JournalCounters {
    return { ...this.#counters };
  }

  get use(): JournalUse {
    return {
      usedBytes: this.#space.usedBytes,
      ringBytes: this.ring.lengthBytes,
      blockBytes: this.ring.blockBytes,
      tailSequence: this.#space.tailSequence,
      lastSequence: this.#nextSequence - 1,
      durableSequence: this.#durableSequence,
      dirty: this.#dirty,
      pendingBytes: this.#active.setBytes + (this.#round?.draining.setBytes ?? 0),
    };
  }

  /** Sequence of the last record appended: guest writes logged so far stand at or below it. */
  get lastSequence(): number {
    return this.#nextSequence - 1;
  }

  /**
   * So much is submitted and not logged that the client must commit before it submits more: the ring keeps
   * room for twice this, for what settles all live guest writes, and for no more [JRN-FAIL-003].
   */
  get isBacklogged(): boolean {
    return this.#queueBytes >= this.changeBytes;
  }

  /** What one operation of the client may submit, in descriptor bytes, before it asks `isBacklogged` again. */
  get changeBytes(): number {
    return Math.min(this.ring.lengthBytes / 16, 1 << 20);
  }

  /** Nothing is submitted, logged and not in place, or under way. */
  get isIdle(): boolean {
    return !this.#mutex.locked && this.#isDrained();
  }

  /** The client has written to the device in place: a flush is owed even if nothing is to be logged. */
  noteDeviceWrite(): void {
    this.#unflushed = true;
  }

  /**
   * Queue a microtransaction. Nothing is durable on return; a `commit` begun from now on carries it if it
   * is required.
   * @throws FAILED_EARLIER
   */
  submit(transaction: Microtransaction): void {
    this.#refuseFailed();
    this.#submissions++;
    this.#queueBytes += descriptorBytesBound(transaction);
    this.#counters.microtransactions++;
    this.#queue.push({
      transaction,
      afterFlush: transaction.afterData ? this.#flushesStarted + 1 : 0,
      throughSequence: this.lastSequence,
    });
  }

  /** Lay over `into`, read from `hostOffset` of the device, every host write that does not stand there yet. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#round?.draining.apply(hostOffset, into);
    this.#active.apply(hostOffset, into);
    this.#inFlight.apply(hostOffset, into);
    for (const { transaction } of this.#queue) {
      for (const write of transaction.hostWrites ?? [])
        overlap(write.hostOffset, write.bytes, hostOffset, into);
    }
  }

  /**
   * Make durable every required microtransaction and guest write submitted before the call. One flush of
   * the device where little was gathered, two where a mapping has to wait for its data.
   * @throws the failure that ended writing, to everybody who waits
   */
  *commit(): Task<void> {
    const ticket = ++this.#commitsRequested;
    yield* this.#mutex.exclusive(() => this.#commitFor(ticket));
  }

  *#commitFor(ticket: number): Task<void> {
    this.#refuseFailed();
    if (this.#commitsCovered >= ticket) {
      this.#counters.sharedCommits++;
      return;
    }
    const covers = this.#commitsRequested;
    try {
      yield* this.#commitOnce();
    } catch (error) {
      throw this.#fail(error);
    }
    this.#commitsCovered = covers;
    this.#counters.commits++;
  }

  /**
   * Write everything back and let the log run empty: the file is then an ordinary image, its dirty bit
   * clear, durable on return. Writers may go on at once; the next commit makes it dirty again.
   */
  *quiesce(): Task<void> {
    yield* this.#mutex.exclusive(() => this.#quiesceLocked());
  }

  *#quiesceLocked(): Task<void> {
    this.#refuseFailed();
    try {
      yield* this.#client.settleUnlogged();
      if (!this.#dirty && this.#queue.length === 0) {
        if (this.#unflushed) yield* this.#flush('flush_data');
        return;
      }
      yield* this.#ensureDirty();
      // What recovery found is valid, but durable only after a flush: nothing is written in place before.
      yield* this.#flush('flush_data');
      while (!this.#isDrained()) yield* this.#driveRound();
      yield* this.#retireLog();
      yield* this.#client.markClean();
      this.#dirty = false;
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #isDrained(): boolean {
    return (
      this.#round === undefined &&
      this.#queue.length === 0 &&
      this.#active.isEmpty &&
      this.#space.isEmpty &&
      this.#client.unloggedGuestBytes === 0
    );
  }

  *#commitOnce(): Task<void> {
    const client = this.#client;
    if (client.unloggedGuestBytes > Math.min(this.#directBytes, this.#maxRecordBytes)) {
      yield* client.settleUnlogged();
    }
    if (this.#queue.length === 0 && client.unloggedGuestBytes === 0 && this.#round === undefined) {
      if (this.#unflushed) yield* this.#flush('flush_data');
      return;
    }
    client.beginCommit();
    const mustLog = this.#queue.some(({ transaction }) => transaction.required);
    if (mustLog || client.hasCommitWrites() || this.#eligible() > 0) {
      yield* this.#ensureDirty();
      if (this.#hasBlockedRequired()) yield* this.#flush('flush_data');
      yield* this.#appendAll();
      // While one of these waited, the client may have settled or dropped what this commit has to log: then the
      // change that did so is what has to be logged, and it may wait for a flush of its own.
      if (this.#queue.some(({ transaction }) => transaction.required)) {
        if (this.#hasBlockedRequired()) yield* this.#flush('flush_data');
        yield* this.#appendAll();
      }
    }
    yield* this.#paceWriteBack();
    if (this.#space.slotDue && !this.#space.slotUnderWay) yield* this.#writeSlot();
    yield* this.#flush('journal_flush');
  }

  /** Append records until what was submitted so far and may be logged, and the commit's guest writes, are in. */
  *#appendAll(): Task<void> {
    const last = this.#submissions;
    while (this.#eligible(last) > 0 || this.#client.hasCommitWrites()) {
      if (this.#space.roomBytes - this.#reserveBytes < this.#nextRecordBytes()) {
        this.#counters.stalls++;
        yield* this.#makeRoom();
      } else {
        yield* this.#appendRecord(true);
      }
    }
  }

  /** Upper bound of the next record. */
  #nextRecordBytes(): number {
    const { blockBytes } = this.ring;
    // A guest write of a sector takes 24 bytes with it.
    const guestBytes = this.#client.unloggedGuestBytes * (1 + 24 / 512);
    const bytes = Math.ceil((80 + this.#queueBytes + guestBytes) / blockBytes) * blockBytes;
    return Math.min(this.#maxRecordBytes, bytes);
  }

  /** How many microtransactions at the head of the queue, up to submission `last`, may be logged now. */
  #eligible(last = Number.POSITIVE_INFINITY): number {
    const queue = this.#queue;
    const limit = Math.min(queue.length, last - (this.#submissions - queue.length));
    let count = 0;
    while (count < limit && queue[count]!.afterFlush <= this.#flushesCompleted) count++;
    return count;
  }

  #hasBlockedRequired(): boolean {
    const queue = this.#queue;
    for (let i = this.#eligible(); i < queue.length; i++) {
      if (queue[i]!.transaction.required) return true;
    }
    return false;
  }

  /** Append one record with as much of the eligible queue, and of the guest writes, as it takes. */
  *#appendRecord(withGuestWrites: boolean, last?: number): Task<void> {
    const sequence = this.#nextSequence;
    const batch = collectBatch(this.#queue, this.#eligible(last), this.#maxRecordBytes);
    const guestRoom = this.#maxRecordBytes - batch.boundBytes;
    const guestWrites = withGuestWrites && guestRoom > 536 ? this.#client.takeGuestWrites(guestRoom) : [];
    if (batch.count === 0 && guestWrites.length === 0) {
      throw new InvariantError('a journal record without content');
    }
    const descriptors: JournalDescriptor[] = batch.descriptors;
    const payload: Uint8Array[] = [];
    let payloadOffset = 0;
    for (const { guestOffset, bytes } of guestWrites) {
      descriptors.push({ type: 'guest-write', guestOffset, lengthBytes: bytes.length, payloadOffset });
      payload.push(bytes);
      payloadOffset += bytes.length;
    }
    const record = encodeRecord({
      sequence,
      journalId: this.#journalId,
      salt: this.#salt,
      position: this.#space.headLog % this.ring.lengthBytes,
      chain: this.#space.last.crc,
      durableThrough: this.#durableSequence,
      life: this.#lifePending,
      blockBytes: this.ring.blockBytes,
      descriptors,
      payload,
    });
    if (record.bytes.length > this.#maxRecordBytes) {
      throw new InvariantError('a microtransaction does not fit into a journal record');
    }
    this.#space.reserve(record.bytes.length);
    // The queue changes before the append waits: a later failure ends everything anyway.
    const logged = this.#queue.slice(0, batch.count);
    this.#queue = this.#queue.slice(batch.count);
    for (const { transaction } of logged) this.#queueBytes -= descriptorBytesBound(transaction);
    for (const { transaction } of logged) {
      // A record before this one, under the same flush, may have written what this one revokes.
      for (const range of transaction.revokes ?? [])
        this.#inFlight.delete(range.hostOffset, range.lengthBytes);
    }
    this.#inFlight.merge(batch.hostWrites);
    // What is settled while the append waits refers to this record too, whose guest writes are taken.
    this.#nextSequence = sequence + 1;
    yield* writeRing(this.#device, this.ring, this.#space.headLog, record.bytes, 'journal_append');
    this.#unflushed = true;
    this.#lifePending = false;
    this.#space.append({ sequence, salt: this.#salt, crc: record.crc }, record.bytes.length);
    this.#loggedWaiting.push(...logged);
    this.#counters.records++;
    this.#counters.recordBytes += record.bytes.length;
    this.#counters.payloadBytes += payloadOffset;
    this.#counters.submittedBytes += batch.submittedBytes;
    this.#counters.loggedBytes += batch.hostWrites.setBytes;
  }

  *#ensureDirty(): Task<void> {
    if (this.#dirty) return;
    yield* this.#client.beforeFlush();
    const number = ++this.#flushesStarted;
    yield* this.#client.markDirty();
    this.#flushesCompleted = number;
    this.#dirty = true;
  }

  /** Flush the device, then everything that was waiting for it. */
  *#flush(event: 'flush_data' | 'journal_flush'): Task<void> {
    yield* this.#client.beforeFlush();
    const number = ++this.#flushesStarted;
    const appended = this.lastSequence;
    const logged = this.#loggedWaiting;
    this.#loggedWaiting = [];
    this.#unflushed = false;
    this.#counters.flushes++;
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
    this.#flushesCompleted = number;
    this.#durableSequence = appended;
    this.#becomeDurable(logged);
    this.#space.flushed(number);
    this.#finishRound(number);
  }

  #becomeDurable(logged: readonly Submitted[]): void {
    for (const { transaction } of logged) {
      for (const range of transaction.revokes ?? []) {
        this.#active.delete(range.hostOffset, range.lengthBytes);
        this.#round?.draining.delete(range.hostOffset, range.lengthBytes);
      }
    }
    this.#active.merge(this.#inFlight);
    this.#inFlight.clear();
    this.#durableSubmissions += logged.length;
    for (const { transaction } of logged) transaction.onDurable?.();
  }

  *#writeSlot(): Task<void> {
    const slot = this.#space.nextSlot(this.#durableSequence, this.#flushesStarted + 1);
    yield* writeSlot(this.#device, this.#area, slot);
    this.#unflushed = true;
    this.#counters.slotWrites++;
  }

  /** In steps that keep up with the log, so that no single flush pays for many. */
  *#paceWriteBack(): Task<void> {
    if (this.#round === undefined) {
      if (this.#space.usedBytes < this.#writeBackBytes) return;
      this.#beginRound();
    }
    const round = this.#round!;
    const progress = this.#space.headLog - this.#paceStart;
    const finishing = round.clientDone && round.drained;
    if (progress < this.#paceBytes && !finishing) return;
    this.#paceStart = this.#space.headLog;
    // Done when the log has grown by as much again as it held when the round began.
    const share = Math.min(1, progress / this.#writeBackBytes);
    yield* this.#stepRound(Math.max(this.#paceBytes, Math.ceil(round.workBytes * share)));
  }

  #beginRound(): void {
    const draining = this.#active;
    this.#active = new PatchMap();
    const workBytes = this.#client.beginRound() + draining.setBytes;
    this.#paceStart = this.#space.headLog;
    this.#counters.rounds++;
    this.#round = {
      cut: this.#durableSequence,
      draining,
      runs: draining.runs(),
      workBytes,
      clientDone: false,
      drained: false,
      lastSubmission: 0,
      doneAtFlush: 0,
    };
  }

  *#stepRound(budgetBytes: number): Task<void> {
    const round = this.#round!;
    if (!round.clientDone) {
      round.clientDone = yield* this.#client.stepRound(budgetBytes);
      // What was settled before the round counts too: its change may wait in the queue still.
      round.lastSubmission = this.#submissions;
    }
    let left = budgetBytes;
    while (!round.drained && left > 0) {
      const next = round.runs.next();
      if (next.done === true) {
        round.drained = true;
        break;
      }
      const { offset, bytes } = next.value;
      const done = this.#device.write(offset, bytes, { event: 'journal_write_back' });
      if (isPromise(done)) yield done;
      this.#unflushed = true;
      this.#counters.writtenBackBytes += bytes.length;
      left -= Math.max(bytes.length, 512);
    }
    const settled = round.clientDone && this.#durableSubmissions >= round.lastSubmission;
    if (settled && round.drained && round.doneAtFlush === 0) {
      round.doneAtFlush = this.#flushesStarted + 1;
    }
  }

  #finishRound(flushed: number): void {
    const round = this.#round;
    if (round === undefined || round.doneAtFlush === 0 || flushed < round.doneAtFlush) return;
    this.#space.passThrough(round.cut);
    this.#round = undefined;
  }

  /** A whole round at once, with flushes of its own: when the ring is full, and when everything is to go. */
  *#driveRound(): Task<void> {
    if (this.#round === undefined) this.#beginRound();
    const round = this.#round;
    while (this.#round === round && round !== undefined) {
      yield* this.#stepRound(Number.POSITIVE_INFINITY);
      yield* this.#flush('flush_data');
      // What comes meanwhile waits for a commit: it must not take the room that is being made.
      while (this.#eligible(round.lastSubmission) > 0) {
        yield* this.#appendRecord(false, round.lastSubmission);
        if (this.#eligible(round.lastSubmission) === 0) yield* this.#flush('journal_flush');
      }
    }
  }

  *#makeRoom(): Task<void> {
    yield* this.#driveRound();
    if (this.#space.slotUnderWay) yield* this.#flush('journal_flush');
    if (!this.#space.slotDue) return;
    yield* this.#writeSlot();
    yield* this.#flush('journal_flush');
  }

  /** Make the log empty on disk: a slot whose tail is the head, durable on return. */
  *#retireLog(): Task<void> {
    if (this.#space.slotUnderWay) yield* this.#flush('journal_flush');
    yield* this.#writeSlot();
    yield* this.#flush('journal_flush');
  }

  #refuseFailed(): void {
    if (this.#failure === undefined) return;
    throw new StateError(
      'FAILED_EARLIER',
      `an earlier write or flush failed (${this.#failure.code}); reopen the image to recover`,
      {},
      this.#failure,
    );
  }

  #fail(error: unknown): Qcow2Error {
    const failure =
      error instanceof Qcow2Error
        ? error
        : new StorageError('WRITE_FAILED', 'the device failed while the journal was written', {}, error);
    this.#failure ??= failure;
    return failure;
  }
}

/** Copy the part of `bytes` (standing at `at`) that overlaps `into` (standing at `start`). */
function overlap(at: number, bytes: Uint8Array, start: number, into: Uint8Array): void {
  const from = Math.max(at, start);
  const to = Math.min(at + bytes.length, start + into.length);
  if (from < to) into.set(bytes.subarray(from - at, to - at), from - start);
}
