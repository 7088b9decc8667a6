/**
 * What the journal's decoders have in common: 64-bit numbers, and errors that name the field, its host
 * offset and its clause. Not exported from the package.
 */
import { FormatError } from '@qcow2/spec';

/** Where a structure's first byte stands in the image file; errors add the field's offset to it. */
export interface FieldOrigin {
  readonly hostOffset: number;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A big-endian u64 as a number; NaN where it lies beyond 2^53 - 1. */
export function peekU64(view: DataView, at: number): number {
  const high = view.getUint32(at);
  return high > 0x1fffff ? Number.NaN : high * 0x1_0000_0000 + view.getUint32(at + 4);
}

/** @throws FormatError OFFSET_TOO_LARGE beyond 2^53 - 1. */
export function readU64(
  view: DataView,
  at: number,
  field: string,
  clause: string,
  origin: FieldOrigin,
): number {
  const value = peekU64(view, at);
  if (Number.isNaN(value)) {
    throw new FormatError('OFFSET_TOO_LARGE', 'the value is beyond 2^53 - 1', {
      field,
      clause,
      hostOffset: origin.hostOffset + at,
      value: view.getBigUint64(at),
    });
  }
  return value;
}

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x1_0000_0000));
  view.setUint32(at + 4, value >>> 0);
}

export function badField(
  field: string,
  value: number | bigint,
  clause: string,
  origin: FieldOrigin,
  at: number,
  why: string,
): FormatError {
  return new FormatError('BAD_FIELD', why, { field, value, clause, hostOffset: origin.hostOffset + at });
}

export function truncated(
  what: string,
  neededBytes: number,
  clause: string,
  origin: FieldOrigin,
): FormatError {
  return new FormatError('TRUNCATED', `${what} ends before its ${neededBytes} bytes`, {
    clause,
    hostOffset: origin.hostOffset,
    lengthBytes: neededBytes,
  });
}

/** @throws FormatError RESERVED_SET where one of the bytes [from, to) is not zero. */
export function checkReserved(
  bytes: Uint8Array,
  from: number,
  to: number,
  clause: string,
  origin: FieldOrigin,
): void {
  for (let at = from; at < to; at++) {
    if (bytes[at] !== 0) {
      throw new FormatError('RESERVED_SET', 'reserved bytes are not zero', {
        clause,
        hostOffset: origin.hostOffset + at,
        value: bytes[at],
      });
    }
  }
}

/** True where [offset, offset + length) stays within 2^53 - 1. */
export function isSafeRange(offset: number, lengthBytes: number): boolean {
  return offset >= 0 && lengthBytes >= 0 && offset + lengthBytes <= Number.MAX_SAFE_INTEGER;
}

export const roundUp8 = (value: number): number => Math.ceil(value / 8) * 8;
