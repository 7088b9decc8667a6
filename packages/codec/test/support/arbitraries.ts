/** Arbitrary values of the format, sound by construction: what they encode to must decode to the same. */
import type { BitmapDirectoryEntry, HeaderExtension, Qcow2Header, Snapshot } from '@qcow2/codec';
import { incompatibleFeatures, mappingSizes } from '@qcow2/spec';
import fc from 'fast-check';

const mask64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const bytes = (maxLength: number) => fc.uint8Array({ maxLength });
/** Any string that can be stored: of whole characters, controls and others than Latin included. */
const name = (minLength: number, maxLength: number) => fc.string({ unit: 'grapheme', minLength, maxLength });

/** Types that the format does not define, so that their order and data are nobody's business. */
const unknownExtension: fc.Arbitrary<HeaderExtension> = fc.record({
  type: fc.integer({ min: 0x1000, max: 0xffff }),
  data: bytes(40),
});

/** Headers of version 3, with tables one behind the other. */
export const header: fc.Arbitrary<Qcow2Header> = fc
  .record({
    clusterBits: fc.integer({ min: 12, max: 21 }),
    sizeBytes: fc.integer({ min: 0, max: 2 ** 31 }),
    dirty: fc.boolean(),
    extended: fc.boolean(),
    zstd: fc.boolean(),
    unknownIncompatible: fc.bigInt({ min: 0n, max: 2n ** 58n - 1n }),
    compatibleFeatures: mask64,
    unknownAutoclear: fc.bigInt({ min: 0n, max: 2n ** 62n - 1n }),
    refcountOrder: fc.integer({ min: 0, max: 6 }),
    refcountTableClusters: fc.integer({ min: 1, max: 4 }),
    snapshotCount: fc.integer({ min: 0, max: 100 }),
    extraWords: fc.integer({ min: 0, max: 20 }),
    unknownHeaderBytes: bytes(7),
    extensions: fc.array(unknownExtension, { maxLength: 5 }),
    backingFileName: fc.option(name(1, 40), { nil: undefined }),
  })
  .map((parts) => {
    const { incompatible, extended } = featuresOf(parts);
    const clusterBytes = 2 ** parts.clusterBits;
    const l1Entries = Math.ceil(parts.sizeBytes / 2 ** (2 * parts.clusterBits - (extended ? 4 : 3)));
    const l1Clusters = Math.ceil((l1Entries * mappingSizes.l1EntryBytes) / clusterBytes);
    const unknown = new Uint8Array(7 + 8 * parts.extraWords);
    unknown.set(parts.unknownHeaderBytes);
    const made: Qcow2Header = {
      version: 3,
      backingFileOffset: 0,
      backingFileLengthBytes: 0,
      clusterBits: parts.clusterBits,
      sizeBytes: parts.sizeBytes,
      cryptMethod: 0,
      l1Entries,
      l1Offset: (1 + parts.refcountTableClusters) * clusterBytes,
      refcountTableOffset: clusterBytes,
      refcountTableClusters: parts.refcountTableClusters,
      snapshotCount: parts.snapshotCount,
      snapshotsOffset: (1 + parts.refcountTableClusters + l1Clusters) * clusterBytes,
      incompatibleFeatures: incompatible,
      compatibleFeatures: parts.compatibleFeatures,
      autoclearFeatures: parts.unknownAutoclear << 2n,
      refcountOrder: parts.refcountOrder,
      headerLengthBytes: 112 + 8 * parts.extraWords,
      compressionType: parts.zstd ? 1 : 0,
      unknownHeaderBytes: unknown,
      extensions: parts.extensions,
    };
    if (parts.backingFileName !== undefined) made.backingFileName = parts.backingFileName;
    return made;
  });

function featuresOf(parts: {
  clusterBits: number;
  dirty: boolean;
  extended: boolean;
  zstd: boolean;
  unknownIncompatible: bigint;
}): { incompatible: bigint; extended: boolean } {
  const extended = parts.extended && parts.clusterBits >= mappingSizes.extendedL2MinClusterBits;
  let incompatible = parts.unknownIncompatible << 5n;
  if (parts.dirty) incompatible |= incompatibleFeatures.dirty;
  if (extended) incompatible |= incompatibleFeatures.extendedL2;
  if (parts.zstd) incompatible |= incompatibleFeatures.compressionType;
  return { incompatible, extended };
}

const u32 = fc.nat(0xffffffff);
const clusterOffset = fc.nat(2 ** 20).map((cluster) => cluster * 65536);

/** Snapshots of version 3. */
export const snapshot: fc.Arbitrary<Snapshot> = fc.record(
  {
    l1Offset: clusterOffset,
    l1Entries: fc.nat(2 ** 22),
    id: name(0, 10),
    name: name(0, 40),
    dateSeconds: u32,
    dateNanoseconds: u32,
    vmClockNanoseconds: mask64,
    vmStateLengthBytes: fc.maxSafeNat(),
    vmStateInExtraData: fc.constant(true),
    diskSizeBytes: fc.maxSafeNat(),
    instructionCount: mask64,
    unknownExtraData: fc.constant(new Uint8Array()),
  },
  {
    requiredKeys: [
      'l1Offset',
      'l1Entries',
      'id',
      'name',
      'dateSeconds',
      'dateNanoseconds',
      'vmClockNanoseconds',
      'vmStateLengthBytes',
      'vmStateInExtraData',
      'diskSizeBytes',
      'unknownExtraData',
    ],
  },
) as fc.Arbitrary<Snapshot>;

/** Bitmaps, no two of one name. */
export const bitmaps: fc.Arbitrary<BitmapDirectoryEntry[]> = fc.uniqueArray(
  fc.record({
    tableOffset: clusterOffset,
    tableEntries: fc.nat(2 ** 27),
    flags: fc.nat(7),
    type: fc.constant(1),
    granularityBits: fc.nat(63),
    name: name(1, 40),
    extraData: bytes(40),
  }),
  { minLength: 1, maxLength: 6, selector: (bitmap) => bitmap.name },
);
