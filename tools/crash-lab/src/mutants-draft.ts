/** Mutants in the code (`code-mutants.ts`): what the journal of the 2013 draft is protected by. */
import type { CodeMutant } from './code-mutants.ts';

const draft = (file: string) => `packages/journal/src/draft-2013/${file}`;

export const draftMutants: readonly CodeMutant[] = [
  {
    name: 'draft-commit-in-one-flush',
    clause: 'JD13-TXN-001',
    protection: 'the first of the two flushes: transactions are durable before the header commits them',
    edits: [
      {
        file: draft('engine.ts'),
        find: `yield* this.#flush('journal_flush');
    this.#header.commitThrough(this.#transactions.lastSequence);`,
        replace: 'this.#header.commitThrough(this.#transactions.lastSequence);',
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-header-not-flushed',
    clause: 'JD13-TXN-003',
    protection: 'the second of the two flushes: the header is durable before the guest hears of it',
    edits: [
      {
        file: draft('engine.ts'),
        find: `yield* this.#header.write();
    yield* this.#flush('journal_flush');
    this.#effects.becomeCommitted`,
        replace: `yield* this.#header.write();
    this.#effects.becomeCommitted`,
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-never-marked-dirty',
    clause: 'JD13-TXN-007',
    protection: 'the dirty bit of the draft',
    edits: [
      {
        file: draft('engine.ts'),
        find: '      yield* this.#client.markDirty();\n',
        replace: '',
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-clean-before-in-place',
    clause: 'JD13-TXN-009',
    protection: 'everything is in place and retired before the dirty bit is cleared',
    edits: [
      {
        file: draft('engine.ts'),
        find: `yield* this.#executeAll();
        yield* this.#header.write();
        yield* this.#flush('journal_flush');
        if (this.#isDrained()) break;`,
        replace: 'break;',
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xfc',
  },
  {
    name: 'draft-marked-dirty-with-header',
    clause: 'JD13-TXN-007',
    protection: 'the dirty bit is durable before the header commits anything',
    edits: [
      {
        file: draft('engine.ts'),
        find: `      yield* this.#client.markDirty();
      this.#clock.noteWrite();`,
        replace: '      this.#clock.noteWrite();',
      },
      {
        file: draft('engine.ts'),
        find: 'this.#header.commitThrough(this.#transactions.lastSequence);',
        replace: `this.#header.commitThrough(this.#transactions.lastSequence);
    if (before === this.#space.headLog - this.#space.usedBytes) yield* this.#client.markDirty();`,
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-header-not-written-again',
    clause: 'JD13-TXN-005',
    protection: 'recovery writes the header again, and flushes, before it relies on what it says',
    edits: [
      {
        file: draft('recovery.ts'),
        find: `  yield* writeDraftHeader(device, area);
  yield* wait(device.flush({ event: 'journal_flush' }));
  const revokes`,
        replace: '  const revokes',
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-retired-with-its-bytes',
    clause: 'JD13-TXN-002',
    protection: 'recovery calls synced only what a flush has made durable in place',
    edits: [
      {
        file: draft('recovery.ts'),
        find: `    yield* wait(device.flush({ event: 'flush_data' }));
`,
        replace: '',
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xf',
  },
  {
    name: 'draft-synced-before-flush',
    clause: 'JD13-TXN-002',
    protection: 'the header calls synced only what a flush has made durable in place',
    edits: [
      {
        file: draft('engine.ts'),
        find: `      yield* this.#execution.stepAll();
      yield* this.#flush('flush_data');`,
        replace: `      yield* this.#execution.stepAll();
      this.#execution.flushed(Number.POSITIVE_INFINITY);`,
      },
    ],
    system: 'draft-2013+filled',
    workload: 'xfc',
  },
  {
    name: 'draft-revoke-not-logged',
    clause: 'JD13-DESC-007',
    protection: 'the revoke of a table that is freed is logged',
    edits: [
      {
        file: draft('batch.ts'),
        find: 'for (const range of batch.revokes) {',
        replace: 'for (const range of [] as typeof batch.revokes) {',
      },
    ],
    system: 'draft-2013+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'draft-revoke-not-replayed',
    clause: 'JD13-DESC-007',
    protection: 'recovery leaves out what a later transaction revokes',
    edits: [
      {
        file: draft('effects.ts'),
        find: 'if (lengthBytes === 0) return;\n    this.#budget',
        replace: 'if (lengthBytes > 0) return;\n    this.#budget',
      },
    ],
    system: 'draft-2013+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'draft-revoke-not-obeyed-in-place',
    clause: 'JD13-DESC-007, JD13-TXN-008',
    protection: 'execution in place leaves out what a later transaction revokes',
    edits: [
      {
        file: draft('pending-effects.ts'),
        find: 'for (const { hostOffset, lengthBytes } of batch.revokes) {',
        replace: 'for (const { hostOffset, lengthBytes } of [] as typeof batch.revokes) {',
      },
    ],
    system: 'draft-2013+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'draft-rest-left-to-nobody',
    clause: 'JD13-DESC-017',
    protection: 'the transaction that maps a cluster in part names where the rest stands',
    edits: [
      {
        file: 'packages/driver/src/draft-log.ts',
        find: '      ...(copies === undefined || copies.length === 0 ? {} : { copies }),\n',
        replace: '',
      },
    ],
    system: 'draft-2013+snapshot',
    workload: 'sf',
  },
  {
    name: 'draft-source-not-pinned',
    clause: 'JD13-DESC-013',
    protection: 'the source of a copy that a replay may make is not handed out',
    edits: [
      {
        file: 'packages/driver/src/allocator.ts',
        find: '    if (this.#pinned.has(cluster)) return false;\n',
        replace: '',
      },
    ],
    system: 'draft-2013+eager+twins',
    workload: 'r1.0',
  },
  {
    name: 'draft-source-let-go-when-copied',
    clause: 'JD13-DESC-013',
    protection: 'a copy that is made keeps its source until a durable header has passed it',
    edits: [
      {
        file: 'packages/driver/src/cluster-writer.ts',
        find: '      fills.written(base + start, end - start);\n      bytes',
        replace: '      fills.end(base + start, end - start);\n      bytes',
      },
    ],
    system: 'draft-2013+eager+twins',
    workload: 'r1.2',
  },
  {
    name: 'draft-written-target-not-revoked',
    clause: 'JD13-DESC-016',
    protection: 'who writes where a copy is to write revokes it',
    edits: [
      {
        file: 'packages/driver/src/cluster-writer.ts',
        find: 'update.endFills(mapping.hostOffset + start, end - start);',
        replace: '{}',
      },
    ],
    system: 'draft-2013-4k+eager+twins',
    workload: 'r1.6',
  },
  {
    name: 'draft-header-before-copies',
    clause: 'JD13-TXN-002',
    protection: 'a round makes the copies before the header passes them',
    edits: [
      {
        file: 'packages/driver/src/draft-log.ts',
        find: '      copied += yield* this.#writer.makeCopies(next.hostCluster, this.#until);\n',
        replace: '',
      },
    ],
    system: 'draft-2013+snapshot',
    workload: 'sfc',
  },
];
