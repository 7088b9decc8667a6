/**
 * Header slots: the two sectors that say where the live log of an area begins (JRN-SLOT-…).
 *
 * A slot is one 512-byte sector, so storage never tears it: a slot that does not decode is damage, not the
 * trace of a crash. It knows where it stands itself, so a slot that was read from or copied to a wrong
 * place is found out.
 */
import {
  FormatError,
  type HostOffset,
  hostOffset,
  journalV1Limits,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { isUsableGeometry, journalGeometry } from './binding.ts';
import { crc32c } from './crc32c.ts';
import {
  badField,
  checkReserved,
  type FieldOrigin,
  isSafeRange,
  readU64,
  truncated,
  viewOf,
  writeU64,
} from './fields.ts';

export interface JournalSlot {
  /** Counts slot writes; its lowest bit is the slot's index. */
  readonly generation: number;
  readonly blockSizeOrder: number;
  /** Random, constant until the journal is formatted anew. */
  readonly journalId: bigint;
  readonly areaHostOffset: HostOffset;
  readonly areaLengthBytes: number;
  /** Byte offset in the ring where the oldest live record stands, or the next one will. */
  readonly tailPosition: number;
  /** Sequence of the record expected there. */
  readonly tailSequence: number;
  /** Salt of the life that the record before the tail belonged to. */
  readonly tailSalt: bigint;
  /** CRC of the record before the tail; 0 for a new journal. */
  readonly tailChain: number;
  readonly flags: number;
  /** Every record up to and including this one was durable when the slot was written. */
  readonly durableSequence: number;
}

const magic = Uint8Array.from([0x71, 0x6a, 0x73, 0x6c, 0x6f, 0x74, 0x30, 0x31]); // qjslot01
const version = 1;
const crcAt = 508;
const reservedAt = 88;

/**
 * The slot in the first 512 of `bytes`, which stand at `hostOffset` in the image file.
 *
 * @throws FormatError TRUNCATED, BAD_MAGIC, BAD_CHECKSUM; and BAD_FIELD, BAD_ALIGNMENT, RESERVED_SET,
 *   OFFSET_TOO_LARGE where the sum is right and the value is not.
 * @throws UnsupportedFeatureError UNSUPPORTED_FEATURE where the sum is right and the version is not 1.
 */
export function decodeSlot(bytes: Uint8Array, origin: FieldOrigin): JournalSlot {
  if (bytes.length < journalV1Limits.slotBytes) {
    throw truncated('a journal slot', journalV1Limits.slotBytes, 'JRN-SLOT-001', origin);
  }
  const view = viewOf(bytes);
  checkEnvelope(bytes, view, origin);
  checkReserved(bytes, reservedAt, crcAt, 'JRN-SLOT-015', origin);
  const flags = view.getUint32(76);
  if (flags !== 0) throw badField('flags', flags, 'JRN-SLOT-013', origin, 76, 'no slot flag is defined');
  const slot: JournalSlot = {
    generation: readU64(view, 16, 'generation', 'JRN-SLOT-005', origin),
    blockSizeOrder: view.getUint32(12),
    journalId: view.getBigUint64(24),
    areaHostOffset: hostOffset(readU64(view, 32, 'areaHostOffset', 'JRN-SLOT-007', origin)),
    areaLengthBytes: readU64(view, 40, 'areaLengthBytes', 'JRN-SLOT-008', origin),
    tailPosition: readU64(view, 48, 'tailPosition', 'JRN-SLOT-009', origin),
    tailSequence: readU64(view, 56, 'tailSequence', 'JRN-SLOT-010', origin),
    tailSalt: view.getBigUint64(64),
    tailChain: view.getUint32(72),
    flags,
    durableSequence: readU64(view, 80, 'durableSequence', 'JRN-SLOT-014', origin),
  };
  checkArea(slot, origin);
  checkTail(slot, origin);
  return slot;
}

function checkEnvelope(bytes: Uint8Array, view: DataView, origin: FieldOrigin): void {
  for (let i = 0; i < magic.length; i++) {
    if (bytes[i] !== magic[i]) {
      throw new FormatError('BAD_MAGIC', 'this is no journal slot', {
        field: 'magic',
        value: view.getBigUint64(0),
        clause: 'JRN-SLOT-002',
        hostOffset: origin.hostOffset,
      });
    }
  }
  const stored = view.getUint32(crcAt);
  if (stored !== crc32c(bytes.subarray(0, crcAt))) {
    throw new FormatError('BAD_CHECKSUM', 'the journal slot does not match its checksum', {
      field: 'crc',
      value: stored,
      clause: 'JRN-SLOT-016',
      hostOffset: origin.hostOffset + crcAt,
    });
  }
  if (view.getUint32(8) !== version) {
    throw new UnsupportedFeatureError('UNSUPPORTED_FEATURE', 'the journal slot has a version not known', {
      feature: 'journal',
      field: 'version',
      value: view.getUint32(8),
      clause: 'JRN-SLOT-003',
      hostOffset: origin.hostOffset + 8,
    });
  }
}

function checkArea(slot: JournalSlot, origin: FieldOrigin): void {
  const order = slot.blockSizeOrder;
  if (order < journalV1Limits.minBlockSizeOrder || order > journalV1Limits.maxBlockSizeOrder) {
    throw badField('blockSizeOrder', order, 'JRN-SLOT-004', origin, 12, 'a block has 2^9 to 2^21 bytes');
  }
  const lengthBytes = slot.areaLengthBytes;
  if (
    lengthBytes < journalV1Limits.minAreaBytes ||
    lengthBytes > journalV1Limits.maxAreaBytes ||
    !isSafeRange(slot.areaHostOffset, lengthBytes) ||
    !isUsableGeometry(journalGeometry(lengthBytes, 2 ** order), 2 ** order)
  ) {
    const why = 'the area does not hold two slots and eight blocks, or is longer than 1 GiB';
    throw badField('areaLengthBytes', lengthBytes, 'JRN-SLOT-008', origin, 40, why);
  }
  const { slotStrideBytes } = journalGeometry(lengthBytes, 2 ** order);
  const expectedAt = slot.areaHostOffset + (slot.generation % 2) * slotStrideBytes;
  if (expectedAt !== origin.hostOffset) {
    const why = 'the slot says that it stands elsewhere';
    throw badField('areaHostOffset', slot.areaHostOffset, 'JRN-SLOT-007', origin, 32, why);
  }
}

function checkTail(slot: JournalSlot, origin: FieldOrigin): void {
  const blockBytes = 2 ** slot.blockSizeOrder;
  const { ringBytes } = journalGeometry(slot.areaLengthBytes, blockBytes);
  if (slot.tailPosition % blockBytes !== 0) {
    throw new FormatError('BAD_ALIGNMENT', 'the tail stands inside a block', {
      field: 'tailPosition',
      value: slot.tailPosition,
      clause: 'JRN-SLOT-009',
      hostOffset: origin.hostOffset + 48,
    });
  }
  if (slot.tailPosition >= ringBytes) {
    const why = 'the tail stands behind the ring';
    throw badField('tailPosition', slot.tailPosition, 'JRN-SLOT-009', origin, 48, why);
  }
  if (slot.tailSequence < 1) {
    throw badField('tailSequence', slot.tailSequence, 'JRN-SLOT-010', origin, 56, 'records count from 1');
  }
  if (slot.durableSequence < slot.tailSequence - 1) {
    const why = 'a record before the tail was not durable';
    throw badField('durableSequence', slot.durableSequence, 'JRN-SLOT-014', origin, 80, why);
  }
}

/** The slot's 512 bytes, checksum included, in a new buffer. */
export function encodeSlot(slot: JournalSlot): Uint8Array {
  const bytes = new Uint8Array(journalV1Limits.slotBytes);
  const view = viewOf(bytes);
  bytes.set(magic, 0);
  view.setUint32(8, version);
  view.setUint32(12, slot.blockSizeOrder);
  writeU64(view, 16, slot.generation);
  view.setBigUint64(24, slot.journalId);
  writeU64(view, 32, slot.areaHostOffset);
  writeU64(view, 40, slot.areaLengthBytes);
  writeU64(view, 48, slot.tailPosition);
  writeU64(view, 56, slot.tailSequence);
  view.setBigUint64(64, slot.tailSalt);
  view.setUint32(72, slot.tailChain);
  view.setUint32(76, slot.flags);
  writeU64(view, 80, slot.durableSequence);
  view.setUint32(crcAt, crc32c(bytes.subarray(0, crcAt)));
  return bytes;
}
