/** Refcount table and blocks: docs/specs/qcow2/SPEC.md, "Refcounts". */
import { defineBits } from '../layout.ts';

export const refcountTableEntryBits = defineBits({
  name: 'refcount-table-entry',
  document: 'qcow2',
  clause: 'RCT-002',
  widthBits: 64,
  bits: [
    { name: 'reservedLow', bit: 0, width: 9, reserved: 'must-be-zero', clause: 'RCT-003' },
    { name: 'refcountBlockOffset', bit: 9, width: 55, clause: 'RCT-004' },
  ],
});

/** Sizes that refcount structures are made of, and the order that version 2 implies. */
export const refcountSizes = {
  refcountTableEntryBytes: 8,
  version2RefcountOrder: 4,
  maxRefcountOrder: 6,
} as const;
