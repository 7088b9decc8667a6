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
  journalSlotLayout,
  journalV1Limits,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import { compileLayout } from '../layout-codec.ts';
import { isUsableGeometry, journalGeometry } from './binding.ts';
import { crc32c } from './crc32c.ts';
import { badField, type FieldOrigin, isSafeRange, truncated, viewOf } from './fields.ts';

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
const crcAt = journalV1Limits.slotBytes - 4;
const layoutCodec = compileLayout(journalSlotLayout);

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
  checkEnvelope(bytes, viewOf(bytes), origin);
  const fields = layoutCodec.decode(bytes, { hostOffset: origin.hostOffset });
  const slot: JournalSlot = {
    generation: fields.generation,
    blockSizeOrder: fields.blockSizeOrder,
    journalId: fields.journalId,
    areaHostOffset: hostOffset(fields.areaHostOffset),
    areaLengthBytes: fields.areaLengthBytes,
    tailPosition: fields.tailPosition,
    tailSequence: fields.tailSequence,
    tailSalt: fields.tailSalt,
    tailChain: fields.tailChain,
    flags: fields.flags,
    durableSequence: fields.durableSequence,
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
  if (view.getUint32(8) !== journalV1Limits.slotVersion) {
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
  const blockBytes = 2 ** slot.blockSizeOrder;
  const lengthBytes = slot.areaLengthBytes;
  const geometry = journalGeometry(lengthBytes, blockBytes);
  if (!isSafeRange(slot.areaHostOffset, lengthBytes) || !isUsableGeometry(geometry, blockBytes)) {
    const why = 'the area does not hold two slots and eight blocks';
    throw badField('areaLengthBytes', lengthBytes, 'JRN-SLOT-008', origin, 40, why);
  }
  const expectedAt = slot.areaHostOffset + (slot.generation % 2) * geometry.slotStrideBytes;
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
  if (slot.durableSequence < slot.tailSequence - 1) {
    const why = 'a record before the tail was not durable';
    throw badField('durableSequence', slot.durableSequence, 'JRN-SLOT-014', origin, 80, why);
  }
}

/**
 * The slot's 512 bytes, checksum included, in a new buffer.
 *
 * @throws FormatError BAD_FIELD where a value is out of its field's range.
 */
export function encodeSlot(slot: JournalSlot): Uint8Array {
  const bytes = layoutCodec.encode({ ...slot, magic, version: journalV1Limits.slotVersion, crc: 0 });
  viewOf(bytes).setUint32(crcAt, crc32c(bytes.subarray(0, crcAt)));
  return bytes;
}
