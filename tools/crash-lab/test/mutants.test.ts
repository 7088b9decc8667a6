/**
 * Take one protection away, and a crash must show it: flushes that do nothing, barriers that do not hold,
 * writes that never arrive. Each mutant names the system on which it is found; one that survives is a
 * hole in the lab.
 */
import { describe, expect, it } from 'vitest';
import { Explorer } from '../src/explorer.ts';
import { namedMutation } from '../src/mutation.ts';
import { labSystem } from '../src/systems.ts';
import { randomWorkload, sequences } from '../src/workload.ts';

const filled = 'journal+filled';
const orderedFilled = 'ordered+backing+filled';

async function failuresOf(name: string, mutation: string): Promise<readonly string[]> {
  const system = labSystem(name).make();
  const explorer = new Explorer(system, {
    seed: 1,
    bound: 4096,
    samplesPerPoint: 64,
    secondCrashOneIn: 16,
    killOneIn: 4,
    secondLifeOneIn: 16,
    mutation: namedMutation(mutation),
    // One is enough.
    isOver: () => explorer.failures.length > 0,
  });
  for (const length of [1, 2]) {
    for (const workload of sequences(system, length)) {
      const secondCrashes = length === 1 ? 'all' : 'some';
      await explorer.explore(workload, { fromOperation: length - 1, states: 'all', secondCrashes });
    }
  }
  for (let number = 0; number < 40 && explorer.failures.length === 0; number++) {
    const plan = { fromOperation: 0, states: 8, secondCrashes: 'some' } as const;
    await explorer.explore(randomWorkload(system, 1, number), plan);
  }
  return explorer.failures.map(({ id, guarantee }) => `${guarantee} ${id}`);
}

async function expectFound(name: string, mutation: string): Promise<void> {
  const failures = await failuresOf(name, mutation);
  expect(failures[0] ?? 'it survived').toContain(`${name}!${mutation}/`);
}

describe('mutants of a journalled image', () => {
  it('[JRN-COMMIT-001] no flush after a record', () => expectFound(filled, 'swallow-journal_flush'));
  it('[JRN-COMMIT-003] no flush between data and the record that maps it', () =>
    expectFound(filled, 'swallow-flush_data'));
  it('[JRN-COMMIT-002] the dirty bit not durable before the first record', () =>
    expectFound(filled, 'unordered-journal_append'));
  it('[JRN-WB-001] metadata in place before its record is durable', () =>
    expectFound(filled, 'unordered-journal_write_back'));
  it('[JRN-WB-002, JRN-WB-003] the slot before what its tail has passed', () =>
    expectFound(filled, 'unordered-journal_slot'));
  it('[JRN-WB-009] the dirty bit cleared before the slot is durable', () =>
    expectFound(filled, 'unordered-dirty_bit'));
  // What is written before a commit, a copied table in particular, counts on the flush that makes the bit durable.
  it('no flush around the dirty bit', () => expectFound('journal+snapshot', 'swallow-flush_metadata'));
  it('records that never arrive', () => expectFound(filled, 'drop-journal_append'));
  it('metadata that never arrives in place', () => expectFound(filled, 'drop-journal_write_back'));
  it('a dirty bit that never arrives', () => expectFound(filled, 'drop-dirty_bit'));
  it('data that never arrives', () => expectFound(filled, 'drop-write_data'));
  it('the same three on direct writes over a backing file', async () => {
    for (const mutation of ['swallow-flush_data', 'unordered-journal_append', 'unordered-journal_slot']) {
      await expectFound('journal+direct+filled', mutation);
    }
  });
});

describe('mutants of the journal engine', () => {
  it('[JRN-WB-004] slots that never arrive, in a ring that wraps', () =>
    expectFound('engine', 'drop-journal_slot'));
  it('[JRN-WB-002, JRN-WB-003] the slot before what its tail has passed', () =>
    expectFound('engine', 'unordered-journal_slot'));
  it('[JRN-COMMIT-003] no flush between data and the record that maps it', () =>
    expectFound('engine+direct', 'swallow-flush_data'));
  it('[JRN-COMMIT-001] no flush after a record', () => expectFound('engine+eager', 'swallow-journal_flush'));
});

describe('mutants of an image without a journal', () => {
  it('no flush between data or refcounts and the mapping', () =>
    expectFound(orderedFilled, 'swallow-flush_data'));
  it('no flush after the mapping', () => expectFound(orderedFilled, 'swallow-flush_metadata'));
  it('the mapping before the refcount', () => expectFound(orderedFilled, 'unordered-l2_update'));
  it('the refcount counted down before the mapping is gone', () =>
    expectFound(orderedFilled, 'unordered-refblock_update'));
  it('mappings that never arrive', () => expectFound(orderedFilled, 'drop-l2_update'));
  it('refcounts that never arrive', () => expectFound(orderedFilled, 'drop-refblock_update'));
});

describe('mutants of an image with lazy refcounts', () => {
  it('[LAZ-001] the mark not durable before the first mapping', () =>
    expectFound('lazy+filled', 'unordered-l2_update'));
  it('[LAZ-001] a mark that never arrives', () => expectFound('lazy', 'drop-dirty_bit'));
  it('[LAZ-002] the mark taken away before the refcounts are durable', () =>
    expectFound('lazy+filled', 'unordered-dirty_bit'));
  it('[LAZ-003] no flush between copied bytes and the mapping', () =>
    expectFound('lazy+backing+filled', 'swallow-flush_data'));
  it('no flush after the mapping', () => expectFound('lazy', 'swallow-flush_metadata'));
  it('refcounts that never arrive', () => expectFound('lazy', 'drop-refblock_update'));
  it('mappings that never arrive', () => expectFound('lazy', 'drop-l2_update'));
});
