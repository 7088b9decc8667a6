export {
  type ErrorClass,
  type ErrorCode,
  type ErrorCodeEntry,
  type ErrorContext,
  errorCodes,
  FormatError,
  InvariantError,
  type NbdErrno,
  nbdErrno,
  Qcow2Error,
  StateError,
  StorageError,
  UnsupportedFeatureError,
} from './errors.ts';
export {
  draftCopyChunkLayout,
  draftDescriptorBlockLayout,
  draftDescriptorHeadLayout,
  draftJournal,
  draftJournalHeaderLayout,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
} from './journal/draft-2013.ts';
export {
  journalIntentDetachedTableLayout,
  journalIntentGrowLayout,
  journalIntentKinds,
  journalIntentLimits,
} from './journal/intents.ts';
export { journalBitLayouts, journalConstantTables, journalLayouts } from './journal/tables.ts';
export {
  journalCopyLayout,
  journalDescriptorHeadLayout,
  journalExtensionEntryLayout,
  journalExtensionLayout,
  journalFillFromBackingLayout,
  journalGuestSettledLayout,
  journalGuestWriteLayout,
  journalInlineWriteLayout,
  journalIntentDoneLayout,
  journalIntentLayout,
  journalRecordFlagBits,
  journalRecordHeaderLayout,
  journalRevokeLayout,
  journalSlotLayout,
  journalWritePayloadLayout,
} from './journal/v1.ts';
export { journalBinding, journalDescriptorTypes, journalV1Limits } from './journal/v1-constants.ts';
export {
  type BitField,
  type BitLayout,
  type Decoded,
  defineBits,
  defineLayout,
  type Field,
  type FieldType,
  type Layout,
  type ReservedRule,
} from './layout.ts';
export { luksConstants, luksHeadBytes, luksHeaderLayout, luksKeySlotLayout } from './luks/luks.ts';
export {
  bitmapFlagBits,
  bitmapFlags,
  bitmapHeadLayout,
  bitmapTableEntryBits,
  bitmapTypes,
} from './qcow2/bitmaps.ts';
export {
  l1EntryBits,
  l2EntryBits,
  mappingSizes,
  standardClusterBits,
  subclusterBitmapBits,
} from './qcow2/cluster-mapping.ts';
export {
  autoclearFeatureBits,
  autoclearFeatures,
  compatibleFeatureBits,
  compatibleFeatures,
  featureNames,
  featureTypes,
  incompatibleFeatureBits,
  incompatibleFeatures,
} from './qcow2/feature-bits.ts';
export {
  bitmapsExtensionLayout,
  encryptionHeaderPointerLayout,
  featureNameLayout,
  headerExtensionHeadLayout,
  headerExtensionTypes,
} from './qcow2/header-extensions.ts';
export {
  compressionTypes,
  cryptMethods,
  headerLayout,
  headerUnknownAt,
  headerV2Bytes,
  headerV3MinBytes,
  qcow2Magic,
} from './qcow2/header-layout.ts';
export { qcow2Limits } from './qcow2/limits.ts';
export { refcountSizes, refcountTableEntryBits } from './qcow2/refcounts.ts';
export { snapshotExtraLayout, snapshotExtraV3MinBytes, snapshotHeadLayout } from './qcow2/snapshots.ts';
export { bitLayouts, constantTables, layouts } from './tables.ts';
export {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostCluster,
  type HostOffset,
  hostCluster,
  hostOffset,
} from './units.ts';
