/** Mutants in the code (`code-mutants.ts`): what clusters are protected by whose parts are kept apart (extended L2 entries). */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const subclusterMutants: readonly CodeMutant[] = [
  {
    name: 'shared-parts-not-copied',
    clause: 'SUB-008',
    protection: 'a new host cluster gets the sub-clusters that the shared one holds',
    edits: [
      {
        file: driver('sub-clusters.ts'),
        find: 'const missing = reused ? (allocated & ~kept) >>> 0 : allocated;',
        replace: 'const missing = (allocated & ~kept) >>> 0;',
      },
    ],
    system: 'ordered-16k+parts+snapshot',
    workload: 'h',
  },
];
