export { allocationDepth, type DepthRun } from './allocation-depth.ts';
export type { HeaderAmendment } from './amend-header.ts';
export type { BackingName } from './backing-file.ts';
export type { NewBitmap } from './bitmap-operations.ts';
export type { BitmapInfo, DirtyRange } from './bitmaps.ts';
export { type CacheOptions, type CacheSizes, cacheSizes } from './cache-sizes.ts';
export {
  type ChainOptions,
  type FileReference,
  type FileResolver,
  type FoundFile,
  openChain,
  type ResolvedChain,
  type ResolveOptions,
  resolveChain,
} from './chain.ts';
export { type CheckFinding, type CheckOptions, type CheckReport, checkImage } from './check.ts';
export { type CreateOptions, createImage } from './create.ts';
export { defaultDraftBlockBytes, minNewDraftBlocks } from './draft-journal.ts';
export {
  cipherSectorBytes,
  type EncryptionHeaderArea,
  type GuestCipher,
  type ImageEncryption,
  type NewEncryption,
  type PreparedEncryption,
} from './encryption.ts';
export type { PlacedExtent } from './extents.ts';
export type { FreeCause, PassDiscard } from './host-discard.ts';
export { type HostReference, type HostReferences, hostReferences } from './host-references.ts';
export { Qcow2Image } from './image.ts';
export type { ImageCacheCounters } from './image-core.ts';
export type { ImageInfo } from './info.ts';
export { servedIntentKinds } from './intent-handlers.ts';
export { defaultJournalBytes } from './journal-binding.ts';
export type { JournalProfile, JournalStatus } from './journal-status.ts';
export { type LoadedHeader, readImageHeader } from './load-header.ts';
export { type OpenOptions, openImage, probeImage } from './open.ts';
export { defaultTuning, type JournalOptions, type JournalTuning } from './parts.ts';
export { type RecoveredDisk, type RecoveredRange, type RecoverOptions, recoverDisk } from './recovery.ts';
export type { RefcountRepair } from './refcount-rebuild.ts';
export type { ReferenceKind } from './reference-walk.ts';
export {
  type RepairFix,
  type RepairMode,
  type RepairOptions,
  type RepairReport,
  repairImage,
} from './repair.ts';
export type { ResizeOptions } from './resize.ts';
export type { NewSnapshot } from './snapshot-operations.ts';
export type { SnapshotChoice } from './snapshot-table.ts';
