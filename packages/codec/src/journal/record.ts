/**
 * Records: what is appended to the ring, and when one follows another (JRN-REC-…).
 *
 * A record is a whole number of blocks: header, descriptors, payload, zeros to the end of the last block.
 * One CRC32C runs over all of it, so a record is either there as a whole or not at all; there is no commit
 * mark to be written after it. Each record carries the CRC of the one before ("chain"), its own place in
 * the ring, and the salt of the life that wrote it, so that a block of an earlier turn of the ring or of an
 * abandoned life never passes for the next record.
 *
 * Two questions, two functions: `verifyRecord` asks whether a record stands here, and answers without an
 * exception, as recovery must when it reaches the end of the log. `decodeRecord` asks what it says, and
 * throws: a record whose checksum is right and whose content breaks a clause is no torn tail.
 */
import { FormatError, InvariantError, journalV1Limits } from '@qcow2/spec';

import { crc32c, crc32cOfZeros } from './crc32c.ts';
import {
  decodeDescriptors,
  descriptorSizeBytes,
  encodeDescriptor,
  type JournalDescriptor,
} from './descriptors.ts';
import { badField, checkReserved, type FieldOrigin, peekU64, truncated, viewOf, writeU64 } from './fields.ts';
import type { JournalSlot } from './slot.ts';

/** The fixed header of a record, as it stands; `lengthBlocks` tells how much to read. */
export interface RecordHeader {
  /** The stored checksum; the next record's `chain`. */
  readonly crc: number;
  readonly sequence: number;
  readonly journalId: bigint;
  readonly salt: bigint;
  /** Byte offset in the ring that the record says it stands at. */
  readonly position: number;
  readonly lengthBlocks: number;
  /** `crc` of the record before. */
  readonly chain: number;
  /** All records up to this one were durable when this one was built. */
  readonly durableThrough: number;
  readonly descriptorsLengthBytes: number;
  readonly payloadLengthBytes: number;
  /** From the record's start. */
  readonly payloadOffset: number;
  /** From the record's start. */
  readonly firstDescriptorOffset: number;
  readonly flags: number;
  /** First record of a life: it may bring a salt of its own. */
  readonly life: boolean;
}

export interface JournalRecord extends RecordHeader {
  readonly descriptors: readonly JournalDescriptor[];
  /** A view of the decoded bytes. */
  readonly payload: Uint8Array;
}

/** What `encodeRecord` turns into bytes. */
export interface RecordContent {
  readonly sequence: number;
  readonly journalId: bigint;
  readonly salt: bigint;
  readonly position: number;
  readonly chain: number;
  readonly durableThrough: number;
  readonly life: boolean;
  readonly blockBytes: number;
  readonly descriptors: readonly JournalDescriptor[];
  /** Pieces that together are the payload; copied. */
  readonly payload: readonly Uint8Array[];
  /** A buffer to build the record in, if it is long enough; what stands in it does not matter. */
  readonly scratch?: Uint8Array | undefined;
}

export interface EncodedRecord {
  /** Whole blocks, ready to be written; a new buffer, or part of the caller's. */
  readonly bytes: Uint8Array;
  /** The record's checksum, which the next one carries as `chain`. */
  readonly crc: number;
}

/** The end of a chain: what the next record must continue. */
export interface ChainEnd {
  /** Of the last record; the next one has this plus one. */
  readonly sequence: number;
  readonly journalId: bigint;
  readonly salt: bigint;
  readonly crc: number;
  /** Byte offset in the ring where the last record ended, modulo the ring. */
  readonly endPosition: number;
}

const headerBytes: number = journalV1Limits.recordHeaderBytes;
const magic = 0x716a7231; // qjr1
const lifeFlag = 1;

/** Blocks that a record with so many bytes of descriptors and payload takes. */
export function recordSizeBlocks(
  descriptorsLengthBytes: number,
  payloadLengthBytes: number,
  blockBytes: number,
): number {
  return Math.ceil((headerBytes + descriptorsLengthBytes + payloadLengthBytes) / blockBytes);
}

/**
 * The record's blocks. One allocation, one pass of the checksum; `payload` is copied once.
 *
 * @throws InvariantError where the descriptors could not be decoded again, or the record is longer than
 *   16 MiB (that it fits a quarter of the ring is for the caller to know).
 */
export function encodeRecord(content: RecordContent): EncodedRecord {
  const { blockBytes, descriptors } = content;
  let descriptorsLengthBytes = 0;
  for (const descriptor of descriptors) descriptorsLengthBytes += descriptorSizeBytes(descriptor);
  let payloadLengthBytes = 0;
  for (const piece of content.payload) payloadLengthBytes += piece.length;
  const lengthBlocks = recordSizeBlocks(descriptorsLengthBytes, payloadLengthBytes, blockBytes);
  const lengthBytes = lengthBlocks * blockBytes;
  if (lengthBytes > journalV1Limits.maxRecordBytes) {
    throw new InvariantError('a record is at most 16 MiB long', { lengthBytes, clause: 'JRN-REC-019' });
  }
  const { scratch } = content;
  const reuse = scratch !== undefined && scratch.length >= lengthBytes;
  const bytes = reuse ? scratch.subarray(0, lengthBytes) : new Uint8Array(lengthBytes);
  if (reuse) bytes.fill(0);
  const view = viewOf(bytes);
  const payloadOffset = headerBytes + descriptorsLengthBytes;
  view.setUint32(0, magic);
  writeU64(view, 8, content.sequence);
  view.setBigUint64(16, content.journalId);
  view.setBigUint64(24, content.salt);
  writeU64(view, 32, content.position);
  view.setUint32(40, lengthBlocks);
  view.setUint32(44, content.chain);
  writeU64(view, 48, content.durableThrough);
  view.setUint32(56, descriptorsLengthBytes);
  view.setUint32(60, payloadLengthBytes);
  view.setUint32(64, payloadOffset);
  view.setUint16(68, headerBytes);
  view.setUint16(70, content.life ? lifeFlag : 0);
  let at = headerBytes;
  for (const descriptor of descriptors) {
    checkReference(descriptor, payloadLengthBytes);
    at = encodeDescriptor(descriptor, view, at);
  }
  for (const piece of content.payload) {
    bytes.set(piece, at);
    at += piece.length;
  }
  const crc = crc32cOfZeros(lengthBytes - at, crc32c(bytes.subarray(0, at)));
  view.setUint32(4, crc);
  return { bytes, crc };
}

function checkReference(descriptor: JournalDescriptor, payloadLengthBytes: number): void {
  if (descriptor.type !== 'write-payload' && descriptor.type !== 'guest-write') return;
  if (descriptor.payloadOffset + descriptor.lengthBytes > payloadLengthBytes) {
    throw new InvariantError('a descriptor refers to bytes behind the payload', {
      lengthBytes: descriptor.lengthBytes,
      clause: 'JRN-DESC-012',
    });
  }
}

/**
 * The header at `at`, if it looks like one: the magic, and numbers that can be meant. Nothing is verified.
 * Never throws.
 */
export function peekRecordHeader(bytes: Uint8Array, at = 0): RecordHeader | undefined {
  if (at < 0 || at + headerBytes > bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, headerBytes);
  if (view.getUint32(0) !== magic) return undefined;
  const sequence = peekU64(view, 8);
  const position = peekU64(view, 32);
  const durableThrough = peekU64(view, 48);
  const lengthBlocks = view.getUint32(40);
  if (!(sequence >= 1) || Number.isNaN(position) || Number.isNaN(durableThrough) || lengthBlocks < 1) {
    return undefined;
  }
  const flags = view.getUint16(70);
  return {
    crc: view.getUint32(4),
    sequence,
    journalId: view.getBigUint64(16),
    salt: view.getBigUint64(24),
    position,
    lengthBlocks,
    chain: view.getUint32(44),
    durableThrough,
    descriptorsLengthBytes: view.getUint32(56),
    payloadLengthBytes: view.getUint32(60),
    payloadOffset: view.getUint32(64),
    firstDescriptorOffset: view.getUint16(68),
    flags,
    life: (flags & lifeFlag) !== 0,
  };
}

const zeroWord = new Uint8Array(4);

/**
 * CRC of the record's bytes with its own field taken as zero; the buffer is not touched. Half of a small record is
 * padding: where it is zeros, to see that takes a quarter of the time of going through it.
 */
function recordCrc(bytes: Uint8Array, header: RecordHeader): number {
  const end = header.payloadOffset + header.payloadLengthBytes;
  const padded = end >= headerBytes && end < bytes.length && isZero(bytes.subarray(end));
  const content = padded ? bytes.subarray(8, end) : bytes.subarray(8);
  const crc = crc32c(content, crc32c(zeroWord, crc32c(bytes.subarray(0, 4))));
  return padded ? crc32cOfZeros(bytes.length - end, crc) : crc;
}

function isZero(bytes: Uint8Array): boolean {
  const ragged = Math.min(-bytes.byteOffset & 3, bytes.length);
  const words = new Int32Array(bytes.buffer, bytes.byteOffset + ragged, (bytes.length - ragged) >> 2);
  for (let i = 0; i < words.length; i++) if (words[i] !== 0) return false;
  const rest = ragged + words.length * 4;
  return bytes.subarray(0, ragged).every(isNothing) && bytes.subarray(rest).every(isNothing);
}

function isNothing(byte: number): boolean {
  return byte === 0;
}

/** The size that a ring allows its records. */
export interface RecordLimits {
  readonly blockBytes: number;
  /** `maxRecordBlocks` of the ring. */
  readonly maxBlocks: number;
}

/**
 * Whether `bytes` begins with a whole record of a sane length whose checksum is right; its header if so.
 *
 * `bytes` may be longer than the record. A record that wraps must be laid out in one piece. Never throws.
 */
export function verifyRecord(bytes: Uint8Array, limits: RecordLimits): RecordHeader | undefined {
  const header = peekRecordHeader(bytes, 0);
  if (header === undefined || header.lengthBlocks > limits.maxBlocks) return undefined;
  const lengthBytes = header.lengthBlocks * limits.blockBytes;
  if (lengthBytes > bytes.length || recordCrc(bytes.subarray(0, lengthBytes), header) !== header.crc)
    return undefined;
  return header;
}

/**
 * The record at the start of `bytes`, which stand at `hostOffset` in the image file. Its payload and what
 * its descriptors hold are views of `bytes`; a record that wraps must be laid out in one piece.
 *
 * BAD_MAGIC, TRUNCATED, LIMIT_EXCEEDED and BAD_CHECKSUM say that no record stands here. Everything else is
 * thrown after the checksum matched: the record was written so.
 *
 * @throws FormatError with these codes, or BAD_FIELD, BAD_ALIGNMENT, RESERVED_SET, OFFSET_TOO_LARGE,
 *   OVERLAP.
 */
export function decodeRecord(bytes: Uint8Array, context: FieldOrigin & RecordLimits): JournalRecord {
  return decodeVerifiedRecord(bytes, decodeFrame(bytes, context), context);
}

/**
 * As `decodeRecord`, of a record whose header `verifyRecord` gave: the checksum, which is most of the work of
 * a replay, is not computed again.
 *
 * @throws FormatError for a clause that the record breaks
 */
export function decodeVerifiedRecord(
  bytes: Uint8Array,
  header: RecordHeader,
  context: FieldOrigin & RecordLimits,
): JournalRecord {
  const whole = bytes.subarray(0, header.lengthBlocks * context.blockBytes);
  checkHeader(whole, header, context);
  const { firstDescriptorOffset, payloadOffset, payloadLengthBytes } = header;
  const run = whole.subarray(firstDescriptorOffset, firstDescriptorOffset + header.descriptorsLengthBytes);
  const descriptors = decodeDescriptors(run, {
    hostOffset: context.hostOffset + firstDescriptorOffset,
    payloadLengthBytes,
    sequence: header.sequence,
  });
  return {
    ...header,
    descriptors,
    payload: whole.subarray(payloadOffset, payloadOffset + payloadLengthBytes),
  };
}

/** The header of a record whose checksum is right. */
function decodeFrame(bytes: Uint8Array, context: FieldOrigin & RecordLimits): RecordHeader {
  if (bytes.length < headerBytes) throw truncated('a record header', headerBytes, 'JRN-REC-001', context);
  const header = peekRecordHeader(bytes, 0);
  if (header === undefined) {
    throw new FormatError('BAD_MAGIC', 'no record stands here', {
      value: viewOf(bytes).getUint32(0),
      clause: 'JRN-REC-002',
      hostOffset: context.hostOffset,
    });
  }
  if (header.lengthBlocks > context.maxBlocks) {
    throw new FormatError('LIMIT_EXCEEDED', `a record of this ring has at most ${context.maxBlocks} blocks`, {
      field: 'lengthBlocks',
      value: header.lengthBlocks,
      clause: 'JRN-REC-019',
      hostOffset: context.hostOffset + 40,
    });
  }
  const lengthBytes = header.lengthBlocks * context.blockBytes;
  if (bytes.length < lengthBytes) throw truncated('a record', lengthBytes, 'JRN-REC-008', context);
  if (recordCrc(bytes.subarray(0, lengthBytes), header) !== header.crc) {
    throw new FormatError('BAD_CHECKSUM', 'the record does not match its checksum', {
      field: 'crc',
      value: header.crc,
      clause: 'JRN-REC-003',
      hostOffset: context.hostOffset + 4,
    });
  }
  return header;
}

/** The parts of the record lie inside it, one behind the other. */
function checkHeader(whole: Uint8Array, header: RecordHeader, origin: FieldOrigin): void {
  const { firstDescriptorOffset, descriptorsLengthBytes, payloadOffset, payloadLengthBytes } = header;
  if ((header.flags & ~lifeFlag) !== 0) {
    throw new FormatError('RESERVED_SET', 'a record flag that is not defined', {
      field: 'flags',
      value: header.flags,
      clause: 'JRN-REC-015',
      hostOffset: origin.hostOffset + 70,
    });
  }
  checkReserved(whole, 72, headerBytes, 'JRN-REC-016', origin);
  if (firstDescriptorOffset < headerBytes || firstDescriptorOffset % 8 !== 0) {
    const why = 'descriptors begin behind the header, at a multiple of 8';
    throw badField('firstDescriptorOffset', firstDescriptorOffset, 'JRN-REC-014', origin, 68, why);
  }
  const endOfDescriptors = firstDescriptorOffset + descriptorsLengthBytes;
  if (descriptorsLengthBytes % 8 !== 0 || endOfDescriptors > whole.length) {
    const why = 'the descriptors leave the record';
    throw badField('descriptorsLengthBytes', descriptorsLengthBytes, 'JRN-REC-011', origin, 56, why);
  }
  if (payloadOffset % 8 !== 0 || payloadOffset < endOfDescriptors) {
    const why = 'the payload begins behind the descriptors, at a multiple of 8';
    throw badField('payloadOffset', payloadOffset, 'JRN-REC-013', origin, 64, why);
  }
  if (payloadOffset + payloadLengthBytes > whole.length) {
    const why = 'the payload leaves the record';
    throw badField('payloadLengthBytes', payloadLengthBytes, 'JRN-REC-012', origin, 60, why);
  }
  if (header.durableThrough >= header.sequence) {
    const why = 'a record says that itself or a later one was durable';
    throw badField('durableThrough', header.durableThrough, 'JRN-REC-010', origin, 48, why);
  }
}

/** The chain's end that a slot describes: the record before its tail. */
export function chainEndOfSlot(slot: JournalSlot): ChainEnd {
  return {
    sequence: slot.tailSequence - 1,
    journalId: slot.journalId,
    salt: slot.tailSalt,
    crc: slot.tailChain,
    endPosition: slot.tailPosition,
  };
}

/** The chain's end once `record` is its last. */
export function chainEndOfRecord(record: RecordHeader, blockBytes: number, ringBytes: number): ChainEnd {
  return {
    sequence: record.sequence,
    journalId: record.journalId,
    salt: record.salt,
    crc: record.crc,
    endPosition: (record.position + record.lengthBlocks * blockBytes) % ringBytes,
  };
}

/**
 * Whether a record, verified already, continues the chain (JRN-REC-018): next sequence, expected place,
 * same journal, chained to the record before, and of the same life or the first of a new one.
 */
export function follows(previous: ChainEnd, record: RecordHeader): boolean {
  return (
    record.sequence === previous.sequence + 1 &&
    record.position === previous.endPosition &&
    record.journalId === previous.journalId &&
    record.chain === previous.crc &&
    (record.salt === previous.salt || record.life)
  );
}
