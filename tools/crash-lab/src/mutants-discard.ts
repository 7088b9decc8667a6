/** Mutants in the code (`code-mutants.ts`): what space that is given back to the file is protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const discardMutants: readonly CodeMutant[] = [
  {
    name: 'space-given-back-at-once',
    clause: 'JRN-COMMIT-009',
    protection: 'space is given back to the file when what freed it is durable',
    edits: [
      {
        file: driver('allocator.ts'),
        find: '    this.#quarantined.add(cluster);\n',
        replace:
          '    this.#quarantined.add(cluster);\n    this.core.hostDiscard?.give([cluster], () => undefined);\n',
      },
    ],
    system: 'journal+unmap+l1',
    workload: 'scg',
  },
  {
    name: 'source-given-back',
    clause: 'JRN-COPY-004',
    protection: 'the source of a live copy keeps its space',
    edits: [
      {
        file: driver('allocator.ts'),
        find: '      !this.#pinned.has(cluster) && hostDiscard.passes(',
        replace: '      hostDiscard.passes(',
      },
    ],
    system: 'journal+direct+unmap+twins',
    workload: 'r1.0',
  },
];
