/** Mutants in the code (`code-mutants.ts`): what clusters that are mapped before they are whole are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const copyMutants: readonly CodeMutant[] = [
  {
    name: 'pending-mapped-before-its-bytes',
    clause: 'JRN-COMMIT-003',
    protection: 'a cluster that was filled piece by piece is mapped behind a flush of its bytes',
    edits: [
      {
        file: driver('pending-writer.ts'),
        find: 'yield* update.submit({ required: true, afterData: true, overZeros });',
        replace: 'yield* update.submit({ required: true, afterData: false, overZeros });',
      },
    ],
    system: 'journal+direct+backing',
    workload: 'r1.1',
  },
  {
    name: 'pending-not-mapped-by-flush',
    clause: 'JRN-COMMIT-001',
    protection: 'a flush maps the clusters that are being filled',
    edits: [
      {
        file: driver('image-requests.ts'),
        find: `    yield* this.#mapPending();
    yield* this.#parts.core.log.commit();`,
        replace: '    yield* this.#parts.core.log.commit();',
      },
    ],
    system: 'ordered+backing',
    workload: 'sf',
  },
  {
    name: 'rest-left-to-nobody',
    clause: 'JRN-COPY-002',
    protection: 'the record that maps a cluster in part names where the rest stands',
    edits: [
      {
        file: driver('journalled-log.ts'),
        find: `      copies,
      fills,
`,
        replace: '',
      },
    ],
    system: 'journal+direct+backing',
    workload: 'sf',
  },
  {
    name: 'source-not-pinned',
    clause: 'JRN-COPY-004',
    protection: 'the source of a live copy is not handed out',
    edits: [
      {
        file: driver('allocator.ts'),
        find: '    if (this.#pinned.has(cluster)) return false;\n',
        replace: '',
      },
    ],
    system: 'journal+direct+eager+twins',
    workload: 'r1.0',
  },
  {
    name: 'written-target-not-revoked',
    clause: 'JRN-COPY-005',
    protection: 'who writes where a live copy or fill is to write revokes it',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: 'update.endFills(mapping.hostOffset + start, end - start);',
        replace: '{}',
      },
    ],
    system: 'journal-4k+direct+backing+twins',
    workload: 'r1.0',
  },
  {
    name: 'freed-target-not-revoked',
    clause: 'JRN-COPY-005',
    protection: 'a change of the mapping ends what was to be brought to the cluster',
    edits: [{ file: driver('metadata-update.ts'), find: '    this.#endFillsOfEntries();\n', replace: '' }],
    system: 'journal-4k+direct+backing+twins',
    workload: 'r1.2',
  },
  {
    name: 'tail-before-copies',
    clause: 'JRN-COPY-009',
    protection: 'a round of write-back carries out the copies and fills behind its cut',
    edits: [
      {
        file: driver('journal-client.ts'),
        find: '      yield* this.#writer.finishFill(fill.hostCluster, this.#fillsUntil);\n',
        replace: '',
      },
    ],
    system: 'journal+direct+backing',
    workload: 'sfc',
  },
];
