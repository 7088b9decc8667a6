/**
 * Long. The same for images with the draft's journal. Its two-flush commit leaves large spaces (a transaction's blocks,
 * guest data and the block of zeros are all pending at once), so here only some shapes go up to 2 operations.
 */
import { describe, expect, it } from 'vitest';
import { isShort, runJobs } from './campaign.ts';

/** Snapshots are made, applied and deleted there. */
const leaking = 'draft-2013+snapshots';

describe('crashes of images with the journal of the 2013 draft', () => {
  it('every state of single operations, and of two on some images, recovers whole', async () => {
    const wanted = isShort();
    const pairs = ['draft-2013+filled', 'draft-2013+backing+filled'];
    const { failures, tally } = await runJobs(
      { mode: 'draft-2013' },
      (job) =>
        wanted(job) &&
        job.system !== leaking &&
        (job.kind === 'sequences' && job.length > 1 ? pairs.includes(job.system) : true),
    );
    expect(failures).toEqual([]);
    expect(tally.exhaustive).toBeGreaterThan(50_000);
    expect(tally.leakedImages).toBe(0);
  });

  it('operations on snapshots, of which the log keeps no word, leak at worst', async () => {
    const { failures, tally } = await runJobs(
      { mode: 'draft-2013', length: 1 },
      ({ kind, system }) => kind === 'sequences' && system === leaking,
    );
    expect(failures).toEqual([]);
    expect(tally.exhaustive).toBeGreaterThan(3000);
    expect(tally.leakedImages).toBeGreaterThan(0);
  });

  it('so do sampled states of random workloads, half of them on a device that answers late', async () => {
    const options = { mode: 'draft-2013', randomStates: 3000 } as const;
    const { failures, tally } = await runJobs(options, ({ kind }) => kind === 'random');
    expect(failures).toEqual([]);
    expect(tally.sampled).toBeGreaterThanOrEqual(3000);
  });
});
