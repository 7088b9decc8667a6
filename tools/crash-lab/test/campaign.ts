/** What the long tests share: run the jobs of a campaign in this thread. */
import { type CampaignOptions, defaultCampaign, type Job, JobRunner, jobsOf } from '../src/campaign.ts';
import type { Failure, Tally } from '../src/explorer.ts';

/** Failures as short texts: id, guarantee, what was seen. The first twenty. */
export async function runJobs(
  options: Partial<CampaignOptions>,
  wanted: (job: Job) => boolean,
): Promise<{ failures: string[]; tally: Tally }> {
  const failures: string[] = [];
  const note = ({ id, guarantee, message }: Failure) => {
    if (failures.length < 20) failures.push(`${id} ${guarantee} ${message}`);
  };
  const campaign = { ...defaultCampaign, ...options };
  const runner = new JobRunner(campaign, () => false, note);
  try {
    for (const job of jobsOf(campaign)) if (wanted(job)) await runner.run(job);
    return { failures, tally: runner.tally() };
  } finally {
    runner.close();
  }
}
