/**
 * Everything of docs/specs/journal/SPEC.md that stands in a table there, by the name of that table.
 * `@qcow2/conformance` compares the two, field by field.
 */
import type { BitLayout, Layout } from '../layout.ts';
import {
  draftCopyChunkLayout,
  draftDescriptorBlockLayout,
  draftDescriptorHeadLayout,
  draftJournal,
  draftJournalHeaderLayout,
  draftRevokeRangeLayout,
  draftWriteChunkLayout,
} from './draft-2013.ts';
import {
  journalIntentDetachedTableLayout,
  journalIntentGrowLayout,
  journalIntentKinds,
  journalIntentLimits,
} from './intents.ts';
import {
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
} from './v1.ts';
import { journalBinding, journalDescriptorTypes, journalV1Limits } from './v1-constants.ts';

export const journalLayouts = {
  'journal-extension': journalExtensionLayout,
  'journal-extension-entry': journalExtensionEntryLayout,
  'journal-slot': journalSlotLayout,
  'journal-record-header': journalRecordHeaderLayout,
  'journal-descriptor-head': journalDescriptorHeadLayout,
  'journal-write-payload': journalWritePayloadLayout,
  'journal-inline-write': journalInlineWriteLayout,
  'journal-revoke': journalRevokeLayout,
  'journal-guest-write': journalGuestWriteLayout,
  'journal-guest-settled': journalGuestSettledLayout,
  'journal-copy': journalCopyLayout,
  'journal-fill-from-backing': journalFillFromBackingLayout,
  'journal-intent': journalIntentLayout,
  'journal-intent-done': journalIntentDoneLayout,
  'journal-intent-grow': journalIntentGrowLayout,
  'journal-intent-detached-table': journalIntentDetachedTableLayout,
  'draft-journal-header': draftJournalHeaderLayout,
  'draft-descriptor-block': draftDescriptorBlockLayout,
  'draft-descriptor-head': draftDescriptorHeadLayout,
  'draft-write-chunk': draftWriteChunkLayout,
  'draft-copy-chunk': draftCopyChunkLayout,
  'draft-revoke-range': draftRevokeRangeLayout,
} as const satisfies Record<string, Layout>;

export const journalBitLayouts = {
  'journal-record-flags': journalRecordFlagBits,
} as const satisfies Record<string, BitLayout>;

export const journalConstantTables = {
  'journal-binding': journalBinding,
  'journal-v1-limits': journalV1Limits,
  'journal-descriptor-types': journalDescriptorTypes,
  'journal-intent-limits': journalIntentLimits,
  'journal-intent-kinds': journalIntentKinds,
  'draft-journal': draftJournal,
} as const satisfies Record<string, Record<string, number | bigint>>;
