/**
 * `pnpm crash-lab [--seconds N] [--seed S] [--state ID] [--mode journal|ordered|all]`
 *
 * Without `--seconds`: everything that is exhaustive, and 10,000 states of random workloads. With it: as much
 * of that as the time allows, and then more random workloads until it is over. Each failure is told with the
 * id that makes its state again; the last line is JSON. Exits with 1 where anything failed, 2 for a wrong call.
 */
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { StateError } from '@qcow2/spec';
import { addTally, type CampaignOptions, defaultCampaign, type Job, jobsOf } from './campaign.ts';
import { Explorer, emptyTally, type Failure, type Tally } from './explorer.ts';
import { namedMutation } from './mutation.ts';
import { describeError } from './recovery.ts';
import { parseStateId } from './state-id.ts';
import { isMode, labSystem } from './systems.ts';
import type { WorkerMessage, WorkerTask } from './worker.ts';
import { namedWorkload } from './workload.ts';

interface Call {
  readonly options: CampaignOptions;
  readonly mutation: string | undefined;
  readonly seconds: number | undefined;
  readonly state: string | undefined;
  readonly threads: number;
}

/** Failures printed in full; beyond these they are counted. */
const mostPrinted = 40;

async function main(): Promise<number> {
  const call = readCall(process.argv.slice(2));
  const started = performance.now();
  if (call.state !== undefined) return replayOne(call, call.state, started);
  const { tally, jobsLeft } = await runCampaign(call);
  printSummary(call, tally, started, { complete: jobsLeft === 0 });
  return tally.failures === 0 ? 0 : 1;
}

function readCall(words: readonly string[]): Call {
  const { values } = parseArgs({
    args: words.filter((word) => word !== '--'),
    options: {
      seconds: { type: 'string' },
      seed: { type: 'string' },
      state: { type: 'string' },
      mode: { type: 'string' },
      mutate: { type: 'string' },
      length: { type: 'string' },
      'random-states': { type: 'string' },
      bound: { type: 'string' },
      threads: { type: 'string' },
    },
  });
  const mode = values.mode ?? 'all';
  if (!isMode(mode)) {
    throw new StateError('INVALID_ARGUMENT', 'not a mode', { field: '--mode', value: mode });
  }
  if (values.mutate !== undefined && namedMutation(values.mutate) === undefined) {
    throw new StateError('INVALID_ARGUMENT', 'not a mutation', { field: '--mutate', value: values.mutate });
  }
  const options: CampaignOptions = {
    ...defaultCampaign,
    mode,
    seed: wholeNumber('--seed', values.seed) ?? defaultCampaign.seed,
    length: wholeNumber('--length', values.length) ?? defaultCampaign.length,
    randomStates: wholeNumber('--random-states', values['random-states']) ?? defaultCampaign.randomStates,
    bound: wholeNumber('--bound', values.bound) ?? defaultCampaign.bound,
  };
  return {
    options,
    mutation: values.mutate,
    seconds: wholeNumber('--seconds', values.seconds),
    state: values.state,
    threads: wholeNumber('--threads', values.threads) ?? 2,
  };
}

function wholeNumber(field: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) {
    throw new StateError('INVALID_ARGUMENT', 'not a whole number', { field, value: text });
  }
  return Number(text);
}

async function replayOne(call: Call, text: string, started: number): Promise<number> {
  const id = parseStateId(text);
  const system = labSystem(id.system).make();
  const mutation = id.mutation === undefined ? undefined : namedMutation(id.mutation);
  const explorer = new Explorer(system, { ...call.options, mutation });
  const story = await explorer.replay(namedWorkload(system, id.workload), id.steps);
  for (const line of story) console.log(line);
  for (const failure of explorer.failures) printFailure(failure);
  const tally = { ...explorer.tally, states: 1, exhaustive: 0, sampled: 1, distinct: 1 };
  printSummary(call, tally, started, {});
  return tally.failures === 0 ? 0 : 1;
}

async function runCampaign(call: Call): Promise<{ tally: Tally; jobsLeft: number }> {
  const jobs = jobsOf(call.options);
  const systems = [...new Set(jobs.map(({ system }) => system))];
  const shares: Job[][] = Array.from({ length: Math.max(1, call.threads) }, () => []);
  // All jobs of a system in one thread: what it has recovered it does not recover again.
  for (const job of jobs) shares[systems.indexOf(job.system) % shares.length]!.push(job);
  const sum = emptyTally();
  let jobsLeft = 0;
  let printed = 0;
  const onFailure = (failure: Failure) => {
    if (printed++ < mostPrinted) printFailure(failure);
  };
  const work = shares
    .filter((share) => share.length > 0)
    .map(async (share) => {
      const done = await runThread(call, share, onFailure);
      addTally(sum, done.tally);
      jobsLeft += done.jobsLeft;
    });
  await Promise.all(work);
  if (printed > mostPrinted) console.log(`… and ${printed - mostPrinted} more failures`);
  return { tally: sum, jobsLeft };
}

function runThread(
  call: Call,
  jobs: readonly Job[],
  onFailure: (failure: Failure) => void,
): Promise<{ tally: Tally; jobsLeft: number }> {
  const task: WorkerTask = {
    options: call.options,
    mutation: call.mutation,
    jobs,
    timeoutMs: call.seconds === undefined ? undefined : call.seconds * 1000,
  };
  const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: task });
  return new Promise((resolve, reject) => {
    let done: { tally: Tally; jobsLeft: number } | undefined;
    worker.on('message', (message: WorkerMessage) => {
      if (message.kind === 'failure') onFailure(message.failure);
      else if (message.kind === 'done') done = message;
      else console.log(`${message.job}; so far ${JSON.stringify(message.tally)}`);
    });
    worker.on('error', reject);
    worker.on('exit', () => {
      if (done !== undefined) resolve(done);
      else reject(new StateError('ABORTED', 'a thread of the lab ended early'));
    });
  });
}

function printFailure({ id, guarantee, message, operations }: Failure): void {
  console.log(`FAILED ${guarantee} ${id}\n  ${message}\n  workload: ${operations.join('; ')}`);
}

function printSummary(call: Call, tally: Tally, started: number, more: { complete?: boolean }): void {
  const seconds = Number(((performance.now() - started) / 1000).toFixed(1));
  const { states, exhaustive, sampled, distinct, failures, ...rest } = tally;
  const seed = call.options.seed;
  console.log(
    JSON.stringify({ states, exhaustive, sampled, distinct, failures, seconds, seed, ...more, ...rest }),
  );
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(error instanceof StateError ? error.message : describeError(error));
  process.exitCode = 2;
}
