/**
 * The mutants in the code: each takes one protection of the driver away, and names the workload in which a crash
 * shows it. A mutant that survives is a hole in the lab, or the protection is a second one behind another: then
 * both are taken away together.
 *
 * `find` must stand exactly once in its file (`test/code-mutants.test.ts` sees to it), so that a change of the code
 * can not disarm a mutant silently.
 */
import { backingMutants } from './mutants-backing.ts';
import { bitmapMutants } from './mutants-bitmaps.ts';
import { compressedMutants } from './mutants-compressed.ts';
import { copyMutants } from './mutants-copies.ts';
import { damageMutants } from './mutants-damage.ts';
import { dataFileMutants } from './mutants-data-file.ts';
import { discardMutants } from './mutants-discard.ts';
import { draftMutants } from './mutants-draft.ts';
import { driverMutants } from './mutants-driver.ts';
import { encryptionMutants } from './mutants-encryption.ts';
import { engineMutants, recordMutants } from './mutants-engine.ts';
import { growthMutants } from './mutants-growth.ts';
import { lazyMutants, orderedMutants } from './mutants-others.ts';
import { placeMutants } from './mutants-places.ts';
import { repairMutants } from './mutants-repair.ts';
import { snapshotMutants } from './mutants-snapshots.ts';
import { subclusterMutants } from './mutants-subclusters.ts';
import { widthMutants } from './mutants-width.ts';

export interface MutantEdit {
  /** Path from the root of the workspace. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface CodeMutant {
  /** Letters, digits, `-`: it is part of the ids of states. */
  readonly name: string;
  /** Clauses that the protection serves, or the document that asks for it. */
  readonly clause: string;
  /** What is taken away. */
  readonly protection: string;
  readonly edits: readonly MutantEdit[];
  /** Damage to the log shows it, where no crash does (`damage.ts`). */
  readonly byDamage?: boolean;
  /** Where a crash shows it. */
  readonly system: string;
  readonly workload: string;
}

export const codeMutants: readonly CodeMutant[] = [
  ...engineMutants,
  ...recordMutants,
  ...driverMutants,
  ...copyMutants,
  ...growthMutants,
  ...placeMutants,
  ...compressedMutants,
  ...subclusterMutants,
  ...discardMutants,
  ...encryptionMutants,
  ...draftMutants,
  ...orderedMutants,
  ...lazyMutants,
  ...damageMutants,
  ...dataFileMutants,
  ...snapshotMutants,
  ...bitmapMutants,
  ...backingMutants,
  ...repairMutants,
  ...widthMutants,
];

export function codeMutant(name: string): CodeMutant | undefined {
  return codeMutants.find((one) => one.name === name);
}

/** The table of docs/crash-lab.md. */
export function mutantTable(): string {
  const rows = codeMutants.map(
    ({ name, clause, protection, system, workload, byDamage }) =>
      `| \`${name}\` | ${protection} | ${clause} | ${byDamage === true ? 'damage in ' : ''}\`${system}/${workload}\` |`,
  );
  return ['| mutant | what is taken away | clauses | shown by |', '|---|---|---|---|', ...rows].join('\n');
}
