export { bitMask, reservedMask, type WordMask, wordMask } from './bit-masks.ts';
export {
  type BitmapDirectoryEntry,
  type BitmapDirectoryOptions,
  bitmapTableEntriesFor,
  checkBitmapTableEntry,
  decodeBitmapDirectory,
  encodeBitmapDirectory,
  readBitmapAllOnes,
  writeBitmapTableEntry,
} from './bitmap-directory.ts';
export {
  readCompressedLengthBytes,
  readCompressedOffset,
  writeCompressedEntry,
} from './compressed-descriptor.ts';
export { type ClusterCompression, inflateOnly } from './compression.ts';
export { damagedCluster, unservedCompression } from './compression-errors.ts';
export {
  type DraftBinding,
  encodeDraftFeatures,
  peekDraftBinding,
  withoutDraftBinding,
} from './draft-binding.ts';
export {
  decodeFeatureNames,
  encodeFeatureNames,
  type FeatureName,
  type UnknownFeature,
  unknownIncompatibleFeatures,
} from './feature-names.ts';
export {
  decodeClusterBytes,
  decodeDraftImageHeader,
  decodeHeader,
  encodeHeader,
  type Qcow2Header,
} from './header.ts';
export {
  type BitmapsExtension,
  decodeBackingFormat,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeExternalDataFile,
  decodeHeaderExtensions,
  type EncryptionHeaderPointer,
  type ExtensionDataOptions,
  encodeBackingFormat,
  encodeBitmapsExtension,
  encodeEncryptionHeaderPointer,
  encodeExternalDataFile,
  encodeHeaderExtensions,
  findHeaderExtension,
  type HeaderExtension,
  type HeaderExtensionArea,
} from './header-extension.ts';
export { l1EntriesFor } from './header-rules.ts';
export {
  type BoundJournal,
  type ChainEnd,
  type CopyDescriptor,
  chainEndOfRecord,
  chainEndOfSlot,
  crc32c,
  type DescriptorContext,
  decodeDescriptors,
  decodeJournalExtension,
  decodeRecord,
  decodeSlot,
  descriptorSizeBytes,
  type EncodedRecord,
  encodeDescriptor,
  encodeJournalExtension,
  encodeRecord,
  encodeSlot,
  type FillFromBackingDescriptor,
  follows,
  type GuestSettledDescriptor,
  type GuestWriteDescriptor,
  type InlineWriteDescriptor,
  type IntentDescriptor,
  type IntentDoneDescriptor,
  isUsableGeometry,
  type JournalDescriptor,
  type JournalExtension,
  type JournalGeometry,
  type JournalKind,
  type JournalRecord,
  type JournalSlot,
  journalGeometry,
  maxRecordBlocks,
  type NoOpDescriptor,
  peekRecordHeader,
  type RecordContent,
  type RecordHeader,
  type RecordLimits,
  type RevokeDescriptor,
  recordSizeBlocks,
  type UnknownDescriptor,
  verifyRecord,
  type WritePayloadDescriptor,
} from './journal/v1.ts';
export {
  type ClusterKind,
  checkL2Entry,
  classifyL2Entry,
  classifySubcluster,
  clearReservedL2,
  clusterKind,
  type L2Format,
  l2EntriesPerTable,
  l2EntryBytes,
  l2FormatOf,
  readAllocatedSubclusters,
  readZeroSubclusters,
  writeExtendedEntry,
  writeStandardEntry,
  writeUnallocated,
  writeZeroEntry,
} from './l2-entry.ts';
export { compileLayout, fieldBytes, type LayoutCodec, type LayoutOptions } from './layout-codec.ts';
export {
  decodeLuksHeader,
  encodeLuksHeader,
  type LuksHeader,
  type LuksHeaderOptions,
  type LuksKeySlot,
  luksMaterialBytes,
  luksSlotOffset,
} from './luks-header.ts';
export { decodeName, encodeName } from './name-text.ts';
export { type RefcountCodec, refcountCodec } from './refcount-block.ts';
export {
  type DecodedSnapshot,
  decodeSnapshot,
  decodeSnapshotTable,
  encodeSnapshotTable,
  type Snapshot,
  type SnapshotTable,
  type SnapshotTableOptions,
} from './snapshot-table.ts';
export {
  checkL1Entry,
  checkRefcountTableEntry,
  clearReservedL1,
  clearReservedRefcountTable,
  readEntryCopied,
  readEntryOffset,
  readRefcountBlockOffset,
  writeEntryCopied,
  writeL1Entry,
  writeRefcountTableEntry,
} from './table-entry.ts';
export { outlineZstdFrame, type ZstdFrame } from './zstd-frame.ts';
