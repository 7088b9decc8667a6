/** Long. The same for images without a journal, whose metadata is written in order: no corruption, leaks allowed. */
import { describe, expect, it } from 'vitest';
import { isShort, runJobs } from './campaign.ts';

describe('crashes of images without a journal', () => {
  it('every state of all sequences of up to 2 operations, of up to 3 on some images, is without corruption and has what was flushed', async () => {
    const { failures, tally } = await runJobs(
      { mode: 'ordered' },
      isShort('ordered+filled', 'ordered+snapshot'),
    );
    expect(failures).toEqual([]);
    expect(tally.pointsSampled).toBe(0);
    expect(tally.exhaustive).toBeGreaterThan(30_000);
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
