/**
 * Layouts and numbers of the profile draft-2013: docs/specs/journal/SPEC.md, section 13.
 */
import { defineLayout } from '../layout.ts';

export const draftJournal = {
  /** Bit of incompatible_features; today's "external data file". */
  dirtyBit: 2,
  /** Bit of autoclear_features; today's "bitmaps". */
  validBit: 0,
  /** Bit of autoclear_features that stands in for it in clean images: v1's "journal valid". */
  sealBit: 63,
  journalOffsetAt: 104,
  minHeaderLengthBytes: 112,
  minBlockSizeOrder: 9,
  maxBlockSizeOrder: 21,
  /** Where a writer puts the first descriptor of a block. */
  descriptorsOffset: 24,
  noOp: 0,
  writeData: 1,
  copyData: 2,
  revoke: 3,
  dedupInsert: 4,
  dedupDelete: 5,
} as const;

/** The fixed part of block 0; the checksum covers the whole block. */
export const draftJournalHeaderLayout = defineLayout({
  name: 'draft-journal-header',
  document: 'journal',
  clause: 'JD13-HDR-001',
  sizeBytes: 512,
  fields: [
    { name: 'magic', at: 0, type: 'bytes', lengthBytes: 8, clause: 'JD13-HDR-002' },
    { name: 'journalLengthBytes', at: 8, type: 'u32', min: 1024, clause: 'JD13-HDR-003' },
    { name: 'blockSizeOrder', at: 12, type: 'u32', min: 9, max: 21, clause: 'JD13-HDR-004' },
    { name: 'syncedIndex', at: 16, type: 'u32', clause: 'JD13-HDR-005' },
    { name: 'syncedSequence', at: 20, type: 'u32', clause: 'JD13-HDR-006' },
    { name: 'committedSequence', at: 24, type: 'u32', clause: 'JD13-HDR-007' },
    { name: 'checksum', at: 28, type: 'u32', clause: 'JD13-HDR-008' },
    {
      name: 'reserved',
      at: 32,
      type: 'bytes',
      lengthBytes: 480,
      reserved: 'must-be-zero',
      clause: 'JD13-HDR-009',
    },
  ],
});

export const draftDescriptorBlockLayout = defineLayout({
  name: 'draft-descriptor-block',
  document: 'journal',
  clause: 'JD13-BLK-001',
  sizeBytes: 24,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x716a626b], clause: 'JD13-BLK-001' },
    { name: 'checksum', at: 4, type: 'u32', clause: 'JD13-BLK-002' },
    { name: 'sequence', at: 8, type: 'u32', clause: 'JD13-BLK-003' },
    { name: 'descriptorsOffset', at: 12, type: 'u32', min: 24, clause: 'JD13-BLK-004' },
    { name: 'descriptorsLengthBytes', at: 16, type: 'u32', clause: 'JD13-BLK-005' },
    { name: 'dataBlockCount', at: 20, type: 'u32', clause: 'JD13-BLK-006' },
  ],
});

export const draftDescriptorHeadLayout = defineLayout({
  name: 'draft-descriptor-head',
  document: 'journal',
  clause: 'JD13-DESC-001',
  sizeBytes: 4,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', clause: 'JD13-DESC-001' },
    { name: 'descriptorSizeBytes', at: 2, type: 'u16', min: 4, clause: 'JD13-DESC-001' },
  ],
});

/** One repetition of a write-data descriptor. */
export const draftWriteChunkLayout = defineLayout({
  name: 'draft-write-chunk',
  document: 'journal',
  clause: 'JD13-DESC-004',
  sizeBytes: 16,
  fields: [
    { name: 'lengthBytes', at: 0, type: 'u32', clause: 'JD13-DESC-004' },
    { name: 'hostOffset', at: 4, type: 'u64', clause: 'JD13-DESC-004' },
    { name: 'journalBlockIndex', at: 12, type: 'u32', min: 1, clause: 'JD13-DESC-005' },
  ],
});

/** One repetition of a copy-data descriptor. */
export const draftCopyChunkLayout = defineLayout({
  name: 'draft-copy-chunk',
  document: 'journal',
  clause: 'JD13-DESC-006',
  sizeBytes: 20,
  fields: [
    { name: 'lengthBytes', at: 0, type: 'u32', clause: 'JD13-DESC-006' },
    { name: 'targetHostOffset', at: 4, type: 'u64', clause: 'JD13-DESC-006' },
    { name: 'sourceHostOffset', at: 12, type: 'u64', clause: 'JD13-DESC-006' },
  ],
});

/** One repetition of a revoke descriptor. */
export const draftRevokeRangeLayout = defineLayout({
  name: 'draft-revoke-range',
  document: 'journal',
  clause: 'JD13-DESC-007',
  sizeBytes: 12,
  fields: [
    { name: 'lengthBytes', at: 0, type: 'u32', clause: 'JD13-DESC-007' },
    { name: 'hostOffset', at: 4, type: 'u64', clause: 'JD13-DESC-007' },
  ],
});
