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

/** Sequences of up to 2 operations, and of 3 on the systems that are named. */
export function isShort(...whole: readonly string[]): (job: Job) => boolean {
  return (job) => job.kind === 'sequences' && (job.length < 3 || whole.includes(job.system));
}
