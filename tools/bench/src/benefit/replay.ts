/**
 * How long replay takes: an image with 128 MiB and more in its log that are not in place, made and killed; then, by turns and each in a
 * process of its own, the log's bytes are read, the image is opened for reading (which replays into memory and writes nothing), and
 * a copy of it is opened for writing (which writes everything back). For a small disk and a large one.
 */
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { syncFile } from '../contender.ts';
import { BenchmarkFailure } from '../failure.ts';
import { ratioOf, rotated, type Spread, spreadOf } from '../statistics.ts';
import { billOf, parseTrace, straceArguments } from '../strace.ts';
import type { Workspace } from '../workspace.ts';

/** As built, also when this runs from the sources. */
const probe = join(import.meta.dirname, '../../dist/benefit/replay-probe.js');

export interface ReplayFigures {
  readonly diskBytes: number;
  readonly ringBytes: number;
  readonly liveBytes: number;
  readonly records: number;
  /** Bytes that opening for reading read from the file, by strace. */
  readonly readBytes: number;
  /** From the page cache, milliseconds. */
  readonly readMs: Spread;
  readonly openMs: Spread;
  readonly openToRead: Spread;
  /** From the disk; absent where the system does not let go of what it has cached. */
  readonly cold?: { readonly readMs: Spread; readonly openMs: Spread; readonly openToRead: Spread };
  readonly recoverMs: Spread;
}

export interface ReplayPlan {
  readonly rounds: number;
  readonly ringBytes: number;
  readonly liveBytes: number;
}

export async function replayOf(
  workspace: Workspace,
  diskBytes: number,
  plan: ReplayPlan,
): Promise<ReplayFigures> {
  const image = workspace.path('dirty.qcow2');
  const made = await makeDirty(workspace, image, diskBytes, plan);
  syncFile(image);
  const ask = async (
    what: string,
    path: string,
    ...numbers: number[]
  ): Promise<{ ms: number; records?: number }> =>
    parsed(await workspace.run(process.execPath, [probe, what, path, ...numbers.map(String)], 120_000));
  const read = (): Promise<{ ms: number }> => ask('read', image, made.hostOffset, made.usedBytes);
  const open = (): Promise<{ ms: number }> => ask('open', image);
  const { records = 0 } = await ask('open', image);
  if (records < made.records)
    throw new BenchmarkFailure(`replay found ${records} records of ${made.records}`);
  const warm = await compared(plan.rounds, { read, open }, async () => {});
  const cold = await compared(plan.rounds, { read, open }, () => dropCached(workspace, image)).catch(
    () => undefined,
  );
  const recoverMs: number[] = [];
  for (let round = 0; round < Math.min(plan.rounds, 3); round++) {
    const copy = workspace.path('copy.qcow2');
    copyFileSync(image, copy);
    syncFile(copy);
    recoverMs.push((await ask('recover', copy)).ms);
    await workspace.run('rm', [copy]);
  }
  const readBytes = await bytesReadToOpen(workspace, image);
  await workspace.run('rm', [image]);
  return {
    diskBytes,
    ringBytes: made.ringBytes,
    liveBytes: made.usedBytes,
    records,
    readBytes,
    ...warm,
    ...(cold && { cold }),
    recoverMs: rounded(spreadOf(recoverMs)),
  };
}

interface Made {
  readonly hostOffset: number;
  readonly usedBytes: number;
  readonly ringBytes: number;
  readonly records: number;
}

async function makeDirty(
  workspace: Workspace,
  image: string,
  diskBytes: number,
  { ringBytes, liveBytes }: ReplayPlan,
): Promise<Made> {
  const answer = workspace.path('made');
  // It kills itself, which `run` calls a failure; a shell in between keeps its answer and says that this was meant.
  const script = '"$0" "$1" make "$2" "$3" "$4" "$5" > "$6"; [ $? -eq 137 ]';
  const args = [process.execPath, probe, image, `${diskBytes}`, `${ringBytes}`, `${liveBytes}`, answer];
  await workspace.run('sh', ['-c', script, ...args], 300_000);
  if (!existsSync(answer)) throw new BenchmarkFailure('no image with a long log could be made');
  return JSON.parse(readFileSync(answer, 'utf8')) as Made;
}

async function compared(
  rounds: number,
  both: { readonly read: () => Promise<{ ms: number }>; readonly open: () => Promise<{ ms: number }> },
  before: () => Promise<void>,
) {
  const times = { read: [] as number[], open: [] as number[] };
  for (let round = 0; round < rounds; round++) {
    for (const what of rotated(['read', 'open'] as const, round)) {
      await before();
      times[what].push((await both[what]()).ms);
    }
  }
  return {
    readMs: rounded(spreadOf(times.read)),
    openMs: rounded(spreadOf(times.open)),
    openToRead: rounded(ratioOf(times.open, times.read)),
  };
}

function rounded({ median, min, max }: Spread): Spread {
  const short = (value: number): number => Number(value.toPrecision(4));
  return { median: short(median), min: short(min), max: short(max) };
}

/** What of a durable file is in memory goes. @throws BenchmarkFailure where dd can not ask for that */
async function dropCached(workspace: Workspace, path: string): Promise<void> {
  await workspace.run('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

async function bytesReadToOpen(workspace: Workspace, image: string): Promise<number> {
  const trace = workspace.path('trace');
  const [strace = '', ...rest] = straceArguments(image, trace);
  // Without -D: strace itself is waited for, and the trace is complete when it has ended.
  const args = rest.filter((argument) => argument !== '-D');
  await workspace.run(strace, [...args, process.execPath, probe, 'open', image], 120_000);
  const { readBytes, writtenBytes } = billOf(parseTrace(readFileSync(trace, 'utf8')));
  if (writtenBytes > 0) throw new BenchmarkFailure('opening for reading wrote to the image');
  await workspace.run('rm', [trace]);
  return readBytes;
}

function parsed(text: string): { ms: number; records?: number } {
  const answer = JSON.parse(text) as { ms: number; records?: number };
  if (!(answer.ms >= 0)) throw new BenchmarkFailure(`no time in ${text}`);
  return answer;
}
