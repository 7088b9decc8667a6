/** Every target by name, and how many of a campaign's inputs each one gets. */
import { StateError } from '@qcow2/spec';
import type { Target } from './target.ts';
import { CompressedTarget } from './targets/compressed.ts';
import { DraftTarget } from './targets/draft.ts';
import { DraftImageTarget } from './targets/draft-image.ts';
import { HeaderTarget } from './targets/header.ts';
import { JournalTarget } from './targets/journal.ts';
import { LogTarget } from './targets/log.ts';
import { LuksTarget } from './targets/luks.ts';
import { RepairTarget } from './targets/repair.ts';
import { TablesTarget } from './targets/tables.ts';

const makers: Readonly<Record<string, () => Target>> = {
  log: () => new LogTarget(),
  header: () => new HeaderTarget(),
  draft: () => new DraftTarget(),
  journal: () => new JournalTarget(),
  'draft-image': () => new DraftImageTarget(),
  tables: () => new TablesTarget(),
  repair: () => new RepairTarget(),
  compressed: () => new CompressedTarget(),
  luks: () => new LuksTarget(),
};

export const targetNames: readonly string[] = Object.keys(makers);

/** @throws INVALID_ARGUMENT for a name that is none */
export function makeTarget(name: string): Target {
  const make = makers[name];
  if (make === undefined) {
    throw new StateError('INVALID_ARGUMENT', 'no such target', { field: 'target', value: name });
  }
  return make();
}
