/** Mutants in the code (`code-mutants.ts`): what compressed clusters are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const compressedMutants: readonly CodeMutant[] = [
  {
    name: 'compressed-mapped-before-its-data',
    clause: 'JRN-COMMIT-003',
    protection: 'a compressed cluster is mapped behind a flush of its data',
    edits: [
      {
        file: driver('compressed-writer.ts'),
        find: 'yield* update.submit({ required: true, afterData: true });',
        replace: 'yield* update.submit({ required: true, afterData: false });',
      },
    ],
    system: 'journal+compressed',
    workload: 'vfpf',
  },
  {
    name: 'compressed-data-behind-what-is-gone',
    clause: 'CMP-014',
    protection: "nothing is put behind compressed data whose host cluster is free, or somebody else's",
    edits: [
      {
        file: driver('byte-allocator.ts'),
        find: 'if (this.#next !== undefined && this.#clusterOf(this.#next) === cluster) this.#next = undefined;',
        replace: 'void cluster;',
      },
    ],
    system: 'ordered+compressed',
    workload: 'cvfdfowxfvf',
  },
  {
    name: 'compressed-data-counted-once',
    clause: 'CMP-010',
    protection: 'what goes away with compressed data counts down each host cluster that it touches',
    edits: [
      {
        file: driver('metadata-update.ts'),
        find: 'this.#dropped.push(...this.#core.hostClustersOf(compressed));',
        replace: 'this.#dropped.push(this.#core.hostClustersOf(compressed)[0]!);',
      },
    ],
    system: 'journal+compressed',
    workload: 'dfc',
  },
  {
    name: 'compressed-data-shared-uncounted',
    clause: 'CMP-010',
    protection: 'compressed data that begins in a host cluster in use counts there',
    edits: [
      {
        file: driver('compressed-writer.ts'),
        find: '  if (shared !== undefined) update.shareReference(shared);\n',
        replace: '  void shared;\n',
      },
    ],
    system: 'ordered+compressed',
    workload: 'pf',
  },
  {
    name: 'compressed-data-written-over',
    clause: 'CMP-012',
    protection: 'compressed data goes behind what is there, not over it',
    edits: [
      {
        file: driver('byte-allocator.ts'),
        find: 'const end = hostOffset + lengthBytes;',
        replace: 'const end = hostOffset + lengthBytes - 1;',
      },
    ],
    system: 'lazy+compressed',
    workload: 'pf',
  },
];
