/**
 * The engine of the profile draft-2013: microtransactions in, transactions on disk, committed by a second flush,
 * executed in place, retired by the header.
 *
 * A change goes through: submitted (`DraftQueue`) -> logged -> committed -> draining (`PendingEffects` holds it so
 * far) -> synced: in place and flushed, and the header may pass it. The engine decides when each step is taken:
 * `TransactionWriter` appends, `HeaderWriter` commits, `Execution` brings in place in rounds, `DraftSpace` knows what of
 * the ring is free, `FlushClock` which flush covers what.
 *
 * A commit is: append the transactions and the block of zeros behind them, flush, write the header's sector with
 * the new committed sequence, flush. Why a crash at each point is harmless:
 *  - Before the first flush has completed nothing commits the blocks, whatever of them is there.
 *  - The first flush covers guest data too, which was written in place before the change that leads to it was
 *    submitted: so whatever the header ever commits leads to bytes that are there. A mapping waits for its data
 *    without a flush of its own.
 *  - The header is one sector: the old one or the new one. One write of it commits all transactions of a commit.
 *  - In-place bytes are written only from committed transactions, and the header calls them synced only after a
 *    flush: a crash in between leaves any mix of old and new sectors, and replay writes the new ones again.
 *  - Ring space is reused only when the header that frees it is durable; the blocks of the last synced transaction,
 *    where the chain begins, stay.
 *  - The dirty bit is written before the first transaction is appended and is durable with the first flush, hence
 *    before any header commits anything. It is cleared when a header with nothing to replay is durable.
 *  - A failed write or flush ends it: the error goes to all who wait, later calls are refused, nothing is retried.
 *
 * Copies are logged here and made by the client, in rounds (`DraftClient.stepRound`). Their sources stay as they are until a
 * durable header has passed them (`onRetired`) or a revoke of the target is committed. Who writes a target in place before that
 * submits such a revoke: the first flush of its commit covers the bytes.
 *
 * Concurrency: commits and execution run under one mutex; flushes that arrive meanwhile share the next commit.
 * `submit` is synchronous and may come at any time.
 */
import { type BlockDevice, isPromise, Mutex, type Task } from '@qcow2/block-device';
import { draftReplayCount } from '@qcow2/codec/journal/draft-2013';
import { InvariantError, Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import { FlushClock } from '../flush-clock.ts';
import type { Microtransaction } from '../microtransaction.ts';
import type { RingGeometry } from '../ring.ts';
import type { DraftArea } from './area.ts';
import { mergeMicrotransactions } from './batch.ts';
import { DraftQueue } from './change-queue.ts';
import type { DraftClient } from './client.ts';
import { type DraftCounters, type DraftUse, newDraftCounters } from './counters.ts';
import { Execution } from './execution.ts';
import { HeaderWriter } from './header-writer.ts';
import { PendingEffects } from './pending-effects.ts';
import { Retirement } from './retirement.ts';
import { DraftSpace, type PlacedTransaction } from './space.ts';
import { TransactionWriter, totalBytes } from './transaction-writer.ts';

export interface DraftEngineOptions {
  readonly device: BlockDevice;
  /** A journal with nothing to replay. */
  readonly area: DraftArea;
  readonly client: DraftClient;
  /** The last synced transaction; see `lastSynced`. */
  readonly last: PlacedTransaction | undefined;
  /** Bytes of submitted metadata that make a commit without a flush of the guest: `commit_datasize`. */
  readonly commitDataBytes?: number;
  /** Share of the ring in use from which committed transactions are executed in place. */
  readonly writeBackAt?: number;
}

/** The fewest blocks behind the header through which an image can be written: a change must fit all but one. */
export const minWritableRingBlocks = 7;

/** In a ring of fewer, what the chain begins with takes room that a commit may need. */
const roomyRingBlocks = 32;

export class DraftEngine {
  readonly ring: RingGeometry;
  readonly #device: BlockDevice;
  readonly #client: DraftClient;
  readonly #mutex = new Mutex();
  readonly #commitDataBytes: number;
  /** What one commit may take of the ring, in blocks. */
  readonly #batchBlocks: number;

  readonly #clock = new FlushClock();
  readonly #counters = newDraftCounters();
  readonly #effects = new PendingEffects();
  readonly #retirement = new Retirement();
  readonly #queue: DraftQueue;
  readonly #space: DraftSpace;
  readonly #transactions: TransactionWriter;
  readonly #header: HeaderWriter;
  readonly #execution: Execution;

  #dirty = false;
  #commitsRequested = 0;
  #commitsCovered = 0;
  #failure: Qcow2Error | undefined;

  constructor(options: DraftEngineOptions) {
    const { area, device } = options;
    this.#device = device;
    this.#client = options.client;
    this.ring = area.ring;
    if (draftReplayCount(area.header) !== 0)
      throw new InvariantError('a journal that must be replayed first');
    this.#queue = new DraftQueue(area.ring.blockBytes);
    this.#space = new DraftSpace(area.ring, options.last);
    const parts = { device, space: this.#space, clock: this.#clock, counters: this.#counters };
    this.#transactions = new TransactionWriter({
      ...parts,
      ring: area.ring,
      lastSequence: area.header.committedSequence,
    });
    this.#header = new HeaderWriter({ ...parts, area, beginsAnew: options.last === undefined });
    this.#execution = new Execution({
      ...parts,
      client: options.client,
      effects: this.#effects,
      ring: area.ring,
      startAt: options.writeBackAt ?? 0.25,
    });
    const ringBlocks = area.ring.lengthBytes / area.ring.blockBytes;
    this.#batchBlocks = ringBlocks < roomyRingBlocks ? ringBlocks - 1 : Math.floor((ringBlocks - 1) / 2);
    this.#commitDataBytes = options.commitDataBytes ?? 1 << 20;
  }

  /** The error that ended all writing, if one did. */
  get failure(): Qcow2Error | undefined {
    return this.#failure;
  }

  get counters(): DraftCounters {
    return { ...this.#counters };
  }

  get use(): DraftUse {
    return {
      usedBytes: this.#space.usedBytes,
      ringBytes: this.ring.lengthBytes,
      blockBytes: this.ring.blockBytes,
      committedSequence: this.#header.committedSequence,
      syncedSequence: this.#header.syncedSequence,
      dirty: this.#dirty,
      pendingBytes: this.#effects.pendingBytes,
    };
  }

  /**
   * So much is submitted that the client must commit before it submits more: `commitDataBytes`, or half of what
   * one commit takes, so that what one operation adds fits the same commit [JRN-FAIL-003].
   */
  get isBacklogged(): boolean {
    return this.#queue.bytes >= this.#commitDataBytes || 2 * this.#queue.blocks >= this.#batchBlocks;
  }

  /**
   * What one operation of the client may submit before it asks `isBacklogged` again, in the measure of
   * `MetadataLog.changeBytes`: 200 bytes for each cluster, which takes at most three data blocks here.
   */
  get changeBytes(): number {
    return Math.min(200 * Math.max(1, Math.floor(this.#batchBlocks / 8)), 1 << 20);
  }

  /** Nothing is submitted, committed and not in place, or under way. */
  get isIdle(): boolean {
    return !this.#mutex.locked && this.#isDrained();
  }

  get hasQueued(): boolean {
    return !this.#queue.isEmpty;
  }

  /** The client has written to the device in place: a flush is owed even if nothing is to be logged. */
  noteDeviceWrite(): void {
    this.#clock.noteWrite();
  }

  /**
   * Queue a microtransaction. Nothing is durable on return; a `commit` begun from now on carries it if it
   * is required. Its host writes are the engine's. A host write to a place that a copy is still to be brought to comes with a
   * revoke of it, or behind one: which copies are made, the client knows.
   * @throws FAILED_EARLIER
   */
  submit(transaction: Microtransaction): void {
    this.#refuseFailed();
    this.#queue.add(transaction);
    this.#counters.microtransactions++;
  }

  /** Lay over `into`, read from `hostOffset` of the device, every host write that does not stand there yet. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#effects.patch(hostOffset, into);
    this.#queue.patch(hostOffset, into);
  }

  /**
   * Make durable every required microtransaction submitted before the call, and what was written in place: one
   * flush of the device where nothing is to be logged, two where something is.
   * @param all also what no flush of the guest asks for
   * @throws the failure that ended writing, to everybody who waits
   */
  *commit(all = false): Task<void> {
    const ticket = ++this.#commitsRequested;
    yield* this.#mutex.exclusive(() => this.#commitFor(ticket, all));
  }

  *#commitFor(ticket: number, all: boolean): Task<void> {
    this.#refuseFailed();
    if (!all && this.#commitsCovered >= ticket) {
      this.#counters.sharedCommits++;
      return;
    }
    const covers = this.#commitsRequested;
    try {
      const mustLog = all ? !this.#queue.isEmpty : this.#queue.hasRequired;
      yield* this.#commitOnce(mustLog || this.isBacklogged);
    } catch (error) {
      throw this.#fail(error);
    }
    this.#commitsCovered = covers;
    this.#counters.commits++;
  }

  /**
   * Execute everything in place and retire it: the file is then an ordinary image, its dirty bit clear, durable on
   * return. Writers may go on at once; the next commit makes it dirty again.
   */
  *quiesce(): Task<void> {
    yield* this.#mutex.exclusive(() => this.#quiesceLocked());
  }

  *#quiesceLocked(): Task<void> {
    this.#refuseFailed();
    try {
      for (;;) {
        if (!this.#queue.isEmpty || this.#clock.isOwed) yield* this.#commitOnce(!this.#queue.isEmpty);
        if (!this.#dirty) return;
        yield* this.#executeAll();
        yield* this.#header.write();
        yield* this.#flush('journal_flush');
        if (this.#isDrained()) break;
      }
      yield* this.#client.markClean();
      this.#dirty = false;
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #isDrained(): boolean {
    return (
      !this.#execution.isUnderWay &&
      this.#queue.isEmpty &&
      this.#effects.isAllDraining &&
      this.#space.isEmpty &&
      this.#retirement.isEmpty
    );
  }

  *#commitOnce(mustLog: boolean): Task<void> {
    let left = mustLog ? this.#queue.length : 0;
    do {
      yield* this.#execution.pace();
      const batch = this.#queue.first(left, this.#batchBlocks);
      left -= batch.length;
      if (batch.length > 0) yield* this.#commitBatch(batch);
      else {
        if (this.#clock.isOwed || this.#execution.isUnderWay) yield* this.#flush('flush_data');
        // Rides with the next flush: nothing waits for it.
        if (this.#space.headerDue) yield* this.#header.write();
      }
    } while (left > 0);
  }

  *#commitBatch(taken: readonly Microtransaction[]): Task<void> {
    const merged = mergeMicrotransactions(taken);
    let transactions = this.#transactions.encode(merged);
    const before = this.#space.headLog;
    yield* this.#reserve(totalBytes(transactions));
    // The indices in a transaction are those of the place where it stands.
    if (this.#space.headLog !== before) transactions = this.#transactions.encode(merged);
    if (!this.#dirty) {
      yield* this.#client.markDirty();
      this.#clock.noteWrite();
      this.#dirty = true;
    }
    // The queue changes before the append waits: a later failure ends everything anyway.
    this.#queue.dropFirst(taken.length);
    this.#effects.addLogged(merged);
    this.#counters.submittedBytes += merged.submittedBytes;
    yield* this.#transactions.append(transactions);
    this.#retirement.appended(taken, this.#space.headLog);
    yield* this.#flush('journal_flush');
    this.#header.commitThrough(this.#transactions.lastSequence);
    yield* this.#header.write();
    yield* this.#flush('journal_flush');
    this.#effects.becomeCommitted(merged);
    for (const { onDurable } of taken) onDurable?.();
  }

  /** Make room in the ring for all of a batch before anything of it is written. */
  *#reserve(neededBytes: number): Task<void> {
    if (neededBytes <= this.#space.roomBytes) return;
    this.#counters.stalls++;
    yield* this.#executeAll();
    yield* this.#header.write();
    yield* this.#flush('journal_flush');
    if (neededBytes > this.#space.roomBytes) yield* this.#restart();
    if (neededBytes > this.#space.roomBytes) throw new InvariantError('a change does not fit the journal');
  }

  /** Everything is synced: let the chain begin at block 1 anew, so that the last transaction need not stay. */
  *#restart(): Task<void> {
    yield* this.#header.writeAnew();
    yield* this.#flush('journal_flush');
    this.#space.restart();
  }

  *#flush(event: 'flush_data' | 'journal_flush'): Task<void> {
    yield* this.#client.beforeFlush();
    const number = this.#clock.start();
    this.#counters.flushes++;
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
    this.#clock.complete(number);
    this.#space.flushed(number);
    this.#retirement.passed(this.#space.retiredLog);
    this.#execution.flushed(number);
  }

  /** Execute all that is committed, with a flush of its own. */
  *#executeAll(): Task<void> {
    do {
      yield* this.#execution.stepAll();
      yield* this.#flush('flush_data');
    } while (!this.#effects.isAllDraining || !this.#space.isEmpty);
  }

  #refuseFailed(): void {
    if (this.#failure === undefined) return;
    const message = `an earlier write or flush failed (${this.#failure.code}); reopen the image to recover`;
    throw new StateError('FAILED_EARLIER', message, {}, this.#failure);
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
