/**
 * `pnpm io-errors [--systems A,B] [--length N] [--random N] [--seconds S] [--part I/N] [--seed S] [--case ID]`
 *
 * All sequences of up to N operations (default 2) and a dozen longer workloads, on every system or those named; each read, write
 * and flush of them fails in each way. `--part 2/8` does every eighth case, beginning with the second. Failures are told with an id that
 * `--case` runs again; the last line is JSON. Exits with 1 where something failed, 2 for a wrong call.
 */
import { parseArgs } from 'node:util';
import { StateError } from '@qcow2/spec';
import { labSystem, labSystems } from '../systems.ts';
import { namedWorkload } from '../workload.ts';
import { IoErrors, optionsFor, parseCase } from './io-errors.ts';
import { everyCase } from './plan.ts';

const mostPrinted = 40;

async function main(words: readonly string[]): Promise<number> {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: words.filter((word) => word !== '--'),
    options: { systems: text, length: text, random: text, seconds: text, part: text, seed: text, case: text },
  });
  if (values.case !== undefined) return await replay(values.case);
  const started = performance.now();
  const seconds = whole('--seconds', values.seconds, Number.POSITIVE_INFINITY);
  const names =
    values.systems?.split(',') ?? labSystems.filter((one) => one.exhaustive).map((one) => one.name);
  const [part = 1, parts = 1] = (values.part ?? '1/1').split('/').map(Number);
  let printed = 0;
  const { tally, complete } = await everyCase({
    systems: names.map((name) => labSystem(name)),
    length: whole('--length', values.length, 2),
    random: whole('--random', values.random, 12),
    seed: whole('--seed', values.seed, 1),
    part: part - 1,
    parts,
    isOver: () => performance.now() - started > seconds * 1000,
    onFailure: ({ id, message }) => {
      if (printed++ < mostPrinted) console.log(`FAILED ${id}\n  ${message}`);
    },
    onSystem: (name, soFar) => console.log(`${name}; so far ${JSON.stringify(soFar)}`),
  });
  const elapsed = Number(((performance.now() - started) / 1000).toFixed(1));
  console.log(JSON.stringify({ ...tally, failures: printed, complete, seconds: elapsed }));
  return printed === 0 ? 0 : 1;
}

async function replay(text: string): Promise<number> {
  const parsed = parseCase(text);
  if (parsed === undefined) throw new StateError('INVALID_ARGUMENT', 'not a case', { value: text });
  const entry = labSystem(parsed.system);
  const system = entry.make();
  namedWorkload(system, parsed.fault.workload);
  const errors = new IoErrors(system, optionsFor(entry));
  await errors.run(parsed.fault);
  for (const { id, message } of errors.failures) console.log(`FAILED ${id}\n  ${message}`);
  console.log(JSON.stringify({ ...errors.tally, failures: errors.failures.length }));
  return errors.failures.length === 0 ? 0 : 1;
}

function whole(field: string, value: string | undefined, otherwise: number): number {
  if (value === undefined) return otherwise;
  if (!/^\d{1,9}$/.test(value))
    throw new StateError('INVALID_ARGUMENT', 'not a whole number', { field, value });
  return Number(value);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof StateError ? error.message : error);
  process.exitCode = 2;
}
