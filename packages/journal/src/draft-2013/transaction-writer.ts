/**
 * Appending transactions: their sequences, their place in the ring, and the block of zeros that ends the chain
 * [JD13-RING-005]. Nothing that is appended counts before a header commits it.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import { nextDraftSequence } from '@qcow2/codec/journal/draft-2013';
import type { FlushClock } from '../flush-clock.ts';
import { type RingGeometry, writeRing } from '../ring.ts';
import { type DraftBatch, type EncodedTransaction, encodeBatch } from './batch.ts';
import type { DraftCounterCells } from './counters.ts';
import type { DraftSpace } from './space.ts';

export interface TransactionWriterOptions {
  readonly device: BlockDevice;
  readonly ring: RingGeometry;
  readonly space: DraftSpace;
  readonly clock: FlushClock;
  readonly counters: DraftCounterCells;
  /** The first transaction gets the successor of this. */
  readonly lastSequence: number;
}

export class TransactionWriter {
  readonly #options: TransactionWriterOptions;
  #lastSequence: number;

  constructor(options: TransactionWriterOptions) {
    this.#options = options;
    this.#lastSequence = options.lastSequence;
  }

  /** Sequence of the last transaction appended, or being appended. */
  get lastSequence(): number {
    return this.#lastSequence;
  }

  /** The transactions of a batch, for the place where the head is now: the indices in them are those of that place. */
  encode(batch: DraftBatch): EncodedTransaction[] {
    const { ring, space } = this.#options;
    return [...encodeBatch(batch, ring, space.headLog, nextDraftSequence(this.#lastSequence))];
  }

  /** Append the transactions and the block of zeros behind them, in one piece. Not durable on return. */
  *append(transactions: readonly EncodedTransaction[]): Task<void> {
    const { device, ring, space, clock, counters } = this.#options;
    const lengthBytes = totalBytes(transactions);
    const bytes = new Uint8Array(lengthBytes + ring.blockBytes);
    const startLog = space.headLog;
    let at = 0;
    for (const transaction of transactions) {
      bytes.set(transaction.bytes, at);
      at += transaction.bytes.length;
      space.append(transaction.sequence, transaction.bytes.length);
      counters.transactions++;
      counters.loggedBytes += transaction.dataBytes;
      this.#lastSequence = transaction.sequence;
    }
    counters.transactionBytes += lengthBytes;
    yield* writeRing(device, ring, startLog, bytes, 'journal_append');
    clock.noteWrite();
  }
}

export function totalBytes(transactions: readonly EncodedTransaction[]): number {
  return transactions.reduce((sum, { bytes }) => sum + bytes.length, 0);
}
