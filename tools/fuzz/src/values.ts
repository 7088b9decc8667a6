/**
 * Values for fields of a layout: the borders of their ranges and of their types, their neighbours, what other
 * fields of the image hold, and now and then anything. `put` writes as many bytes as the field has, whatever the
 * layout says of the value: making it wrong is the point.
 */
import type { Field, Layout } from '@qcow2/spec';
import type { Random } from './random.ts';

const widths = { u8: 1, u16: 2, u32: 4, u64: 8, mask64: 8 } as const;

/** Bytes that a field takes. */
export function fieldWidth(field: Field): number {
  return field.type === 'bytes' ? (field.lengthBytes ?? 0) : widths[field.type];
}

function getBig(bytes: Uint8Array, at: number, width: number): bigint {
  let value = 0n;
  for (let index = 0; index < width; index++) value = (value << 8n) | BigInt(bytes[at + index] ?? 0);
  return value;
}

/** Big-endian, as many bytes as `width`; what does not fit is cut off. */
export function put(bytes: Uint8Array, at: number, width: number, value: bigint): void {
  let rest = value;
  for (let index = width - 1; index >= 0; index--) {
    if (at + index < bytes.length) bytes[at + index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
}

/**
 * A value for an integer of `width` bytes that holds `current`.
 * @param hints numbers that mean something in this image: sizes, offsets, counts
 */
export function drawValue(
  current: bigint,
  width: number,
  random: Random,
  hints: readonly number[],
  field?: Field,
): bigint {
  const most = (1n << BigInt(width * 8)) - 1n;
  switch (random.below(12)) {
    case 0:
      return random.pick([0n, 1n, 2n, 7n, 8n, 9n]);
    case 1:
      return random.pick([most, most - 1n, most >> 1n, (most >> 1n) + 1n]);
    case 2:
      return 1n << BigInt(random.below(width * 8));
    case 3:
      return (1n << BigInt(random.below(width * 8))) - 1n;
    case 4:
      return current + random.pick([1n, -1n, 8n, -8n, 512n, -512n, 4096n, 65536n]);
    case 5:
      return current ^ (1n << BigInt(random.below(width * 8)));
    case 6:
      return random.pick([current * 2n, current >> 1n, -current]);
    case 7:
      return border(field, random) ?? most;
    case 8:
      return random.pick([
        (1n << 53n) - 1n,
        1n << 53n,
        (1n << 53n) - 512n,
        1n << 56n,
        1n << 32n,
        (1n << 32n) - 1n,
      ]);
    case 9:
      return BigInt(random.next());
    default:
      return hints.length === 0
        ? BigInt(random.below(4096))
        : BigInt(Math.floor(random.pick(hints))) + random.pick([0n, 0n, 1n, -1n, 512n, -512n]);
  }
}

function border(field: Field | undefined, random: Random): bigint | undefined {
  const values: number[] = [];
  for (const value of field?.oneOf ?? []) values.push(value, value + 1);
  if (field?.min !== undefined) values.push(field.min, field.min - 1);
  if (field?.max !== undefined) values.push(field.max, field.max + 1);
  return values.length === 0 ? undefined : BigInt(random.pick(values));
}

/** Give one field of a structure at `at` another value. */
export function mutateField(
  bytes: Uint8Array,
  at: number,
  layout: Layout,
  random: Random,
  hints: readonly number[],
): void {
  const field = random.pick(layout.fields);
  if (field.type === 'bytes') {
    const index = at + field.at + random.below(fieldWidth(field));
    if (index < bytes.length) bytes[index] = (bytes[index] ?? 0) ^ (1 << random.below(8));
    return;
  }
  mutateInteger(bytes, at + field.at, fieldWidth(field), random, hints, field);
}

/** Give the integer of `width` bytes at `at` another value. */
export function mutateInteger(
  bytes: Uint8Array,
  at: number,
  width: number,
  random: Random,
  hints: readonly number[],
  field?: Field,
): void {
  put(bytes, at, width, drawValue(getBig(bytes, at, width), width, random, hints, field));
}

/** Damage that knows of no structure: a bit, a byte, a run of one byte. */
export function mutateBytes(bytes: Uint8Array, random: Random): void {
  const at = random.below(bytes.length);
  switch (random.below(3)) {
    case 0:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      break;
    case 1:
      bytes[at] = random.below(256);
      break;
    default:
      bytes.fill(random.pick([0, 0xff, random.below(256)]), at, at + 1 + random.below(64));
  }
}
