/** Mutants in the code (`code-mutants.ts`): what the v1 journal is protected by: commits, write-back, slots, records, recovery. */
import type { CodeMutant } from './code-mutants.ts';

const journal = (file: string) => `packages/journal/src/${file}`;
const driver = (file: string) => `packages/driver/src/${file}`;
const codec = (file: string) => `packages/codec/src/${file}`;

export const engineMutants: readonly CodeMutant[] = [
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
        find: 'if (changes.durable >= round.lastSubmission) round.doneAtFlush = clock.next;',
        replace: 'round.doneAtFlush = clock.next;',
      },
    ],
    system: 'journal+eager+backing+filled',
    workload: 'r1.1',
  },
  {
    // The slot that frees space is written by the commit that follows, and few commits could reach so far before it: what
    // writes slots in time stands before this protection, and goes with it. Alone it changes nothing but when slots are written.
    name: 'space-free-before-slot-is-durable',
    clause: 'JRN-WB-004',
    protection:
      'ring space is reused only when the slot that frees it is durable (and a commit writes that slot)',
    edits: [
      {
        file: journal('log-space.ts'),
        find: 'this.#ring.blockBytes - (this.#headLog - this.#freedLog);',
        replace: 'this.#ring.blockBytes - (this.#headLog - this.#tail.endLog);',
      },
      {
        file: journal('engine.ts'),
        find: '    if (this.#space.slotDue && !this.#space.slotUnderWay) yield* this.#writeSlot();\n',
        replace: '',
      },
    ],
    system: 'engine+late',
    workload: 'of.60',
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
    clause: 'JRN-SLOT-017, JRN-RECOV-002',
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
        find: 'while (!this.#isDrained()) yield* this.#drain();',
        replace: '',
      },
    ],
    system: 'journal+filled',
    workload: 'sfc',
  },
  {
    name: 'slot-claims-what-is-not-durable',
    clause: 'JRN-SLOT-014, JRN-COMMIT-016',
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
    clause: 'JRN-COMMIT-015',
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
  {
    name: 'commit-misses-what-settled-meanwhile',
    clause: 'JRN-COMMIT-001',
    protection: 'a commit logs what the client settled or dropped while it waited',
    edits: [
      {
        file: journal('engine.ts'),
        find: `      if (this.#changes.hasRequired) {
        if (this.#changes.hasBlockedRequired(this.#clock.completed)) yield* this.#flush('flush_data');
        yield* this.#appendAll();
      }
`,
        replace: '',
      },
    ],
    system: 'journal+whole+snapshot',
    workload: 'r2.91',
  },
];

export const recordMutants: readonly CodeMutant[] = [
  {
    name: 'tail-before-in-place',
    clause: 'JRN-WB-002',
    protection:
      'the tail waits for the round that writes everything before it in place, and for a flush after that',
    edits: [
      {
        file: journal('write-back.ts'),
        find: 'if (round === undefined || round.doneAtFlush === 0 || flush < round.doneAtFlush) return;',
        replace: 'if (round === undefined) return;',
      },
    ],
    system: 'engine+eager',
    workload: 'r1.0',
  },
  {
    name: 'recovered-log-not-made-durable',
    clause: 'JRN-RECOV-010',
    protection:
      'what recovery read is made durable (written again, and flushed) before anything relies on it',
    edits: [
      { file: driver('open.ts'), find: '    yield* parts.reassertLog(bound);\n', replace: '' },
      {
        file: journal('engine.ts'),
        find: `nothing is written in place before.
      yield* this.#flush('flush_data');`,
        replace: 'nothing is written in place before.',
      },
    ],
    system: 'journal+filled',
    workload: 'xf',
  },
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
    name: 'no-chain',
    clause: 'JRN-REC-018',
    protection: "a record follows the one before by its sequence and by that one's checksum",
    edits: [
      {
        file: codec('journal/record.ts'),
        find: `record.sequence === previous.sequence + 1 &&
    record.position`,
        replace: 'record.position',
      },
      {
        file: codec('journal/record.ts'),
        find: `record.chain === previous.crc &&
    (record.salt`,
        replace: '(record.salt',
      },
    ],
    system: 'engine',
    workload: 'r1.23',
  },
  {
    name: 'revoke-not-replayed',
    clause: 'JRN-DESC-023',
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
    clause: 'JRN-DESC-023, JRN-WB-002',
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
    clause: 'JRN-COMMIT-008',
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
    clause: 'JRN-DESC-026',
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
