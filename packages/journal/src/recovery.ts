/**
 * Recovery: read what the log holds, into memory. Nothing is written here; a reader looks through the
 * result, a writer hands it to an engine, which goes on from there.
 *
 * The chain of live records starts at the newer slot's tail and ends at the first place that does not hold
 * the next record. That end is either where a crash cut the log, which loses nothing that was
 * acknowledged, or damage to something that was durable. The two are told apart by what is said elsewhere:
 * if the slot, or any valid record further on, knows a sequence at or beyond the missing one as durable,
 * the missing one was acknowledged and is gone, and the image is refused (JRN-RECOV).
 *
 * A valid record is not yet a durable one: after a process was killed, records that were never flushed can
 * be read; and after a flush failed, pages that storage never got can be clean and still be read. So a writer
 * writes the slot and those records again, and flushes, before it relies on them (`reassertLog`).
 */
import { type BlockDevice, PatchMap, type Task, wait } from '@qcow2/block-device';
import {
  type ChainEnd,
  chainEndOfRecord,
  chainEndOfSlot,
  decodeRecord,
  follows,
  type JournalDescriptor,
  type JournalRecord,
  type JournalSlot,
  maxRecordBlocks,
  peekRecordHeader,
  verifyRecord,
} from '@qcow2/codec/journal/v1';
import { FormatError, hostOffset, UnsupportedFeatureError } from '@qcow2/spec';
import { type AreaLocation, damaged, readSlots, ringOf, writeSlot } from './area.ts';
import { type RingGeometry, RingReader, writeRing } from './ring.ts';

/** Where the client gathers the guest writes that recovery finds, in log order. */
export interface GuestSink {
  guestWrite(guestOffset: number, bytes: Uint8Array, sequence: number): void;
  guestSettled(guestOffset: number, lengthBytes: number, throughSequence: number): void;
}

export interface LiveRecord {
  readonly sequence: number;
  /** Log offset just behind the record. */
  readonly endLog: number;
  readonly salt: bigint;
  readonly crc: number;
}

export interface RecoveredLog {
  readonly slot: JournalSlot;
  readonly ring: RingGeometry;
  /** Host writes of the log, newest bytes, to be laid over the image. */
  readonly hostWrites: PatchMap;
  readonly records: readonly LiveRecord[];
  /** The last sequence that something in the log knows to have been durable. */
  readonly claimedSequence: number;
  readonly guestBytes: number;
  readonly payloadBytes: number;
}

/**
 * @throws JOURNAL_DAMAGED, UNSUPPORTED_FEATURE (a record needs a descriptor type that is not served),
 *   READ_FAILED
 */
export function* recoverLog(device: BlockDevice, area: AreaLocation, sink: GuestSink): Task<RecoveredLog> {
  const { newer: slot } = yield* readSlots(device, area);
  const ring = ringOf(area, 2 ** slot.blockSizeOrder);
  const reader = new RingReader(device, ring);
  const hostWrites = new PatchMap();
  const records: LiveRecord[] = [];
  const totals = { guestBytes: 0, payloadBytes: 0 };
  let end = chainEndOfSlot(slot);
  let usedBytes = 0;
  let claimed = slot.durableSequence;
  for (;;) {
    const record = yield* readNext(reader, ring, end, ring.lengthBytes - usedBytes);
    if (record === undefined) break;
    refuseArea(record, area, ring);
    apply(record, ring, hostWrites, sink, totals);
    usedBytes += record.lengthBlocks * ring.blockBytes;
    end = chainEndOfRecord(record, ring.blockBytes, ring.lengthBytes);
    const { sequence, salt, crc } = record;
    records.push({ sequence, endLog: slot.tailPosition + usedBytes, salt, crc });
    claimed = Math.max(claimed, record.durableThrough);
  }
  yield* refuseDamage(reader, ring, slot, end, usedBytes);
  return { slot, ring, hostWrites, records, claimedSequence: claimed, ...totals };
}

/**
 * Make durable what was recovered: write the ruling slot, and the records that nothing knows to have been
 * durable, again, byte for byte in their places, and flush [JRN-RECOV-010]. The same bytes over the same bytes:
 * a crash in between changes nothing.
 */
export function* reassertLog(device: BlockDevice, area: AreaLocation, log: RecoveredLog): Task<void> {
  const { slot, ring, records } = log;
  yield* writeSlot(device, area, slot);
  const known = records.findLast(({ sequence }) => sequence <= log.claimedSequence);
  let at = known?.endLog ?? slot.tailPosition;
  const reader = new RingReader(device, ring);
  for (const { endLog } of records) {
    if (endLog <= at) continue;
    const bytes = (yield* reader.read(at % ring.lengthBytes, endLog - at)).slice();
    yield* writeRing(device, ring, at, bytes, 'journal_append');
    at = endLog;
  }
  yield* wait(device.flush({ event: 'journal_flush' }));
}

/** @throws BAD_FIELD for a record that would write into the journal itself [JRN-DESC-013] */
function refuseArea(record: JournalRecord, area: AreaLocation, ring: RingGeometry): void {
  const end = area.hostOffset + area.lengthBytes;
  for (const descriptor of record.descriptors) {
    const length = descriptor.type === 'inline-write' ? descriptor.bytes.length : writtenBytes(descriptor);
    if (length === 0 || !('hostOffset' in descriptor)) continue;
    if (descriptor.hostOffset >= end || descriptor.hostOffset + length <= area.hostOffset) continue;
    throw new FormatError('OVERLAP', `journal record ${record.sequence} writes into the journal`, {
      hostOffset: ring.hostOffset + record.position,
      value: descriptor.hostOffset,
      clause: 'JRN-DESC-013',
    });
  }
}

function writtenBytes(descriptor: JournalDescriptor): number {
  return descriptor.type === 'write-payload' ? descriptor.lengthBytes : 0;
}

/** The record that continues the chain, or undefined where none does. */
function* readNext(
  reader: RingReader,
  ring: RingGeometry,
  end: ChainEnd,
  roomBytes: number,
): Task<JournalRecord | undefined> {
  if (roomBytes < ring.blockBytes) return undefined;
  const position = end.endPosition;
  const head = peekRecordHeader(yield* reader.read(position, ring.blockBytes), 0);
  // Everything that costs nothing is asked before the checksum is computed over the record's own length.
  if (head === undefined || !follows(end, head) || !fits(head.lengthBlocks, ring, roomBytes))
    return undefined;
  const bytes = yield* reader.read(position, head.lengthBlocks * ring.blockBytes);
  if (verifyRecord(bytes, limitsOf(ring)) === undefined) return undefined;
  // Valid, so written like this: what does not decode now is not a crash's doing.
  return decodeRecord(bytes, { hostOffset: hostOffset(ring.hostOffset + position), ...limitsOf(ring) });
}

function limitsOf(ring: RingGeometry): { blockBytes: number; maxBlocks: number } {
  return { blockBytes: ring.blockBytes, maxBlocks: maxRecordBlocks(ring.lengthBytes, ring.blockBytes) };
}

function fits(lengthBlocks: number, ring: RingGeometry, roomBytes: number): boolean {
  const { blockBytes, maxBlocks } = limitsOf(ring);
  return lengthBlocks >= 1 && lengthBlocks <= maxBlocks && lengthBlocks * blockBytes <= roomBytes;
}

function apply(
  record: JournalRecord,
  ring: RingGeometry,
  hostWrites: PatchMap,
  sink: GuestSink,
  totals: { guestBytes: number; payloadBytes: number },
): void {
  const payload = (at: number, length: number): Uint8Array => record.payload.subarray(at, at + length);
  totals.payloadBytes += record.payload.length;
  for (const descriptor of record.descriptors) {
    switch (descriptor.type) {
      case 'inline-write':
        hostWrites.set(descriptor.hostOffset, descriptor.bytes);
        break;
      case 'write-payload':
        hostWrites.set(descriptor.hostOffset, payload(descriptor.payloadOffset, descriptor.lengthBytes));
        break;
      case 'revoke':
        hostWrites.delete(descriptor.hostOffset, descriptor.lengthBytes);
        break;
      case 'guest-write':
        totals.guestBytes += descriptor.lengthBytes;
        sink.guestWrite(
          descriptor.guestOffset,
          payload(descriptor.payloadOffset, descriptor.lengthBytes),
          record.sequence,
        );
        break;
      case 'guest-settled':
        sink.guestSettled(descriptor.guestOffset, descriptor.lengthBytes, descriptor.throughSequence);
        break;
      case 'no-op':
        break;
      default:
        refuseDescriptor(descriptor, ring.hostOffset + record.position, record.sequence);
    }
  }
}

function refuseDescriptor(descriptor: JournalDescriptor, hostOffset: number, sequence: number): void {
  if (descriptor.type === 'unknown' && descriptor.number >= 0x8000) return;
  const name = descriptor.type === 'unknown' ? `type ${descriptor.number}` : descriptor.type;
  throw new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    `journal record ${sequence} holds a descriptor that is not supported`,
    { feature: `journal descriptor ${name}`, hostOffset, clause: 'JRN-DESC-002' },
  );
}

/**
 * @throws JOURNAL_DAMAGED if something says that the record after `last` was durable
 */
function* refuseDamage(
  reader: RingReader,
  ring: RingGeometry,
  slot: JournalSlot,
  end: ChainEnd,
  usedBytes: number,
): Task<void> {
  const missing = end.sequence + 1;
  const at = ring.hostOffset + end.endPosition;
  if (slot.durableSequence >= missing) {
    throw damaged(at, `journal record ${missing} was durable and can not be read`, 'JRN-RECOV-006');
  }
  for (let behind = 0; behind < ring.lengthBytes - usedBytes; behind += ring.blockBytes) {
    const position = (end.endPosition + behind) % ring.lengthBytes;
    const head = peekRecordHeader(yield* reader.read(position, ring.blockBytes), 0);
    if (head === undefined || head.position !== position || head.journalId !== slot.journalId) continue;
    if (head.sequence <= missing || head.durableThrough < missing) continue;
    if (!fits(head.lengthBlocks, ring, ring.lengthBytes)) continue;
    const bytes = yield* reader.read(position, head.lengthBlocks * ring.blockBytes);
    if (verifyRecord(bytes, limitsOf(ring)) === undefined) continue;
    throw damaged(
      at,
      `journal record ${missing} was durable, as record ${head.sequence} knows, and can not be read`,
      'JRN-RECOV-007',
    );
  }
}
