/**
 * `pnpm crash-lab [--seconds N] [--seed S] [--state ID] [--mode MODE|all] [--system NAMES] [--mutant NAME|all] [--damage N]`
 *
 * Without `--seconds`: everything that is exhaustive, and 10,000 states of random workloads. With it: as much
 * of that as the time allows, and then more random workloads until it is over. Each failure is told with the
 * id that makes its state again; the last line is JSON. Exits with 1 where anything failed, 2 for a wrong call.
 */
import { parseArgs } from 'node:util';
import { StateError } from '@qcow2/spec';
import { addTally, type CampaignOptions, defaultCampaign, jobsOf, shareJobs } from './campaign.ts';
import { codeMutant, codeMutants, mutantTable } from './code-mutants.ts';
import { damageLogs } from './damage.ts';
import { emptyTally, type Failure, type Tally } from './explorer.ts';
import { namedMutation } from './mutation.ts';
import { describeError } from './recovery.ts';
import { parseStateId } from './state-id.ts';
import { isMode, labSystem, labSystems } from './systems.ts';
import { huntMutant, runThread } from './threads.ts';

interface Call {
  readonly options: CampaignOptions;
  readonly mutation: string | undefined;
  /** Print the table of mutants that docs/crash-lab.md shows. */
  readonly mutantTable: boolean;
  /** Names a mutant of the code to hunt, or `all`. */
  readonly mutant: string | undefined;
  /** Where to hunt it, if not where it says; whose logs to damage, if not all. */
  readonly system: string | undefined;
  /** Damage the logs of so many random workloads on each system with a v1 journal, instead of crashing. */
  readonly damage: number | undefined;
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
  if (call.mutantTable) {
    console.log(mutantTable());
    return 0;
  }
  if (call.mutant !== undefined) return huntMutants(call, call.mutant);
  if (call.damage !== undefined) return damageAll(call, call.damage, started);
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
      mutant: { type: 'string' },
      'mutant-table': { type: 'boolean' },
      damage: { type: 'string' },
      system: { type: 'string' },
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
  if (
    values.mutate !== undefined &&
    namedMutation(values.mutate) === undefined &&
    codeMutant(values.mutate) === undefined
  ) {
    throw new StateError('INVALID_ARGUMENT', 'not a mutation', { field: '--mutate', value: values.mutate });
  }
  const options: CampaignOptions = {
    ...defaultCampaign,
    mode,
    seed: wholeNumber('--seed', values.seed) ?? defaultCampaign.seed,
    systems: values.system?.split(',').map((name) => labSystem(name).name),
    length: wholeNumber('--length', values.length) ?? defaultCampaign.length,
    randomStates: wholeNumber('--random-states', values['random-states']) ?? defaultCampaign.randomStates,
    bound: wholeNumber('--bound', values.bound) ?? defaultCampaign.bound,
  };
  return {
    options,
    mutation: values.mutate,
    mutant: values.mutant,
    mutantTable: values['mutant-table'] ?? false,
    system: values.system,
    damage: wholeNumber('--damage', values.damage),
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

async function replayOne(call: Call, state: string, started: number): Promise<number> {
  const { mutation } = parseStateId(state);
  const task = { kind: 'replay', options: call.options, mutation, state } as const;
  const failures: Failure[] = [];
  const { story, tally } = await runThread(task, { onFailure: (failure) => failures.push(failure) });
  for (const line of story) console.log(line);
  for (const failure of failures) printFailure(failure);
  const one = { ...tally, states: 1, exhaustive: 0, sampled: 1, distinct: 1 };
  printSummary(call, one, started, {});
  return tally.failures === 0 ? 0 : 1;
}

/** Hunts mutants of the code, each in the workload that it names and then further; 1 where one survives. */
async function huntMutants(call: Call, names: string): Promise<number> {
  const wanted = names === 'all' ? codeMutants : codeMutants.filter(({ name }) => name === names);
  if (wanted.length === 0) {
    throw new StateError('INVALID_ARGUMENT', 'not a mutant of the code', { field: '--mutant', value: names });
  }
  const queue = [...wanted];
  let survived = 0;
  const hunter = async () => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const aimed = call.system === undefined ? mutant : { ...mutant, system: call.system };
      const { failure, tally } = await huntMutant(aimed, {
        length: call.options.length,
        randomWorkloads: call.options.randomStates > 0 ? 200 : 0,
      });
      if (failure === undefined) {
        survived++;
        console.log(`SURVIVED ${mutant.name} (${mutant.protection}); ${tally.states} states`);
      } else {
        console.log(
          `${mutant.name}: ${failure.guarantee} ${failure.id}\n  ${failure.message.split('\n')[0]}`,
        );
      }
    }
  };
  await Promise.all(Array.from({ length: call.threads }, hunter));
  console.log(JSON.stringify({ mutants: wanted.length, survived }));
  return survived === 0 ? 0 : 1;
}

async function damageAll({ options, system }: Call, workloads: number, started: number): Promise<number> {
  const wanted = labSystems.filter(({ mode, name }) =>
    system === undefined ? mode === 'journal' : name === system,
  );
  const systems = wanted.map(({ make }) => make());
  const { tally, failures } = await damageLogs(systems, options.seed, workloads);
  for (const { id, message } of failures.slice(0, mostPrinted)) console.log(`FAILED G6 ${id}\n  ${message}`);
  const seconds = Number(((performance.now() - started) / 1000).toFixed(1));
  console.log(JSON.stringify({ ...tally, failures: failures.length, seconds, seed: options.seed }));
  return failures.length === 0 ? 0 : 1;
}

async function runCampaign(call: Call): Promise<{ tally: Tally; jobsLeft: number }> {
  const jobs = jobsOf(call.options);
  const shares = shareJobs(jobs, call.threads);
  const sum = emptyTally();
  let jobsLeft = 0;
  let printed = 0;
  const onFailure = (failure: Failure) => {
    if (printed++ < mostPrinted) printFailure(failure);
  };
  const work = shares
    .filter((share) => share.length > 0)
    .map(async (share) => {
      const task = {
        kind: 'campaign',
        options: call.options,
        mutation: call.mutation,
        jobs: share,
        timeoutMs: call.seconds === undefined ? undefined : call.seconds * 1000,
      } as const;
      const onProgress = (job: string, tally: Tally) =>
        console.log(`${job}; so far ${JSON.stringify(tally)}`);
      const done = await runThread(task, { onFailure, onProgress });
      addTally(sum, done.tally);
      jobsLeft += done.jobsLeft;
    });
  await Promise.all(work);
  if (printed > mostPrinted) console.log(`… and ${printed - mostPrinted} more failures`);
  return { tally: sum, jobsLeft };
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
