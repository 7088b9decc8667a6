/**
 * `pnpm ring-model [--ring N] [--records N] [--cells N] [--commits N] [--crashes N] [--kills N] [--mutant NAME] [--states N]`
 *
 * Search the model of the ring through all states within the bounds (the tests' own, where nothing is given), or stop after
 * so many states. Prints counts as JSON; where something is broken, the way that leads there, and exits with 1.
 */
import { parseArgs } from 'node:util';
import { StateError } from '@qcow2/spec';
import { Model } from './model.ts';
import { type Mutant, mutants } from './mutant.ts';
import { search, testBounds } from './search.ts';

const text = { type: 'string' } as const;
const { values } = parseArgs({
  args: process.argv.slice(2).filter((word) => word !== '--'),
  options: {
    ring: text,
    records: text,
    cells: text,
    commits: text,
    crashes: text,
    kills: text,
    states: text,
    mutant: text,
  },
});

function whole(value: string | undefined, otherwise: number): number {
  if (value === undefined) return otherwise;
  if (!/^\d{1,9}$/.test(value)) throw new StateError('INVALID_ARGUMENT', 'not a whole number', { value });
  return Number(value);
}

function mutantOf(name: string | undefined): Mutant | undefined {
  if (name === undefined) return undefined;
  const known = (Object.keys(mutants) as Mutant[]).find((one) => one === name);
  if (known === undefined) throw new StateError('INVALID_ARGUMENT', 'no such mutant', { value: name });
  return known;
}

const bounds = {
  ringBlocks: whole(values.ring, testBounds.ringBlocks),
  recordBlocks: whole(values.records, testBounds.recordBlocks),
  cells: whole(values.cells, testBounds.cells),
  commits: whole(values.commits, testBounds.commits),
  crashes: whole(values.crashes, testBounds.crashes),
  kills: whole(values.kills, testBounds.kills),
};
const mostStates = whole(values.states, Number.MAX_SAFE_INTEGER);
const started = performance.now();
let complete = true;
const result = search(new Model(bounds, mutantOf(values.mutant)), {
  onProgress: (states, waiting) => {
    complete = waiting === 0;
    return states >= mostStates;
  },
});
const { broken, states, steps, crashes, depth } = result;
for (const step of broken?.trace ?? []) console.log(step);
const seconds = Number(((performance.now() - started) / 1000).toFixed(1));
const counts = { states, steps, crashes, depth, complete, broken: broken?.what, seconds };
console.log(JSON.stringify({ bounds, ...counts }));
process.exitCode = broken === undefined ? 0 : 1;
