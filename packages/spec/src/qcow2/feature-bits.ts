/**
 * The three feature masks of a version 3 header: docs/specs/qcow2/SPEC.md, "Feature bits".
 *
 * Bit 63 of two of them is ours: it is upstream's habit to assign from bit 0, so the journal takes the
 * other end.
 */
import { defineBits } from '../layout.ts';

/** A reader that does not know one of these bits may not open the image. */
export const incompatibleFeatureBits = defineBits({
  name: 'incompatible-features',
  document: 'qcow2',
  clause: 'HDR-015',
  widthBits: 64,
  bits: [
    { name: 'dirty', bit: 0, width: 1, clause: 'FEA-001' },
    { name: 'corrupt', bit: 1, width: 1, clause: 'FEA-002' },
    { name: 'externalDataFile', bit: 2, width: 1, clause: 'FEA-003' },
    { name: 'compressionType', bit: 3, width: 1, clause: 'FEA-004' },
    { name: 'extendedL2', bit: 4, width: 1, clause: 'FEA-005' },
    { name: 'unassigned', bit: 5, width: 58, reserved: 'must-be-zero', clause: 'FEA-006' },
    { name: 'journalDirty', bit: 63, width: 1, clause: 'FEA-007' },
  ],
});

/** Bits that anyone may ignore. */
export const compatibleFeatureBits = defineBits({
  name: 'compatible-features',
  document: 'qcow2',
  clause: 'HDR-016',
  widthBits: 64,
  bits: [
    { name: 'lazyRefcounts', bit: 0, width: 1, clause: 'FEA-008' },
    { name: 'unassigned', bit: 1, width: 63, reserved: 'preserved', clause: 'FEA-009' },
  ],
});

/** A writer that does not know one of these bits clears it before it writes anything else. */
export const autoclearFeatureBits = defineBits({
  name: 'autoclear-features',
  document: 'qcow2',
  clause: 'HDR-017',
  widthBits: 64,
  bits: [
    { name: 'bitmaps', bit: 0, width: 1, clause: 'FEA-010' },
    { name: 'rawExternalData', bit: 1, width: 1, clause: 'FEA-011' },
    { name: 'unassigned', bit: 2, width: 61, reserved: 'ignored', clause: 'FEA-012' },
    { name: 'journalValid', bit: 63, width: 1, clause: 'FEA-013' },
  ],
});

/** Masks of the incompatible features by name, for a header's `incompatibleFeatures`. */
export const incompatibleFeatures = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  externalDataFile: 1n << 2n,
  compressionType: 1n << 3n,
  extendedL2: 1n << 4n,
  journalDirty: 1n << 63n,
} as const;

/** Masks of the compatible features by name, for a header's `compatibleFeatures`. */
export const compatibleFeatures = { lazyRefcounts: 1n << 0n } as const;

/** Masks of the autoclear features by name, for a header's `autoclearFeatures`. */
export const autoclearFeatures = {
  bitmaps: 1n << 0n,
  rawExternalData: 1n << 1n,
  journalValid: 1n << 63n,
} as const;

/** Which mask a row of the feature name table speaks of. */
export const featureTypes = { incompatible: 0, compatible: 1, autoclear: 2 } as const;

/** Rows of the feature name table that we write; the words are QEMU's where QEMU has some. */
export const featureNames = [
  { type: featureTypes.incompatible, bit: 0, name: 'dirty bit' },
  { type: featureTypes.incompatible, bit: 1, name: 'corrupt bit' },
  { type: featureTypes.incompatible, bit: 2, name: 'external data file' },
  { type: featureTypes.incompatible, bit: 3, name: 'compression type' },
  { type: featureTypes.incompatible, bit: 4, name: 'extended L2 entries' },
  { type: featureTypes.incompatible, bit: 63, name: 'journal dirty' },
  { type: featureTypes.compatible, bit: 0, name: 'lazy refcounts' },
  { type: featureTypes.autoclear, bit: 0, name: 'bitmaps' },
  { type: featureTypes.autoclear, bit: 1, name: 'raw external data' },
  { type: featureTypes.autoclear, bit: 63, name: 'journal valid' },
] as const;
