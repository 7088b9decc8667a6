/** Everything of docs/specs/luks/SPEC.md that stands in a table there, by the name of that table. */
import type { Layout } from '../layout.ts';
import { luksConstants, luksHeaderLayout, luksKeySlotLayout } from './luks.ts';

export const luksLayouts = {
  'luks-header': luksHeaderLayout,
  'luks-key-slot': luksKeySlotLayout,
} as const satisfies Record<string, Layout>;

export const luksConstantTables = {
  luks: luksConstants,
} as const satisfies Record<string, Record<string, number | bigint>>;
