/**
 * The image header, versions 2 and 3: docs/specs/qcow2/SPEC.md, "Header".
 *
 * A version 2 header ends at byte 72. A version 3 header has 104 bytes or more; what follows byte 104
 * is optional, and absent where `headerLengthBytes` does not reach it.
 */
import { defineLayout } from '../layout.ts';

/** Bytes of a version 2 header, which carries no length of its own. */
export const headerV2Bytes = 72;
/** Bytes of the part that every version 3 header has. */
export const headerV3MinBytes = 104;
/** First byte that this library has no name for: kept as it is when the header is rewritten. */
export const headerUnknownAt = 105;

/** ASCII `QFI` and 0xfb. */
export const qcow2Magic = 0x514649fb;

export const headerLayout = defineLayout({
  name: 'header',
  document: 'qcow2',
  clause: 'HDR-014',
  sizeBytes: 112,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x514649fb], clause: 'HDR-001' },
    { name: 'version', at: 4, type: 'u32', oneOf: [2, 3], clause: 'HDR-002' },
    { name: 'backingFileOffset', at: 8, type: 'u64', clause: 'HDR-003' },
    { name: 'backingFileLengthBytes', at: 16, type: 'u32', clause: 'HDR-004' },
    { name: 'clusterBits', at: 20, type: 'u32', min: 9, max: 21, clause: 'HDR-005' },
    { name: 'sizeBytes', at: 24, type: 'u64', clause: 'HDR-006' },
    { name: 'cryptMethod', at: 32, type: 'u32', oneOf: [0, 1, 2], clause: 'HDR-007' },
    { name: 'l1Entries', at: 36, type: 'u32', clause: 'HDR-008' },
    { name: 'l1Offset', at: 40, type: 'u64', multipleOf: 'cluster', clause: 'HDR-009' },
    { name: 'refcountTableOffset', at: 48, type: 'u64', multipleOf: 'cluster', clause: 'HDR-010' },
    { name: 'refcountTableClusters', at: 56, type: 'u32', clause: 'HDR-011' },
    { name: 'snapshotCount', at: 60, type: 'u32', clause: 'HDR-012' },
    { name: 'snapshotsOffset', at: 64, type: 'u64', multipleOf: 'cluster', clause: 'HDR-013' },
    { name: 'incompatibleFeatures', at: 72, type: 'mask64', sinceVersion: 3, clause: 'HDR-015' },
    { name: 'compatibleFeatures', at: 80, type: 'mask64', sinceVersion: 3, clause: 'HDR-016' },
    { name: 'autoclearFeatures', at: 88, type: 'mask64', sinceVersion: 3, clause: 'HDR-017' },
    { name: 'refcountOrder', at: 96, type: 'u32', sinceVersion: 3, min: 0, max: 6, clause: 'HDR-018' },
    {
      name: 'headerLengthBytes',
      at: 100,
      type: 'u32',
      sinceVersion: 3,
      min: 104,
      multipleOf: 8,
      clause: 'HDR-019',
    },
    { name: 'compressionType', at: 104, type: 'u8', sinceVersion: 3, optional: true, clause: 'HDR-020' },
    {
      name: 'unknownFields',
      at: 105,
      type: 'bytes',
      lengthBytes: 7,
      sinceVersion: 3,
      optional: true,
      reserved: 'preserved',
      clause: 'HDR-021',
    },
  ],
});

/** Values of the header's `cryptMethod`. */
export const cryptMethods = { none: 0, aes: 1, luks: 2 } as const;

/** Values of the header's `compressionType`. */
export const compressionTypes = { deflate: 0, zstd: 1 } as const;
