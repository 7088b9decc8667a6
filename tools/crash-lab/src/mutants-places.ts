/** Mutants in the code (`code-mutants.ts`): what clusters that the device below copies, and places that a disk gains when it grows, are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;

export const placeMutants: readonly CodeMutant[] = [
  {
    name: 'copied-bytes-owed-by-nobody',
    clause: 'JRN-COMMIT-003',
    protection: 'bytes that the device below has copied are owed by the next flush, as those of a write',
    edits: [
      {
        file: driver('data-area.ts'),
        find: `    const copied = yield* wait(device.copyFrom(source, hostOffset));
    this.noteWritten();
`,
        replace: '    const copied = yield* wait(device.copyFrom(source, hostOffset));\n',
      },
    ],
    system: 'ordered+copies',
    workload: 'dfs',
  },
  {
    name: 'copied-mapped-before-its-bytes',
    clause: 'JRN-COMMIT-003',
    protection: 'new clusters are mapped behind a flush of what was copied there',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: '      yield* update.submit({ required: true, afterData: true, overZeros });\n    } catch',
        replace: '      yield* update.submit({ required: true, afterData: false, overZeros });\n    } catch',
      },
    ],
    system: 'journal+copies',
    workload: 'r1.1',
  },
  {
    name: 'copied-into-shared-cluster',
    clause: 'L2E-004',
    protection: 'a cluster that something else refers to is not copied into',
    edits: [
      {
        file: driver('cluster-copier.ts'),
        find: 'const inPlace = isInPlace(mapping, clusterBytes, 0, clusterBytes);',
        replace: 'const inPlace = isInPlace({ ...mapping, exclusive: true }, clusterBytes, 0, clusterBytes);',
      },
    ],
    system: 'ordered+copies',
    workload: 'w',
  },
  {
    name: 'copied-new-cluster-uncounted',
    clause: 'G3',
    protection: 'new clusters count before anything leads to them',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: '          update.addReference(run.first + i);\n        }\n',
        replace: '        }\n',
      },
    ],
    system: 'journal+copies',
    workload: 'w',
  },
  {
    name: 'copied-under-what-waits',
    clause: 'G2',
    protection: 'a cluster of which something waits in the log is not copied into',
    edits: [
      {
        file: driver('cluster-copier.ts'),
        find: 'if (this.#overlay.get(cluster) !== undefined || this.#pending.get(cluster) !== undefined) break;',
        replace: 'if (this.#pending.get(cluster) !== undefined) break;',
      },
    ],
    system: 'journal+copies',
    workload: 'sw',
  },
  {
    name: 'copied-beside-what-is-gathered',
    clause: 'G2',
    protection: 'a cluster that is being filled piece by piece is not copied beside it',
    edits: [
      {
        file: driver('cluster-copier.ts'),
        find: 'if (this.#overlay.get(cluster) !== undefined || this.#pending.get(cluster) !== undefined) break;',
        replace: 'if (this.#overlay.get(cluster) !== undefined) break;',
      },
    ],
    system: 'ordered+copies',
    workload: 'swf',
  },
  {
    name: 'copied-before-what-is-to-come',
    clause: 'JRN-COPY-005',
    protection: 'a cluster that the log is still to fill is not copied into',
    edits: [
      {
        file: driver('cluster-copier.ts'),
        find: '      if (hostOffset !== 0 && fills.touches(hostOffset, clusterBytes)) break;\n',
        replace: '',
      },
    ],
    system: 'journal+direct+backing+copies',
    workload: 'sfwf',
  },
  {
    name: 'place-shows-old-bytes',
    clause: 'G2',
    protection: 'a place that was used before says that it reads as zeros',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: 'const isZero = run.fresh || data.isRaw ||',
        replace: 'const isZero = !data.isMissing || data.isRaw ||',
      },
    ],
    system: 'ordered+places',
    workload: 'dfg',
  },
  {
    name: 'place-uncounted',
    clause: 'G3',
    protection: 'a place counts before an entry leads to it',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: '      if (own === undefined) update.addReference(run.first + i);\n      update.setEntry(guestCluster + i, preallocated(',
        replace: '      update.setEntry(guestCluster + i, preallocated(',
      },
    ],
    system: 'journal+places',
    workload: 'g',
  },
];
