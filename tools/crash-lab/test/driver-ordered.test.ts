/** Long. The same for images without a journal, whose metadata is written in order: no corruption, leaks allowed. */
import { describe, expect, it } from 'vitest';
import { runJobs } from './campaign.ts';

describe('crashes of images without a journal', () => {
  it('every state of all sequences of up to 3 operations is without corruption and has what was flushed', async () => {
    const { failures, tally } = await runJobs({ mode: 'ordered' }, ({ kind }) => kind === 'sequences');
    expect(failures).toEqual([]);
    expect(tally.pointsSampled).toBe(0);
    expect(tally.exhaustive).toBeGreaterThan(80_000);
    // Leaks are what this mode pays; a lab that saw none would not look.
    expect(tally.leakedImages).toBeGreaterThan(0);
  });

  it('so do sampled states of random workloads, half of them on a device that answers late', async () => {
    const options = { mode: 'ordered', randomStates: 5000 } as const;
    const { failures, tally } = await runJobs(options, ({ kind }) => kind === 'random');
    expect(failures).toEqual([]);
    expect(tally.sampled).toBeGreaterThanOrEqual(5000);
  });
});
