/** Mutants in the code (`code-mutants.ts`): what ordered writes and lazy refcounts are protected by. */
import type { CodeMutant } from './code-mutants.ts';

const driver = (file: string) => `packages/driver/src/${file}`;
const cache = (file: string) => `packages/cache/src/${file}`;

export const orderedMutants: readonly CodeMutant[] = [
  {
    name: 'ordered-mapping-with-data',
    clause: 'cache/ordered-writes',
    protection: 'the flush between data and refcounts, and mappings',
    edits: [
      {
        file: cache('ordered-writes.ts'),
        find: "if (number > 0 && unflushed) yield* this.#flushDevice('flush_data');",
        replace: '',
      },
    ],
    system: 'ordered+filled',
    workload: 'x',
  },
  {
    name: 'ordered-no-flush-after-mappings',
    clause: 'cache/ordered-writes',
    protection: 'the flush after the mappings, before the guest hears of it',
    edits: [
      {
        file: cache('ordered-writes.ts'),
        find: "if (unflushed) yield* this.#flushDevice('flush_metadata');",
        replace: '',
      },
    ],
    system: 'ordered+filled',
    workload: 'wf',
  },
  {
    name: 'ordered-mappings-first',
    clause: 'cache/ordered-writes',
    protection: 'the order of the steps: refcounts, tables, mappings',
    edits: [
      {
        file: cache('ordered-writes.ts'),
        find: 'for (const [number, step] of steps.entries()) {',
        replace: 'for (const [number, step] of [...steps.entries()].reverse()) {',
      },
    ],
    system: 'ordered+filled',
    workload: 'x',
  },
  {
    name: 'ordered-early-frees',
    clause: 'cache/ordered-writes',
    protection: 'refcounts are lowered only when the mapping that is gone is durably gone',
    edits: [
      {
        file: driver('ordered-log.ts'),
        find: 'readonly lateFrees = true;',
        replace: 'readonly lateFrees = false;',
      },
    ],
    system: 'ordered+filled',
    workload: 'df',
  },
  {
    name: 'ordered-frees-before-durable',
    clause: 'cache/ordered-writes',
    protection: 'who waits for mappings is called when they are durable',
    edits: [
      {
        file: cache('ordered-writes.ts'),
        find: 'this.#afterMappings.push(callback);',
        replace: 'callback();',
      },
    ],
    system: 'ordered+filled',
    workload: 'ds',
  },
];

export const lazyMutants: readonly CodeMutant[] = [
  {
    name: 'lazy-mark-with-mappings',
    clause: 'LAZ-001',
    protection: 'the mark is durable before the first mapping is written',
    edits: [
      {
        file: cache('lazy-writes.ts'),
        find: `unflushed = true;
      first = true;`,
        replace: 'unflushed = true;',
      },
      // Before the first flush of a life nothing is known of the file's length, which orders the first commit too.
      {
        file: cache('lazy-writes.ts'),
        find: 'what.reachBytes > this.#durableBytes ||',
        replace: '',
      },
    ],
    system: 'lazy',
    workload: 'xf',
  },
  {
    name: 'lazy-mark-goes-too-soon',
    clause: 'LAZ-002',
    protection: 'refcounts are durable before the mark is taken away',
    edits: [
      {
        file: cache('lazy-writes.ts'),
        find: `yield* this.#writeAll(0, refcounts);
      yield* this.#flushDevice('flush_metadata');`,
        replace: 'yield* this.#writeAll(0, refcounts);',
      },
    ],
    system: 'lazy+filled',
    workload: 'xc',
  },
  {
    name: 'lazy-copied-bytes-with-mapping',
    clause: 'LAZ-003',
    protection: 'bytes that were copied are durable before the mapping that leads to them',
    edits: [
      {
        file: driver('ordered-log.ts'),
        find: '    if (change.afterData && change.overZeros !== true) this.#ordered = true;\n',
        replace: '',
      },
    ],
    system: 'lazy+backing',
    workload: 'xfsfhf',
  },
  {
    name: 'lazy-frees-before-durable',
    clause: 'LAZ-004',
    protection: 'a freed cluster is not handed out before the end of its mapping is durable',
    edits: [
      {
        file: cache('lazy-writes.ts'),
        find: 'this.#afterMappings.push(callback);',
        replace: 'callback();',
      },
    ],
    system: 'lazy+filled',
    workload: 'ds',
  },
  {
    name: 'lazy-guest-saw-more-than-zeros',
    clause: 'LAZ-003',
    protection: 'one flush is enough only where the guest saw zeros before',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: 'overZeros &&= this.#reader.readsAsZeros(guestCluster + i, before);',
        replace: '',
      },
      {
        file: driver('pending-writer.ts'),
        find: 'const overZeros = cluster.fresh && this.#reader.readsAsZeros(guestCluster, mapping);',
        replace: 'const overZeros = cluster.fresh;',
      },
    ],
    system: 'lazy+backing',
    workload: 'xfof',
  },
  {
    name: 'lazy-cluster-is-not-fresh',
    clause: 'LAZ-003',
    protection: 'one flush is enough only where the new cluster reads as zeros',
    edits: [
      {
        file: driver('cluster-writer.ts'),
        find: 'let overZeros = run.fresh;',
        replace: 'let overZeros = true;',
      },
      {
        file: driver('pending-writer.ts'),
        find: 'const overZeros = cluster.fresh && this.#reader.readsAsZeros(guestCluster, mapping);',
        replace: 'const overZeros = this.#reader.readsAsZeros(guestCluster, mapping);',
      },
    ],
    system: 'lazy+filled',
    workload: 'dfwfof',
  },
  {
    name: 'lazy-mapping-behind-the-end',
    clause: 'LAZ-003',
    protection: 'the file is durably as long as the clusters reach before a mapping leads to them',
    edits: [
      {
        file: cache('lazy-writes.ts'),
        find: 'what.reachBytes > this.#durableBytes ||',
        replace: '',
      },
    ],
    system: 'lazy+far',
    workload: 'xfb',
  },
];
