/**
 * Masks out of bit layouts, as pairs of 32-bit words: the accessors of table entries read two words and
 * never make a bigint. Computed once when a module loads.
 */
import { type BitField, type BitLayout, InvariantError, type ReservedRule } from '@qcow2/spec';

/** The two halves of a 64-bit big-endian entry; both unsigned. */
export interface WordMask {
  readonly high: number;
  readonly low: number;
}

/** Mask of the named fields of a layout. @throws InvariantError for a name that the layout lacks */
export function bitMask(layout: BitLayout, ...names: readonly string[]): bigint {
  let mask = 0n;
  for (const name of names) {
    const field = layout.bits.find((candidate) => candidate.name === name);
    if (field === undefined)
      throw new InvariantError(`${layout.name} has no bits of that name`, { field: name });
    mask |= fieldMask(field);
  }
  return mask;
}

/** Mask of all bits that stand under a reserved rule. */
export function reservedMask(layout: BitLayout, rule: ReservedRule = 'must-be-zero'): bigint {
  return layout.bits.reduce((mask, field) => (field.reserved === rule ? mask | fieldMask(field) : mask), 0n);
}

/** The mask as two words. */
export function wordMask(mask: bigint): WordMask {
  return { high: Number(mask >> 32n), low: Number(mask & 0xffffffffn) };
}

function fieldMask(field: BitField): bigint {
  return ((1n << BigInt(field.width)) - 1n) << BigInt(field.bit);
}
