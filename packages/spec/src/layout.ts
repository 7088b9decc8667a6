/**
 * The layout language: fixed-shape structures as data. From a layout come the type of the decoded
 * value, the encoder, decoder and validator (in `@qcow2/codec`), the truncation and bit-flip cases of
 * the tests, the dump of the command, and the comparison with the tables of docs/specs.
 *
 * The language is kept small (ADR 3): big-endian integers, byte strings, reserved runs and bit fields
 * at fixed places. What has a width or a count that depends on another field (a refcount entry, a
 * snapshot's name) is written by hand behind the same face.
 */

/** Storage type of a field. `mask64` decodes to bigint; `u64` to number, refused above 2^53 - 1. */
export type FieldType = 'u8' | 'u16' | 'u32' | 'u64' | 'mask64' | 'bytes';

/** What a reader does about reserved bytes that are not zero. */
export type ReservedRule =
  /** a FormatError */
  | 'must-be-zero'
  /** ignored by readers, written as zero */
  | 'ignored'
  /** kept as they are when the structure is rewritten */
  | 'preserved';

export interface Field {
  readonly name: string;
  /** Byte offset from the start of the structure. */
  readonly at: number;
  readonly type: FieldType;
  /** For `bytes`: how many. */
  readonly lengthBytes?: number;
  /** Clause id in docs/specs that defines the field. */
  readonly clause: string;
  /** The field is present only in headers of this version and up. */
  readonly sinceVersion?: number;
  /** The field is present only where the structure reaches its end (headers that may be longer or shorter). */
  readonly optional?: boolean;
  readonly min?: number;
  readonly max?: number;
  readonly oneOf?: readonly number[];
  /** `cluster`: a multiple of the cluster size (checked where the caller says what that is). */
  readonly multipleOf?: number | 'cluster';
  readonly reserved?: ReservedRule;
}

export interface Layout {
  readonly name: string;
  /** Which specification document holds the table. */
  readonly document: 'qcow2' | 'journal' | 'luks';
  readonly clause: string;
  /** Bytes that the fixed part takes. */
  readonly sizeBytes: number;
  readonly fields: readonly Field[];
}

/** A bit field of an integer entry (L1, L2, refcount table, feature masks). Bit 0 is the least significant. */
export interface BitField {
  readonly name: string;
  readonly bit: number;
  readonly width: number;
  readonly clause: string;
  readonly reserved?: ReservedRule;
}

export interface BitLayout {
  readonly name: string;
  readonly document: 'qcow2' | 'journal' | 'luks';
  readonly clause: string;
  readonly widthBits: 8 | 16 | 32 | 64;
  readonly bits: readonly BitField[];
}

type FieldValue<F extends Field> = F['type'] extends 'mask64'
  ? bigint
  : F['type'] extends 'bytes'
    ? Uint8Array
    : number;

/** The value that a layout decodes to: one property per field that is not reserved. */
export type Decoded<L extends Layout> = {
  -readonly [F in L['fields'][number] as F extends { reserved: 'must-be-zero' | 'ignored' }
    ? never
    : F['name']]: FieldValue<F> | (F extends { optional: true } ? undefined : never);
};

/** Identity that keeps the literal types of a layout. */
export function defineLayout<const L extends Layout>(layout: L): L {
  return layout;
}

export function defineBits<const L extends BitLayout>(layout: L): L {
  return layout;
}
