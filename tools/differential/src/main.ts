/**
 * `pnpm differential [--seeds N] [--ops N] [--seed S] [--kind NAME|all] [--part I/N] [--only 1,2,3] [--story] [--threads N]`
 *
 * Seeds 1 to 20 with 500 operations each, unless it is said otherwise. Without `--kind` the kinds come by turns, one for each
 * seed; `all` takes each seed through every kind. `--seed S` alone is that one seed. `--only` leaves out all operations but these,
 * `--story` tells each one and leaves the files of a failure where they are. The last line is JSON; exits with 1 where something
 * was found, 2 for a wrong call.
 */
import { parseArgs } from 'node:util';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { type Choice, jobsOf, runCampaign } from './campaign.ts';
import { kindNamed, kinds } from './kinds.ts';
import { run } from './run.ts';
import { addTally, emptyTally, type Tally } from './scene.ts';
import type { FoundFailure, Job } from './worker.ts';

async function main(words: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: words.filter((word) => word !== '--'),
    options: {
      seeds: { type: 'string' },
      ops: { type: 'string' },
      seed: { type: 'string' },
      kind: { type: 'string' },
      kinds: { type: 'boolean' },
      part: { type: 'string' },
      only: { type: 'string' },
      story: { type: 'boolean' },
      threads: { type: 'string' },
      'no-minimize': { type: 'boolean' },
    },
  });
  if (values.kinds === true) {
    for (const { name } of kinds) console.log(name);
    return 0;
  }
  const only = values.only?.split(',').map((text) => wholeNumber('--only', text));
  const seed = values.seed === undefined ? undefined : wholeNumber('--seed', values.seed);
  const { kind } = values;
  if (kind !== undefined && kind !== 'all' && kindNamed(kind) === undefined) {
    throw new StateError('INVALID_ARGUMENT', 'not a kind; --kinds lists them', {
      field: '--kind',
      value: kind,
    });
  }
  const choice: Choice = {
    firstSeed: seed ?? 1,
    seeds: values.seeds === undefined ? (seed === undefined ? 20 : 1) : wholeNumber('--seeds', values.seeds),
    operations: only === undefined ? wholeNumber('--ops', values.ops ?? '500') : Math.max(...only) + 1,
    kind,
    only,
    part: partOf(values.part ?? '1/1'),
  };
  const started = performance.now();
  const jobs = jobsOf(choice);
  const failures: FoundFailure[] = [];
  const onFailure = (failure: FoundFailure): void => {
    failures.push(failure);
    tellFailure(failure);
  };
  const threads = Math.min(2, wholeNumber('--threads', values.threads ?? '2'));
  const minimizes = values['no-minimize'] !== true;
  const tally =
    values.story === true
      ? await tellStories(jobs, onFailure)
      : await runCampaign(jobs, { threads, minimizes, onFailure, onDone: tellDone(jobs.length) });
  tellSum(jobs, tally, failures, started);
  return failures.length === 0 ? 0 : 1;
}

/** One run after the other, each operation with a line. */
async function tellStories(jobs: readonly Job[], onFailure: (failure: FoundFailure) => void): Promise<Tally> {
  const sum = emptyTally();
  for (const job of jobs) {
    const kind = kindNamed(job.kind)!;
    const only = job.only === undefined ? undefined : new Set(job.only);
    const onTold = (number: number, told: string) => console.log(`${number} ${told}`);
    const { tally, failure } = await run({ ...job, kind, only, keep: true, onTold });
    addTally(sum, tally);
    if (failure !== undefined) onFailure({ ...failure, enough: undefined });
  }
  return sum;
}

function tellDone(jobs: number) {
  return (_: Job, done: number, sum: Tally): void => {
    if (done % 10 === 0) console.log(`${done} of ${jobs} runs, ${sum.qemuTurns} turns of QEMU's`);
  };
}

function tellFailure({ kind, seed, operations, told, message, enough }: FoundFailure): void {
  const base = `pnpm differential --kind ${kind} --seed ${seed}`;
  console.log(`FOUND ${kind}, seed ${seed}, operation ${operations - 1}: ${told}`);
  console.log(`  ${message.replaceAll('\n', '\n  ')}`);
  console.log(`  again: ${base} --ops ${operations}`);
  if (enough !== undefined)
    console.log(`  with fewer operations: ${base} --story --only ${enough.join(',')}`);
}

function tellSum(
  jobs: readonly Job[],
  tally: Tally,
  failures: readonly FoundFailure[],
  started: number,
): void {
  const count = (counts: Readonly<Record<string, number>>) =>
    Object.values(counts).reduce((sum, one) => sum + one, 0);
  console.log(`operations: ${JSON.stringify(tally.operations)}`);
  console.log(`refusals: ${JSON.stringify(tally.refusals)}`);
  const sum = {
    runs: jobs.length,
    seeds: new Set(jobs.map(({ seed }) => seed)).size,
    kinds: new Set(jobs.map(({ kind }) => kind)).size,
    operations: count(tally.operations),
    qemuTurns: tally.qemuTurns,
    qemuStarts: tally.qemuStarts,
    failures: failures.length,
    seconds: Number(((performance.now() - started) / 1000).toFixed(1)),
  };
  console.log(JSON.stringify(sum));
}

function partOf(text: string): Choice['part'] {
  const [number = 0, of = 0] = text.split('/').map((word) => wholeNumber('--part', word));
  if (number >= 1 && number <= of) return { number, of };
  throw new StateError('INVALID_ARGUMENT', 'a part is I/N', { field: '--part', value: text });
}

function wholeNumber(field: string, text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new StateError('INVALID_ARGUMENT', 'not a whole number', { field, value: text });
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Qcow2Error ? error.message : error);
  process.exitCode = 2;
}
