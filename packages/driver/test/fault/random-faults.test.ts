/**
 * Random requests, several at once, on a device that answers late and fails somewhere. Every request gets its answer,
 * and what was acknowledged is there afterwards, on the device as it is and after a crash.
 */
import type { Fault, FaultOperation } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { CrashStates, keepings } from '../crash/support/crash-states.ts';
import { judge } from '../crash/support/oracle.ts';
import { runFailing, type Setup } from '../crash/support/workload.ts';
import { random } from '../support/random.ts';

const base: Setup = {
  name: 'journalled, 5 at once',
  clusterBytes: 4096,
  sizeBytes: 256 * 1024,
  journal: { sizeBytes: 65536, blockBytes: 512 },
  backingBytes: 0,
  shared: false,
  depth: 5,
};
const eager = {
  directWriteBytes: 1024,
  directFlushBytes: 512,
  writeBackAt: 0.01,
  overlayBytes: 4096,
} as const;
const setups: readonly Setup[] = [
  base,
  {
    ...base,
    name: 'journalled, eager, backed, 3 at once',
    depth: 3,
    tuning: eager,
    backingBytes: 200 * 1024,
  },
  { ...base, name: 'journalled, clusters of 512', clusterBytes: 512, sizeBytes: 64 * 1024, depth: 1 },
  { ...base, name: 'journalled, shared tables, 4 at once', depth: 4, shared: true },
  { ...base, name: 'ordered, 5 at once', journal: false },
  { ...base, name: 'ordered, shared tables', journal: false, depth: 1, shared: true },
];

const operations: readonly FaultOperation[] = ['write', 'write', 'flush', 'resize', 'read'];
const faults: readonly Fault[] = [
  { kind: 'fail' },
  { kind: 'fail', errno: 'ENOSPC' },
  { kind: 'short', doneBytes: 512 },
  { kind: 'torn', lands: (sector) => sector % 3 === 1 },
];

const seeds = Number(process.env.CRASH_SEEDS ?? 12);
const firstSeed = Number(process.env.CRASH_FIRST ?? 1);

describe.each(setups)('$name', (setup) => {
  it.each(Array.from({ length: seeds }, (_, i) => firstSeed + i))(
    '[JRN-FAIL-001, JRN-COMMIT-001] seed %i',
    async (seed) => {
      const rng = random(seed);
      const operation = rng.pick(operations);
      const fault = rng.pick(operation === 'write' ? faults : faults.slice(0, 2));
      const times = rng.pick([1, Number.POSITIVE_INFINITY]);
      const trace = await runFailing(setup, seed, 120, { operation, nth: 1 + rng.below(80), times, fault });
      expect(trace.errors.length > 0, 'somebody hears of it').toBe(trace.strikes > 0);
      await judge(setup, trace, trace.recording.now, trace.memory.clone(), rng);
      const states = new CrashStates(trace.start, trace.recording.log);
      const times5 = Array.from({ length: 5 }, () => rng.below(trace.recording.now + 1));
      for (const time of times5.sort((a, b) => a - b)) {
        states.advance(time);
        await judge(setup, trace, time, states.draw(rng, rng.pick(keepings)), rng);
      }
    },
  );
});
