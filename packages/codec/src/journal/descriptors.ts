/**
 * Descriptors: what a record says is to be done (JRN-DESC-…, JRN-COPY-…, JRN-INTENT-…).
 *
 * A decoded descriptor's `bytes` and `body` are views of the buffer it was decoded from, not copies. A
 * descriptor is believed only after each of its lengths was held against what encloses it: the descriptor
 * inside the descriptors' run, its payload inside the record's payload, its ranges below 2^53.
 */
import {
  FormatError,
  type GuestOffset,
  guestOffset,
  type HostOffset,
  hostOffset,
  InvariantError,
  journalIntentLimits,
  journalV1Limits,
  journalDescriptorTypes as types,
} from '@qcow2/spec';
import {
  badField,
  checkReserved,
  type FieldOrigin,
  isSafeRange,
  readU64,
  roundUp8,
  truncated,
  viewOf,
  writeU64,
} from './fields.ts';

/** Write these few bytes to the image file; they stand in the descriptor itself. */
export interface InlineWriteDescriptor {
  readonly type: 'inline-write';
  readonly hostOffset: HostOffset;
  /** 1 to 65,536 bytes. */
  readonly bytes: Uint8Array;
}

/** Write a run of the record's payload to the image file. */
export interface WritePayloadDescriptor {
  readonly type: 'write-payload';
  readonly hostOffset: HostOffset;
  readonly lengthBytes: number;
  /** From the payload's start. */
  readonly payloadOffset: number;
}

/** The guest wrote a run of the record's payload, whole sectors; where it goes in the image file is not decided yet. */
export interface GuestWriteDescriptor {
  readonly type: 'guest-write';
  readonly guestOffset: GuestOffset;
  readonly lengthBytes: number;
  readonly payloadOffset: number;
}

/** Guest writes to the range, of records up to `throughSequence`, are superseded by the mapping. */
export interface GuestSettledDescriptor {
  readonly type: 'guest-settled';
  readonly guestOffset: GuestOffset;
  readonly lengthBytes: number;
  readonly throughSequence: number;
}

/** What came before and writes to the host range is not executed there. */
export interface RevokeDescriptor {
  readonly type: 'revoke';
  readonly hostOffset: HostOffset;
  readonly lengthBytes: number;
}

export interface CopyDescriptor {
  readonly type: 'copy';
  readonly targetHostOffset: HostOffset;
  readonly sourceHostOffset: HostOffset;
  readonly lengthBytes: number;
}

export interface FillFromBackingDescriptor {
  readonly type: 'fill-from-backing';
  readonly targetHostOffset: HostOffset;
  readonly guestOffset: GuestOffset;
  readonly lengthBytes: number;
}

/** An operation larger than the ring begins; recovery finishes or undoes it. */
export interface IntentDescriptor {
  readonly type: 'intent';
  readonly intentKind: number;
  readonly intentId: number;
  readonly body: Uint8Array;
}

export interface IntentDoneDescriptor {
  readonly type: 'intent-done';
  readonly intentId: number;
}

/** Room that says nothing; `lengthBytes` is the whole descriptor, a multiple of 8. */
export interface NoOpDescriptor {
  readonly type: 'no-op';
  readonly lengthBytes: number;
}

/** A type that this codec does not know; from 0x8000 on it may be ignored (JRN-DESC-006). */
export interface UnknownDescriptor {
  readonly type: 'unknown';
  readonly number: number;
  /** What follows the head, padding excluded. */
  readonly body: Uint8Array;
}

export type JournalDescriptor =
  | InlineWriteDescriptor
  | WritePayloadDescriptor
  | GuestWriteDescriptor
  | GuestSettledDescriptor
  | RevokeDescriptor
  | CopyDescriptor
  | FillFromBackingDescriptor
  | IntentDescriptor
  | IntentDoneDescriptor
  | NoOpDescriptor
  | UnknownDescriptor;

/** What descriptors are held against. */
export interface DescriptorContext extends FieldOrigin {
  /** Length of the record's payload; references must stay inside. */
  readonly payloadLengthBytes: number;
  /** Sequence of the record; nothing settles later records. */
  readonly sequence: number;
}

const headBytes = 8;

/** Bytes that the descriptor takes in a record: head and padding included, a multiple of 8. */
export function descriptorSizeBytes(descriptor: JournalDescriptor): number {
  switch (descriptor.type) {
    case 'inline-write':
      return 16 + roundUp8(descriptor.bytes.length);
    case 'write-payload':
    case 'guest-write':
    case 'revoke':
      return 24;
    case 'guest-settled':
    case 'copy':
    case 'fill-from-backing':
      return 32;
    case 'intent':
      return 24 + roundUp8(descriptor.body.length);
    case 'intent-done':
      return 16;
    case 'no-op':
      return descriptor.lengthBytes;
    case 'unknown':
      return headBytes + roundUp8(descriptor.body.length);
  }
}

/**
 * Write the descriptor at `at` of `view`, which must be zero there, and return where the next one goes.
 *
 * @throws InvariantError where the descriptor could not be decoded again.
 */
export function encodeDescriptor(descriptor: JournalDescriptor, view: DataView, at: number): number {
  const sizeBytes = descriptorSizeBytes(descriptor);
  view.setUint16(at, typeNumber(descriptor));
  view.setUint32(at + 4, sizeBytes);
  switch (descriptor.type) {
    case 'inline-write': {
      const lengthBytes = descriptor.bytes.length;
      if (lengthBytes < 1 || lengthBytes > journalV1Limits.maxInlineWriteBytes) {
        throw new InvariantError('an inline write has 1 to 65,536 bytes', { lengthBytes });
      }
      writeU64(view, at + 8, descriptor.hostOffset);
      putVariable(descriptor.bytes, view, at, 16, sizeBytes);
      break;
    }
    case 'write-payload':
      writeU64(view, at + 8, descriptor.hostOffset);
      view.setUint32(at + 16, descriptor.lengthBytes);
      view.setUint32(at + 20, descriptor.payloadOffset);
      break;
    case 'guest-write':
      assertSectors(descriptor.guestOffset, descriptor.lengthBytes);
      writeU64(view, at + 8, descriptor.guestOffset);
      view.setUint32(at + 16, descriptor.lengthBytes);
      view.setUint32(at + 20, descriptor.payloadOffset);
      break;
    case 'guest-settled':
      assertSectors(descriptor.guestOffset, descriptor.lengthBytes);
      writeU64(view, at + 8, descriptor.guestOffset);
      writeU64(view, at + 16, descriptor.lengthBytes);
      writeU64(view, at + 24, descriptor.throughSequence);
      break;
    case 'revoke':
      writeU64(view, at + 8, descriptor.hostOffset);
      writeU64(view, at + 16, descriptor.lengthBytes);
      break;
    case 'copy':
      writeU64(view, at + 8, descriptor.targetHostOffset);
      writeU64(view, at + 16, descriptor.sourceHostOffset);
      writeU64(view, at + 24, descriptor.lengthBytes);
      break;
    case 'fill-from-backing':
      writeU64(view, at + 8, descriptor.targetHostOffset);
      writeU64(view, at + 16, descriptor.guestOffset);
      writeU64(view, at + 24, descriptor.lengthBytes);
      break;
    case 'intent':
      if (descriptor.body.length > journalIntentLimits.maxBodyBytes) {
        const context = { lengthBytes: descriptor.body.length, clause: 'JRN-INTENT-008' };
        throw new InvariantError('the body of an intent has at most 256 bytes', context);
      }
      view.setUint32(at + 8, descriptor.intentKind);
      writeU64(view, at + 16, descriptor.intentId);
      putVariable(descriptor.body, view, at, 24, sizeBytes);
      break;
    case 'intent-done':
      writeU64(view, at + 8, descriptor.intentId);
      break;
    case 'no-op':
      if (sizeBytes < headBytes || sizeBytes % 8 !== 0) {
        throw new InvariantError('a descriptor takes a multiple of 8 bytes', { lengthBytes: sizeBytes });
      }
      break;
    case 'unknown':
      putVariable(descriptor.body, view, at, headBytes, sizeBytes);
      break;
  }
  return at + sizeBytes;
}

function assertSectors(start: number, lengthBytes: number): void {
  if (lengthBytes > 0 && areSectors(start, lengthBytes)) return;
  throw new InvariantError('a guest range in the log is whole sectors', {
    guestOffset: start,
    lengthBytes,
    clause: 'JRN-DESC-028',
  });
}

/** The variable part of a descriptor, and the count of its padding in the head. */
function putVariable(bytes: Uint8Array, view: DataView, at: number, from: number, sizeBytes: number): void {
  view.setUint16(at + 2, sizeBytes - from - bytes.length);
  new Uint8Array(view.buffer, view.byteOffset + at + from, bytes.length).set(bytes);
}

function typeNumber(descriptor: JournalDescriptor): number {
  switch (descriptor.type) {
    case 'inline-write':
      return types.inlineWrite;
    case 'write-payload':
      return types.writePayload;
    case 'guest-write':
      return types.guestWrite;
    case 'guest-settled':
      return types.guestSettled;
    case 'revoke':
      return types.revoke;
    case 'copy':
      return types.copy;
    case 'fill-from-backing':
      return types.fillFromBacking;
    case 'intent':
      return types.intent;
    case 'intent-done':
      return types.intentDone;
    case 'no-op':
      return types.noOp;
    case 'unknown':
      return descriptor.number;
  }
}

/**
 * All descriptors of a run that `bytes` holds exactly. Their `bytes` and `body` are views of it.
 *
 * @throws FormatError TRUNCATED, BAD_FIELD, RESERVED_SET, OFFSET_TOO_LARGE, OVERLAP, with the clause.
 */
export function decodeDescriptors(bytes: Uint8Array, context: DescriptorContext): JournalDescriptor[] {
  const view = viewOf(bytes);
  const descriptors: JournalDescriptor[] = [];
  let at = 0;
  while (at < bytes.length) {
    const origin = { ...context, hostOffset: context.hostOffset + at };
    if (bytes.length - at < headBytes) throw truncated('a descriptor', headBytes, 'JRN-DESC-001', origin);
    const sizeBytes = view.getUint32(at + 4);
    if (sizeBytes < headBytes || sizeBytes % 8 !== 0) {
      const why = 'a descriptor takes a multiple of 8 bytes';
      throw badField('descriptorLengthBytes', sizeBytes, 'JRN-DESC-004', origin, 4, why);
    }
    if (sizeBytes > bytes.length - at) throw truncated('a descriptor', sizeBytes, 'JRN-DESC-005', origin);
    const paddingBytes = view.getUint16(at + 2);
    if (paddingBytes > 7 || paddingBytes > sizeBytes - headBytes) {
      throw badField('paddingBytes', paddingBytes, 'JRN-DESC-003', origin, 2, 'padding is 0 to 7 bytes');
    }
    const one = bytes.subarray(at, at + sizeBytes);
    checkReserved(one, sizeBytes - paddingBytes, sizeBytes, 'JRN-DESC-003', origin);
    descriptors.push(decodeOne(one, paddingBytes, origin));
    at += sizeBytes;
  }
  return descriptors;
}

/** `bytes` is one whole descriptor whose head was checked. */
function decodeOne(bytes: Uint8Array, paddingBytes: number, context: DescriptorContext): JournalDescriptor {
  const view = viewOf(bytes);
  const number = view.getUint16(0);
  const endOfBody = bytes.length - paddingBytes;
  switch (number) {
    case types.noOp:
      return { type: 'no-op', lengthBytes: bytes.length };
    case types.writePayload: {
      checkFixed(bytes, paddingBytes, 24, 'JRN-DESC-021', context);
      const reference = payloadReference(view, context);
      const start = readU64(view, 8, 'hostOffset', 'JRN-DESC-021', context);
      checkRange(start, reference.lengthBytes, 'hostOffset', 8, context);
      return { type: 'write-payload', hostOffset: hostOffset(start), ...reference };
    }
    case types.guestWrite: {
      checkFixed(bytes, paddingBytes, 24, 'JRN-DESC-025', context);
      const reference = payloadReference(view, context);
      const start = readU64(view, 8, 'guestOffset', 'JRN-DESC-025', context);
      checkRange(start, reference.lengthBytes, 'guestOffset', 8, context);
      checkSectors(start, reference.lengthBytes, context);
      return { type: 'guest-write', guestOffset: guestOffset(start), ...reference };
    }
    case types.revoke: {
      checkFixed(bytes, paddingBytes, 24, 'JRN-DESC-023', context);
      const lengthBytes = readU64(view, 16, 'lengthBytes', 'JRN-DESC-011', context);
      const start = readU64(view, 8, 'hostOffset', 'JRN-DESC-023', context);
      checkRange(start, lengthBytes, 'hostOffset', 8, context);
      return { type: 'revoke', hostOffset: hostOffset(start), lengthBytes };
    }
    case types.inlineWrite:
      return decodeInlineWrite(bytes, view, endOfBody, context);
    case types.guestSettled:
      return decodeGuestSettled(bytes, view, paddingBytes, context);
    case types.copy:
    case types.fillFromBacking:
      return decodeCopyOrFill(number, bytes, view, paddingBytes, context);
    case types.intent:
      return decodeIntent(bytes, view, endOfBody, context);
    case types.intentDone:
      checkFixed(bytes, paddingBytes, 16, 'JRN-INTENT-002', context);
      return { type: 'intent-done', intentId: readU64(view, 8, 'intentId', 'JRN-INTENT-002', context) };
    default:
      return { type: 'unknown', number, body: bytes.subarray(headBytes, endOfBody) };
  }
}

function decodeInlineWrite(
  bytes: Uint8Array,
  view: DataView,
  endOfBody: number,
  context: DescriptorContext,
): InlineWriteDescriptor {
  const lengthBytes = endOfBody - 16;
  if (lengthBytes < 1 || lengthBytes > journalV1Limits.maxInlineWriteBytes) {
    const why = 'an inline write has 1 to 65,536 bytes';
    throw badField('descriptorLengthBytes', bytes.length, 'JRN-DESC-024', context, 4, why);
  }
  const start = readU64(view, 8, 'hostOffset', 'JRN-DESC-024', context);
  checkRange(start, lengthBytes, 'hostOffset', 8, context);
  return { type: 'inline-write', hostOffset: hostOffset(start), bytes: bytes.subarray(16, endOfBody) };
}

function decodeGuestSettled(
  bytes: Uint8Array,
  view: DataView,
  paddingBytes: number,
  context: DescriptorContext,
): GuestSettledDescriptor {
  checkFixed(bytes, paddingBytes, 32, 'JRN-DESC-026', context);
  const lengthBytes = readU64(view, 16, 'lengthBytes', 'JRN-DESC-011', context);
  const start = readU64(view, 8, 'guestOffset', 'JRN-DESC-026', context);
  checkRange(start, lengthBytes, 'guestOffset', 8, context);
  checkSectors(start, lengthBytes, context);
  const throughSequence = readU64(view, 24, 'throughSequence', 'JRN-DESC-027', context);
  if (throughSequence > context.sequence) {
    const why = 'a record settles no later record';
    throw badField('throughSequence', throughSequence, 'JRN-DESC-027', context, 24, why);
  }
  return { type: 'guest-settled', guestOffset: guestOffset(start), lengthBytes, throughSequence };
}

function decodeCopyOrFill(
  number: number,
  bytes: Uint8Array,
  view: DataView,
  paddingBytes: number,
  context: DescriptorContext,
): CopyDescriptor | FillFromBackingDescriptor {
  const clause = number === types.copy ? 'JRN-COPY-001' : 'JRN-COPY-002';
  checkFixed(bytes, paddingBytes, 32, clause, context);
  const lengthBytes = readU64(view, 24, 'lengthBytes', 'JRN-DESC-011', context);
  const target = readU64(view, 8, 'targetHostOffset', clause, context);
  checkRange(target, lengthBytes, 'targetHostOffset', 8, context);
  const sourceField = number === types.copy ? 'sourceHostOffset' : 'guestOffset';
  const source = readU64(view, 16, sourceField, clause, context);
  checkRange(source, lengthBytes, sourceField, 16, context);
  const targetHostOffset = hostOffset(target);
  if (number === types.fillFromBacking) {
    return { type: 'fill-from-backing', targetHostOffset, guestOffset: guestOffset(source), lengthBytes };
  }
  if (target < source + lengthBytes && source < target + lengthBytes) {
    throw new FormatError('OVERLAP', 'source and target of a copy overlap', {
      clause: 'JRN-COPY-003',
      hostOffset: context.hostOffset,
      lengthBytes,
    });
  }
  return { type: 'copy', targetHostOffset, sourceHostOffset: hostOffset(source), lengthBytes };
}

function decodeIntent(
  bytes: Uint8Array,
  view: DataView,
  endOfBody: number,
  context: DescriptorContext,
): IntentDescriptor {
  if (endOfBody < 24) throw truncated('an intent', 24, 'JRN-INTENT-001', context);
  if (endOfBody - 24 > journalIntentLimits.maxBodyBytes) {
    const why = 'the body of an intent has at most 256 bytes';
    throw badField('descriptorLengthBytes', bytes.length, 'JRN-INTENT-008', context, 4, why);
  }
  checkReserved(bytes, 12, 16, 'JRN-INTENT-001', context);
  return {
    type: 'intent',
    intentKind: view.getUint32(8),
    intentId: readU64(view, 16, 'intentId', 'JRN-INTENT-001', context),
    body: bytes.subarray(24, endOfBody),
  };
}

/** A descriptor of fixed size has this size and no padding. */
function checkFixed(
  bytes: Uint8Array,
  paddingBytes: number,
  sizeBytes: number,
  clause: string,
  origin: FieldOrigin,
): void {
  if (bytes.length !== sizeBytes) {
    const why = `this descriptor takes ${sizeBytes} bytes`;
    throw badField('descriptorLengthBytes', bytes.length, clause, origin, 4, why);
  }
  if (paddingBytes !== 0) {
    throw badField('paddingBytes', paddingBytes, 'JRN-DESC-003', origin, 2, 'this descriptor has no padding');
  }
}

/** Length and payload offset, at bytes 16 and 20 of both kinds that refer to the payload. */
function payloadReference(
  view: DataView,
  context: DescriptorContext,
): { lengthBytes: number; payloadOffset: number } {
  const lengthBytes = view.getUint32(16);
  const payloadOffset = view.getUint32(20);
  // Both are below 2^32, so the sum is exact.
  if (payloadOffset + lengthBytes > context.payloadLengthBytes) {
    const why = 'the reference leaves the payload';
    throw badField('payloadOffset', payloadOffset, 'JRN-DESC-012', context, 20, why);
  }
  return { lengthBytes, payloadOffset };
}

function checkRange(
  start: number,
  lengthBytes: number,
  field: string,
  at: number,
  origin: FieldOrigin,
): void {
  if (lengthBytes === 0) {
    throw badField('lengthBytes', 0, 'JRN-DESC-011', origin, at, 'a range of no bytes');
  }
  if (!isSafeRange(start, lengthBytes)) {
    throw new FormatError('OFFSET_TOO_LARGE', 'the range ends beyond 2^53 - 1', {
      field,
      value: start,
      lengthBytes,
      clause: 'JRN-DESC-011',
      hostOffset: origin.hostOffset + at,
    });
  }
}

/** Guest writes and what settles them are whole sectors (JRN-DESC-028). */
function checkSectors(start: number, lengthBytes: number, origin: FieldOrigin): void {
  if (areSectors(start, lengthBytes)) return;
  throw new FormatError('BAD_ALIGNMENT', 'the guest range is not whole sectors', {
    guestOffset: start,
    lengthBytes,
    clause: 'JRN-DESC-028',
    hostOffset: origin.hostOffset + 8,
  });
}

function areSectors(start: number, lengthBytes: number): boolean {
  return (
    start % journalV1Limits.guestSectorBytes === 0 && lengthBytes % journalV1Limits.guestSectorBytes === 0
  );
}
