/**
 * What this implementation takes at most: docs/specs/qcow2/SPEC.md, "Limits". The figures are QEMU's,
 * so that what one of the two opens, the other opens. Each bounds an allocation that a hostile image could
 * otherwise choose.
 */
const KiB = 1024;
const MiB = 1024 * KiB;

export const qcow2Limits = {
  minClusterBits: 9,
  maxClusterBits: 21,
  maxL1TableBytes: 32 * MiB,
  maxRefcountTableBytes: 8 * MiB,
  maxBackingFileNameBytes: 1023,
  maxSnapshots: 65536,
  maxSnapshotTableBytes: 64 * MiB,
  maxSnapshotExtraDataBytes: 1024,
  maxBitmaps: 65535,
  maxBitmapDirectoryBytes: 65535 * KiB,
  maxBitmapNameBytes: 1023,
  maxBitmapTableEntries: 0x8000000,
  maxBitmapDataBytes: 512 * MiB,
  maxEncryptionHeaderBytes: 16 * MiB,
  maxZstdWindowBytes: 8 * 1024 * 1024,
  maxOffset: Number.MAX_SAFE_INTEGER,
  maxRefcount: Number.MAX_SAFE_INTEGER,
} as const;
