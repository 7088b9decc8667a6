/** Header extensions: docs/specs/qcow2/SPEC.md, "Header extensions" and the sections of each. */
import { defineLayout } from '../layout.ts';

/** Extension types by name. Whatever else is met is kept as it is. */
export const headerExtensionTypes = {
  end: 0x00000000,
  backingFormat: 0xe2792aca,
  featureNameTable: 0x6803f857,
  bitmaps: 0x23852875,
  fullDiskEncryption: 0x0537be77,
  externalDataFile: 0x44415441,
  journal: 0x514a4e4c,
} as const;

/** Head of every extension; the data follows, padded to a multiple of 8. */
export const headerExtensionHeadLayout = defineLayout({
  name: 'header-extension-head',
  document: 'qcow2',
  clause: 'EXT-001',
  sizeBytes: 8,
  fields: [
    { name: 'type', at: 0, type: 'u32', clause: 'EXT-002' },
    { name: 'lengthBytes', at: 4, type: 'u32', clause: 'EXT-003' },
  ],
});

/** One row of the feature name table. */
export const featureNameLayout = defineLayout({
  name: 'feature-name',
  document: 'qcow2',
  clause: 'FNT-001',
  sizeBytes: 48,
  fields: [
    { name: 'type', at: 0, type: 'u8', oneOf: [0, 1, 2], clause: 'FNT-002' },
    { name: 'bit', at: 1, type: 'u8', min: 0, max: 63, clause: 'FNT-003' },
    { name: 'name', at: 2, type: 'bytes', lengthBytes: 46, clause: 'FNT-004' },
  ],
});

export const bitmapsExtensionLayout = defineLayout({
  name: 'bitmaps-extension',
  document: 'qcow2',
  clause: 'BMX-001',
  sizeBytes: 24,
  fields: [
    { name: 'bitmapCount', at: 0, type: 'u32', min: 1, max: 65535, clause: 'BMX-002' },
    { name: 'reserved', at: 4, type: 'u32', reserved: 'must-be-zero', clause: 'BMX-003' },
    { name: 'directoryLengthBytes', at: 8, type: 'u64', clause: 'BMX-004' },
    { name: 'directoryOffset', at: 16, type: 'u64', multipleOf: 'cluster', clause: 'BMX-005' },
  ],
});

export const encryptionHeaderPointerLayout = defineLayout({
  name: 'encryption-header-pointer',
  document: 'qcow2',
  clause: 'FDE-001',
  sizeBytes: 16,
  fields: [
    { name: 'headerOffset', at: 0, type: 'u64', multipleOf: 'cluster', clause: 'FDE-003' },
    { name: 'headerLengthBytes', at: 8, type: 'u64', clause: 'FDE-004' },
  ],
});
