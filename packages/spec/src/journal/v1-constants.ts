/**
 * Numbers of journal v1 that are no fields: limits, default sizes, descriptor types. Each object stands as
 * a constants table in docs/specs/journal/SPEC.md.
 */

/** How an image names its journals (JRN-BIND-…). */
export const journalBinding = {
  /** ASCII `QJNL`. */
  extensionType: 0x514a4e4c,
  version: 1,
  /** Bit of incompatible_features: the journal must be replayed first. */
  dirtyBit: 63,
  /** Bit of autoclear_features: no unaware writer came by since the journal was made. */
  validBit: 63,
  maxJournals: 8,
  kindMain: 1,
  kindOther: 2,
} as const;

/** Sizes and limits of an area, its slots and its records. */
export const journalV1Limits = {
  minAreaBytes: 0x10000,
  maxAreaBytes: 0x40000000,
  slotBytes: 512,
  slotVersion: 1,
  minSlotStrideBytes: 4096,
  minRingBlocks: 8,
  minBlockSizeOrder: 9,
  maxBlockSizeOrder: 21,
  defaultBlockSizeOrder: 12,
  recordHeaderBytes: 80,
  maxRecordBytes: 0x1000000,
  /** A record takes at most the ring's length divided by this. */
  maxRecordRingFraction: 4,
  /** Behind the last record that a durable slot calls durable a record begins within so many bytes, in a ring at least twice as long. */
  maxUnclaimedBytes: 0x400000,
  maxInlineWriteBytes: 0x10000,
  guestSectorBytes: 512,
} as const;

/** Type numbers of descriptors. 4 and 5 are the draft's, kept for deduplication. */
export const journalDescriptorTypes = {
  noOp: 0,
  writePayload: 1,
  copy: 2,
  revoke: 3,
  reservedDedupInsert: 4,
  reservedDedupDelete: 5,
  inlineWrite: 16,
  guestWrite: 17,
  guestSettled: 18,
  fillFromBacking: 19,
  intent: 20,
  intentDone: 21,
  /** Unknown types from here on may be ignored. */
  firstIgnorable: 0x8000,
} as const;
