/**
 * The journal engine: microtransactions in, records on disk, changes written back in place, space freed.
 *
 * A change goes through: submitted -> logged -> durable -> draining (`PendingChanges` holds it so far) -> synced:
 * in place and flushed, and the tail may pass its record. The engine decides when each step is taken:
 * `RecordWriter` appends, `WriteBack` drains in rounds, `LogSpace` knows what of the ring is free, `FlushClock` which
 * flush covers what.
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
import { type BlockDevice, isPromise, Mutex, type Task } from '@qcow2/block-device';
import { InvariantError, Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import { type AreaLocation, type Random, random64, ringOf, writeSlot } from './area.ts';
import type { JournalClient } from './client.ts';
import { countGroup, type JournalCounters, type JournalUse, newCounters } from './counters.ts';
import { FlushClock } from './flush-clock.ts';
import { LogSpace } from './log-space.ts';
import type { Microtransaction } from './microtransaction.ts';
import { OpenIntents } from './open-intents.ts';
import { PendingChanges } from './pending-changes.ts';
import { RecordWriter } from './record-writer.ts';
import type { RecoveredLog } from './recovery.ts';
import type { RingGeometry } from './ring.ts';
import { WriteBack } from './write-back.ts';

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

export class JournalEngine {
  readonly ring: RingGeometry;
  readonly #device: BlockDevice;
  readonly #area: AreaLocation;
  readonly #client: JournalClient;
  readonly #mutex = new Mutex();
  readonly #directBytes: number;
  readonly #reserveBytes: number;

  readonly #clock = new FlushClock();
  readonly #counters = newCounters();
  readonly #changes: PendingChanges;
  readonly #intents: OpenIntents;
  readonly #space: LogSpace;
  readonly #records: RecordWriter;
  readonly #writeBack: WriteBack;

  #durableSequence: number;
  #dirty: boolean;
  #commitsRequested = 0;
  #commitsCovered = 0;
  #failure: Qcow2Error | undefined;

  constructor(options: EngineOptions) {
    const { log, device, client } = options;
    this.#device = device;
    this.#area = options.area;
    this.#client = client;
    this.#dirty = options.dirty;
    this.ring = ringOf(options.area, log.ring.blockBytes);
    const { lengthBytes, blockBytes } = this.ring;
    this.#changes = new PendingChanges(log.hostWrites);
    this.#intents = new OpenIntents(log.openIntents);
    this.#space = new LogSpace(this.ring, log);
    this.#records = new RecordWriter({
      device,
      ring: this.ring,
      space: this.#space,
      journalId: log.slot.journalId,
      salt: random64(options.random),
    });
    this.#writeBack = new WriteBack({
      device,
      client,
      changes: this.#changes,
      space: this.#space,
      clock: this.#clock,
      counters: this.#counters,
      ring: this.ring,
      repeatIntents: () => this.#repeatIntents(),
      startAt: options.writeBackAt ?? 0.25,
    });
    this.#durableSequence = this.#space.last.sequence;
    this.#directBytes = options.directBytes ?? 256 * 1024;
    this.#reserveBytes = Math.max(1, Math.floor((lengthBytes * 3) / 8 / blockBytes)) * blockBytes;
  }

  /** The error that ended all writing, if one did. */
  get failure(): Qcow2Error | undefined {
    return this.#failure;
  }

  get counters(): JournalCounters {
    return { ...this.#counters, groupSizes: [...this.#counters.groupSizes] };
  }

  /** Counts the device's flushes: bytes move from the log to their places only between two of them. */
  get generation(): number {
    return this.#counters.flushes;
  }

  get use(): JournalUse {
    return {
      ringBytes: this.ring.lengthBytes,
      blockBytes: this.ring.blockBytes,
      usedBytes: this.#space.usedBytes,
      highWaterBytes: this.#space.highWaterBytes,
      tailSequence: this.#space.tailSequence,
      lastSequence: this.lastSequence,
      durableSequence: this.#durableSequence,
      oldestAppendedMs: this.#space.oldestAppendedMs,
      dirty: this.#dirty,
      pendingBytes: this.#changes.undrainedBytes,
      unloggedGuestBytes: this.#client.unloggedGuestBytes,
    };
  }

  /** Sequence of the last record appended: guest writes logged so far stand at or below it. */
  get lastSequence(): number {
    return this.#records.lastSequence;
  }

  /**
   * So much is submitted and not logged that the client must commit before it submits more: the ring keeps
   * room for twice this, for what settles all live guest writes, and for no more [JRN-FAIL-003].
   */
  get isBacklogged(): boolean {
    return this.#changes.queuedBytes >= this.changeBytes;
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
    this.#clock.noteWrite();
  }

  /**
   * Queue a microtransaction. Nothing is durable on return; a `commit` begun from now on carries it if it
   * is required.
   * @throws FAILED_EARLIER
   */
  submit(transaction: Microtransaction): void {
    this.#refuseFailed();
    this.#counters.microtransactions++;
    this.#changes.submit({
      transaction,
      afterFlush: transaction.afterData ? this.#clock.next : 0,
      throughSequence: this.lastSequence,
    });
    this.#intents.submitted(transaction, this.#changes.submitted);
  }

  /** The id for an operation that begins with the next microtransaction [JRN-INTENT-003]. */
  newIntentId(): number {
    return this.#intents.newId(this.lastSequence + 1);
  }

  /** A round begins: the tail is to pass what is durable, and no open intent goes with it [JRN-INTENT-004]. */
  #repeatIntents(): void {
    for (const intent of this.#intents.toRepeat(this.#changes.durable)) {
      this.submit({ intent, required: false, afterData: false });
    }
  }

  /** Lay over `into`, read from `hostOffset` of the device, every host write that does not stand there yet. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#changes.patch(hostOffset, into);
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
    this.#counters.commits++;
    countGroup(this.#counters, covers - this.#commitsCovered);
    this.#commitsCovered = covers;
  }

  /**
   * Write everything back and let the log run empty: the file is then an ordinary image, its dirty bit
   * clear, durable on return. Writers may go on at once; the next commit makes it dirty again.
   * @throws INVARIANT while an operation with an intent is under way: its client waits for the end first
   */
  *quiesce(): Task<void> {
    yield* this.#mutex.exclusive(() => this.#quiesceLocked());
  }

  *#quiesceLocked(): Task<void> {
    this.#refuseFailed();
    if (this.#intents.count > 0)
      throw new InvariantError('an operation is under way, and can not come to rest');
    try {
      yield* this.#client.settleUnlogged();
      if (!this.#dirty && !this.#changes.hasQueued) {
        if (this.#clock.isOwed) yield* this.#flush('flush_data');
        return;
      }
      yield* this.#ensureDirty();
      // What recovery found is valid, but durable only after a flush: nothing is written in place before.
      yield* this.#flush('flush_data');
      while (!this.#isDrained()) yield* this.#drain();
      yield* this.#renewSlot();
      yield* this.#client.markClean();
      this.#dirty = false;
      this.#counters.quiesces++;
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /** A guest may go on meanwhile: what it wrote since is in no record, and no round settles it. */
  *#drain(): Task<void> {
    yield* this.#client.settleUnlogged();
    yield* this.#driveRound();
  }

  #isDrained(): boolean {
    return (
      this.#writeBack.round === undefined &&
      this.#changes.isEmpty &&
      this.#space.isEmpty &&
      this.#intents.isEmpty &&
      this.#client.unloggedGuestBytes === 0
    );
  }

  *#commitOnce(): Task<void> {
    const client = this.#client;
    if (client.unloggedGuestBytes > Math.min(this.#directBytes, this.#records.maxRecordBytes)) {
      yield* client.settleUnlogged();
    }
    const nothingToLog = !this.#changes.hasQueued && client.unloggedGuestBytes === 0;
    if (nothingToLog && this.#writeBack.round === undefined) {
      if (this.#clock.isOwed) yield* this.#flush('flush_data');
      return;
    }
    client.beginCommit();
    if (this.#changes.hasRequired || client.hasCommitWrites() || this.#eligible() > 0) {
      yield* this.#ensureDirty();
      if (this.#changes.hasBlockedRequired(this.#clock.completed)) yield* this.#flush('flush_data');
      yield* this.#appendAll();
      // While one of these waited, the client may have settled or dropped what this commit has to log: then the
      // change that did so is what has to be logged, and it may wait for a flush of its own.
      if (this.#changes.hasRequired) {
        if (this.#changes.hasBlockedRequired(this.#clock.completed)) yield* this.#flush('flush_data');
        yield* this.#appendAll();
      }
    }
    yield* this.#writeBack.pace(this.#durableSequence);
    if (this.#space.slotDue && !this.#space.slotUnderWay) yield* this.#writeSlot();
    yield* this.#flush('journal_flush');
  }

  /** Append records until what was submitted so far and may be logged, and the commit's guest writes, are in. */
  *#appendAll(): Task<void> {
    const last = this.#changes.submitted;
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
    const bytes = Math.ceil((80 + this.#changes.queuedBytes + guestBytes) / blockBytes) * blockBytes;
    return Math.min(this.#records.maxRecordBytes, bytes);
  }

  #eligible(last?: number): number {
    return this.#changes.eligible(this.#clock.completed, last);
  }

  /** Append one record with as much of the eligible queue, and of the guest writes, as it takes. */
  *#appendRecord(withGuestWrites: boolean, last?: number): Task<void> {
    const { maxRecordBytes } = this.#records;
    // Before the batch is taken: what is taken counts as logged when the next flush completes.
    // Twice, where nothing that was appended since the last slot was durable until the first of them flushed.
    while (!this.#space.isInReach) yield* this.#renewSlot();
    // The queue changes before the append waits: a later failure ends everything anyway.
    const eligible = this.#eligible(last);
    const batch = this.#changes.takeBatch(eligible, maxRecordBytes);
    const guestRoom = maxRecordBytes - batch.boundBytes;
    // Not before the last of them: a guest may have written behind an end of the disk that a change of these moves [JRN-DESC-030].
    const takes = withGuestWrites && batch.count === eligible && guestRoom > 536;
    const guestWrites = takes ? this.#client.takeGuestWrites(guestRoom) : [];
    if (batch.count === 0 && guestWrites.length === 0) {
      throw new InvariantError('a journal record without content');
    }
    const lengthBytes = yield* this.#records.append(batch.descriptors, guestWrites, this.#durableSequence);
    this.#clock.noteWrite();
    this.#counters.records++;
    this.#counters.recordBytes += lengthBytes;
    for (const { bytes } of guestWrites) this.#counters.payloadBytes += bytes.length;
    this.#counters.submittedBytes += batch.submittedBytes;
    this.#counters.loggedBytes += batch.hostWrites.setBytes;
  }

  *#ensureDirty(): Task<void> {
    if (this.#dirty) return;
    yield* this.#client.beforeFlush();
    const number = this.#clock.start();
    yield* this.#client.markDirty();
    this.#clock.complete(number);
    this.#dirty = true;
  }

  /** Flush the device, then everything that was waiting for it. */
  *#flush(event: 'flush_data' | 'journal_flush'): Task<void> {
    yield* this.#client.beforeFlush();
    const number = this.#clock.start();
    const appended = this.lastSequence;
    const logged = this.#changes.beginFlush();
    this.#counters.flushes++;
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
    this.#clock.complete(number);
    this.#durableSequence = appended;
    this.#changes.becomeDurable(logged);
    this.#intents.becomeDurable(this.#changes.durable);
    this.#space.flushed(number);
    this.#writeBack.flushed(number);
  }

  *#writeSlot(): Task<void> {
    const slot = this.#space.nextSlot(this.#durableSequence, this.#clock.next);
    yield* writeSlot(this.#device, this.#area, slot);
    this.#clock.noteWrite();
    this.#counters.slotWrites++;
  }

  /** A whole round at once, with flushes of its own: when the ring is full, and when everything is to go. */
  *#driveRound(): Task<void> {
    const round = this.#writeBack.round ?? this.#writeBack.begin(this.#durableSequence);
    while (this.#writeBack.round === round) {
      yield* this.#writeBack.step(1);
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
    if (this.#space.slotDue) yield* this.#renewSlot();
  }

  /** A slot that says how things are now, durable on return: of a log that is empty, that it is. */
  *#renewSlot(): Task<void> {
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
