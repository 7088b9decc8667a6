/**
 * Random workloads, random crashes: after each, every sector of the guest's disk is what was flushed last or what
 * was written later, the image is whole, and recovery that crashes comes to the same disk.
 *
 * The crash lab of this repository goes through small spaces of states completely; this one is compact, quick and
 * other code, so that a mistake of one oracle is not also the mistake of the other.
 */
import { describe, expect, it } from 'vitest';
import { random } from '../support/random.ts';
import { CrashStates, keepings } from './support/crash-states.ts';
import { judge } from './support/oracle.ts';
import { runWorkload, type Setup } from './support/workload.ts';

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const base: Setup = {
  name: '',
  clusterBytes: 4096,
  sizeBytes: 256 * 1024,
  journal,
  backingBytes: 0,
  shared: false,
  depth: 1,
};
const backed = { backingBytes: 200 * 1024 + 512 } as const;
/** Everything goes in place, and write-back begins at once. */
const eager = {
  directWriteBytes: 1024,
  directFlushBytes: 512,
  writeBackAt: 0.01,
  overlayBytes: 4096,
} as const;
/** The end divides a cluster, and the backing file goes on behind it. */
const growing = {
  sizeBytes: 32 * 1024 + 1536,
  growBytes: 100 * 1024 + 512,
  backingBytes: 300 * 1024,
} as const;

const setups: readonly Setup[] = [
  { ...base, name: 'journalled' },
  {
    ...base,
    name: 'journalled, blocks of 4096, backed',
    journal: { ...journal, blockBytes: 4096 },
    ...backed,
  },
  { ...base, name: 'journalled, clusters of 512', clusterBytes: 512, sizeBytes: 64 * 1024 },
  {
    ...base,
    name: 'journalled, clusters of 64 KiB, backed',
    clusterBytes: 65536,
    sizeBytes: 512 * 1024,
    ...backed,
  },
  { ...base, name: 'journalled, eager, backed', tuning: eager, ...backed },
  { ...base, name: 'journalled, shared tables', shared: true },
  { ...base, name: 'journalled, shared tables, eager, backed', shared: true, tuning: eager, ...backed },
  { ...base, name: 'journalled, 4 at once', depth: 4 },
  { ...base, name: 'journalled, 4 at once, eager, backed', depth: 4, tuning: eager, ...backed },
  { ...base, name: 'journalled, 6 at once, shared tables', depth: 6, shared: true },
  { ...base, name: 'journalled, growing', clusterBytes: 512, sizeBytes: 32 * 1024, growBytes: 700 * 1024 },
  { ...base, name: 'journalled, growing, backed', ...growing },
  {
    ...base,
    name: 'journalled, growing, backed, 3 at once',
    ...growing,
    clusterBytes: 512,
    depth: 3,
  },
  {
    ...base,
    name: 'shared tables, eager, growing, backed',
    ...growing,
    shared: true,
    tuning: eager,
  },
  { ...base, name: 'ordered', journal: false },
  {
    ...base,
    name: 'ordered, growing, backed, 3 at once',
    journal: false,
    ...growing,
    depth: 3,
  },
  {
    ...base,
    name: 'ordered, growing',
    journal: false,
    clusterBytes: 512,
    sizeBytes: 32 * 1024,
    growBytes: 700 * 1024,
  },
  {
    ...base,
    name: 'ordered, clusters of 512, backed',
    journal: false,
    clusterBytes: 512,
    sizeBytes: 64 * 1024,
    ...backed,
  },
  { ...base, name: 'ordered, shared tables, backed', journal: false, shared: true, ...backed },
  { ...base, name: 'ordered, 4 at once', journal: false, depth: 4 },
  { ...base, name: 'the journal comes and goes', switches: true },
  { ...base, name: 'the journal comes and goes, backed, 3 at once', switches: true, depth: 3, ...backed },
];

const seeds = Number(process.env.CRASH_SEEDS ?? 2);
const firstSeed = Number(process.env.CRASH_FIRST ?? 1);

describe.each(setups)('$name', (setup) => {
  it.each(Array.from({ length: seeds }, (_, i) => firstSeed + i))(
    '[JRN-COMMIT-001, JRN-RECOV-012, JRN-RECOV-013, JRN-RECOV-015, JRN-RO-001, JRN-RO-002] seed %i',
    async (seed) => {
      const trace = await runWorkload(setup, seed, 120);
      const rng = random(seed + 7);
      const times = Array.from({ length: 24 }, () => rng.below(trace.recording.now + 1)).sort(
        (a, b) => a - b,
      );
      const states = new CrashStates(trace.start, trace.recording.log);
      for (const time of times) {
        states.advance(time);
        const keeping = rng.pick(keepings);
        const crashed = states.draw(rng, keeping);
        await expect(
          judge(setup, trace, time, crashed, rng),
          `crash at ${time} of ${trace.recording.now}, ${states.pendingCount} pending, kept: ${keeping}`,
        ).resolves.toBeUndefined();
      }
    },
  );
});
