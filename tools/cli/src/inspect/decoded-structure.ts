/**
 * A structure of an image with every field named: where it stands, what it holds, and the clause that says what that
 * means. Made from the layouts, which are data; so a field that a layout gains is shown without a line of code here.
 *
 * What breaks its clause is shown all the same, with what is wrong about it: to look at damaged images is what this is for.
 */
import { compileLayout, fieldBytes } from '@qcow2/codec';
import { type BitLayout, type Field, FormatError, type Layout } from '@qcow2/spec';
import { hexDigits } from '../journal-dump.ts';

export interface DecodedField {
  readonly name: string;
  readonly hostOffset: number;
  readonly lengthBytes: number;
  /** As it is stored: a number; a mask, or what no number holds exactly, as bigint; bytes as hexadecimal digits. */
  readonly value: number | bigint | string;
  /** The value in words, where there is more to say than the number. */
  readonly meaning?: string | undefined;
  /** In `docs/specs`. */
  readonly clause: string;
}

export interface DecodedStructure {
  /** What it is, as a person would say: `header`, `snapshot 2`. */
  readonly title: string;
  readonly hostOffset: number;
  readonly lengthBytes: number;
  readonly document: Layout['document'];
  readonly clause: string;
  readonly fields: readonly DecodedField[];
  /** What the decoder says against it. */
  readonly problem?: { readonly message: string; readonly clause?: string | undefined } | undefined;
}

/** Words for the values of some fields, by their names. */
export type Meanings = Readonly<Record<string, (value: number | bigint) => string | undefined>>;

export interface StructureOptions {
  readonly title: string;
  /** Where the structure begins in `bytes`. Default 0. */
  readonly at?: number | undefined;
  /** Host offset of the first of `bytes`. */
  readonly hostOffset: number;
  readonly version?: number | undefined;
  readonly clusterBytes?: number | undefined;
  /** Where it ends in `bytes`: fields beyond are absent. */
  readonly endsAt?: number | undefined;
  readonly meanings?: Meanings | undefined;
  /** Fields of variable length behind it, which no layout has. */
  readonly more?: readonly DecodedField[] | undefined;
}

/** Every field of a fixed structure, as far as `bytes` go. */
export function decodedStructure(
  layout: Layout,
  bytes: Uint8Array,
  options: StructureOptions,
): DecodedStructure {
  const { title, at = 0, hostOffset, version, meanings = {}, more = [] } = options;
  const endsAt = Math.min(options.endsAt ?? bytes.length, bytes.length);
  const present = layout.fields.filter(
    (field) => !(version !== undefined && version < (field.sinceVersion ?? 0)),
  );
  const fields = present
    .filter((field) => at + field.at + fieldBytes(field) <= endsAt)
    .map((field): DecodedField => {
      const value = storedValue(field, bytes, at + field.at);
      const meaning = typeof value === 'string' ? undefined : meanings[field.name]?.(value);
      const place = { hostOffset: hostOffset + at + field.at, lengthBytes: fieldBytes(field) };
      return { name: field.name, ...place, value, meaning, clause: field.clause };
    });
  const all = [...fields, ...more];
  const last = all.at(-1);
  const end = last === undefined ? hostOffset + at : last.hostOffset + last.lengthBytes;
  return {
    title,
    hostOffset: hostOffset + at,
    lengthBytes: end - hostOffset - at,
    document: layout.document,
    clause: layout.clause,
    fields: all,
    problem: problemOf(layout, bytes, options),
  };
}

/** A run of bytes as a field: text, or hexadecimal digits. */
export function bytesField(
  name: string,
  bytes: Uint8Array,
  place: { readonly hostOffset: number; readonly clause: string; readonly text?: string | undefined },
): DecodedField {
  const { hostOffset, clause, text } = place;
  return {
    name,
    hostOffset,
    lengthBytes: bytes.length,
    value: hexDigits(bytes),
    meaning: text === undefined ? undefined : JSON.stringify(text),
    clause,
  };
}

/** The names of the bits that are set, those without a name by their number. */
export function bitNames(layout: BitLayout): (value: number | bigint) => string | undefined {
  return (value) => {
    const names: string[] = [];
    for (let bit = 0; bit < layout.widthBits; bit++) {
      if (((BigInt(value) >> BigInt(bit)) & 1n) === 0n) continue;
      const named = layout.bits.find((one) => bit >= one.bit && bit < one.bit + one.width);
      names.push(
        named === undefined || named.width > 1 || named.reserved !== undefined ? `bit ${bit}` : named.name,
      );
    }
    return names.length === 0 ? undefined : names.join(', ');
  };
}

function storedValue(field: Field, bytes: Uint8Array, at: number): number | bigint | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  switch (field.type) {
    case 'u8':
      return view.getUint8(at);
    case 'u16':
      return view.getUint16(at);
    case 'u32':
      return view.getUint32(at);
    case 'u64':
      return exactly(view.getBigUint64(at));
    case 'mask64':
      return view.getBigUint64(at);
    case 'bytes':
      return hexDigits(bytes.subarray(at, at + fieldBytes(field)));
  }
}

/** A number, as long as it is one that is exact. */
function exactly(value: bigint): number | bigint {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

function problemOf(
  layout: Layout,
  bytes: Uint8Array,
  options: StructureOptions,
): DecodedStructure['problem'] {
  try {
    compileLayout(layout).decode(bytes, options);
    return undefined;
  } catch (error) {
    if (error instanceof FormatError) return { message: error.message, clause: error.context.clause };
    throw error;
  }
}
