/**
 * Journal v1, as docs/specs/journal/SPEC.md has it: binding, slots, records, descriptors, checksum. The
 * public entry `@qcow2/codec/journal/v1`.
 */
export {
  type BoundJournal,
  decodeJournalExtension,
  encodeJournalExtension,
  isUsableGeometry,
  type JournalExtension,
  type JournalGeometry,
  type JournalKind,
  journalGeometry,
  maxRecordBlocks,
} from './binding.ts';
export { crc32c } from './crc32c.ts';
export {
  type CopyDescriptor,
  type DescriptorContext,
  decodeDescriptors,
  descriptorSizeBytes,
  encodeDescriptor,
  type FillFromBackingDescriptor,
  type GuestSettledDescriptor,
  type GuestWriteDescriptor,
  type InlineWriteDescriptor,
  type IntentDescriptor,
  type IntentDoneDescriptor,
  type JournalDescriptor,
  type NoOpDescriptor,
  type RevokeDescriptor,
  type UnknownDescriptor,
  type WritePayloadDescriptor,
} from './descriptors.ts';
export {
  type DetachedTableIntent,
  decodeDetachedTableIntent,
  decodeGrowIntent,
  encodeDetachedTableIntent,
  encodeGrowIntent,
  type GrowIntent,
  intentKindName,
  type TableGeometry,
} from './intents.ts';
export {
  type ChainEnd,
  chainEndOfRecord,
  chainEndOfSlot,
  decodeRecord,
  decodeVerifiedRecord,
  type EncodedRecord,
  encodeRecord,
  follows,
  type JournalRecord,
  peekRecordHeader,
  type RecordContent,
  type RecordHeader,
  type RecordLimits,
  recordSizeBlocks,
  verifyRecord,
} from './record.ts';
export { decodeSlot, encodeSlot, type JournalSlot } from './slot.ts';
