/**
 * The lab's own proof: it finds nothing in a toy that is right, and something in each that is wrong. A lab
 * that passes everything is worth nothing.
 */
import { describe, expect, it } from 'vitest';
import { Explorer } from '../src/explorer.ts';
import { type DeviceMutation, namedMutation } from '../src/mutation.ts';
import { parseStateId } from '../src/state-id.ts';
import type { SystemUnderTest } from '../src/system-under-test.ts';
import { namedWorkload, randomWorkload, sequences } from '../src/workload.ts';
import { type ToyBug, toyLog } from './toy-log.ts';

const bugs: readonly ToyBug[] = [
  'no flush after the record',
  'no checksum',
  'no flush before the superblock',
  'no flush after the superblock',
  'no life number',
  'recovery resets the log first',
];

function explorerFor(system: SystemUnderTest, mutation?: DeviceMutation): Explorer {
  return new Explorer(system, {
    seed: 1,
    bound: 1024,
    samplesPerPoint: 16,
    secondCrashOneIn: 4,
    killOneIn: 4,
    secondLifeOneIn: 16,
    mutation,
    isOver: () => false,
  });
}

async function exploreSequences(explorer: Explorer, system: SystemUnderTest, length: number): Promise<void> {
  for (let operations = 1; operations <= length; operations++) {
    for (const workload of sequences(system, operations)) {
      await explorer.explore(workload, {
        fromOperation: operations - 1,
        states: 'all',
        secondCrashes: operations === 1 ? 'all' : 'some',
      });
    }
  }
}

async function exploreRandom(explorer: Explorer, system: SystemUnderTest, count: number): Promise<void> {
  for (let number = 0; number < count; number++) {
    const workload = randomWorkload(system, 1, number);
    await explorer.explore(workload, { fromOperation: 0, states: 4, secondCrashes: 'some' });
  }
}

describe('a log that is right', () => {
  it('loses nothing in any crash of any sequence of up to 2 operations', async () => {
    const system = toyLog();
    const explorer = explorerFor(system);
    await exploreSequences(explorer, system, 2);
    expect(explorer.failures).toEqual([]);
    expect(explorer.tally.states).toBeGreaterThan(1000);
    expect(explorer.tally.states).toBe(explorer.tally.exhaustive + explorer.tally.sampled);
    expect(explorer.tally.secondCrashes).toBeGreaterThan(100);
  });

  it('loses nothing in sampled crashes of random workloads, half of them on a device that answers late', async () => {
    const system = toyLog();
    const explorer = explorerFor(system);
    await exploreRandom(explorer, system, 6);
    expect(explorer.failures).toEqual([]);
    expect(explorer.tally.states).toBeGreaterThan(500);
  });
});

describe('a log with a planted bug', () => {
  for (const bug of bugs) {
    it(`${bug}: is found, and the failing state's id reproduces it alone`, async () => {
      const system = toyLog(bug);
      const explorer = explorerFor(system);
      await exploreSequences(explorer, system, 2);
      if (explorer.failures.length === 0) await exploreRandom(explorer, system, 10);
      expect(explorer.failures.length).toBeGreaterThan(0);

      const first = explorer.failures[0]!;
      const id = parseStateId(first.id);
      const alone = explorerFor(system);
      const later = id.later && { workload: namedWorkload(system, id.later.workload), steps: id.later.steps };
      const story = await alone.replay(namedWorkload(system, id.workload), id.steps, later);
      expect(alone.failures.map(({ guarantee, message }) => `${guarantee} ${message}`)).toContain(
        `${first.guarantee} ${first.message}`,
      );
      expect(story.join('\n')).toContain('crash point');
    });
  }
});

describe('a right log on a broken device', () => {
  for (const name of [
    'swallow-journal_flush',
    'swallow-flush_data',
    'unordered-journal_slot',
    'drop-journal_append',
  ]) {
    it(`${name}: is found`, async () => {
      const system = toyLog();
      const explorer = explorerFor(system, namedMutation(name));
      await exploreSequences(explorer, system, 2);
      expect(explorer.failures.length).toBeGreaterThan(0);
      expect(explorer.failures[0]!.id).toContain(`!${name}/`);
    });
  }
});
