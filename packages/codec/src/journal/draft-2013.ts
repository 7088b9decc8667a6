/**
 * The profile draft-2013, as docs/specs/journal/SPEC.md section 13 has it: journal header, transactions,
 * descriptors, the additive checksum. The public entry `@qcow2/codec/journal/draft-2013`.
 */
export { draftChecksum } from './draft-checksum.ts';
export {
  advanceDraftBlock,
  type DraftGeometry,
  type DraftJournalHeader,
  decodeDraftHeader,
  draftGeometry,
  draftReplayCount,
  encodeDraftHeader,
  isDraftHeader,
  nextDraftSequence,
} from './draft-header.ts';
export {
  type DraftCopyChunk,
  type DraftDescriptor,
  type DraftPlace,
  type DraftRevokeRange,
  type DraftTransaction,
  type DraftWriteChunk,
  decodeDraftTransaction,
  draftChunkBytes,
  encodeDraftTransaction,
  peekDraftBlock,
} from './draft-transaction.ts';
