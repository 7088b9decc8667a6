/** Mutants in the code (`code-mutants.ts`): what reads under way and a disk that grows are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const growthMutants: readonly CodeMutant[] = [
  {
    name: 'freed-under-a-read',
    clause: 'G2',
    protection: 'a cluster that a read under way may be served from is not handed out',
    edits: [
      {
        file: driver('allocator.ts'),
        find: 'if (epoch.reads > 0 || this.#readEpochs.length > 1) {',
        replace: 'if (this.#readEpochs.length < 0) {',
      },
    ],
    system: 'ordered+filled',
    workload: 'm1.31',
  },
  {
    name: 'no-grow-intent',
    clause: 'JRN-INTENT-024',
    protection: 'an intent stands over a growth of several records, and recovery undoes it',
    edits: [
      {
        file: driver('grow-operation.ts'),
        find: '    this.#intentId = this.#parts.core.log.newIntentId?.();\n',
        replace: '',
      },
    ],
    system: 'journal+l1+long',
    workload: 'g',
  },
  {
    name: 'reach-says-too-little',
    clause: 'JRN-INTENT-023',
    protection: 'the intent says how far tables may have come before they do',
    edits: [{ file: driver('grow-operation.ts'), find: '    this.#sayReach(to);\n', replace: '' }],
    system: 'journal+l1+long',
    workload: 'g',
  },
];
