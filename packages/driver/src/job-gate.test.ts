import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { JobGate } from './job-gate.ts';

describe('JobGate', () => {
  it('lets in at once what there is room for, and the others in their order', async () => {
    const gate = new JobGate(2, 100);
    const entered: string[] = [];
    const enter = (name: string, bytes: number) =>
      Promise.resolve(gate.enter(bytes)).then(() => entered.push(name));
    expect(gate.enter(40)).toBeUndefined();
    expect(gate.enter(60)).toBeUndefined();
    const all = [enter('large', 80), enter('small', 10)];
    gate.leave(60);
    await Promise.resolve();
    // The small one would fit, and does not overtake.
    expect(entered).toEqual([]);
    gate.leave(40);
    await all[0];
    expect(entered).toEqual(['large', 'small']);
    expect(gate.bytes).toBe(90);
  });

  it('lets one job in whatever it holds', () => {
    const gate = new JobGate(4, 10);
    expect(gate.enter(1000)).toBeUndefined();
    expect(gate.enter(1)).toBeInstanceOf(Promise);
  });

  it('never lets in more than it may, and everybody at last', async () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(sizes, fc.integer({ min: 1, max: 5 }), async (jobs, maxJobs) => {
        const gate = new JobGate(maxJobs, 50);
        let done = 0;
        await Promise.all(
          jobs.map(async (bytes) => {
            await gate.enter(bytes);
            expect(gate.jobs).toBeLessThanOrEqual(maxJobs);
            expect(gate.jobs === 1 || gate.bytes <= 50).toBe(true);
            await Promise.resolve();
            gate.leave(bytes);
            done++;
          }),
        );
        expect(done).toBe(jobs.length);
        expect(gate).toMatchObject({ jobs: 0, bytes: 0 });
      }),
    );
  });

  it('refuses a leave without an entry', () => {
    expect(() => new JobGate(1, 1).leave(1)).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
  });
});
