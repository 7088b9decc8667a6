/** One thread of a campaign: does its jobs, tells of each failure, and gives its tally at the end. */
import { parentPort, workerData } from 'node:worker_threads';
import { type CampaignOptions, type Job, JobRunner } from './campaign.ts';
import type { Failure, Tally } from './explorer.ts';
import { namedMutation } from './mutation.ts';

export interface WorkerTask {
  readonly options: Omit<CampaignOptions, 'mutation'>;
  readonly mutation: string | undefined;
  readonly jobs: readonly Job[];
  /** Milliseconds from now at which to stop, and up to which to go on with random workloads. */
  readonly timeoutMs: number | undefined;
}

export type WorkerMessage =
  | { readonly kind: 'failure'; readonly failure: Failure }
  | { readonly kind: 'progress'; readonly job: string; readonly tally: Tally }
  | { readonly kind: 'done'; readonly tally: Tally; readonly jobsLeft: number };

async function work(task: WorkerTask, tell: (message: WorkerMessage) => void): Promise<void> {
  const deadline = task.timeoutMs === undefined ? Infinity : Date.now() + task.timeoutMs;
  const isOver = () => Date.now() >= deadline;
  const mutation = task.mutation === undefined ? undefined : namedMutation(task.mutation);
  const runner = new JobRunner({ ...task.options, mutation }, isOver, (failure) =>
    tell({ kind: 'failure', failure }),
  );
  let jobsLeft = task.jobs.length;
  try {
    for (const job of task.jobs) {
      if (!(await runner.run(job))) break;
      jobsLeft--;
      tell({ kind: 'progress', job: describeJob(job), tally: runner.tally() });
    }
    const random = task.jobs.filter((job) => job.kind === 'random');
    while (task.timeoutMs !== undefined && random.length > 0 && !isOver()) {
      for (const job of random) await runner.run(job);
    }
    tell({ kind: 'done', tally: runner.tally(), jobsLeft });
  } finally {
    runner.close();
  }
}

function describeJob(job: Job): string {
  if (job.kind === 'random') return `${job.system}: ${job.states} states of random workloads`;
  return `${job.system}: all sequences of ${job.length}`;
}

if (parentPort !== null) {
  const port = parentPort;
  await work(workerData as WorkerTask, (message) => port.postMessage(message));
}
