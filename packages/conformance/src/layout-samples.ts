/**
 * Valid values of a layout, out of its own rules: what a field may hold follows from its range, so that a
 * test of all layouts needs no list of examples that somebody has to keep.
 */
import type { Field, Layout } from '@qcow2/spec';

export type Values = Record<string, number | bigint | Uint8Array>;

/** Cluster size that the samples assume where a field is a multiple of it. */
export const sampleClusterBytes = 65536;

const widthBits = { u8: 8, u16: 16, u32: 32, u64: 53 } as const;

/**
 * A value with every field present and none outside its range.
 *
 * @param draw gives a number from 0 up to, not including, its argument; called in the order of the fields
 */
export function sampleValues(layout: Layout, draw: (below: number) => number): Values {
  const values: Values = {};
  for (const field of layout.fields) {
    if (field.reserved === 'must-be-zero' || field.reserved === 'ignored') continue;
    values[field.name] = sampleField(field, draw);
  }
  return values;
}

function sampleField(field: Field, draw: (below: number) => number): number | bigint | Uint8Array {
  switch (field.type) {
    case 'bytes':
      return Uint8Array.from({ length: field.lengthBytes ?? 0 }, () => draw(256));
    case 'mask64':
      return (BigInt(draw(2 ** 32)) << 32n) | BigInt(draw(2 ** 32));
    default:
      return sampleInteger(field, 2 ** widthBits[field.type] - 1, draw);
  }
}

function sampleInteger(field: Field, typeMax: number, draw: (below: number) => number): number {
  if (field.oneOf !== undefined) return field.oneOf[draw(field.oneOf.length)] ?? 0;
  const unit = field.multipleOf === 'cluster' ? sampleClusterBytes : (field.multipleOf ?? 1);
  const least = Math.ceil((field.min ?? 0) / unit);
  const most = Math.floor(Math.min(field.max ?? typeMax, typeMax) / unit);
  return (least + draw(most - least + 1)) * unit;
}
