/** Starting threads of the lab: campaigns, single states and hunts all run in one, so that a mutant can be planted. */
import { Worker } from 'node:worker_threads';
import { StateError } from '@qcow2/spec';
import { defaultCampaign } from './campaign.ts';
import type { WorkerMessage, WorkerTask } from './campaign-thread.ts';
import type { CodeMutant } from './code-mutants.ts';
import type { Failure, Tally } from './explorer.ts';

export interface ThreadResult {
  readonly tally: Tally;
  readonly jobsLeft: number;
  readonly story: readonly string[];
}

export interface ThreadListener {
  readonly onFailure: (failure: Failure) => void;
  readonly onProgress?: (job: string, tally: Tally) => void;
}

/** @throws what the thread throws */
export function runThread(task: WorkerTask, listener: ThreadListener): Promise<ThreadResult> {
  const worker = new Worker(new URL('./worker.ts', import.meta.url), {
    workerData: task,
    // Where the lab itself runs under a test runner, its threads still load sources and not what was built.
    execArgv: ['--conditions=qcow2-source'],
  });
  return new Promise((resolve, reject) => {
    let done: ThreadResult | undefined;
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'failure') listener.onFailure(message.failure);
      else if (message.kind === 'done') done = message;
      else listener.onProgress?.(message.job, message.tally);
    });
    worker.on('error', reject);
    worker.on('exit', () => {
      if (done !== undefined) resolve(done);
      else reject(new StateError('ABORTED', 'a thread of the lab ended early'));
    });
  });
}

export interface HuntBudget {
  readonly length: number;
  readonly randomWorkloads: number;
}

/** The first failure that a mutant of the code shows, or undefined where it survives. */
export async function huntMutant(
  mutant: CodeMutant,
  budget: HuntBudget,
): Promise<{ failure: Failure | undefined; tally: Tally }> {
  let failure: Failure | undefined;
  const { system, workload, name } = mutant;
  const task = {
    kind: 'hunt',
    options: defaultCampaign,
    mutation: name,
    system,
    workload,
    byDamage: mutant.byDamage === true,
    ...budget,
  } as const;
  const onFailure = (found: Failure) => {
    failure ??= found;
  };
  const { tally } = await runThread(task, { onFailure });
  return { failure, tally };
}
