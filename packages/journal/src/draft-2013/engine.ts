/**
 * The engine of the profile draft-2013: microtransactions in, transactions on disk, committed by a second flush,
 * executed in place, retired by the header.
 *
 * State of a change, and what holds it:
 *   submitted  `#queue`      in order; nothing on disk
 *   logged     `#inFlight`   in a transaction that has been appended; the header does not commit it yet
 *   committed  `#active`     durably committed; may be executed in place from here on
 *   draining   `#round`      being executed by the round under way
 *   synced     (nowhere)     in place and flushed; the header may pass it
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
 * A copy's source stays as it is until the copy is made and retired: who owns the image asks `isPinned`, and frees
 * nothing that is. Who changes a target before its copy is made calls `settleCopies` first, and revokes the range.
 *
 * Concurrency: commits and execution run under one mutex; flushes that arrive meanwhile share the next commit.
 * `submit` is synchronous and may come at any time.
 */
import { type BlockDevice, isPromise, Mutex, PatchMap, type PatchRun, type Task } from '@qcow2/block-device';
import { draftReplayCount, nextDraftSequence, peekDraftBlock } from '@qcow2/codec/journal/draft-2013';
import { InvariantError, Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import type { HostCopy, Microtransaction } from '../microtransaction.ts';
import { type RingGeometry, RingReader, writeRing } from '../ring.ts';
import { type DraftArea, withHeader, writeDraftHeader } from './area.ts';
import {
  blocksBound,
  type DraftBatch,
  dataBlocksBound,
  descriptorBytesBound,
  type EncodedTransaction,
  encodeBatch,
  mergeMicrotransactions,
} from './batch.ts';
import { CopyList } from './copy-list.ts';
import { copyInPlace } from './recovery.ts';
import { DraftSpace, type PlacedTransaction } from './space.ts';

/** What the engine asks of whoever owns the image. */
export interface DraftClient {
  /** Set the image's dirty bit; durable with the next flush. */
  markDirty(): Task<void>;
  /** Clear it, durable on return. Everything in place is durable when this is called. */
  markClean(): Task<void>;
  /** Make the file long enough for every cluster handed out; called before each flush. */
  beforeFlush(): Task<void>;
}

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

/** What the engine has done since it was opened. */
export interface DraftCounters {
  readonly transactions: number;
  /** Bytes of the transactions, descriptor blocks and padding included. */
  readonly transactionBytes: number;
  readonly microtransactions: number;
  /** Bytes of host writes as submitted, and as logged after merging. */
  readonly submittedBytes: number;
  readonly loggedBytes: number;
  readonly flushes: number;
  readonly commits: number;
  /** Commits that found themselves covered by another's. */
  readonly sharedCommits: number;
  readonly headerWrites: number;
  readonly writtenBackBytes: number;
  readonly copiedBytes: number;
  readonly rounds: number;
  /** Commits that had to wait for execution in place because the ring was full. */
  readonly stalls: number;
}

/** What the ring holds at this moment. */
export interface DraftUse {
  readonly usedBytes: number;
  readonly ringBytes: number;
  readonly blockBytes: number;
  readonly committedSequence: number;
  readonly syncedSequence: number;
  readonly dirty: boolean;
  /** Host bytes committed and not yet in place. */
  readonly pendingBytes: number;
}

interface Round {
  /** Transactions up to this log offset are synced when the round is done. */
  readonly cutLog: number;
  readonly draining: PatchMap;
  readonly copies: CopyList;
  readonly runs: Iterator<PatchRun>;
  readonly workBytes: number;
  drained: boolean;
  /** The flush after which they are synced; 0 until everything is written. */
  doneAtFlush: number;
}

/** Copies of a microtransaction, whose sources stay as they are. */
interface Pin {
  readonly copies: readonly HostCopy[];
  /** Log offset behind their transaction; undefined before it is appended. */
  endLog: number | undefined;
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
  readonly #space: DraftSpace;
  readonly #commitDataBytes: number;
  readonly #writeBackBytes: number;
  readonly #paceBytes: number;
  /** What one commit may take of the ring, in blocks. */
  readonly #batchBlocks: number;
  #area: DraftArea;

  #queue: Microtransaction[] = [];
  #queueDataBlocks = 0;
  #queueDescriptorBytes = 0;
  #queueBytes = 0;
  readonly #inFlight = new PatchMap();
  readonly #inFlightCopies = new CopyList();
  #active = new PatchMap();
  #activeCopies = new CopyList();
  #round: Round | undefined;
  /** Copies whose transactions may be executed again, in the order of their submission. */
  #pins: Pin[] = [];

  #nextSequence: number;
  #committedSequence: number;
  #flushesStarted = 0;
  #unflushed = false;
  #dirty = false;
  #commitsRequested = 0;
  #commitsCovered = 0;
  #paceStart = 0;
  #failure: Qcow2Error | undefined;

  readonly #counters = {
    transactions: 0,
    transactionBytes: 0,
    microtransactions: 0,
    submittedBytes: 0,
    loggedBytes: 0,
    flushes: 0,
    commits: 0,
    sharedCommits: 0,
    headerWrites: 0,
    writtenBackBytes: 0,
    copiedBytes: 0,
    rounds: 0,
    stalls: 0,
  };

  constructor(options: DraftEngineOptions) {
    const { area } = options;
    this.#device = options.device;
    this.#client = options.client;
    this.#area = area;
    this.ring = area.ring;
    if (draftReplayCount(area.header) !== 0)
      throw new InvariantError('a journal that must be replayed first');
    this.#space = new DraftSpace(area.ring, options.last);
    this.#committedSequence = area.header.committedSequence;
    if (options.last === undefined && area.header.syncedIndex !== 0) {
      // Nothing to go on behind: the chain begins at block 1 anew, as the next header says.
      const syncedSequence = this.#committedSequence;
      this.#area = withHeader(area, { ...area.header, syncedIndex: 0, syncedSequence });
    }
    this.#nextSequence = nextDraftSequence(this.#committedSequence);
    const { lengthBytes, blockBytes } = area.ring;
    const ringBlocks = lengthBytes / blockBytes;
    this.#batchBlocks = ringBlocks < roomyRingBlocks ? ringBlocks - 1 : Math.floor((ringBlocks - 1) / 2);
    this.#commitDataBytes = options.commitDataBytes ?? 1 << 20;
    this.#writeBackBytes = Math.max(blockBytes, lengthBytes * (options.writeBackAt ?? 0.25));
    this.#paceBytes = Math.max(blockBytes, Math.min(lengthBytes / 64, 1 << 20));
    this.#paceStart = this.#space.headLog;
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
      committedSequence: this.#committedSequence,
      syncedSequence: this.#area.header.syncedSequence,
      dirty: this.#dirty,
      pendingBytes: this.#active.setBytes + (this.#round?.draining.setBytes ?? 0),
    };
  }

  /**
   * So much is submitted that the client must commit before it submits more: `commitDataBytes`, or half of what
   * one commit takes, so that what one operation adds fits the same commit [JRN-FAIL-003].
   */
  get isBacklogged(): boolean {
    return this.#queueBytes >= this.#commitDataBytes || 2 * this.#queueBlocks() >= this.#batchBlocks;
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
    return this.#queue.length > 0;
  }

  /** The client has written to the device in place: a flush is owed even if nothing is to be logged. */
  noteDeviceWrite(): void {
    this.#unflushed = true;
  }

  /**
   * Queue a microtransaction. Nothing is durable on return; a `commit` begun from now on carries it if it
   * is required. Its host writes and what it copies are the engine's.
   * @throws FAILED_EARLIER
   */
  submit(transaction: Microtransaction): void {
    this.#refuseFailed();
    this.#queue.push(transaction);
    if (transaction.copies !== undefined) this.#pins.push({ copies: transaction.copies, endLog: undefined });
    this.#count(transaction, 1);
    this.#counters.microtransactions++;
  }

  /** Lay over `into`, read from `hostOffset` of the device, every host write that does not stand there yet. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#round?.draining.apply(hostOffset, into);
    this.#active.apply(hostOffset, into);
    this.#inFlight.apply(hostOffset, into);
    for (const { hostWrites } of this.#queue) {
      for (const write of hostWrites ?? []) overlap(write.hostOffset, write.bytes, hostOffset, into);
    }
  }

  /** Copies to the range that are not made yet: who reads there reads their sources. In order of the target. */
  pendingCopies(hostOffset: number, lengthBytes: number): HostCopy[] {
    const all = new CopyList();
    for (const list of this.#copyLists()) all.merge(list);
    for (const { copies } of this.#queue) for (const copy of copies ?? []) all.add(copy);
    return all.within(hostOffset, lengthBytes);
  }

  /** Whether bytes of the range are the source of a copy that is not made, or made and not retired. */
  isPinned(hostOffset: number, lengthBytes: number): boolean {
    const end = hostOffset + lengthBytes;
    return this.#pins.some(({ copies }) =>
      copies.some(
        ({ sourceHostOffset: source, lengthBytes: length }) => source < end && hostOffset < source + length,
      ),
    );
  }

  /**
   * Make the copies to the range now, in place, so that it may be written to. The caller revokes the range in a
   * required microtransaction, submitted when its own bytes are written: until that is committed a replay would
   * copy over them, and they are not durable before it.
   */
  *settleCopies(hostOffset: number, lengthBytes: number): Task<void> {
    yield* this.#mutex.exclusive(() => this.#settleCopies(hostOffset, lengthBytes));
  }

  *#settleCopies(hostOffset: number, lengthBytes: number): Task<void> {
    this.#refuseFailed();
    try {
      for (const copy of this.pendingCopies(hostOffset, lengthBytes)) yield* this.#makeCopy(copy);
      for (const list of this.#copyLists()) list.delete(hostOffset, lengthBytes);
      this.#queue = this.#queue.map((transaction) => {
        if (transaction.copies === undefined) return transaction;
        this.#count(transaction, -1);
        const cut = { ...transaction, copies: without(transaction.copies, hostOffset, lengthBytes) };
        this.#count(cut, 1);
        return cut;
      });
    } catch (error) {
      throw this.#fail(error);
    }
  }

  #copyLists(): CopyList[] {
    const round = this.#round === undefined ? [] : [this.#round.copies];
    return [...round, this.#activeCopies, this.#inFlightCopies];
  }

  *#makeCopy(copy: HostCopy): Task<void> {
    yield* copyInPlace(this.#device, copy, (at, into) => {
      this.#round?.draining.apply(at, into);
      this.#active.apply(at, into);
    });
    this.#unflushed = true;
    this.#counters.copiedBytes += copy.lengthBytes;
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
      const mustLog = all ? this.#queue.length > 0 : this.#queue.some(({ required }) => required);
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
        if (this.#queue.length > 0 || this.#unflushed) yield* this.#commitOnce(this.#queue.length > 0);
        if (!this.#dirty) return;
        yield* this.#driveRound();
        yield* this.#writeHeader();
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
      this.#round === undefined &&
      this.#queue.length === 0 &&
      this.#active.isEmpty &&
      this.#activeCopies.isEmpty &&
      this.#space.isEmpty
    );
  }

  *#commitOnce(mustLog: boolean): Task<void> {
    let left = mustLog ? this.#queue.length : 0;
    do {
      yield* this.#paceExecution();
      const batch = this.#takeBatch(left);
      left -= batch.length;
      if (batch.length > 0) yield* this.#commitBatch(batch);
      else {
        if (this.#unflushed || this.#round !== undefined) yield* this.#flush('flush_data');
        // Rides with the next flush: nothing waits for it.
        if (this.#space.headerDue) yield* this.#writeHeader();
      }
    } while (left > 0);
  }

  /** From the head of the queue as many of the first `limit` as one commit takes; at least one. */
  #takeBatch(limit: number): Microtransaction[] {
    const { blockBytes } = this.ring;
    let dataBlocks = 0;
    let descriptorBytes = 0;
    let count = 0;
    for (; count < limit; count++) {
      const transaction = this.#queue[count]!;
      dataBlocks += dataBlocksBound(transaction, blockBytes);
      descriptorBytes += descriptorBytesBound(transaction);
      if (count > 0 && blocksBound(dataBlocks, descriptorBytes, blockBytes) > this.#batchBlocks) break;
    }
    return this.#queue.slice(0, count);
  }

  *#commitBatch(taken: readonly Microtransaction[]): Task<void> {
    const merged = mergeMicrotransactions(taken);
    const encode = (): EncodedTransaction[] => [
      ...encodeBatch(merged, this.ring, this.#space.headLog, this.#nextSequence),
    ];
    let transactions = encode();
    const before = this.#space.headLog;
    yield* this.#reserve(transactions.reduce((sum, { bytes }) => sum + bytes.length, 0));
    // The indices in a transaction are those of the place where it stands.
    if (this.#space.headLog !== before) transactions = encode();
    if (!this.#dirty) {
      yield* this.#client.markDirty();
      this.#unflushed = true;
      this.#dirty = true;
    }
    // The queue changes before the append waits: a later failure ends everything anyway.
    this.#queue = this.#queue.slice(taken.length);
    for (const transaction of taken) this.#count(transaction, -1);
    this.#inFlight.merge(merged.writes);
    this.#inFlightCopies.merge(merged.copies);
    this.#counters.submittedBytes += merged.submittedBytes;
    yield* this.#append(transactions);
    this.#pinFor(taken);
    yield* this.#flush('journal_flush');
    this.#committedSequence = this.#lastSequence;
    yield* this.#writeHeader();
    yield* this.#flush('journal_flush');
    this.#becomeCommitted(merged, taken);
  }

  #lastSequence = 0;

  /** What was submitted first is appended first: the pins of a batch are the oldest without a place. */
  #pinFor(taken: readonly Microtransaction[]): void {
    let count = taken.filter(({ copies }) => copies !== undefined).length;
    for (const pin of this.#pins) {
      if (count === 0) return;
      if (pin.endLog !== undefined) continue;
      pin.endLog = this.#space.headLog;
      count--;
    }
  }

  /** Make room in the ring for all of a batch before anything of it is written. */
  *#reserve(neededBytes: number): Task<void> {
    if (neededBytes <= this.#space.roomBytes) return;
    this.#counters.stalls++;
    yield* this.#driveRound();
    yield* this.#writeHeader();
    yield* this.#flush('journal_flush');
    if (neededBytes > this.#space.roomBytes) yield* this.#restart();
    if (neededBytes > this.#space.roomBytes) throw new InvariantError('a change does not fit the journal');
  }

  /** Everything is synced: let the chain begin at block 1 anew, so that the last transaction need not stay. */
  *#restart(): Task<void> {
    const { header } = this.#area;
    const syncedSequence = this.#committedSequence;
    this.#area = withHeader(this.#area, { ...header, syncedIndex: 0, syncedSequence });
    yield* writeDraftHeader(this.#device, this.#area);
    this.#unflushed = true;
    this.#counters.headerWrites++;
    yield* this.#flush('journal_flush');
    this.#space.restart();
  }

  /** The transactions and the block of zeros that ends the chain, in one piece. */
  *#append(transactions: readonly EncodedTransaction[]): Task<void> {
    const { blockBytes } = this.ring;
    const lengthBytes = transactions.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const bytes = new Uint8Array(lengthBytes + blockBytes);
    const startLog = this.#space.headLog;
    let at = 0;
    for (const transaction of transactions) {
      bytes.set(transaction.bytes, at);
      at += transaction.bytes.length;
      this.#space.append(transaction.sequence, transaction.bytes.length);
      this.#counters.transactions++;
      this.#counters.loggedBytes += transaction.dataBytes;
      this.#lastSequence = transaction.sequence;
      this.#nextSequence = nextDraftSequence(transaction.sequence);
    }
    this.#counters.transactionBytes += lengthBytes;
    yield* writeRing(this.#device, this.ring, startLog, bytes, 'journal_append');
    this.#unflushed = true;
  }

  #becomeCommitted(batch: DraftBatch, taken: readonly Microtransaction[]): void {
    for (const { hostOffset, lengthBytes } of batch.revokes) {
      this.#active.delete(hostOffset, lengthBytes);
      this.#activeCopies.delete(hostOffset, lengthBytes);
      this.#round?.draining.delete(hostOffset, lengthBytes);
      this.#round?.copies.delete(hostOffset, lengthBytes);
    }
    // A copy to a place replaces what was to be written there, and the other way round.
    for (const { targetHostOffset, lengthBytes } of this.#inFlightCopies.all()) {
      this.#active.delete(targetHostOffset, lengthBytes);
      this.#round?.draining.delete(targetHostOffset, lengthBytes);
    }
    for (const { offset, bytes } of this.#inFlight.runs()) {
      this.#activeCopies.delete(offset, bytes.length);
      this.#round?.copies.delete(offset, bytes.length);
    }
    this.#active.merge(this.#inFlight);
    this.#activeCopies.merge(this.#inFlightCopies);
    this.#inFlight.clear();
    this.#inFlightCopies.clear();
    for (const { onDurable } of taken) onDurable?.();
  }

  /** Write the header as it is to be now. A flush that begins later makes it durable. */
  *#writeHeader(): Task<void> {
    const { header } = this.#area;
    const next = this.#space.nextHeader(header, this.#committedSequence, this.#flushesStarted + 1);
    this.#area = withHeader(this.#area, next);
    yield* writeDraftHeader(this.#device, this.#area);
    this.#unflushed = true;
    this.#counters.headerWrites++;
  }

  *#flush(event: 'flush_data' | 'journal_flush'): Task<void> {
    yield* this.#client.beforeFlush();
    const number = ++this.#flushesStarted;
    this.#unflushed = false;
    this.#counters.flushes++;
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
    this.#space.flushed(number);
    const { retiredLog } = this.#space;
    this.#pins = this.#pins.filter(({ endLog }) => endLog === undefined || endLog > retiredLog);
    this.#finishRound(number);
  }

  /** In steps that keep up with the log, so that no single flush pays for many. */
  *#paceExecution(): Task<void> {
    if (this.#round === undefined) {
      if (this.#space.usedBytes < this.#writeBackBytes) return;
      this.#beginRound();
    }
    const progress = this.#space.headLog - this.#paceStart;
    if (progress < this.#paceBytes && !this.#round!.drained) return;
    this.#paceStart = this.#space.headLog;
    // Done when the log has grown by as much again as it held when the round began.
    const share = Math.min(1, progress / this.#writeBackBytes);
    yield* this.#stepRound(Math.max(this.#paceBytes, Math.ceil(this.#round!.workBytes * share)));
  }

  #beginRound(): Round {
    const draining = this.#active;
    const copies = this.#activeCopies;
    this.#active = new PatchMap();
    this.#activeCopies = new CopyList();
    this.#paceStart = this.#space.headLog;
    this.#counters.rounds++;
    this.#round = {
      cutLog: this.#space.headLog,
      draining,
      copies,
      runs: draining.runs(),
      workBytes: draining.setBytes + copies.pendingBytes,
      drained: false,
      doneAtFlush: 0,
    };
    return this.#round;
  }

  *#stepRound(budgetBytes: number): Task<void> {
    const round = this.#round!;
    let left = budgetBytes;
    // First what is copied: a source may have bytes of its own that are to be written.
    while (left > 0 && !round.copies.isEmpty) {
      const copy = round.copies.all()[0]!;
      yield* this.#makeCopy(copy);
      round.copies.delete(copy.targetHostOffset, copy.lengthBytes);
      left -= copy.lengthBytes;
    }
    while (left > 0 && !round.drained) {
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
    if (round.drained && round.copies.isEmpty && round.doneAtFlush === 0) {
      round.doneAtFlush = this.#flushesStarted + 1;
    }
  }

  #finishRound(flushed: number): void {
    const round = this.#round;
    if (round === undefined || round.doneAtFlush === 0 || flushed < round.doneAtFlush) return;
    this.#space.passThrough(round.cutLog);
    this.#round = undefined;
  }

  /** Execute all that is committed, with a flush of its own. */
  *#driveRound(): Task<void> {
    do {
      this.#round ??= this.#beginRound();
      yield* this.#stepRound(Number.POSITIVE_INFINITY);
      yield* this.#flush('flush_data');
    } while (!this.#active.isEmpty || !this.#activeCopies.isEmpty || !this.#space.isEmpty);
  }

  #queueBlocks(): number {
    if (this.#queue.length === 0) return 0;
    return blocksBound(this.#queueDataBlocks, this.#queueDescriptorBytes, this.ring.blockBytes);
  }

  #count(transaction: Microtransaction, sign: 1 | -1): void {
    this.#queueDataBlocks += sign * dataBlocksBound(transaction, this.ring.blockBytes);
    this.#queueDescriptorBytes += sign * descriptorBytesBound(transaction);
    for (const { bytes } of transaction.hostWrites ?? []) this.#queueBytes += sign * bytes.length;
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

/**
 * The last synced transaction of a journal with nothing to replay, behind which a writer goes on; undefined where
 * there is none, or it can not be read: then the writer begins at block 1, with a header that says so.
 */
export function* lastSynced(device: BlockDevice, area: DraftArea): Task<PlacedTransaction | undefined> {
  const { header, ring } = area;
  if (header.syncedIndex === 0) return undefined;
  const startLog = (header.syncedIndex - 1) * ring.blockBytes;
  const head = peekDraftBlock(
    yield* new RingReader(device, ring, ring.blockBytes).read(startLog, ring.blockBytes),
  );
  const blocks = 1 + (head?.dataBlockCount ?? 0);
  if (
    head === undefined ||
    head.sequence !== header.syncedSequence ||
    blocks * 2 * ring.blockBytes > ring.lengthBytes
  ) {
    return undefined;
  }
  return { sequence: head.sequence, startLog, endLog: startLog + blocks * ring.blockBytes };
}

/** Copies without what goes to the range. */
function without(copies: readonly HostCopy[], hostOffset: number, lengthBytes: number): HostCopy[] {
  const list = new CopyList();
  for (const copy of copies) list.add(copy);
  list.delete(hostOffset, lengthBytes);
  return [...list.all()];
}

/** Copy the part of `bytes` (standing at `at`) that overlaps `into` (standing at `start`). */
function overlap(at: number, bytes: Uint8Array, start: number, into: Uint8Array): void {
  const from = Math.max(at, start);
  const to = Math.min(at + bytes.length, start + into.length);
  if (from < to) into.set(bytes.subarray(from - at, to - at), from - start);
}
