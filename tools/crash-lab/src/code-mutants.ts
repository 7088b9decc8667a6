/**
 * The mutants in the code: each takes one protection of the driver away, and names the workload in which a crash
 * shows it. A mutant that survives is a hole in the lab, or the protection is a second one behind another: then
 * both are taken away together.
 *
 * `find` must stand exactly once in its file (`test/code-mutants.test.ts` sees to it), so that a change of the code
 * can not disarm a mutant silently.
 */
export interface MutantEdit {
  /** Path from the root of the workspace. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface CodeMutant {
  /** Letters, digits, `-`: it is part of the ids of states. */
  readonly name: string;
  /** Clauses that the protection serves, or the document that asks for it. */
  readonly clause: string;
  /** What is taken away. */
  readonly protection: string;
  readonly edits: readonly MutantEdit[];
  /** Where a crash shows it. */
  readonly system: string;
  readonly workload: string;
}

const journal = (file: string) => `packages/journal/src/${file}`;
const driver = (file: string) => `packages/driver/src/${file}`;
const cache = (file: string) => `packages/cache/src/${file}`;
const codec = (file: string) => `packages/codec/src/${file}`;

const engineMutants: readonly CodeMutant[] = [
  {
    name: 'no-flush-after-record',
    clause: 'JRN-COMMIT-001',
    protection: 'the flush after a record, before the guest hears of it',
    edits: [
      {
        file: journal('engine.ts'),
        find: `yield* this.#writeSlot();
    yield* this.#flush('journal_flush');
  }

  /** Append records`,
        replace: `yield* this.#writeSlot();
  }

  /** Append records`,
      },
    ],
    system: 'journal+filled',
    workload: 'xf',
  },
  {
    name: 'no-flush-before-mapping',
    clause: 'JRN-COMMIT-003',
    protection: 'the flush of data before the record that leads to it',
    edits: [
      {
        file: journal('engine.ts'),
        find: 'afterFlush: transaction.afterData ? this.#clock.next : 0,',
        replace: 'afterFlush: 0,',
      },
    ],
    system: 'journal+direct+filled',
    workload: 'r1.0',
  },
  {
    name: 'dirty-bit-not-flushed',
    clause: 'JRN-COMMIT-002, JRN-WB-009',
    protection: 'the flush that makes the dirty bit durable before the first record, and clear only then',
    edits: [
      {
        file: driver('journal-client.ts'),
        find: `{ event: 'dirty_bit' }));
  yield* wait(device.flush({ event: 'flush_metadata' }));`,
        replace: `{ event: 'dirty_bit' }));`,
      },
    ],
    system: 'journal+filled',
    workload: 'r1.13',
  },
  {
    name: 'never-marked-dirty',
    clause: 'JRN-COMMIT-002',
    protection: 'the dirty bit',
    edits: [{ file: journal('engine.ts'), find: '    yield* this.#client.markDirty();\n', replace: '' }],
    system: 'journal+filled',
    workload: 'x',
  },
  {
    name: 'tail-before-settled',
    clause: 'JRN-WB-003',
    protection: 'the tail waits for the records that settle the guest writes behind it',
    edits: [
      {
        file: journal('write-back.ts'),
        find: 'round.clientDone && changes.durable >= round.lastSubmission;',
        replace: 'round.clientDone;',
      },
    ],
    system: 'journal+eager+backing+filled',
    workload: 'r1.1',
  },
  {
    name: 'space-free-before-slot-is-durable',
    clause: 'JRN-WB-004',
    protection: 'ring space is reused only when the slot that frees it is durable',
    edits: [
      {
        file: journal('log-space.ts'),
        find: 'this.#ring.blockBytes - (this.#headLog - this.#freedLog);',
        replace: 'this.#ring.blockBytes - (this.#headLog - this.#tail.endLog);',
      },
    ],
    system: 'engine+eager',
    workload: 'r1.9',
  },
  {
    name: 'tail-passed-by-head',
    clause: 'JRN-WB-005',
    protection: 'a record takes no more than the free part of the ring',
    edits: [
      {
        file: journal('log-space.ts'),
        find: 'return this.#ring.lengthBytes - this.#ring.blockBytes - (this.#headLog - this.#freedLog);',
        replace: 'return this.#ring.lengthBytes;',
      },
    ],
    system: 'engine',
    workload: 'r1.23',
  },
  {
    name: 'no-reserve',
    clause: 'JRN-WB-006, JRN-FAIL-003',
    protection: 'the part of the ring that is kept for what settles and ends what is in it',
    edits: [
      {
        file: journal('engine.ts'),
        find: 'this.#space.roomBytes - this.#reserveBytes < this.#nextRecordBytes()',
        replace: 'this.#space.roomBytes < this.#nextRecordBytes()',
      },
    ],
    system: 'engine',
    workload: 'r1.23',
  },
  {
    name: 'one-slot-only',
    clause: 'JRN-SLOT-016',
    protection: 'header slots are written by turns',
    edits: [{ file: journal('area.ts'), find: 'slot.generation % 2);', replace: '0);' }],
    system: 'journal+filled',
    workload: 'sfc',
  },
  {
    name: 'clean-before-in-place',
    clause: 'JRN-WB-009',
    protection: 'everything is in place before the dirty bit is cleared',
    edits: [
      {
        file: journal('engine.ts'),
        find: 'while (!this.#isDrained()) yield* this.#driveRound();',
        replace: '',
      },
    ],
    system: 'journal+filled',
    workload: 'sfc',
  },
  {
    name: 'slot-claims-what-is-not-durable',
    clause: 'JRN-SLOT-014',
    protection: 'a slot claims as durable only what a flush has covered',
    edits: [
      {
        file: journal('engine.ts'),
        find: 'this.#space.nextSlot(this.#durableSequence,',
        replace: 'this.#space.nextSlot(this.lastSequence,',
      },
    ],
    system: 'engine+eager',
    workload: 'r1.0',
  },
  {
    name: 'flush-shared-too-widely',
    clause: 'JRN-COMMIT-001',
    protection: 'a commit covers only the flushes that were asked for before it began',
    edits: [
      {
        file: journal('engine.ts'),
        find: 'this.#commitsCovered = covers;',
        replace: 'this.#commitsCovered = this.#commitsRequested;',
      },
    ],
    system: 'journal+filled',
    workload: 'r1.7',
  },
  {
    name: 'flush-forgets-late-writes',
    clause: 'JRN-COMMIT-001',
    protection: 'a write in place that ends during a flush owes another one',
    edits: [
      {
        file: journal('flush-clock.ts'),
        find: 'this.#completed = flush;',
        replace: 'this.#completed = flush; this.#owed = false;',
      },
    ],
    system: 'journal+direct+filled',
    workload: 'r1.1',
  },
];

const recordMutants: readonly CodeMutant[] = [
  {
    name: 'no-record-checksum',
    clause: 'JRN-REC-003',
    protection: 'the checksum of a record',
    edits: [
      {
        file: codec('journal/record.ts'),
        find: `recordCrc(bytes.subarray(0, lengthBytes), header) !== header.crc)
    return undefined;`,
        replace: `lengthBytes < 0)
    return undefined;`,
      },
    ],
    system: 'journal+filled',
    workload: 'xf',
  },
  {
    name: 'revoke-not-replayed',
    clause: 'JRN-DESC-016',
    protection: 'recovery drops what a revoke covers',
    edits: [
      {
        file: journal('recovery.ts'),
        find: 'hostWrites.delete(descriptor.hostOffset, descriptor.lengthBytes);',
        replace: '',
      },
    ],
    system: 'journal+direct+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'revoke-not-obeyed-by-write-back',
    clause: 'JRN-DESC-016',
    protection: 'write-back drops what a revoke covers',
    edits: [
      {
        file: journal('pending-changes.ts'),
        find: `        this.#active.delete(range.hostOffset, range.lengthBytes);
        this.#draining?.delete(range.hostOffset, range.lengthBytes);`,
        replace: '        void range;',
      },
    ],
    system: 'journal+direct+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'no-revoke',
    clause: 'JRN-DESC-016',
    protection: 'a table that is freed is revoked',
    edits: [
      {
        file: driver('growth.ts'),
        find: '    if (oldClusters > 0) update.revoke(old.offset, oldClusters * clusterBytes);\n',
        replace: '',
      },
    ],
    system: 'journal+direct+l1',
    workload: 'sfgfofc',
  },
  {
    name: 'settled-not-replayed',
    clause: 'JRN-RECOV-009',
    protection: 'recovery drops guest bytes that a later record says are settled',
    edits: [
      {
        file: journal('recovery.ts'),
        find: 'sink.guestSettled(descriptor.guestOffset, descriptor.lengthBytes, descriptor.throughSequence);',
        replace: '',
      },
    ],
    system: 'journal+filled',
    workload: 'r1.2',
  },
];

const driverMutants: readonly CodeMutant[] = [
  {
    name: 'no-quarantine',
    clause: 'JRN-WB-007',
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
    clause: 'journal design, G2',
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
    clause: 'JRN-BIND-014',
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
    clause: 'JRN-RECOV-014',
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

const copyMutants: readonly CodeMutant[] = [
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
        file: driver('image.ts'),
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
        find: '    update.endFills(mapping.hostOffset + start, end - start);\n',
        replace: '',
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

const orderedMutants: readonly CodeMutant[] = [
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

export const codeMutants: readonly CodeMutant[] = [
  ...engineMutants,
  ...recordMutants,
  ...driverMutants,
  ...copyMutants,
  ...orderedMutants,
];

export function codeMutant(name: string): CodeMutant | undefined {
  return codeMutants.find((one) => one.name === name);
}
