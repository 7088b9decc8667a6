/**
 * How much of the ring is in use, and the header slots that say so.
 *
 * Three places, as log offsets (which never wrap): `head`, where the next record goes; `tail`, behind the last
 * record whose every effect is in place and flushed; `freed`, the tail of the newest durable slot. Recovery
 * starts from a durable slot, so nothing from `freed` on may be overwritten, whatever `tail` says.
 *
 * Invariants: freed <= tail <= head; head - freed is less than the ring by one block at least [JRN-WB-005];
 * a slot is written only when the one before it is durable [JRN-SLOT-017], so the two on disk are always
 * neighbours in generation, and the older one's log still stands; no record begins farther behind what the newest
 * durable slot calls durable than `maxUnclaimedBytes` [JRN-SLOT-018], so recovery knows how far to look for one.
 */
import type { JournalSlot } from '@qcow2/codec/journal/v1';
import { FormatError, InvariantError, journalV1Limits } from '@qcow2/spec';
import type { LiveRecord, RecoveredLog } from './recovery.ts';
import type { RingGeometry } from './ring.ts';

/** Within how many bytes behind the record that the newest durable slot calls durable a record begins [JRN-SLOT-018]. */
export function maxUnclaimedBytes(ring: RingGeometry): number {
  return Math.min(journalV1Limits.maxUnclaimedBytes, Math.floor(ring.lengthBytes / 2));
}

export class LogSpace {
  readonly #ring: RingGeometry;
  /** The record before the tail: what the first live record continues. */
  #tail: LiveRecord;
  #live: LiveRecord[];
  /** When each live record was appended, or found. */
  #liveMs: number[];
  #highWaterBytes: number;
  #headLog: number;
  /** Where the head stood when the log was found. */
  readonly #foundLog: number;
  #freedLog: number;
  /** End of the record that the newest durable slot calls durable. */
  #claimedLog: number;
  #slot: JournalSlot;
  #slotDue = false;
  /** The flush that makes the last written slot durable; 0 where it is. */
  #slotAtFlush = 0;

  constructor(ring: RingGeometry, log: RecoveredLog) {
    this.#ring = ring;
    this.#slot = log.slot;
    this.#tail = {
      sequence: log.slot.tailSequence - 1,
      endLog: log.slot.tailPosition,
      salt: log.slot.tailSalt,
      crc: log.slot.tailChain,
    };
    this.#live = [...log.records];
    this.#liveMs = this.#live.map(() => Date.now());
    this.#headLog = this.last.endLog;
    this.#foundLog = this.#headLog;
    this.#freedLog = this.#tail.endLog;
    this.#claimedLog = this.#endOf(log.slot.durableSequence);
    this.#claimedBySlot = this.#claimedLog;
    this.#freedBySlot = this.#freedLog;
    this.#highWaterBytes = this.usedBytes;
  }

  /** The last record appended, or the one before the tail. */
  get last(): LiveRecord {
    return this.#live.at(-1) ?? this.#tail;
  }

  get headLog(): number {
    return this.#headLog;
  }

  get tailSequence(): number {
    return this.#tail.sequence + 1;
  }

  /** Bytes that recovery would have to read, by what is known in memory. */
  get usedBytes(): number {
    return this.#headLog - this.#tail.endLog;
  }

  /** The most that `usedBytes` was. */
  get highWaterBytes(): number {
    return this.#highWaterBytes;
  }

  /** When the oldest live record was appended, in milliseconds of `Date.now`. */
  get oldestAppendedMs(): number | undefined {
    return this.#liveMs[0];
  }

  /** What a record may take: one block always stays free. */
  get roomBytes(): number {
    return this.#ring.lengthBytes - this.#ring.blockBytes - (this.#headLog - this.#freedLog);
  }

  get isEmpty(): boolean {
    return this.#live.length === 0;
  }

  /** The tail has moved since the last slot was written, or much has been appended that no slot knows of. */
  get slotDue(): boolean {
    return this.#slotDue || this.#headLog - this.#claimedBySlot > maxUnclaimedBytes(this.#ring) / 2;
  }

  /** Whether a record may begin at the head before a newer slot is durable [JRN-SLOT-018]. */
  get isInReach(): boolean {
    return this.#headLog - this.#claimedLog < maxUnclaimedBytes(this.#ring);
  }

  get slotUnderWay(): boolean {
    return this.#slotAtFlush !== 0;
  }

  /**
   * @throws INVARIANT where the record does not fit: space is reserved before anything is changed. JOURNAL_DAMAGED as long as
   *   records are live that recovery found: then it is they that leave no room, and no writer left them so [JRN-RECOV-018]
   */
  reserve(lengthBytes: number): void {
    if (lengthBytes <= this.roomBytes) return;
    if (this.#tail.endLog >= this.#foundLog) throw new InvariantError('the journal ring is full');
    throw new FormatError('JOURNAL_DAMAGED', 'the journal leaves no room to settle what it holds', {
      hostOffset: this.#ring.hostOffset + (this.#tail.endLog % this.#ring.lengthBytes),
      clause: 'JRN-RECOV-018',
    });
  }

  append(record: Omit<LiveRecord, 'endLog'>, lengthBytes: number): void {
    this.#headLog += lengthBytes;
    this.#live.push({ ...record, endLog: this.#headLog });
    this.#liveMs.push(Date.now());
    this.#highWaterBytes = Math.max(this.#highWaterBytes, this.usedBytes);
  }

  /** Every effect of the records up to `sequence` is in place and flushed. */
  passThrough(sequence: number): void {
    let passed = 0;
    while (passed < this.#live.length && this.#live[passed]!.sequence <= sequence) passed++;
    if (passed === 0) return;
    this.#tail = this.#live[passed - 1]!;
    this.#live = this.#live.slice(passed);
    this.#liveMs = this.#liveMs.slice(passed);
    this.#slotDue = true;
  }

  /** The slot to be written now; `flush` is the first that will begin after it is. */
  nextSlot(durableSequence: number, flush: number): JournalSlot {
    if (this.slotUnderWay) throw new InvariantError('a slot is written before the one before it is durable');
    this.#slot = {
      ...this.#slot,
      generation: this.#slot.generation + 1,
      tailPosition: this.#tail.endLog % this.#ring.lengthBytes,
      tailSequence: this.#tail.sequence + 1,
      tailSalt: this.#tail.salt,
      tailChain: this.#tail.crc,
      durableSequence,
    };
    this.#slotDue = false;
    this.#slotAtFlush = flush;
    this.#freedBySlot = this.#tail.endLog;
    this.#claimedBySlot = this.#endOf(durableSequence);
    return this.#slot;
  }

  #freedBySlot: number;
  #claimedBySlot: number;

  /** Log offset behind a live record, or behind the one before the tail. */
  #endOf(sequence: number): number {
    return this.#live.findLast((record) => record.sequence <= sequence)?.endLog ?? this.#tail.endLog;
  }

  /** A flush has completed: the space before a slot's tail is free when the slot is durable. */
  flushed(flush: number): void {
    if (this.#slotAtFlush === 0 || flush < this.#slotAtFlush) return;
    this.#slotAtFlush = 0;
    this.#freedLog = this.#freedBySlot;
    this.#claimedLog = this.#claimedBySlot;
  }
}
