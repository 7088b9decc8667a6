/** Long. The same for images without a journal, whose metadata is written in order: no corruption, leaks allowed. */
import { describe, expect, it } from 'vitest';
import { defaultCampaign } from '../src/campaign.ts';
import { Explorer } from '../src/explorer.ts';
import { labSystem } from '../src/systems.ts';
import { namedWorkload } from '../src/workload.ts';
import { isShort, runJobs } from './campaign.ts';

describe('crashes of images without a journal', () => {
  it('every state of all sequences of up to 2 operations, of up to 3 on some images, is without corruption and has what was flushed', async () => {
    const { failures, tally } = await runJobs({ mode: 'ordered' }, isShort('ordered+filled'));
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

  it('a second life does not stumble over refcounts that a crash has kept of clusters behind the end of the file', async () => {
    const system = labSystem('ordered+l1+long').make();
    const explorer = new Explorer(system, defaultCampaign);
    const later = { workload: namedWorkload(system, 'kgsf'), steps: [{ point: 0, state: 0n }] };
    const story = await explorer.replay(namedWorkload(system, 'gf'), [{ point: 0, state: 7n }], later);
    expect(explorer.failures).toEqual([]);
    expect(story).toContain('the guest goes on after this recovery');
  });
});
