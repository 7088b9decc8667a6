/** All tables of the specification documents, by name: what `@qcow2/conformance` compares with docs/specs. */
import { journalBitLayouts, journalConstantTables, journalLayouts } from './journal/tables.ts';
import { luksConstantTables, luksLayouts } from './luks/tables.ts';
import { qcow2BitLayouts, qcow2ConstantTables, qcow2Layouts } from './qcow2/tables.ts';

/** Structures of fixed-width fields; each says in `document` which SPEC.md it stands in. */
export const layouts = { ...qcow2Layouts, ...journalLayouts, ...luksLayouts } as const;
/** Bit fields of integer entries and masks. */
export const bitLayouts = { ...qcow2BitLayouts, ...journalBitLayouts } as const;
/** Named values, by table and by name. */
export const constantTables = {
  ...qcow2ConstantTables,
  ...journalConstantTables,
  ...luksConstantTables,
} as const;
