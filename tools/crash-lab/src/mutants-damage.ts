/** Mutants in the code (`code-mutants.ts`): what the journal is protected by against damage, which no crash makes. */
import type { CodeMutant } from './code-mutants.ts';

const journal = (file: string) => `packages/journal/src/${file}`;
const codec = (file: string) => `packages/codec/src/journal/${file}`;

export const damageMutants: readonly CodeMutant[] = [
  {
    name: 'damage-no-slot-checksum',
    clause: 'JRN-SLOT-016, JRN-RECOV-001',
    protection: 'the checksum of a slot',
    edits: [
      {
        file: codec('slot.ts'),
        find: 'if (stored !== crc32c(bytes.subarray(0, crcAt))) {',
        replace: 'if (stored === -1) {',
      },
    ],
    byDamage: true,
    system: 'journal+filled',
    workload: 'r1.1',
  },
  {
    name: 'damage-no-record-checksum',
    clause: 'JRN-REC-003',
    protection: 'the checksum of a record, against damage',
    edits: [
      {
        file: codec('record.ts'),
        find: `recordCrc(bytes.subarray(0, lengthBytes), header) !== header.crc)
    return undefined;`,
        replace: `lengthBytes < 0)
    return undefined;`,
      },
    ],
    byDamage: true,
    system: 'journal+filled',
    workload: 'r1.0',
  },
  {
    name: 'damage-not-refused-by-slot',
    clause: 'JRN-RECOV-006',
    protection: 'refusal where the slot knows that a missing record was durable',
    edits: [
      {
        file: journal('chain.ts'),
        find: 'if (slot.durableSequence < missing) return undefined;',
        replace: 'if (slot.durableSequence < Infinity) return undefined;',
      },
    ],
    byDamage: true,
    system: 'engine+eager',
    workload: 'r1.1',
  },
  {
    name: 'damage-not-refused-by-record',
    clause: 'JRN-RECOV-007',
    protection: 'refusal where a later record knows that a missing one was durable',
    edits: [
      {
        file: journal('chain.ts'),
        find: 'outside.journalId === end.journalId && outside.sequence > missing && outside.durableThrough >= missing',
        replace: 'outside.sequence < missing && outside.durableThrough >= missing',
      },
    ],
    byDamage: true,
    system: 'journal+filled',
    workload: 'r1.0',
  },
];
