/** Mutants in the code (`code-mutants.ts`): what the driver is protected by, with a journal: allocation, tables, settling, the overlay. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const driverMutants: readonly CodeMutant[] = [
  {
    name: 'settled-not-logged',
    clause: 'JRN-WB-003, JRN-COMMIT-010',
    protection: 'a cluster that settles in place says so in the log',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: '      update.settled(guestCluster * this.#core.clusterBytes, this.#core.clusterBytes);\n      yield*',
        replace: '      yield*',
      },
    ],
    system: 'journal-4k+backing',
    workload: 'r1.7',
  },
  {
    name: 'in-place-past-the-overlay',
    clause: 'JRN-COMMIT-010',
    protection: 'bytes that the log covers are overwritten through the overlay only',
    edits: [
      {
        file: driver('image-writer.ts'),
        find: `    if (inCluster + lengthBytes > clusterBytes || this.#overlay.get(guestCluster) !== undefined)
      return undefined;`,
        replace: '    if (inCluster + lengthBytes > clusterBytes) return undefined;',
      },
    ],
    system: 'journal+eager+backing+filled',
    workload: 'r1.6',
  },
  {
    name: 'zeroing-not-settled',
    clause: 'JRN-COMMIT-011',
    protection: 'zeroing and discarding say in the log that older guest bytes are out of date',
    edits: [
      {
        file: driver('image-writer.ts'),
        find: '        update.settled(cluster * this.#core.clusterBytes, this.#core.clusterBytes);\n',
        replace: '',
      },
    ],
    system: 'journal',
    workload: 'sfzf',
  },
  {
    name: 'shared-cluster-written-in-place',
    clause: 'L2E-004',
    protection: 'a cluster that something else refers to is copied before it is written',
    edits: [
      {
        file: driver('sub-clusters.ts'),
        find: '  if (!mapping.exclusive) return false;\n',
        replace: '',
      },
    ],
    system: 'journal+snapshot',
    workload: 'h',
  },
  {
    name: 'shared-table-written-in-place',
    clause: 'L1E-004',
    protection: 'an L2 table that something else refers to is copied before it is changed',
    edits: [
      {
        file: driver('l2-allocation.ts'),
        find: 'if (before !== 0 && this.#mappings.l2TableExclusive(guestCluster)) return;',
        replace: 'if (before !== 0) return;',
      },
    ],
    system: 'journal+snapshot',
    workload: 'z',
  },
  {
    name: 'no-quarantine',
    clause: 'JRN-COMMIT-009',
    protection: 'a freed cluster is not handed out before the change that freed it is durable',
    edits: [
      {
        file: driver('allocator.ts'),
        find: ' && !this.#reserved.has(cluster) && !this.#quarantined.has(cluster);',
        replace: ' && !this.#reserved.has(cluster);',
      },
    ],
    system: 'journal+direct+filled',
    workload: 'dw',
  },
  {
    name: 'old-cluster-taken-for-fresh',
    clause: 'G2',
    protection: 'a cluster that was used before is written whole',
    edits: [
      {
        file: driver('allocator.ts'),
        find: 'const fresh = first >= this.#freshFrom;',
        replace: 'const fresh = true;',
      },
    ],
    system: 'journal+filled',
    workload: 'dfs',
  },
  {
    name: 'journal-handed-out',
    clause: 'JRN-BIND-015',
    protection: 'the clusters of the journal are never handed out',
    edits: [
      {
        file: driver('allocator.ts'),
        find: 'if (this.#cursor >= start && this.#cursor < end) this.#cursor = end;',
        replace: '',
      },
    ],
    system: 'journal',
    workload: 'sf',
  },
  {
    name: 'table-reachable-before-its-content',
    clause: 'JRN-COMMIT-003',
    protection: 'the content of a new L2 table is durable before the record that leads to it',
    edits: [
      {
        file: driver('l2-allocation.ts'),
        find: 'yield* update.submit({ required, afterData: true, overZeros',
        replace: 'yield* update.submit({ required, afterData: false, overZeros',
      },
    ],
    system: 'journal+snapshot',
    workload: 'ofzf',
  },
  {
    name: 'l1-reachable-before-its-content',
    clause: 'JRN-COMMIT-003',
    protection: 'the content of a new L1 table is durable before the record that leads to it',
    edits: [
      {
        file: driver('growth.ts'),
        find: 'yield* update.submit({ required: true, afterData: true, intentDone });',
        replace: 'yield* update.submit({ required: true, afterData: false, intentDone });',
      },
    ],
    system: 'journal+l1',
    workload: 'scofgf',
  },
  {
    name: 'replayed-header-not-adopted',
    clause: 'JRN-RECOV-009',
    protection: 'a header that the log holds rules from recovery on',
    edits: [
      {
        file: driver('open.ts'),
        find: '    yield* adoptReplayedHeader(parts, log.hostWrites);\n',
        replace: '',
      },
    ],
    system: 'journal+l1',
    workload: 'gf',
  },
  {
    name: 'reader-without-replay',
    clause: 'JRN-RO-001',
    protection: 'a reader of a dirty image looks through the log',
    edits: [
      {
        file: driver('open.ts'),
        find: 'if (readOnly) parts.core.readPatch = (at, into) => log.hostWrites.apply(at, into);',
        replace: 'if (readOnly) parts.core.readPatch = undefined;',
      },
    ],
    system: 'journal+snapshot',
    workload: 'wf',
  },
];
