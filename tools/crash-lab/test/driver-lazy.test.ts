/** Long. The same for images with lazy refcounts: after the repair at the next open, no corruption and no leak either. */
import { describe, expect, it } from 'vitest';
import { isShort, runJobs } from './campaign.ts';

const isWanted = isShort();
const withoutMark = 'lazy+bitmaps';

describe('crashes of images with lazy refcounts', () => {
  it('[LAZ-005] every state of single operations, and of two on most images, is repaired, wherever the repair is crashed', async () => {
    const isMarked: typeof isWanted = (job) => isWanted(job) && job.system !== withoutMark;
    const { failures, tally } = await runJobs({ mode: 'lazy', length: 2 }, isMarked);
    expect(failures).toEqual([]);
    expect(tally.pointsSampled).toBe(0);
    expect(tally.exhaustive).toBeGreaterThan(30_000);
    expect(tally.secondCrashes).toBeGreaterThan(3_000);
    expect(tally.leakedImages).toBe(0);
  });

  it('[BMP-005] changes of bitmaps, which are made when there is no mark, leak at worst', async () => {
    const { failures, tally } = await runJobs(
      { mode: 'lazy', length: 1 },
      (job) => isWanted(job) && job.system === withoutMark,
    );
    expect(failures).toEqual([]);
    expect(tally.exhaustive).toBeGreaterThan(500);
    expect(tally.leakedImages).toBeGreaterThan(0);
  });

  it('so do sampled states of random workloads, half of them on a device that answers late', async () => {
    const options = { mode: 'lazy', randomStates: 4000 } as const;
    const { failures, tally } = await runJobs(options, ({ kind }) => kind === 'random');
    expect(failures).toEqual([]);
    expect(tally.sampled).toBeGreaterThanOrEqual(4000);
  });
});
