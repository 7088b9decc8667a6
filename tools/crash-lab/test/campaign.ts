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

/** Shapes that only have more of the format: `pnpm crash-lab` goes on to sequences of 2 and 3 with them. */
const furtherShapes =
  /\+(data|raw|luks|compressed|snapshots|unmap|parts|bitmaps|rebased|repair|rest|late|width)\b|l1\+long/;

/**
 * Sequences of 2 take longest there: a snapshot's clusters all have to be copied, a backing file's read. Shared clusters are `+twins` too,
 * a backing file is in other shapes too; and `pnpm crash-lab` leaves none out.
 */
const costlyShapes = /^(journal|draft-2013|lazy)\+snapshot$|^(journal|draft-2013)\+backing$/;

/** Only `pnpm crash-lab` goes through these: what they would show is in the other modes too. */
const leftToTheCampaign = /^(draft-2013|lazy)\+rebased$|^lazy\+bitmaps\+sizes$|\+far$/;

/** Sequences of up to 2 operations, of 1 on costly shapes and those with more of the format, and of 3 on the systems that are named. */
export function isShort(...whole: readonly string[]): (job: Job) => boolean {
  return (job) => {
    if (job.kind !== 'sequences' || leftToTheCampaign.test(job.system)) return false;
    const isSingle = furtherShapes.test(job.system) || costlyShapes.test(job.system);
    return job.length < (isSingle ? 2 : 3) || whole.includes(job.system);
  };
}
