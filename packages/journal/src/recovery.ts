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
  type JournalRecord,
  type JournalSlot,
  type RecordHeader,
} from '@qcow2/codec/journal/v1';
import { type AreaLocation, readSlots, ringOf, writeSlot } from './area.ts';
import {
  contradicts,
  damageByRecord,
  damageBySlot,
  decodeNext,
  readNext,
  refuseCopies,
  refuseRecord,
  searchOutside,
  searchReach,
} from './chain.ts';
import { GatheredIntents, type RecoveredIntent, unknownIntent } from './gathered-intents.ts';
import { type RingGeometry, RingReader, writeRing } from './ring.ts';

/** Where the client gathers the guest writes that recovery finds, in log order. */
export interface GuestSink {
  /** Kinds of intents that the client knows what to do with, or to show; none if not given. */
  readonly intentKinds?: ReadonlySet<number>;
  guestWrite(guestOffset: number, bytes: Uint8Array, sequence: number): void;
  guestSettled(guestOffset: number, lengthBytes: number, throughSequence: number): void;
  /** Absent where the client carries out no copies and fills: a log that holds one is refused. */
  readonly fills?: FillSink;
}

/**
 * Where the client gathers copies and fills, in log order. `recordAt` is the host offset of the record, for
 * errors about what it says.
 */
export interface FillSink {
  copy(targetOffset: number, sourceOffset: number, lengthBytes: number, recordAt: number): void;
  fillFromBacking(targetOffset: number, guestOffset: number, lengthBytes: number, recordAt: number): void;
  /** The range is revoked, or written by the log: nothing is copied or filled there any more. */
  cancel(hostOffset: number, lengthBytes: number, kind: 'revoke' | 'write', recordAt: number): void;
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
  /** Operations that were under way: a writer's client finishes or undoes each [JRN-INTENT-006]. */
  readonly openIntents: readonly RecoveredIntent[];
  /** The last sequence that something in the log knows to have been durable. */
  readonly claimedSequence: number;
  readonly guestBytes: number;
  readonly payloadBytes: number;
}

/**
 * @throws JOURNAL_DAMAGED, UNSUPPORTED_FEATURE (a record needs a descriptor type that is not served, or an
 *   operation is open of a kind that the sink does not know), READ_FAILED
 */
export function* recoverLog(device: BlockDevice, area: AreaLocation, sink: GuestSink): Task<RecoveredLog> {
  const { newer: slot } = yield* readSlots(device, area);
  const ring = ringOf(area, 2 ** slot.blockSizeOrder);
  const reader = new RingReader(device, ring);
  const hostWrites = new PatchMap();
  const records: LiveRecord[] = [];
  const intents = new GatheredIntents(ring);
  const totals = { guestBytes: 0, payloadBytes: 0 };
  let end = chainEndOfSlot(slot);
  let usedBytes = 0;
  let claimedBytes = 0;
  let lastBeginBytes = 0;
  let claimed = slot.durableSequence;
  for (;;) {
    const next = yield* readNext(reader, ring, end, ring.lengthBytes - usedBytes);
    if ('stop' in next) break;
    const record = decodeNext(ring, next.header, next.bytes);
    refuseRecord(record, area, ring, device.sizeBytes);
    if (sink.fills === undefined) refuseCopies(record, ring);
    apply(record, ring, hostWrites, sink, totals);
    intents.note(record);
    lastBeginBytes = usedBytes;
    usedBytes += record.lengthBlocks * ring.blockBytes;
    end = chainEndOfRecord(record, ring.blockBytes, ring.lengthBytes);
    const { sequence, salt, crc } = record;
    if (sequence <= slot.durableSequence) claimedBytes = usedBytes;
    records.push({ sequence, endLog: slot.tailPosition + usedBytes, salt, crc });
    claimed = Math.max(claimed, record.durableThrough);
  }
  yield* refuseDamage(
    reader,
    ring,
    slot,
    end,
    searchReach(ring, { usedBytes, claimedBytes, lastBeginBytes }),
  );
  const openIntents = intents.open;
  const unknown = unknownIntent(openIntents, sink.intentKinds ?? new Set());
  if (unknown !== undefined) throw unknown;
  return { slot, ring, hostWrites, records, openIntents, claimedSequence: claimed, ...totals };
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

/** Lay the effects of a record that was not refused over what was gathered. */
function apply(
  record: JournalRecord,
  ring: RingGeometry,
  hostWrites: PatchMap,
  sink: GuestSink,
  totals: { guestBytes: number; payloadBytes: number },
): void {
  const payload = (at: number, length: number): Uint8Array => record.payload.subarray(at, at + length);
  const recordAt = ring.hostOffset + record.position;
  totals.payloadBytes += record.payload.length;
  for (const descriptor of record.descriptors) {
    switch (descriptor.type) {
      case 'inline-write':
        hostWrites.set(descriptor.hostOffset, descriptor.bytes);
        sink.fills?.cancel(descriptor.hostOffset, descriptor.bytes.length, 'write', recordAt);
        break;
      case 'write-payload':
        hostWrites.set(descriptor.hostOffset, payload(descriptor.payloadOffset, descriptor.lengthBytes));
        sink.fills?.cancel(descriptor.hostOffset, descriptor.lengthBytes, 'write', recordAt);
        break;
      case 'revoke':
        hostWrites.delete(descriptor.hostOffset, descriptor.lengthBytes);
        sink.fills?.cancel(descriptor.hostOffset, descriptor.lengthBytes, 'revoke', recordAt);
        break;
      case 'copy':
        hostWrites.delete(descriptor.targetHostOffset, descriptor.lengthBytes);
        sink.fills?.copy(
          descriptor.targetHostOffset,
          descriptor.sourceHostOffset,
          descriptor.lengthBytes,
          recordAt,
        );
        break;
      case 'fill-from-backing':
        hostWrites.delete(descriptor.targetHostOffset, descriptor.lengthBytes);
        sink.fills?.fillFromBacking(
          descriptor.targetHostOffset,
          descriptor.guestOffset,
          descriptor.lengthBytes,
          recordAt,
        );
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
      default:
        // Intents, which are gathered beside; no-ops, and what may be ignored: `refuseRecord` let nothing else pass.
        break;
    }
  }
}

/** @throws JOURNAL_DAMAGED if something says that the record after the chain's end was durable */
function* refuseDamage(
  reader: RingReader,
  ring: RingGeometry,
  slot: JournalSlot,
  end: ChainEnd,
  reachBytes: number,
): Task<void> {
  const bySlot = damageBySlot(ring, slot, end);
  if (bySlot !== undefined) throw bySlot;
  const wanted = (head: RecordHeader): boolean => contradicts(end, head);
  yield* searchOutside(reader, ring, end, reachBytes, wanted, (witness) => {
    throw damageByRecord(ring, end, witness);
  });
}
