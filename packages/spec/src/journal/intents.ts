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
