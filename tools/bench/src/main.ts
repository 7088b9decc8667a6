/** `pnpm bench`: see `options.ts` for its command line. */
import { benefit } from './benefit/benefit.ts';
import { checkMemory } from './check-memory.ts';
import { compressedReads } from './compressed-reads.ts';
import { convertRate } from './convert-rate.ts';
import { BenchmarkFailure } from './failure.ts';
import { flushCost } from './flush-cost.ts';
import { flushRate } from './flush-rate.ts';
import { describeMachine, machineText } from './machine.ts';
import { nbdBenchmark } from './nbd-benchmark.ts';
import { type BenchmarkName, type BenchOptions, parseCommandLine, usage } from './options.ts';
import { startUp } from './start-up.ts';
import { type Workspace, withWorkspace } from './workspace.ts';

const benchmarks: Record<BenchmarkName, (workspace: Workspace, options: BenchOptions) => Promise<unknown>> = {
  nbd: nbdBenchmark,
  compressed: compressedReads,
  'flush-cost': flushCost,
  'flush-rate': flushRate,
  check: checkMemory,
  start: startUp,
  convert: convertRate,
  benefit,
};

async function main(args: readonly string[]): Promise<void> {
  const print = (text: string): void => void process.stdout.write(`${text}\n`);
  const { name, options } = parseCommandLine(args, print);
  if (name === 'help') {
    print(usage);
    return;
  }
  const started = Date.now();
  await withWorkspace(options.folder, async (workspace) => {
    const machine = await describeMachine(workspace);
    print(machineText(machine));
    const result = await benchmarks[name](workspace, options);
    const seconds = Math.round((Date.now() - started) / 1000);
    print(`\n${JSON.stringify({ benchmark: name, quick: options.quick, seconds, machine, result })}`);
  });
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof BenchmarkFailure)) throw error;
  process.stderr.write(`bench: ${error.message}\n`);
  process.exitCode = 1;
}
