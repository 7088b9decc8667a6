/** Mutants in the code (`code-mutants.ts`): what protects operations on snapshots and on the disk's size. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const snapshotMutants: readonly CodeMutant[] = [
  {
    name: 'snapshot-named-before-it-counts',
    clause: 'SNP-020',
    protection: 'without a journal, refcounts and flags are durable before the header names the snapshot',
    edits: [
      {
        file: driver('snapshot-operations.ts'),
        find: `    yield* table.countUp();
    yield* core.log.commit();
    yield* lastSection(`,
        replace: `    yield* table.countUp();
    yield* lastSection(`,
      },
    ],
    system: 'ordered+snapshots',
    workload: 'n',
  },
  {
    name: 'snapshot-counted-down-before-its-name-is-gone',
    clause: 'SNP-027',
    protection: 'without a journal, the name is gone durably before active entries say that they are alone',
    edits: [
      {
        file: driver('snapshot-operations.ts'),
        find: `    yield* core.log.commit();
    if (table !== undefined) yield* table.countDown();`,
        replace: '    if (table !== undefined) yield* table.countDown();',
      },
    ],
    system: 'ordered+snapshots',
    workload: 'ne',
  },
  {
    name: 'table-detached-without-a-word',
    clause: 'JRN-INTENT-035',
    protection: 'the record that takes a table its name begins the intent',
    edits: [
      {
        file: driver('snapshot-operations.ts'),
        find: 'replaceSnapshots(parts, rest, clusterWriter.update(), { intent: table?.intent }),',
        replace: 'replaceSnapshots(parts, rest, clusterWriter.update(), {}),',
      },
    ],
    system: 'journal+snapshots',
    workload: 'ne',
  },
  {
    name: 'shared-entry-keeps-its-flag',
    clause: 'SNP-021, L2E-004',
    protection: 'what is counted up loses the flag that says that it is alone',
    edits: [
      {
        file: driver('detached-table.ts'),
        find: 'if (copied) update.setCopied(entryOffset, false);',
        replace: '',
      },
    ],
    system: 'journal+snapshots',
    workload: 'no',
  },
  {
    name: 'last-entry-without-its-flag',
    clause: 'SNP-027',
    protection: 'an active entry that is alone again gets its flag',
    edits: [
      {
        file: driver('detached-table.ts'),
        find: 'update.setCopied(mappings.entryOffset(guestCluster), true);',
        replace: '',
      },
    ],
    system: 'journal+snapshots',
    workload: 'ne',
  },
];
