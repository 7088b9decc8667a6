/** Bitmap directory and bitmap tables: docs/specs/qcow2/SPEC.md, "Bitmaps". */
import { defineBits, defineLayout } from '../layout.ts';

/** Head of a directory entry; then extra data, name, and zero padding to a multiple of 8. */
export const bitmapHeadLayout = defineLayout({
  name: 'bitmap-head',
  document: 'qcow2',
  clause: 'BMD-001',
  sizeBytes: 24,
  fields: [
    { name: 'tableOffset', at: 0, type: 'u64', multipleOf: 'cluster', clause: 'BMD-002' },
    { name: 'tableEntries', at: 8, type: 'u32', clause: 'BMD-003' },
    { name: 'flags', at: 12, type: 'u32', clause: 'BMD-004' },
    { name: 'type', at: 16, type: 'u8', oneOf: [1], clause: 'BMD-009' },
    { name: 'granularityBits', at: 17, type: 'u8', min: 0, max: 63, clause: 'BMD-010' },
    { name: 'nameLengthBytes', at: 18, type: 'u16', min: 1, max: 1023, clause: 'BMD-011' },
    { name: 'extraDataLengthBytes', at: 20, type: 'u32', clause: 'BMD-012' },
  ],
});

export const bitmapFlagBits = defineBits({
  name: 'bitmap-flags',
  document: 'qcow2',
  clause: 'BMD-004',
  widthBits: 32,
  bits: [
    { name: 'inUse', bit: 0, width: 1, clause: 'BMD-005' },
    { name: 'auto', bit: 1, width: 1, clause: 'BMD-006' },
    { name: 'extraDataCompatible', bit: 2, width: 1, clause: 'BMD-007' },
    { name: 'reserved', bit: 3, width: 29, reserved: 'must-be-zero', clause: 'BMD-008' },
  ],
});

export const bitmapTableEntryBits = defineBits({
  name: 'bitmap-table-entry',
  document: 'qcow2',
  clause: 'BMT-001',
  widthBits: 64,
  bits: [
    { name: 'allOnes', bit: 0, width: 1, clause: 'BMT-002' },
    { name: 'reservedLow', bit: 1, width: 8, reserved: 'must-be-zero', clause: 'BMT-003' },
    { name: 'hostClusterOffset', bit: 9, width: 47, clause: 'BMT-004' },
    { name: 'reservedHigh', bit: 56, width: 8, reserved: 'must-be-zero', clause: 'BMT-003' },
  ],
});

/** Values of a directory entry's `type`. */
export const bitmapTypes = { dirtyTracking: 1 } as const;

/** Masks of a directory entry's `flags`. */
export const bitmapFlags = { inUse: 1, auto: 2, extraDataCompatible: 4 } as const;
