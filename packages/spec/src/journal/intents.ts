/**
 * Intents of journal v1: limits, kinds, and what the bodies of the kinds hold (JRN-INTENT-…). Each object
 * stands as a table in docs/specs/journal/SPEC.md.
 */
import { defineLayout } from '../layout.ts';

export const journalIntentLimits = {
  maxBodyBytes: 256,
  maxOpen: 4,
} as const;

/** Numbers of the kinds of operations that go as more records than a ring holds. */
export const journalIntentKinds = {
  /** The disk is being made larger. */
  grow: 1,
  /** An L1 table that nothing names, being counted up or down. */
  detachedTable: 2,
} as const;

export const journalIntentGrowLayout = defineLayout({
  name: 'journal-intent-grow',
  document: 'journal',
  clause: 'JRN-INTENT-020',
  sizeBytes: 24,
  fields: [
    { name: 'sizeBeforeBytes', at: 0, type: 'u64', clause: 'JRN-INTENT-020' },
    { name: 'sizeAfterBytes', at: 8, type: 'u64', clause: 'JRN-INTENT-021' },
    { name: 'reachBytes', at: 16, type: 'u64', clause: 'JRN-INTENT-021' },
  ],
});

export const journalIntentDetachedTableLayout = defineLayout({
  name: 'journal-intent-detached-table',
  document: 'journal',
  clause: 'JRN-INTENT-030',
  sizeBytes: 32,
  fields: [
    { name: 'l1Offset', at: 0, type: 'u64', multipleOf: 'cluster', clause: 'JRN-INTENT-031' },
    { name: 'l1Entries', at: 8, type: 'u32', clause: 'JRN-INTENT-030' },
    { name: 'reserved', at: 12, type: 'u32', reserved: 'must-be-zero', clause: 'JRN-INTENT-030' },
    { name: 'countedFrom', at: 16, type: 'u64', clause: 'JRN-INTENT-030' },
    { name: 'countedTo', at: 24, type: 'u64', clause: 'JRN-INTENT-031' },
  ],
});
