/** The LUKS header, version 1, and its key slots: docs/specs/luks/SPEC.md. */
import { defineLayout } from '../layout.ts';

/** Named values of a LUKS header, and what this implementation takes at most. */
export const luksConstants = {
  keySlots: 8,
  keySlotActive: 0x00ac71f3,
  keySlotDisabled: 0x0000dead,
  /** Stripes that the splitter makes of a key. */
  stripes: 4000,
  sectorBytes: 512,
  materialAlignmentBytes: 4096,
  maxKeyBytes: 64,
  /** Of PBKDF2, for one key. */
  maxIterations: 0x4000000,
} as const;

/** The header's fixed part; eight key slots follow. */
export const luksHeaderLayout = defineLayout({
  name: 'luks-header',
  document: 'luks',
  clause: 'LUKS-HDR-001',
  sizeBytes: 208,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x4c554b53], clause: 'LUKS-HDR-001' },
    { name: 'magicTail', at: 4, type: 'u16', oneOf: [0xbabe], clause: 'LUKS-HDR-001' },
    { name: 'version', at: 6, type: 'u16', oneOf: [1], clause: 'LUKS-HDR-002' },
    { name: 'cipherName', at: 8, type: 'bytes', lengthBytes: 32, clause: 'LUKS-HDR-003' },
    { name: 'cipherMode', at: 40, type: 'bytes', lengthBytes: 32, clause: 'LUKS-HDR-004' },
    { name: 'hashName', at: 72, type: 'bytes', lengthBytes: 32, clause: 'LUKS-HDR-005' },
    { name: 'payloadOffsetSectors', at: 104, type: 'u32', clause: 'LUKS-HDR-006' },
    { name: 'keyBytes', at: 108, type: 'u32', min: 1, max: 64, clause: 'LUKS-HDR-007' },
    { name: 'digest', at: 112, type: 'bytes', lengthBytes: 20, clause: 'LUKS-HDR-008' },
    { name: 'digestSalt', at: 132, type: 'bytes', lengthBytes: 32, clause: 'LUKS-HDR-009' },
    { name: 'digestIterations', at: 164, type: 'u32', min: 1, max: 0x4000000, clause: 'LUKS-HDR-010' },
    { name: 'uuid', at: 168, type: 'bytes', lengthBytes: 40, clause: 'LUKS-HDR-011' },
  ],
});

export const luksKeySlotLayout = defineLayout({
  name: 'luks-key-slot',
  document: 'luks',
  clause: 'LUKS-SLOT-001',
  sizeBytes: 48,
  fields: [
    { name: 'state', at: 0, type: 'u32', oneOf: [0x0000dead, 0x00ac71f3], clause: 'LUKS-SLOT-001' },
    { name: 'iterations', at: 4, type: 'u32', max: 0x4000000, clause: 'LUKS-SLOT-002' },
    { name: 'salt', at: 8, type: 'bytes', lengthBytes: 32, clause: 'LUKS-SLOT-003' },
    { name: 'materialOffsetSectors', at: 40, type: 'u32', clause: 'LUKS-SLOT-004' },
    { name: 'stripes', at: 44, type: 'u32', oneOf: [4000], clause: 'LUKS-SLOT-005' },
  ],
});

/** Of the header with all its slots. */
export const luksHeadBytes =
  luksHeaderLayout.sizeBytes + luksConstants.keySlots * luksKeySlotLayout.sizeBytes;
