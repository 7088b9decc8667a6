/**
 * How much of the draft's ring is in use, and what the header says of it.
 *
 * Places are log offsets, which never wrap. The chain of a reader begins at the last synced transaction, whose
 * blocks must therefore stay [JD13-TXN-004]; behind the last transaction one block of zeros ends it [JD13-RING-005].
 *
 * Invariants: durable synced <= synced <= head; head, less the start of the durably synced transaction, and the
 * block of zeros, is not more than the ring.
 */
import type { DraftJournalHeader } from '@qcow2/codec/journal/draft-2013';
import type { RingGeometry } from '../ring.ts';
import { blockIndexAt } from './area.ts';

/** A transaction in the ring. */
export interface PlacedTransaction {
  readonly sequence: number;
  /** Log offsets of its descriptor block, and behind its last block. */
  readonly startLog: number;
  readonly endLog: number;
}

export class DraftSpace {
  readonly #ring: RingGeometry;
  #live: PlacedTransaction[] = [];
  #headLog: number;
  /** The transaction that the next header calls the last synced one; undefined where there never was one. */
  #synced: PlacedTransaction | undefined;
  #freedLog: number;
  /** What a header that is written and not durable will free. */
  #freeing: { readonly synced: PlacedTransaction; readonly atFlush: number } | undefined;
  #retiredLog: number;
  #syncedWritten: PlacedTransaction | undefined;

  /** @param last the last synced transaction, where there is one; the ring is empty behind it */
  constructor(ring: RingGeometry, last: PlacedTransaction | undefined) {
    this.#ring = ring;
    this.#synced = last;
    this.#syncedWritten = last;
    this.#headLog = last?.endLog ?? 0;
    this.#freedLog = last?.startLog ?? 0;
    this.#retiredLog = last?.endLog ?? 0;
  }

  /** Transactions up to this log offset are never executed again: a durable header says so. */
  get retiredLog(): number {
    return this.#retiredLog;
  }

  get headLog(): number {
    return this.#headLog;
  }

  /** Bytes of transactions that recovery would have to read. */
  get usedBytes(): number {
    return this.#headLog - (this.#live[0]?.startLog ?? this.#headLog);
  }

  /** What the next transactions may take together; the block of zeros behind them is set aside. */
  get roomBytes(): number {
    return this.#ring.lengthBytes - this.#ring.blockBytes - (this.#headLog - this.#freedLog);
  }

  get isEmpty(): boolean {
    return this.#live.length === 0;
  }

  /** The synced transaction is another one than the last header written said. */
  get headerDue(): boolean {
    return this.#synced !== this.#syncedWritten;
  }

  /**
   * The chain begins at block 1 anew: everything is synced, and the header that says so, with the synced index 0, is
   * durable when this is called.
   */
  restart(): void {
    const { lengthBytes } = this.#ring;
    this.#headLog = Math.ceil(this.#headLog / lengthBytes) * lengthBytes;
    this.#freedLog = this.#headLog;
    this.#retiredLog = this.#headLog;
    this.#synced = undefined;
    this.#syncedWritten = undefined;
    this.#freeing = undefined;
  }

  append(sequence: number, lengthBytes: number): void {
    const startLog = this.#headLog;
    this.#headLog += lengthBytes;
    this.#live.push({ sequence, startLog, endLog: this.#headLog });
  }

  /** Everything that the transactions up to this log offset do is in place and flushed. */
  passThrough(endLog: number): void {
    let passed = 0;
    while (passed < this.#live.length && this.#live[passed]!.endLog <= endLog) passed++;
    if (passed === 0) return;
    this.#synced = this.#live[passed - 1]!;
    this.#live = this.#live.slice(passed);
  }

  /** The header to be written now; `atFlush` is the first flush that will begin after it is. */
  nextHeader(before: DraftJournalHeader, committedSequence: number, atFlush: number): DraftJournalHeader {
    const synced = this.#synced;
    this.#syncedWritten = synced;
    if (synced === undefined) return { ...before, committedSequence };
    this.#freeing = { synced, atFlush };
    return {
      ...before,
      committedSequence,
      syncedIndex: blockIndexAt(this.#ring, synced.startLog),
      syncedSequence: synced.sequence,
    };
  }

  /** A flush has completed: what a header before it freed may be used again. */
  flushed(flush: number): void {
    if (this.#freeing === undefined || flush < this.#freeing.atFlush) return;
    this.#freedLog = this.#freeing.synced.startLog;
    this.#retiredLog = this.#freeing.synced.endLog;
    this.#freeing = undefined;
  }
}
