/**
 * `bench check`: what a check, and a repair, of a very large image costs in memory and time, beside qemu-img: 16 TiB, all of it mapped in
 * clusters of 64 KiB (or as much as the file system has in one file), the L2 tables and refcount blocks really written. Our
 * memory is asserted, being no matter of how busy the machine is: 256 MiB at most, resident, of the whole process.
 *
 * Both check the same file, one after the other; each repairs an image of its own. What qemu-img can not do is a row with its exit code:
 * it puts new refcounts behind the end of the file, where there is no room in one that is as long as ext4 takes.
 */
import { spawnSync } from 'node:child_process';
import { rmSync, statfsSync } from 'node:fs';
import { dirname } from 'node:path';
import { BenchmarkFailure } from './failure.ts';
import { type MappedImage, makeMappedImage } from './mapped-image.ts';
import type { BenchOptions } from './options.ts';
import { tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const mib = 2 ** 20;
const tib = 2 ** 40;
const clusterBytes = 65536;
/** What ext4 takes for one file, and a little less. */
const fileBytes = 16 * tib - mib;
/** One too high and one too low in every window of references that we count, or so. */
const wrongRefcounts = 34;
const mostResidentBytes = 256 * mib;
const limitMs = 3_600_000;

interface Outcome {
  readonly job: string;
  readonly program: string;
  readonly status: number;
  readonly residentMiB: number;
  readonly seconds: number;
  readonly processorSeconds: number;
}

export async function checkMemory(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const wanted = { diskBytes: (options.quick ? 0.25 : 16) * tib, clusterBytes, fileBytes };
  const programs = [
    { program: 'qcow2', command: options.command },
    { program: 'qemu-img', command: 'qemu-img' },
  ];
  const image = workspace.path('mapped.qcow2');
  const make = (wrong: number) => makeWhereRoomIs(image, { ...wanted, wrongRefcounts: wrong });
  const made = make(0);
  const { mappedBytes, tableBytes } = made;
  const outcomes: Outcome[] = [];
  const note = (outcome: Outcome): void => {
    outcomes.push(outcome);
    options.print(cellsOf(outcome).join('  '));
  };
  for (const { program, command } of programs)
    note(measured(workspace, { job: 'check', program }, command, ['check', image]));
  for (const { program, command } of programs) {
    rmSync(image);
    make(wrongRefcounts);
    note(measured(workspace, { job: 'check -r all', program }, command, ['check', '-q', '-r', 'all', image]));
  }
  rmSync(image);
  const what = `${(wanted.diskBytes / tib).toFixed(2)} TiB, ${(mappedBytes / tib).toFixed(3)} TiB mapped`;
  options.print(
    `\nA disk of ${what}; ${Math.round(tableBytes / mib)} MiB of L2 tables and refcount blocks\n`,
  );
  options.print(tableText(head, outcomes.map(cellsOf)));
  for (const { job, program, residentMiB } of outcomes) {
    if (program === 'qemu-img' || residentMiB * mib <= mostResidentBytes) continue;
    throw new BenchmarkFailure(
      `${job} took ${residentMiB.toFixed(0)} MiB, more than ${mostResidentBytes / mib}`,
    );
  }
  return { ...wanted, ...made, outcomes };
}

const head = ['', 'program', 'exit', 'resident at most, MiB', 'seconds', 'of the processor'];

function cellsOf({ job, program, status, residentMiB, seconds, processorSeconds }: Outcome): string[] {
  return [job, program, `${status}`, residentMiB.toFixed(0), seconds.toFixed(1), processorSeconds.toFixed(1)];
}

/** @throws BenchmarkFailure before anything is written where the disk has no room for the tables */
function makeWhereRoomIs(path: string, wanted: MappedImage) {
  const { bavail, bsize } = statfsSync(dirname(path));
  const needed = (wanted.diskBytes / clusterBytes) * (8 + 2) * 1.1;
  if (bavail * bsize < needed)
    throw new BenchmarkFailure(`${Math.ceil(needed / mib)} MiB are needed at ${path}; see --folder`);
  return makeMappedImage(path, wanted);
}

/** What the kernel says of the process when it has ended, by way of GNU time. */
function measured(
  workspace: Workspace,
  { job, program }: { job: string; program: string },
  command: string,
  args: readonly string[],
): Outcome {
  const how = ['-f', '\n%M %e %U %S', command, ...args];
  const { status, stderr, error } = spawnSync('/usr/bin/time', how, {
    cwd: workspace.folder,
    encoding: 'utf8',
    timeout: limitMs,
    maxBuffer: 64 * mib,
  });
  if (error !== undefined) throw new BenchmarkFailure('no GNU time (Debian: time)', { cause: error });
  const figures = stderr.trimEnd().split('\n').at(-1)?.split(' ').map(Number) ?? [];
  const [residentKib, seconds, user, system] = figures;
  const isDone = status === 0 || (status !== null && program !== 'qcow2');
  if (!isDone || figures.length !== 4 || figures.some(Number.isNaN))
    throw new BenchmarkFailure(`${program} ${job} ended with ${status}: ${stderr.slice(-500)}`);
  return {
    job,
    program,
    status,
    residentMiB: residentKib! / 1024,
    seconds: seconds!,
    processorSeconds: user! + system!,
  };
}
