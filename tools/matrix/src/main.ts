/**
 * `pnpm matrix [--part I/N] [--seed S] [--seconds S] [--pairs]`, `pnpm matrix --only ID`
 *
 * Every allowed combination of the thinned values, or the I-th of N parts of them, in an order that is drawn from the
 * seed: a run that is cut off after some seconds has seen some of everything. `--pairs`: what `pnpm test` runs. `--only`
 * runs one combination again, by the id that a finding prints. The last line is JSON; exits with 1 where something was found, 2 for
 * a wrong call.
 */
import { parseArgs } from 'node:util';
import { SeededRandom } from '@qcow2/seeded';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { runCombination } from './combination-run.ts';
import { type Combination, idOf, parseId } from './dimensions.ts';
import { pairPlan, productPlan } from './plan.ts';
import { Scene } from './scene.ts';

interface Task {
  readonly combination: Combination;
  readonly seed: number;
}

/** A line between findings, so that a long run is seen to go on. */
const reportEvery = 250;

async function main(words: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: words.filter((word) => word !== '--'),
    options: {
      part: { type: 'string' },
      seed: { type: 'string' },
      seconds: { type: 'string' },
      only: { type: 'string' },
      pairs: { type: 'boolean' },
    },
  });
  const seed = wholeNumber('--seed', values.seed) ?? 1;
  const seconds = wholeNumber('--seconds', values.seconds) ?? Number.POSITIVE_INFINITY;
  if (values.only !== undefined) return await runAll([parseId(values.only)], seconds);
  const all = values.pairs === true ? pairPlan() : shuffled(productPlan(), seed);
  const tasks = partOf(all, values.part ?? '1/1').map((combination) => ({ combination, seed }));
  return await runAll(tasks, seconds);
}

async function runAll(tasks: readonly Task[], seconds: number): Promise<number> {
  const started = performance.now();
  const passed = () => (performance.now() - started) / 1000;
  const counts = { planned: tasks.length, run: 0, agreed: 0, different: 0 };
  const refused: Record<string, number> = {};
  const scene = new Scene();
  try {
    for (const { combination, seed } of tasks) {
      if (passed() > seconds) break;
      const { findings, refused: refusal } = await runCombination(scene, combination, seed);
      counts.run++;
      if (refusal !== undefined) refused[refusal.name] = (refused[refusal.name] ?? 0) + 1;
      else if (findings.length === 0) counts.agreed++;
      else counts.different++;
      if (findings.length > 0) console.log(`FOUND ${idOf(combination, seed)}\n  ${findings.join('\n  ')}`);
      if (counts.run % reportEvery === 0)
        console.log(`${counts.run} of ${counts.planned}, ${passed().toFixed(0)} s`);
    }
  } finally {
    scene.remove();
  }
  console.log(JSON.stringify({ ...counts, refused, seconds: Number(passed().toFixed(1)) }));
  return counts.different === 0 ? 0 : 1;
}

/** @throws INVALID_ARGUMENT unless it is I/N with I from 1 to N */
function partOf<T>(list: readonly T[], text: string): T[] {
  const [part = 0, parts = 0] = text.split('/').map(Number);
  if (!/^\d{1,6}\/\d{1,6}$/.test(text) || part < 1 || part > parts) {
    throw new StateError('INVALID_ARGUMENT', 'not a part', { field: '--part', value: text });
  }
  return list.filter((_, index) => index % parts === part - 1);
}

function shuffled<T>(list: readonly T[], seed: number): T[] {
  const random = new SeededRandom(seed);
  const result = [...list];
  for (let left = result.length; left > 1; left--) {
    const other = random.below(left);
    [result[left - 1], result[other]] = [result[other]!, result[left - 1]!];
  }
  return result;
}

function wholeNumber(field: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,9}$/.test(text)) {
    throw new StateError('INVALID_ARGUMENT', 'not a whole number', { field, value: text });
  }
  return Number(text);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Qcow2Error ? error.message : error);
  process.exitCode = 2;
}
