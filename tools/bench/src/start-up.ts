/**
 * `bench start`: how long `info` of a small image takes, beside a Node that does nothing and beside qemu-img. The bar is 3 times
 * the Node's time: the rest is what finding, reading and running the command's own modules costs.
 *
 * The programs take turns within a round, each several times; wall clock, as a person waits.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BenchmarkFailure } from './failure.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { median, ratioOf, rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const bar = 3;
const startsPerRound = 5;
const budgetMs = 120_000;

/** Node as the command's launcher starts it. */
const node = join(import.meta.dirname, '../../../node_modules/node/bin/node');

export async function startUp(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const image = workspace.path('small.qcow2');
  await workspace.run('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1G'], 10_000);
  const programs = [
    { name: 'node -e 0', command: node, args: ['-e', '0'] },
    { name: 'qcow2 info', command: options.command, args: ['info', image] },
    { name: 'qemu-img info', command: 'qemu-img', args: ['info', image] },
  ];
  const times = programs.map((): number[] => []);
  // The first start of the command fills the cache of compiled code.
  for (const { command, args } of programs) timeOf(command, args);
  const rounds = await runRounds({ rounds: options.rounds, budgetMs }, (round) => {
    for (const index of rotated([0, 1, 2], round)) {
      const { command, args } = programs[index]!;
      const starts = Array.from({ length: startsPerRound }, () => timeOf(command, args));
      times[index]!.push(median(starts));
    }
  });
  const rows = programs.map(({ name }, index) => [
    name,
    countText(median(times[index]!)),
    ratioText(ratioOf(times[index]!, times[0]!)),
    ratioText(ratioOf(times[index]!, times[2]!)),
  ]);
  options.print(
    `\nStarting, median of ${rounds} rounds of ${startsPerRound} starts; ratios within a round [min–max]\n`,
  );
  options.print(tableText(['program', 'ms', `to Node (bar for qcow2: ${bar})`, 'to qemu-img'], rows));
  return { rounds, bar, times: Object.fromEntries(programs.map(({ name }, index) => [name, times[index]])) };
}

/** Milliseconds. @throws BenchmarkFailure where the program fails */
function timeOf(command: string, args: readonly string[]): number {
  const begun = performance.now();
  const { status, stderr } = spawnSync(command, args, { env: { ...process.env, NODE_OPTIONS: '' } });
  const took = performance.now() - begun;
  if (status !== 0) throw new BenchmarkFailure(`${command} ${args.join(' ')}: ${status} ${String(stderr)}`);
  return took;
}
