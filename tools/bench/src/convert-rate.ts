/**
 * `bench convert`: how long copies of a disk take, beside qemu-img, with the same arguments. A third of the disk is noise, a third text that
 * compresses, a third holes. Both are told to have the target on its disk when they end (`-t writeback`), so that nobody is measured against a
 * page cache.
 *
 * The programs take turns within a round; wall clock, as a person waits.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from 'node:fs';
import { BenchmarkFailure } from './failure.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { median, ratioOf, rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const mib = 2 ** 20;
const budgetMs = 300_000;
const copies: readonly (readonly string[])[] = [
  ['-O', 'raw'],
  ['-O', 'qcow2'],
  ['-W', '-O', 'qcow2'],
  ['-c', '-O', 'qcow2'],
  ['-c', '-W', '-O', 'qcow2'],
];

export async function convertRate(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const diskMiB = options.quick ? 96 : 768;
  const source = workspace.path('disk.raw');
  const target = workspace.path('copy');
  makeDisk(source, diskMiB);
  const programs = ['qemu-img', options.command];
  const times = copies.map(() => programs.map((): number[] => []));
  const rounds = await runRounds({ rounds: options.rounds, budgetMs }, (round) => {
    for (const [copy, words] of copies.entries()) {
      for (const index of rotated([0, 1], round)) {
        const took = timeOf(programs[index]!, ['convert', '-t', 'writeback', ...words, source, target]);
        times[copy]![index]!.push(took);
        rmSync(target);
      }
    }
  });
  const rows = copies.map((words, copy) => {
    const [theirs, ours] = times[copy] as [number[], number[]];
    const spread = ratioText(ratioOf(ours, theirs));
    return [words.join(' '), countText(median(ours)), countText(median(theirs)), spread];
  });
  options.print(`\nCopies of ${diskMiB} MiB, median of ${rounds} rounds; ratios within a round [min–max]\n`);
  options.print(tableText(['convert', 'qcow2, ms', 'qemu-img, ms', 'qcow2 to qemu-img'], rows));
  return { rounds, diskMiB, copies: copies.map((words, copy) => ({ words, times: times[copy] })) };
}

function makeDisk(path: string, sizeMiB: number): void {
  const file = openSync(path, 'w');
  ftruncateSync(file, sizeMiB * mib);
  // Noise without a random source: the same disk in every run.
  const noise = new Uint32Array(mib / 4);
  let state = 1;
  for (let at = 0; at < noise.length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    noise[at] = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d);
  }
  const text = Uint8Array.from({ length: mib }, (_, at) => 97 + ((at * at) % 23));
  for (let at = 0; at < sizeMiB; at++) {
    noise[0] = at;
    if (at % 3 < 2) writeSync(file, at % 3 === 0 ? new Uint8Array(noise.buffer) : text, 0, mib, at * mib);
  }
  closeSync(file);
}

/** Milliseconds. @throws BenchmarkFailure where the program fails */
function timeOf(command: string, args: readonly string[]): number {
  const begun = performance.now();
  const { status, stderr } = spawnSync(command, args, { env: { ...process.env, NODE_OPTIONS: '' } });
  const took = performance.now() - begun;
  if (status !== 0) throw new BenchmarkFailure(`${command} ${args.join(' ')}: ${status} ${String(stderr)}`);
  return took;
}
