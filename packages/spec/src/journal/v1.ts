/**
 * Layouts of journal v1: the header extension that binds journals to an image, the header slots of an
 * area, the record header, and the fixed part of every descriptor. docs/specs/journal/SPEC.md is the law.
 *
 * Offsets of a descriptor's fields count from the descriptor's first byte, its eight-byte head included.
 */
import { defineBits, defineLayout } from '../layout.ts';

export const journalExtensionLayout = defineLayout({
  name: 'journal-extension',
  document: 'journal',
  clause: 'JRN-BIND-001',
  sizeBytes: 8,
  fields: [
    { name: 'version', at: 0, type: 'u32', oneOf: [1], clause: 'JRN-BIND-002' },
    { name: 'journalCount', at: 4, type: 'u32', min: 1, max: 8, clause: 'JRN-BIND-003' },
  ],
});

export const journalExtensionEntryLayout = defineLayout({
  name: 'journal-extension-entry',
  document: 'journal',
  clause: 'JRN-BIND-004',
  sizeBytes: 24,
  fields: [
    { name: 'kind', at: 0, type: 'u32', oneOf: [1, 2], clause: 'JRN-BIND-005' },
    { name: 'flags', at: 4, type: 'u32', oneOf: [0], clause: 'JRN-BIND-006' },
    { name: 'hostOffset', at: 8, type: 'u64', multipleOf: 'cluster', clause: 'JRN-BIND-007' },
    {
      name: 'lengthBytes',
      at: 16,
      type: 'u64',
      min: 0x10000,
      max: 0x40000000,
      multipleOf: 'cluster',
      clause: 'JRN-BIND-008',
    },
  ],
});

export const journalSlotLayout = defineLayout({
  name: 'journal-slot',
  document: 'journal',
  clause: 'JRN-SLOT-001',
  sizeBytes: 512,
  fields: [
    { name: 'magic', at: 0, type: 'bytes', lengthBytes: 8, clause: 'JRN-SLOT-002' },
    { name: 'version', at: 8, type: 'u32', oneOf: [1], clause: 'JRN-SLOT-003' },
    { name: 'blockSizeOrder', at: 12, type: 'u32', min: 9, max: 21, clause: 'JRN-SLOT-004' },
    { name: 'generation', at: 16, type: 'u64', clause: 'JRN-SLOT-005' },
    { name: 'journalId', at: 24, type: 'mask64', clause: 'JRN-SLOT-006' },
    { name: 'areaHostOffset', at: 32, type: 'u64', clause: 'JRN-SLOT-007' },
    { name: 'areaLengthBytes', at: 40, type: 'u64', min: 0x10000, max: 0x40000000, clause: 'JRN-SLOT-008' },
    { name: 'tailPosition', at: 48, type: 'u64', clause: 'JRN-SLOT-009' },
    { name: 'tailSequence', at: 56, type: 'u64', min: 1, clause: 'JRN-SLOT-010' },
    { name: 'tailSalt', at: 64, type: 'mask64', clause: 'JRN-SLOT-011' },
    { name: 'tailChain', at: 72, type: 'u32', clause: 'JRN-SLOT-012' },
    { name: 'flags', at: 76, type: 'u32', oneOf: [0], clause: 'JRN-SLOT-013' },
    { name: 'durableSequence', at: 80, type: 'u64', clause: 'JRN-SLOT-014' },
    {
      name: 'reserved',
      at: 88,
      type: 'bytes',
      lengthBytes: 420,
      reserved: 'must-be-zero',
      clause: 'JRN-SLOT-015',
    },
    { name: 'crc', at: 508, type: 'u32', clause: 'JRN-SLOT-016' },
  ],
});

export const journalRecordHeaderLayout = defineLayout({
  name: 'journal-record-header',
  document: 'journal',
  clause: 'JRN-REC-001',
  sizeBytes: 80,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x716a7231], clause: 'JRN-REC-002' },
    { name: 'crc', at: 4, type: 'u32', clause: 'JRN-REC-003' },
    { name: 'sequence', at: 8, type: 'u64', min: 1, clause: 'JRN-REC-004' },
    { name: 'journalId', at: 16, type: 'mask64', clause: 'JRN-REC-005' },
    { name: 'salt', at: 24, type: 'mask64', clause: 'JRN-REC-006' },
    { name: 'position', at: 32, type: 'u64', clause: 'JRN-REC-007' },
    { name: 'lengthBlocks', at: 40, type: 'u32', min: 1, clause: 'JRN-REC-008' },
    { name: 'chain', at: 44, type: 'u32', clause: 'JRN-REC-009' },
    { name: 'durableThrough', at: 48, type: 'u64', clause: 'JRN-REC-010' },
    { name: 'descriptorsLengthBytes', at: 56, type: 'u32', multipleOf: 8, clause: 'JRN-REC-011' },
    { name: 'payloadLengthBytes', at: 60, type: 'u32', clause: 'JRN-REC-012' },
    { name: 'payloadOffset', at: 64, type: 'u32', min: 80, multipleOf: 8, clause: 'JRN-REC-013' },
    { name: 'firstDescriptorOffset', at: 68, type: 'u16', min: 80, multipleOf: 8, clause: 'JRN-REC-014' },
    { name: 'flags', at: 70, type: 'u16', oneOf: [0, 1], clause: 'JRN-REC-015' },
    {
      name: 'reserved',
      at: 72,
      type: 'bytes',
      lengthBytes: 8,
      reserved: 'must-be-zero',
      clause: 'JRN-REC-016',
    },
  ],
});

export const journalRecordFlagBits = defineBits({
  name: 'journal-record-flags',
  document: 'journal',
  clause: 'JRN-REC-015',
  widthBits: 16,
  bits: [
    { name: 'life', bit: 0, width: 1, clause: 'JRN-REC-015' },
    { name: 'reserved', bit: 1, width: 15, reserved: 'must-be-zero', clause: 'JRN-REC-015' },
  ],
});

export const journalDescriptorHeadLayout = defineLayout({
  name: 'journal-descriptor-head',
  document: 'journal',
  clause: 'JRN-DESC-001',
  sizeBytes: 8,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', clause: 'JRN-DESC-002' },
    { name: 'paddingBytes', at: 2, type: 'u16', max: 7, clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', min: 8, multipleOf: 8, clause: 'JRN-DESC-004' },
  ],
});

export const journalWritePayloadLayout = defineLayout({
  name: 'journal-write-payload',
  document: 'journal',
  clause: 'JRN-DESC-021',
  sizeBytes: 24,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [1], clause: 'JRN-DESC-021' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [24], clause: 'JRN-DESC-021' },
    { name: 'hostOffset', at: 8, type: 'u64', clause: 'JRN-DESC-021' },
    { name: 'lengthBytes', at: 16, type: 'u32', min: 1, clause: 'JRN-DESC-011' },
    { name: 'payloadOffset', at: 20, type: 'u32', clause: 'JRN-DESC-012' },
  ],
});

export const journalCopyLayout = defineLayout({
  name: 'journal-copy',
  document: 'journal',
  clause: 'JRN-COPY-001',
  sizeBytes: 32,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [2], clause: 'JRN-COPY-001' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [32], clause: 'JRN-COPY-001' },
    { name: 'targetHostOffset', at: 8, type: 'u64', clause: 'JRN-COPY-001' },
    { name: 'sourceHostOffset', at: 16, type: 'u64', clause: 'JRN-COPY-001' },
    { name: 'lengthBytes', at: 24, type: 'u64', min: 1, clause: 'JRN-DESC-011' },
  ],
});

export const journalRevokeLayout = defineLayout({
  name: 'journal-revoke',
  document: 'journal',
  clause: 'JRN-DESC-023',
  sizeBytes: 24,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [3], clause: 'JRN-DESC-023' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [24], clause: 'JRN-DESC-023' },
    { name: 'hostOffset', at: 8, type: 'u64', clause: 'JRN-DESC-023' },
    { name: 'lengthBytes', at: 16, type: 'u64', min: 1, clause: 'JRN-DESC-011' },
  ],
});

/** The fixed part; the bytes to write follow it, then the padding. */
export const journalInlineWriteLayout = defineLayout({
  name: 'journal-inline-write',
  document: 'journal',
  clause: 'JRN-DESC-024',
  sizeBytes: 16,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [16], clause: 'JRN-DESC-024' },
    { name: 'paddingBytes', at: 2, type: 'u16', max: 7, clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', min: 24, multipleOf: 8, clause: 'JRN-DESC-024' },
    { name: 'hostOffset', at: 8, type: 'u64', clause: 'JRN-DESC-024' },
  ],
});

export const journalGuestWriteLayout = defineLayout({
  name: 'journal-guest-write',
  document: 'journal',
  clause: 'JRN-DESC-025',
  sizeBytes: 24,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [17], clause: 'JRN-DESC-025' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [24], clause: 'JRN-DESC-025' },
    { name: 'guestOffset', at: 8, type: 'u64', multipleOf: 512, clause: 'JRN-DESC-028' },
    { name: 'lengthBytes', at: 16, type: 'u32', min: 512, multipleOf: 512, clause: 'JRN-DESC-028' },
    { name: 'payloadOffset', at: 20, type: 'u32', clause: 'JRN-DESC-012' },
  ],
});

export const journalGuestSettledLayout = defineLayout({
  name: 'journal-guest-settled',
  document: 'journal',
  clause: 'JRN-DESC-026',
  sizeBytes: 32,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [18], clause: 'JRN-DESC-026' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [32], clause: 'JRN-DESC-026' },
    { name: 'guestOffset', at: 8, type: 'u64', multipleOf: 512, clause: 'JRN-DESC-028' },
    { name: 'lengthBytes', at: 16, type: 'u64', min: 512, multipleOf: 512, clause: 'JRN-DESC-028' },
    { name: 'throughSequence', at: 24, type: 'u64', clause: 'JRN-DESC-027' },
  ],
});

export const journalFillFromBackingLayout = defineLayout({
  name: 'journal-fill-from-backing',
  document: 'journal',
  clause: 'JRN-COPY-002',
  sizeBytes: 32,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [19], clause: 'JRN-COPY-002' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [32], clause: 'JRN-COPY-002' },
    { name: 'targetHostOffset', at: 8, type: 'u64', clause: 'JRN-COPY-002' },
    { name: 'guestOffset', at: 16, type: 'u64', clause: 'JRN-COPY-002' },
    { name: 'lengthBytes', at: 24, type: 'u64', min: 1, clause: 'JRN-DESC-011' },
  ],
});

/** The fixed part; the intent's body follows it, then the padding. */
export const journalIntentLayout = defineLayout({
  name: 'journal-intent',
  document: 'journal',
  clause: 'JRN-INTENT-001',
  sizeBytes: 24,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [20], clause: 'JRN-INTENT-001' },
    { name: 'paddingBytes', at: 2, type: 'u16', max: 7, clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', min: 24, multipleOf: 8, clause: 'JRN-INTENT-001' },
    { name: 'intentKind', at: 8, type: 'u32', clause: 'JRN-INTENT-001' },
    { name: 'reserved', at: 12, type: 'u32', reserved: 'must-be-zero', clause: 'JRN-INTENT-001' },
    { name: 'intentId', at: 16, type: 'u64', clause: 'JRN-INTENT-001' },
  ],
});

export const journalIntentDoneLayout = defineLayout({
  name: 'journal-intent-done',
  document: 'journal',
  clause: 'JRN-INTENT-002',
  sizeBytes: 16,
  fields: [
    { name: 'descriptorType', at: 0, type: 'u16', oneOf: [21], clause: 'JRN-INTENT-002' },
    { name: 'paddingBytes', at: 2, type: 'u16', oneOf: [0], clause: 'JRN-DESC-003' },
    { name: 'descriptorLengthBytes', at: 4, type: 'u32', oneOf: [16], clause: 'JRN-INTENT-002' },
    { name: 'intentId', at: 8, type: 'u64', clause: 'JRN-INTENT-002' },
  ],
});
