/**
 * `bench convert`: how long copies of a disk take, beside qemu-img, with the same arguments. A third of the disk is noise, a third text that
 * compresses, a third holes; `sparse` has a MiB of noise in every 64. Without `-t` neither flushes what it makes; with `-t writeback` both have it on
 * the disk when they end.
 *
 * The programs take turns within a round. Wall clock, as a person waits; and the time that processors computed for each, which the
 * machine's other work disturbs less. `node -e 0` beside them is what a Node that does nothing takes.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { BenchmarkFailure } from './failure.ts';
import type { BenchOptions } from './options.ts';
import { runRounds } from './rounds.ts';
import { median, ratioOf, rotated } from './statistics.ts';
import { countText, ratioText, tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const mib = 2 ** 20;
const budgetMs = 300_000;

interface CopyCase {
  readonly from: 'raw' | 'qcow2' | 'sparse';
  readonly words: readonly string[];
}

const zstd = ['-O', 'qcow2', '-o', 'compression_type=zstd'];
const copies: readonly CopyCase[] = [
  { from: 'raw', words: ['-O', 'raw'] },
  { from: 'raw', words: ['-O', 'qcow2'] },
  { from: 'qcow2', words: ['-O', 'raw'] },
  { from: 'qcow2', words: ['-O', 'qcow2'] },
  { from: 'sparse', words: ['-O', 'qcow2'] },
  { from: 'raw', words: ['-W', '-O', 'qcow2'] },
  { from: 'raw', words: ['-W', '-m', '16', '-O', 'qcow2'] },
  { from: 'raw', words: ['-m', '1', '-O', 'qcow2'] },
  { from: 'raw', words: ['-t', 'writeback', '-O', 'raw'] },
  { from: 'raw', words: ['-t', 'writeback', '-O', 'qcow2'] },
  { from: 'raw', words: ['-C', '-O', 'raw'] },
  { from: 'qcow2', words: ['-C', '-O', 'qcow2'] },
  { from: 'raw', words: ['-c', '-O', 'qcow2'] },
  { from: 'raw', words: ['-c', '-W', '-O', 'qcow2'] },
  { from: 'raw', words: ['-c', ...zstd] },
  { from: 'raw', words: ['-c', '-W', ...zstd] },
];

/** Node as the command's launcher starts it. */
const node = join(import.meta.dirname, '../../../node_modules/node/bin/node');

interface Took {
  readonly wallMs: number;
  readonly processorMs: number;
}

export async function convertRate(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const diskMiB = options.quick ? 96 : 480;
  const sources = {
    raw: workspace.path('disk.raw'),
    qcow2: workspace.path('disk.qcow2'),
    sparse: workspace.path('sparse.raw'),
  };
  makeDisk(sources.raw, diskMiB, (at) => at % 3);
  makeDisk(sources.sparse, diskMiB * 16, (at) => (at % 64 === 0 ? 0 : 2));
  await workspace.run('qemu-img', ['convert', '-O', 'qcow2', sources.raw, sources.qcow2], 300_000);
  const target = workspace.path('copy');
  const programs = [options.command, 'qemu-img'];
  const times = copies.map(() => programs.map((): Took[] => []));
  const idle: Took[] = [];
  const rounds = await runRounds({ rounds: options.rounds, budgetMs }, (round) => {
    idle.push(timeOf(node, ['-e', '0']));
    for (const [copy, { from, words }] of copies.entries()) {
      for (const index of rotated([0, 1], round)) {
        times[copy]![index]!.push(timeOf(programs[index]!, ['convert', ...words, sources[from], target]));
        rmSync(target);
      }
    }
  });
  const rows = copies.map(({ from, words }, copy) => {
    const [ours, theirs] = times[copy] as [Took[], Took[]];
    return [
      `${from}: ${words.join(' ')}`,
      ...columns(ours, theirs, 'wallMs'),
      ...columns(ours, theirs, 'processorMs'),
    ];
  });
  const nothing = [
    median(idle.map(({ wallMs }) => wallMs)),
    median(idle.map(({ processorMs }) => processorMs)),
  ];
  options.print(`\nCopies of ${diskMiB} MiB, median of ${rounds} rounds; ratios within a round [min–max]\n`);
  options.print(`node -e 0: ${countText(nothing[0]!)} ms, of processors ${countText(nothing[1]!)} ms\n`);
  const head = ['qcow2, ms', 'qemu-img, ms', 'qcow2 to qemu-img'];
  options.print(tableText(['convert', ...head, ...head.map((title) => `processors: ${title}`)], rows));
  return { rounds, diskMiB, idle, copies: copies.map((copy, index) => ({ ...copy, times: times[index] })) };
}

function columns(ours: readonly Took[], theirs: readonly Took[], what: keyof Took): string[] {
  const [mine, others] = [ours.map((took) => took[what]), theirs.map((took) => took[what])];
  return [countText(median(mine)), countText(median(others)), ratioText(ratioOf(mine, others))];
}

/** @param kindOf what a MiB has: 0 noise, 1 text, 2 nothing */
function makeDisk(path: string, sizeMiB: number, kindOf: (at: number) => number): void {
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
    const kind = kindOf(at);
    if (kind < 2) writeSync(file, kind === 0 ? new Uint8Array(noise.buffer) : text, 0, mib, at * mib);
  }
  closeSync(file);
}

/** @throws BenchmarkFailure where the program fails */
function timeOf(command: string, args: readonly string[]): Took {
  const [begun, before] = [performance.now(), childrenMs()];
  const { status, stderr } = spawnSync(command, args, { env: { ...process.env, NODE_OPTIONS: '' } });
  const took = { wallMs: performance.now() - begun, processorMs: childrenMs() - before };
  if (status !== 0) throw new BenchmarkFailure(`${command} ${args.join(' ')}: ${status} ${String(stderr)}`);
  return took;
}

/** What processors have computed for children that have ended, in steps of 10 ms; NaN where the system does not tell. */
function childrenMs(): number {
  try {
    // Behind the name, which may have anything in it: user and system time of children are the 14th and 15th.
    const fields = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return (Number(fields[13]) + Number(fields[14])) * 10;
  } catch {
    return Number.NaN;
  }
}
