/**
 * What a thread of the lab does: the jobs of a campaign, or one state again, or the hunt for a mutant. Started by
 * `worker.ts`, which has planted the mutant by then.
 */
import { type CampaignOptions, type Job, JobRunner } from './campaign.ts';
import { DamageExplorer } from './damage.ts';
import { Explorer, emptyTally, type Failure, type Tally } from './explorer.ts';
import { type DeviceMutation, namedMutation } from './mutation.ts';
import { parseStateId } from './state-id.ts';
import { labSystem } from './systems.ts';
import { namedWorkload, randomWorkload, sequences, type Workload } from './workload.ts';

export type WorkerTask = {
  readonly options: Omit<CampaignOptions, 'mutation'>;
  /** Of the device or of the code; part of the ids of states. */
  readonly mutation: string | undefined;
} & (
  | {
      readonly kind: 'campaign';
      readonly jobs: readonly Job[];
      /** Milliseconds from now at which to stop, and up to which to go on with random workloads. */
      readonly timeoutMs: number | undefined;
    }
  | { readonly kind: 'replay'; readonly state: string }
  | {
      readonly kind: 'hunt';
      readonly system: string;
      /** Where to look first. */
      readonly workload: string;
      /** Damage the log instead of crashing. */
      readonly byDamage: boolean;
      /** Where to look else: all sequences up to this length, then so many random workloads. */
      readonly length: number;
      readonly randomWorkloads: number;
    }
);

export type WorkerMessage =
  | { readonly kind: 'failure'; readonly failure: Failure }
  | { readonly kind: 'progress'; readonly job: string; readonly tally: Tally }
  | {
      readonly kind: 'done';
      readonly tally: Tally;
      readonly jobsLeft: number;
      readonly story: readonly string[];
    };

type Tell = (message: WorkerMessage) => void;

export async function work(task: WorkerTask, tell: Tell): Promise<void> {
  if (task.kind === 'campaign') await campaign(task, tell);
  else if (task.kind === 'replay') await replay(task, tell);
  else await hunt(task, tell);
}

/** A mutant of the code is planted by now, and does nothing to the log: it only gives its name to the states. */
function mutationNamed(name: string | undefined): DeviceMutation | undefined {
  if (name === undefined) return undefined;
  return namedMutation(name) ?? { name, apply: (log) => log };
}

async function replay(task: Extract<WorkerTask, { kind: 'replay' }>, tell: Tell): Promise<void> {
  const id = parseStateId(task.state);
  const system = labSystem(id.system).make();
  const explorer = new Explorer(system, { ...task.options, mutation: mutationNamed(id.mutation) });
  const later = id.later && { workload: namedWorkload(system, id.later.workload), steps: id.later.steps };
  const story = await explorer.replay(namedWorkload(system, id.workload), id.steps, later);
  for (const failure of explorer.failures) tell({ kind: 'failure', failure });
  tell({ kind: 'done', tally: explorer.tally, jobsLeft: 0, story });
}

/** Explore until something fails: the workload that is named, then short sequences, then random workloads. */
async function hunt(task: Extract<WorkerTask, { kind: 'hunt' }>, tell: Tell): Promise<void> {
  if (task.byDamage) return huntByDamage(task, tell);
  const system = labSystem(task.system).make();
  const explorer: Explorer = new Explorer(system, {
    ...task.options,
    mutation: mutationNamed(task.mutation),
    isOver: () => explorer.failures.length > 0,
  });
  const look = async (workload: Workload, fromOperation: number, states: 'all' | number): Promise<void> => {
    if (explorer.failures.length > 0) return;
    const secondCrashes = workload.operations.length <= 2 ? 'all' : 'some';
    await explorer.explore(workload, { fromOperation, states, secondCrashes });
  };
  const named = namedWorkload(system, task.workload);
  await look(named, 0, 'all');
  for (let length = 1; length <= task.length; length++) {
    for (const workload of sequences(system, length)) await look(workload, length - 1, 'all');
  }
  for (let number = 0; number < task.randomWorkloads; number++) {
    await look(randomWorkload(system, task.options.seed, number), 0, 24);
  }
  const [failure] = explorer.failures;
  if (failure !== undefined) tell({ kind: 'failure', failure });
  tell({ kind: 'done', tally: explorer.tally, jobsLeft: 0, story: [] });
}

/** The workload that is named, then random ones: the log of each of their durable states is damaged. */
async function huntByDamage(task: Extract<WorkerTask, { kind: 'hunt' }>, tell: Tell): Promise<void> {
  const system = labSystem(task.system).make();
  const explorer = new DamageExplorer(system, task.mutation);
  const { seed } = task.options;
  const numbers = Array.from({ length: task.randomWorkloads }, (_, number) => number);
  const workloads = numbers.map((number) => randomWorkload(system, seed, number));
  for (const workload of [namedWorkload(system, task.workload), ...workloads]) {
    await explorer.explore(workload);
    if (explorer.failures.length > 0) break;
  }
  const [found] = explorer.failures;
  if (found !== undefined) {
    tell({ kind: 'failure', failure: { ...found, guarantee: 'G6', operations: [] } });
  }
  const { workloads: count, images } = explorer.tally;
  const tally = { ...emptyTally(), workloads: count, states: images, failures: explorer.failures.length };
  tell({ kind: 'done', tally, jobsLeft: 0, story: [] });
}

async function campaign(task: Extract<WorkerTask, { kind: 'campaign' }>, tell: Tell): Promise<void> {
  const deadline = task.timeoutMs === undefined ? Infinity : Date.now() + task.timeoutMs;
  const isOver = () => Date.now() >= deadline;
  const mutation = mutationNamed(task.mutation);
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
    tell({ kind: 'done', tally: runner.tally(), jobsLeft, story: [] });
  } finally {
    runner.close();
  }
}

function describeJob(job: Job): string {
  if (job.kind === 'random') return `${job.system}: ${job.states} states of random workloads`;
  return `${job.system}: all sequences of ${job.length}`;
}
