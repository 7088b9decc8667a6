/**
 * From a layout (data, in `@qcow2/spec`) come its decoder, encoder and validator.
 *
 * Invariants:
 * - A layout tiles its bytes: fields in order, without gap or overlap, up to `sizeBytes`. Compiling one
 *   that does not is our bug and throws at once, not at the first image that meets it.
 * - decode and encode apply the same rules: what decode refuses, encode refuses to make.
 * - A refusal names the field, its clause, the value and the absolute host offset of the field.
 *
 * For structures that are read now and then (headers, records, directory entries). Tables with
 * millions of entries have accessors of their own, see `l2-entry.ts`.
 */
import { type Decoded, type Field, FormatError, InvariantError, type Layout } from '@qcow2/spec';

export interface LayoutOptions {
  /** Position in the bytes at which the structure begins. Default 0. */
  readonly at?: number | undefined;
  /** Host offset of the first byte of the buffer (not of the structure): errors name absolute offsets. Default 0. */
  readonly hostOffset?: number | undefined;
  /** Cluster size in bytes: fields that must be a multiple of it are checked where it is given. */
  readonly clusterBytes?: number | undefined;
  /** Format version: fields of later versions read as zero and are not written. Default: all are present. */
  readonly version?: number | undefined;
  /** Position in the bytes at which the structure ends: optional fields beyond it are absent. Default: the end of the bytes. */
  readonly endsAt?: number | undefined;
}

export interface LayoutCodec<L extends Layout> {
  readonly layout: L;
  /**
   * Bytes to value. Byte strings are copied, so the buffer may be reused at once.
   *
   * @throws FormatError TRUNCATED, BAD_MAGIC, BAD_FIELD, BAD_ALIGNMENT, RESERVED_SET, OFFSET_TOO_LARGE
   */
  decode(bytes: Uint8Array, options?: LayoutOptions): Decoded<L>;
  /**
   * Value to bytes, into `into` (at `options.at`) or a new array of the layout's size; reserved fields
   * become zero. Returns the array written to. Nothing is written unless the whole value is valid.
   *
   * @throws FormatError as decode; TRUNCATED where `into` is too short
   */
  encode(value: Decoded<L>, into?: Uint8Array, options?: LayoutOptions): Uint8Array;
  /** The checks of decode, on a value. @throws FormatError as decode */
  validate(value: Decoded<L>, options?: LayoutOptions): void;
}

type FieldValue = number | bigint | Uint8Array | undefined;
type Values = Record<string, FieldValue>;

const widths = { u8: 1, u16: 2, u32: 4, u64: 8, mask64: 8 } as const;
const integerMax = { u8: 0xff, u16: 0xffff, u32: 0xffffffff, u64: Number.MAX_SAFE_INTEGER } as const;
const mask64Max = (1n << 64n) - 1n;
const noOptions: LayoutOptions = {};

/** Bytes that a field takes. */
export function fieldBytes(field: Field): number {
  return field.type === 'bytes' ? (field.lengthBytes ?? 0) : widths[field.type];
}

/** Compile a layout. @throws InvariantError where the layout does not tile its bytes */
export function compileLayout<const L extends Layout>(layout: L): LayoutCodec<L> {
  assertTiled(layout);
  const fields: readonly Field[] = layout.fields;

  const decode = (bytes: Uint8Array, options: LayoutOptions = noOptions): Decoded<L> => {
    const at = options.at ?? 0;
    const endsAt = Math.min(options.endsAt ?? bytes.length, bytes.length);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const values: Values = {};
    for (const field of fields) {
      const hidden = field.reserved === 'must-be-zero' || field.reserved === 'ignored';
      const value = readField(field, view, bytes, at, endsAt, options);
      if (value !== undefined) checkField(field, value, options);
      if (!hidden) values[field.name] = value;
    }
    return values as Decoded<L>;
  };

  const validate = (value: Decoded<L>, options: LayoutOptions = noOptions): void => {
    for (const field of fields) checkPresent(field, value as Values, options);
  };

  const encode = (value: Decoded<L>, into?: Uint8Array, options: LayoutOptions = noOptions): Uint8Array => {
    validate(value, options);
    const at = options.at ?? 0;
    const bytes = into ?? new Uint8Array(at + layout.sizeBytes);
    const endsAt = Math.min(options.endsAt ?? bytes.length, bytes.length);
    for (const field of fields) {
      if (isWritten(field, value as Values, options) && at + field.at + fieldBytes(field) > endsAt) {
        throw truncated(field, options);
      }
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (const field of fields) {
      if (!isWritten(field, value as Values, options)) continue;
      writeField(field, view, bytes, at + field.at, (value as Values)[field.name]);
    }
    return bytes;
  };

  return { layout, decode, encode, validate };
}

function assertTiled(layout: Layout): void {
  let next = 0;
  for (const field of layout.fields) {
    if (field.at !== next) {
      throw new InvariantError(`layout ${layout.name} has a gap or an overlap`, { field: field.name });
    }
    next += fieldBytes(field);
  }
  if (next !== layout.sizeBytes) throw new InvariantError(`layout ${layout.name} does not fill its size`);
}

/** Absent by version: the field reads as zero, and as undefined where it is optional in any case. */
function isAbsent(field: Field, options: LayoutOptions): boolean {
  return (
    field.sinceVersion !== undefined && options.version !== undefined && options.version < field.sinceVersion
  );
}

function isWritten(field: Field, values: Values, options: LayoutOptions): boolean {
  if (isAbsent(field, options)) return false;
  return !(field.optional === true && values[field.name] === undefined);
}

function readField(
  field: Field,
  view: DataView,
  bytes: Uint8Array,
  at: number,
  endsAt: number,
  options: LayoutOptions,
): FieldValue {
  if (isAbsent(field, options)) return field.optional === true ? undefined : zeroOf(field);
  const position = at + field.at;
  const end = position + fieldBytes(field);
  if (end > endsAt) {
    if (field.optional === true) return undefined;
    throw truncated(field, options);
  }
  switch (field.type) {
    case 'u8':
      return view.getUint8(position);
    case 'u16':
      return view.getUint16(position);
    case 'u32':
      return view.getUint32(position);
    case 'u64':
      return readU64(field, view, position, options);
    case 'mask64':
      return view.getBigUint64(position);
    case 'bytes':
      return bytes.slice(position, end);
  }
}

function zeroOf(field: Field): FieldValue {
  if (field.type === 'mask64') return 0n;
  return field.type === 'bytes' ? new Uint8Array(fieldBytes(field)) : 0;
}

function readU64(field: Field, view: DataView, position: number, options: LayoutOptions): number {
  const high = view.getUint32(position);
  if (high > 0x1fffff) {
    const value = view.getBigUint64(position);
    throw new FormatError('OFFSET_TOO_LARGE', 'beyond 2^53 - 1', { ...where(field, options), value });
  }
  return high * 0x100000000 + view.getUint32(position + 4);
}

function writeField(
  field: Field,
  view: DataView,
  bytes: Uint8Array,
  position: number,
  value: FieldValue,
): void {
  if (field.reserved === 'must-be-zero' || field.reserved === 'ignored' || value === undefined) {
    bytes.fill(0, position, position + fieldBytes(field));
  } else if (typeof value === 'bigint') {
    view.setBigUint64(position, value);
  } else if (typeof value !== 'number') {
    bytes.set(value, position);
  } else if (field.type === 'u8') {
    view.setUint8(position, value);
  } else if (field.type === 'u16') {
    view.setUint16(position, value);
  } else if (field.type === 'u32') {
    view.setUint32(position, value);
  } else {
    view.setUint32(position, Math.floor(value / 0x100000000));
    view.setUint32(position + 4, value >>> 0);
  }
}

/** A value to be encoded may lack what is reserved, optional, or of a later version. */
function checkPresent(field: Field, values: Values, options: LayoutOptions): void {
  if (field.reserved === 'must-be-zero' || field.reserved === 'ignored') return;
  if (isAbsent(field, options)) return;
  const value = values[field.name];
  if (value === undefined) {
    if (field.optional === true) return;
    throw new FormatError('BAD_FIELD', 'the field is missing', where(field, options));
  }
  checkField(field, value, options);
}

function checkField(field: Field, value: number | bigint | Uint8Array, options: LayoutOptions): void {
  if (field.reserved === 'ignored' || isAbsent(field, options)) return;
  if (typeof value === 'number') checkNumber(field, value, options);
  else if (typeof value === 'bigint') checkMask(field, value, options);
  else checkBytes(field, value, options);
}

function checkNumber(field: Field, value: number, options: LayoutOptions): void {
  const fault = numberFault(field, value, options);
  if (fault === undefined) return;
  throw new FormatError(fault.code, fault.message, { ...where(field, options), value });
}

interface Fault {
  readonly code: 'BAD_MAGIC' | 'BAD_FIELD' | 'BAD_ALIGNMENT' | 'RESERVED_SET';
  readonly message: string;
}

function numberFault(field: Field, value: number, options: LayoutOptions): Fault | undefined {
  const { type, min, max, oneOf } = field;
  if (type === 'bytes' || type === 'mask64' || !isUnsigned(value, integerMax[type])) {
    return { code: 'BAD_FIELD', message: `not a ${type}` };
  }
  if (field.reserved === 'must-be-zero' && value !== 0) {
    return { code: 'RESERVED_SET', message: 'reserved bytes are not zero' };
  }
  if (oneOf !== undefined && !oneOf.includes(value)) {
    const code = field.name === 'magic' ? 'BAD_MAGIC' : 'BAD_FIELD';
    return { code, message: 'not one of the values defined' };
  }
  if (min !== undefined && value < min) return { code: 'BAD_FIELD', message: `below ${min}` };
  if (max !== undefined && value > max) return { code: 'BAD_FIELD', message: `above ${max}` };
  const unit = field.multipleOf === 'cluster' ? options.clusterBytes : field.multipleOf;
  if (unit !== undefined && value % unit !== 0) {
    return { code: 'BAD_ALIGNMENT', message: `not a multiple of ${unit}` };
  }
  return undefined;
}

function isUnsigned(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}

function checkMask(field: Field, value: bigint, options: LayoutOptions): void {
  if (field.type !== 'mask64' || value < 0n || value > mask64Max) {
    throw new FormatError('BAD_FIELD', `not a ${field.type}`, { ...where(field, options), value });
  }
  if (field.reserved === 'must-be-zero' && value !== 0n) {
    throw new FormatError('RESERVED_SET', 'reserved bits are not zero', { ...where(field, options), value });
  }
}

function checkBytes(field: Field, value: Uint8Array, options: LayoutOptions): void {
  if (field.type !== 'bytes' || value.length !== fieldBytes(field)) {
    throw new FormatError('BAD_FIELD', `not ${fieldBytes(field)} bytes`, where(field, options));
  }
  if (field.reserved === 'must-be-zero' && value.some((byte) => byte !== 0)) {
    throw new FormatError('RESERVED_SET', 'reserved bytes are not zero', where(field, options));
  }
}

function where(field: Field, options: LayoutOptions) {
  return {
    hostOffset: (options.hostOffset ?? 0) + (options.at ?? 0) + field.at,
    field: field.name,
    clause: field.clause,
  };
}

function truncated(field: Field, options: LayoutOptions): FormatError {
  return new FormatError('TRUNCATED', 'the structure ends before this field does', where(field, options));
}
