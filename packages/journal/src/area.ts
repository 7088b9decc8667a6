/**
 * The journal area: making a new one, and the pair of header slots.
 *
 * Crash argument. `formatArea` writes every byte of the area and flushes before anything refers to it, so
 * an area that an image binds is always whole. A slot is one 512-byte sector, which storage keeps or loses
 * as a whole: an invalid slot is damage, never a crash (JRN-SLOT). Slots are written alternately, and slot
 * g + 1 only after g is durable, so the older of the two always describes a log that still stands.
 */
import { type BlockDevice, isPromise, type Task, wait } from '@qcow2/block-device';
import { decodeSlot, encodeSlot, type JournalSlot, journalGeometry } from '@qcow2/codec/journal/v1';
import { FormatError, hostOffset } from '@qcow2/spec';
import type { RingGeometry } from './ring.ts';

export type Random = (into: Uint8Array) => void;

export interface AreaLocation {
  readonly hostOffset: number;
  readonly lengthBytes: number;
}

export const slotBytes = 512;

/** A random 64-bit value: journal ids and salts. */
export function random64(random: Random): bigint {
  const bytes = new Uint8Array(8);
  random(bytes);
  return new DataView(bytes.buffer).getBigUint64(0);
}

export function ringOf(area: AreaLocation, blockBytes: number): RingGeometry {
  const { ringStart, ringBytes } = journalGeometry(area.lengthBytes, blockBytes);
  return { hostOffset: area.hostOffset + ringStart, lengthBytes: ringBytes, blockBytes };
}

/** Where slot 0 or 1 stands. */
export function slotHostOffset(area: AreaLocation, blockBytes: number, index: number): number {
  return area.hostOffset + index * journalGeometry(area.lengthBytes, blockBytes).slotStrideBytes;
}

export function* writeSlot(device: BlockDevice, area: AreaLocation, slot: JournalSlot): Task<void> {
  const at = slotHostOffset(area, 2 ** slot.blockSizeOrder, slot.generation % 2);
  const done = device.write(at, encodeSlot(slot), { event: 'journal_slot' });
  if (isPromise(done)) yield done;
}

/**
 * Write a new, empty journal over the range; every block is really written, so that later flushes of the
 * ring never make the host file system allocate. Durable on return.
 */
export function* formatArea(
  device: BlockDevice,
  area: AreaLocation,
  blockBytes: number,
  random: Random,
): Task<void> {
  const zeros = new Uint8Array(Math.min(area.lengthBytes, 1 << 20));
  for (let at = 0; at < area.lengthBytes; at += zeros.length) {
    const piece = zeros.subarray(0, Math.min(zeros.length, area.lengthBytes - at));
    yield* wait(device.write(area.hostOffset + at, piece, { event: 'journal_init' }));
  }
  const first: JournalSlot = {
    generation: 0,
    blockSizeOrder: Math.log2(blockBytes),
    journalId: random64(random),
    areaHostOffset: hostOffset(area.hostOffset),
    areaLengthBytes: area.lengthBytes,
    tailPosition: 0,
    tailSequence: 1,
    tailSalt: random64(random),
    tailChain: 0,
    flags: 0,
    durableSequence: 0,
  };
  yield* writeSlot(device, area, first);
  yield* writeSlot(device, area, { ...first, generation: 1 });
  yield* wait(device.flush({ event: 'journal_flush' }));
}

/**
 * Both slots, the newer one first.
 * @throws UNSUPPORTED_FEATURE for a version that is not known; JOURNAL_DAMAGED where the area is not in the file, either is not valid, or they are not neighbours in generation: the older
 *   slot alone can not tell where the log starts now
 */
export function* readSlots(
  device: BlockDevice,
  area: AreaLocation,
): Task<{ newer: JournalSlot; older: JournalSlot }> {
  if (area.hostOffset + area.lengthBytes > device.sizeBytes) {
    throw damaged(area.hostOffset, 'the file ends before its journal does', 'JRN-RECOV-017');
  }
  const first = yield* readSlot(device, area, area.hostOffset);
  // Where slot 1 stands depends on the block size, which slot 0 tells; where slot 0 is damaged, nothing does.
  const second = yield* readSlot(device, area, slotHostOffset(area, 2 ** first.blockSizeOrder, 1));
  const [newer, older] = first.generation > second.generation ? [first, second] : [second, first];
  const sameJournal = newer.journalId === older.journalId && newer.blockSizeOrder === older.blockSizeOrder;
  if (!sameJournal || newer.generation !== older.generation + 1) {
    throw damaged(area.hostOffset, 'the two header slots do not belong together', 'JRN-RECOV-002');
  }
  return { newer, older };
}

/**
 * The slot at a host offset.
 * @throws UNSUPPORTED_FEATURE for a version that is not known; JOURNAL_DAMAGED, with what is wrong as its cause
 */
export function* readSlot(device: BlockDevice, area: AreaLocation, at: number): Task<JournalSlot> {
  const bytes = new Uint8Array(slotBytes);
  yield* wait(device.read(at, bytes, { event: 'journal_replay_read' }));
  let slot: JournalSlot;
  try {
    slot = decodeSlot(bytes, { hostOffset: at });
  } catch (cause) {
    // A version that is not known is not damage (JRN-SLOT-003).
    if (!(cause instanceof FormatError)) throw cause;
    throw damaged(at, 'a journal header slot is damaged', 'JRN-RECOV-001', cause);
  }
  if (slot.areaHostOffset !== area.hostOffset || slot.areaLengthBytes !== area.lengthBytes) {
    throw damaged(at, 'a journal header slot describes another area', 'JRN-RECOV-002');
  }
  return slot;
}

export function damaged(hostOffset: number, message: string, clause: string, cause?: unknown): FormatError {
  return new FormatError('JOURNAL_DAMAGED', message, { hostOffset, clause }, cause);
}
