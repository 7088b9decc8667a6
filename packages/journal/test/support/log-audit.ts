/**
 * The rules of the writer, held against what a writer did: reads the log of a `RecordingDevice`, decodes every
 * slot and record that was written, and throws at the first act that a clause forbids. It knows nothing of the
 * engine.
 */
import { PatchMap, type RecordedOperation, type RecordedWrite } from '@qcow2/block-device';
import {
  decodeRecord,
  decodeSlot,
  type JournalRecord,
  type JournalSlot,
  journalGeometry,
  maxRecordBlocks,
} from '@qcow2/codec/journal/v1';
import { hostOffset } from '@qcow2/spec';

interface Area {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

interface Timed<T> {
  readonly what: T;
  readonly write: RecordedWrite;
}

class Violation extends Error {
  constructor(clause: string, message: string, at: number) {
    super(`${clause} at time ${at}: ${message}`);
  }
}

/** @throws Violation, whose message begins with the clause */
export function auditLog(
  log: readonly RecordedOperation[],
  area: Area,
  blockBytes: number,
  first: JournalSlot,
): void {
  new Audit(log, area, blockBytes, first).run();
}

class Audit {
  readonly #log: readonly RecordedOperation[];
  readonly #blockBytes: number;
  readonly #ringStart: number;
  readonly #ringBytes: number;
  readonly #records: Timed<JournalRecord>[] = [];
  readonly #slots: Timed<JournalSlot>[] = [];
  readonly #inPlace: RecordedWrite[] = [];
  readonly #durableAt = new Map<RecordedWrite, number>();
  #durableSlot: JournalSlot;
  /** The first piece of a record that wraps. */
  #pending: RecordedWrite | undefined;

  constructor(log: readonly RecordedOperation[], area: Area, blockBytes: number, first: JournalSlot) {
    const { ringStart, ringBytes } = journalGeometry(area.lengthBytes, blockBytes);
    this.#log = log;
    this.#blockBytes = blockBytes;
    this.#ringStart = area.hostOffset + ringStart;
    this.#ringBytes = ringBytes;
    this.#durableSlot = first;
  }

  run(): void {
    for (const operation of this.#log) {
      if (operation.kind !== 'write') continue;
      if (operation.event === 'journal_append') this.#append(operation);
      else if (operation.event === 'journal_slot') this.#slot(operation);
      else if (operation.event === 'journal_write_back') this.#writeBack(operation);
      else if (operation.event === 'dirty_bit') this.#dirtyBit(operation);
    }
  }

  /** Whether a flush that began after `write` was done has completed before `time`. */
  #isDurable(write: RecordedWrite, time: number): boolean {
    let at = this.#durableAt.get(write);
    if (at === undefined) {
      const done = write.completedAt ?? Number.POSITIVE_INFINITY;
      const flushes = this.#log.filter(
        ({ kind, failed, startedAt }) => kind === 'flush' && !failed && startedAt > done,
      );
      at = Math.min(...flushes.map(({ completedAt }) => completedAt ?? Number.POSITIVE_INFINITY));
      this.#durableAt.set(write, at);
    }
    return at < time;
  }

  #append(write: RecordedWrite): void {
    const bytes = this.#pending === undefined ? write.bytes : joined(this.#pending.bytes, write.bytes);
    const start = this.#pending ?? write;
    const atEnd = write.offset + write.bytes.length === this.#ringStart + this.#ringBytes;
    const lengthBlocks = new DataView(bytes.buffer, bytes.byteOffset).getUint32(40);
    if (bytes.length < lengthBlocks * this.#blockBytes && atEnd) {
      this.#pending = write;
      return;
    }
    this.#pending = undefined;
    const maxBlocks = maxRecordBlocks(this.#ringBytes, this.#blockBytes);
    const context = { hostOffset: hostOffset(start.offset), blockBytes: this.#blockBytes, maxBlocks };
    const record = decodeRecord(bytes, context);
    this.#checkChain(record, write);
    this.#checkSpace(record, write);
    this.#checkRange(start, 'JRN-COMMIT-002', this.#isMarkedDirty(start.startedAt));
    if (record.durableThrough > this.#durableSequence(start.startedAt)) {
      throw new Violation('JRN-COMMIT-016', `record ${record.sequence} claims too much`, write.startedAt);
    }
    this.#records.push({ what: record, write });
  }

  #checkRange(write: RecordedWrite, clause: string, holds: boolean): void {
    if (!holds) throw new Violation(clause, 'what must be durable before is not', write.startedAt);
  }

  /** The last write of the dirty bit set it, and is durable. */
  #isMarkedDirty(time: number): boolean {
    const last = this.#log.findLast(
      (operation) =>
        operation.kind === 'write' && operation.event === 'dirty_bit' && operation.startedAt < time,
    ) as RecordedWrite | undefined;
    return last !== undefined && last.bytes[0] === 1 && this.#isDurable(last, time);
  }

  /** The last record known durable. */
  #durableSequence(time: number): number {
    const durable = this.#records.filter(({ write }) => this.#isDurable(write, time));
    return durable.at(-1)?.what.sequence ?? this.#durableSlot.tailSequence - 1;
  }

  #checkChain(record: JournalRecord, write: RecordedWrite): void {
    const before = this.#records.at(-1)?.what;
    if (before === undefined) {
      if (!record.life)
        throw new Violation('JRN-RECOV-011', 'the first record opens no life', write.startedAt);
      return;
    }
    const follows = record.sequence === before.sequence + 1 && record.chain === before.crc;
    if (!follows)
      throw new Violation('JRN-REC-004', `record ${record.sequence} follows nothing`, write.startedAt);
    if (record.salt !== before.salt && !record.life) {
      throw new Violation('JRN-REC-006', 'a salt changes within a life', write.startedAt);
    }
  }

  /** The record fits between the head and the tail of every slot that a crash may leave as the newest. */
  #checkSpace(record: JournalRecord, write: RecordedWrite): void {
    this.#settleSlots(write.startedAt);
    const length = record.lengthBlocks * this.#blockBytes;
    const used = this.#usedBytes();
    if (used + length > this.#ringBytes - this.#blockBytes) {
      throw new Violation('JRN-WB-004', `record ${record.sequence} overwrites live ones`, write.startedAt);
    }
    const unclaimed = this.#records
      .filter(({ what }) => what.sequence > this.#durableSlot.durableSequence)
      .reduce((sum, { what }) => sum + what.lengthBlocks * this.#blockBytes, 0);
    if (unclaimed >= Math.min(4 << 20, this.#ringBytes / 2)) {
      throw new Violation('JRN-SLOT-018', `record ${record.sequence} is out of reach`, write.startedAt);
    }
    const logsGuestBytes = record.descriptors.some(({ type }) => type === 'guest-write');
    if (logsGuestBytes && this.#ringBytes - used - length < this.#ringBytes / 4) {
      throw new Violation('JRN-WB-006', `record ${record.sequence} takes the reserve`, write.startedAt);
    }
  }

  /** From the durable slot's tail to the head. */
  #usedBytes(): number {
    const last = this.#records.at(-1)?.what;
    if (last === undefined || last.sequence < this.#durableSlot.tailSequence) return 0;
    const head = last.position + last.lengthBlocks * this.#blockBytes;
    const used = (head - this.#durableSlot.tailPosition) % this.#ringBytes;
    return used > 0 ? used : used + this.#ringBytes;
  }

  #settleSlots(time: number): void {
    for (const { what, write } of this.#slots) if (this.#isDurable(write, time)) this.#durableSlot = what;
  }

  #slot(write: RecordedWrite): void {
    const slot = decodeSlot(write.bytes, { hostOffset: write.offset });
    const before = this.#slots.at(-1);
    if (before !== undefined && !this.#isDurable(before.write, write.startedAt)) {
      throw new Violation('JRN-SLOT-017', `generation ${slot.generation} is early`, write.startedAt);
    }
    this.#settleSlots(write.startedAt);
    if (slot.generation !== this.#durableSlot.generation + 1) {
      throw new Violation('JRN-SLOT-005', `generation ${slot.generation} follows nothing`, write.startedAt);
    }
    if (slot.durableSequence > this.#durableSequence(write.startedAt)) {
      throw new Violation('JRN-COMMIT-016', 'a slot claims too much', write.startedAt);
    }
    for (const { what } of this.#records) {
      if (what.sequence >= this.#durableSlot.tailSequence && what.sequence < slot.tailSequence) {
        this.#checkPassed(what, slot, write.startedAt);
      }
    }
    this.#checkIntents(slot, write.startedAt);
    this.#slots.push({ what: slot, write });
  }

  /** Every host write of a record that the tail passes is in place and flushed, or superseded by a durable one that stays. */
  #checkPassed(record: JournalRecord, slot: JournalSlot, time: number): void {
    const owed = new PatchMap();
    for (const descriptor of record.descriptors) {
      if (descriptor.type === 'inline-write') owed.set(descriptor.hostOffset, descriptor.bytes);
    }
    for (const { what, write } of this.#records) {
      if (what.sequence <= record.sequence || !this.#isDurable(write, time)) continue;
      for (const descriptor of what.descriptors) {
        if (descriptor.type === 'revoke') owed.delete(descriptor.hostOffset, descriptor.lengthBytes);
        // Of those that are passed as well, their own turn comes.
        if (descriptor.type === 'inline-write') owed.delete(descriptor.hostOffset, descriptor.bytes.length);
      }
    }
    for (const write of this.#inPlace) {
      if (this.#isDurable(write, time)) owed.delete(write.offset, write.bytes.length);
    }
    if (owed.isEmpty) return;
    const message = `the tail moves to ${slot.tailSequence}, and record ${record.sequence} is not in place`;
    throw new Violation('JRN-WB-002', message, time);
  }

  /** From the new tail on, a reader finds the same intents open as from the first record. */
  #checkIntents(slot: JournalSlot, time: number): void {
    const durable = this.#records.filter(({ write }) => this.#isDurable(write, time));
    const live = durable.filter(({ what }) => what.sequence >= slot.tailSequence);
    const [known, found] = [durable, live].map((records) => openIntents(records.map(({ what }) => what)));
    if (known === found) return;
    const message = `the tail moves to ${slot.tailSequence}: open were ${known}, found are ${found}`;
    throw new Violation('JRN-INTENT-004', message, time);
  }

  /** Each byte is the newest that a durable record holds. */
  #writeBack(write: RecordedWrite): void {
    const durable = new PatchMap();
    for (const record of this.#records) {
      if (!this.#isDurable(record.write, write.startedAt)) continue;
      for (const descriptor of record.what.descriptors) {
        if (descriptor.type === 'inline-write') durable.set(descriptor.hostOffset, descriptor.bytes);
        if (descriptor.type === 'revoke') durable.delete(descriptor.hostOffset, descriptor.lengthBytes);
      }
    }
    const allowed = write.bytes.map((byte) => byte ^ 0xff);
    durable.apply(write.offset, allowed);
    // A round may write what a later record has overwritten by now; but never what no durable record holds.
    const held = this.#heldBytes(write);
    for (const [i, byte] of write.bytes.entries()) {
      if (allowed[i] === byte || held[i]?.has(byte)) continue;
      throw new Violation('JRN-WB-001', `byte ${write.offset + i} is in no durable record`, write.startedAt);
    }
    this.#inPlace.push(write);
  }

  #heldBytes(write: RecordedWrite): Set<number>[] {
    const held = Array.from({ length: write.bytes.length }, () => new Set<number>());
    for (const record of this.#records) {
      if (!this.#isDurable(record.write, write.startedAt)) continue;
      for (const descriptor of record.what.descriptors) {
        if (descriptor.type !== 'inline-write') continue;
        for (const [i, byte] of descriptor.bytes.entries()) {
          held[descriptor.hostOffset + i - write.offset]?.add(byte);
        }
      }
    }
    return held;
  }

  #dirtyBit(write: RecordedWrite): void {
    if (write.bytes[0] !== 0) return;
    this.#settleSlots(write.startedAt);
    const last = this.#records.at(-1)?.what.sequence ?? this.#durableSlot.tailSequence - 1;
    if (this.#durableSlot.tailSequence === last + 1) return;
    throw new Violation('JRN-WB-009', 'the image is marked clean before its log is empty', write.startedAt);
  }
}

/** The intents that are open after some records, with their bodies, as text. */
function openIntents(records: readonly JournalRecord[]): string {
  const open = new Map<number, string>();
  for (const { descriptors } of records) {
    for (const descriptor of descriptors) {
      if (descriptor.type === 'intent') open.set(descriptor.intentId, descriptor.body.join(' '));
      if (descriptor.type === 'intent-done') open.delete(descriptor.intentId);
    }
  }
  return [...open]
    .map(([id, body]) => `${id}: ${body}`)
    .sort()
    .join('; ');
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}
