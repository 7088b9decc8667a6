/**
 * Long. Every crash state of every single operation on small journalled images of every shape and on the journal engine
 * alone, of every sequence of up to 2 on most and of up to 3 on some of them, and sampled states of random workloads.
 * (`pnpm crash-lab` goes up to 3 on all.) A failing state's id is in the message:
 * `pnpm crash-lab --state ID` makes it again.
 */
import { describe, expect, it } from 'vitest';
import { Explorer } from '../src/explorer.ts';
import { labSystem } from '../src/systems.ts';
import { namedWorkload } from '../src/workload.ts';
import { isShort, runJobs } from './campaign.ts';

describe('crashes of journalled images', () => {
  it('[JRN-COMMIT-001, JRN-RECOV-008, JRN-RECOV-013, JRN-RECOV-015, JRN-RO-001, JRN-RO-002] every state of single operations, of two on most images and three on some, recovers whole', async () => {
    const { failures, tally } = await runJobs(
      { mode: 'journal' },
      isShort('journal+filled', 'engine', 'engine+eager'),
    );
    expect(failures).toEqual([]);
    expect(tally.pointsSampled).toBe(0);
    expect(tally.exhaustive).toBeGreaterThan(100_000);
    expect(tally.afterKills).toBeGreaterThan(5000);
    expect(tally.secondLives).toBeGreaterThan(500);
    expect(tally.leakedImages).toBe(0);
  });

  it('[JRN-COMMIT-001] 10,000 sampled states of random workloads recover whole, half of them on a device that answers late', async () => {
    const options = { mode: 'journal', randomStates: 10_000 } as const;
    const { failures, tally } = await runJobs(options, ({ kind }) => kind === 'random');
    expect(failures).toEqual([]);
    expect(tally.sampled).toBeGreaterThanOrEqual(10_000);
  });
});

/** Workloads that once lost something, and what it was. */
const found: readonly (readonly [system: string, workload: string, what: string])[] = [
  ['journal+filled', 'r77.91', 'a write in place that ended during a flush was taken for flushed'],
  ['journal+direct+filled', 'r77.73', 'a write in place that ended during a flush was taken for flushed'],
  ['journal-512', 'r77.95', 'a write in place that ended during a flush was taken for flushed'],
  ['journal+filled', 'r77.49', 'a cluster that a writer settled during a flush was missing from that flush'],
  [
    'journal+backing+filled',
    'r77.49',
    'a cluster that a writer settled during a flush was missing from that flush',
  ],
  ['engine', 'm1.9', 'rest never came while a guest wrote'],
];

/** The crash states of one workload, at a crash point with more than `bound` of them 64; failures by id. */
async function explored(
  name: string,
  workload: string,
  bound: number,
): Promise<{ failures: string[]; states: number }> {
  const system = labSystem(name).make();
  const options = {
    seed: 1,
    bound,
    samplesPerPoint: 64,
    secondCrashOneIn: 0,
    killOneIn: 0,
    secondLifeOneIn: 0,
  };
  const explorer = new Explorer(system, options);
  const plan = { fromOperation: 0, states: 'all', secondCrashes: 'some' } as const;
  await explorer.explore(namedWorkload(system, workload), plan);
  return {
    failures: explorer.failures.map(({ id, message }) => `${id} ${message}`),
    states: explorer.tally.states,
  };
}

describe('newer bytes over bytes of the log', () => {
  // These are what shows the mutants `settled-not-logged` and `in-place-past-the-overlay`.
  for (const [name, workload] of [
    ['journal-4k+backing', 'r1.7'],
    ['journal+eager+backing+filled', 'r1.6'],
  ] as const) {
    it(`[JRN-COMMIT-010] ${name}/${workload}: each state shows what was flushed, or newer`, async () => {
      const { failures, states } = await explored(name, workload, 64);
      expect(failures).toEqual([]);
      expect(states).toBeGreaterThan(40);
    });
  }
});

describe('what was found once', () => {
  for (const [name, workload, what] of found) {
    it(`[JRN-COMMIT-001] ${name}/${workload}: ${what}`, async () => {
      // What found them drew three states at a point.
      const { failures, states } = await explored(name, workload, 512);
      expect(failures).toEqual([]);
      expect(states).toBeGreaterThan(100);
    });
  }
});
