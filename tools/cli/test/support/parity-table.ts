/**
 * Many pairs at once: the same arguments through the real qemu-img and through ours, each in a folder of its own with the same files, two
 * pairs at a time. A pair may make or change an image; what it is afterwards is then compared as well, by qemu-img.
 */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, type Outcome, scratchFolder } from './command.ts';
import { CommandProcess } from './command-process.ts';
import type { ParityCase } from './parity.ts';

export interface TableCase extends ParityCase {
  /** `OUT` in the arguments is a name of the pair's own. An image of that name is made, and the two are compared: also what is allocated, or not. */
  readonly makes?: 'the same' | 'the same disk';
  /** In place of `OUT`: an image that is changed. The pairs that name it run one after the other. */
  readonly changes?: string;
  /** The pair runs in a copy of the folder `chain` of its own, and these images of it are compared afterwards: what they show, and say of themselves. */
  readonly after?: readonly string[];
  /** An image of the chain that is to show what it showed, which is beside it as a raw file. */
  readonly keeps?: string;
}

interface Pair {
  readonly ours: unknown;
  readonly theirs: unknown;
}

/** Run a table within a `describe`: the pairs start with the first test, and each test waits for its own. */
export function parityTable(cases: readonly TableCase[], prepare: (folder: string) => void): void {
  const scratch = scratchFolder();
  const folders = ['ours', 'theirs'].map((name) => join(scratch.path, name)) as [string, string];
  const pairs = new Map(cases.map((each) => [each, Promise.withResolvers<Pair>()]));
  let workers: readonly Promise<void>[] = [];
  beforeAll(() => {
    for (const folder of folders) {
      mkdirSync(folder);
      prepare(folder);
    }
    const queue = lanes(cases);
    const work = async (): Promise<void> => {
      const command = new CommandProcess();
      for (let lane = queue.shift(); lane !== undefined; lane = queue.shift()) {
        for (const each of lane) {
          const pair = runPair(each, cases.indexOf(each), folders, command);
          pairs.get(each)?.resolve(pair);
          // A failure is told by the test of the pair.
          await pair.catch(() => undefined);
        }
      }
      await command.end();
    };
    workers = [work(), work()];
  }, hookLimitMs);
  afterAll(async () => {
    await Promise.all(workers);
    scratch.remove();
  }, hookLimitMs);
  for (const each of cases) {
    it(titleOf(each), { timeout: hookLimitMs }, async () => {
      const { ours, theirs } = await pairs.get(each)!.promise;
      if (each.deviation === undefined) expect(ours).toEqual(theirs);
      else expect(ours).not.toEqual(theirs);
    });
  }
}

/** Pairs that change one image follow one another; every other pair is alone. */
function lanes(cases: readonly TableCase[]): TableCase[][] {
  const byImage = new Map<string, TableCase[]>();
  const queue: TableCase[][] = [];
  for (const each of cases) {
    const lane = each.changes === undefined ? undefined : byImage.get(each.changes);
    if (lane !== undefined) lane.push(each);
    else {
      const started = [each];
      queue.push(started);
      if (each.changes !== undefined) byImage.set(each.changes, started);
    }
  }
  return queue;
}

function titleOf({ args, deviation }: TableCase): string {
  const words = args.map((word) => (/^[\w./:=,%+-]+$/.test(word) ? word : JSON.stringify(word)));
  return `qemu-img ${words.join(' ')}${deviation === undefined ? '' : ` differs: ${deviation}`}`;
}

async function runPair(
  each: TableCase,
  number: number,
  [ourFolder, theirFolder]: readonly [string, string],
  command: CommandProcess,
): Promise<Pair> {
  if (each.after !== undefined) {
    return await runInChain(each, each.after, number, [ourFolder, theirFolder], command);
  }
  const out = `out${number}`;
  const args = each.args.map((word) => word.replaceAll('OUT', out));
  const [ours, theirs] = await Promise.all([
    command.run(args, ourFolder),
    runOne('qemu-img', args, theirFolder),
  ]);
  const made = each.changes ?? (each.makes === undefined ? undefined : out);
  if (made === undefined || theirs.status !== 0)
    return { ours: told(ours, each), theirs: told(theirs, each) };
  const strict = each.makes === 'the same disk' ? [] : ['-s'];
  const mine = join(ourFolder, made);
  // Compared as what they are: a raw disk is not to be probed.
  const format = await formatOf(mine);
  const same = await runOne(
    'qemu-img',
    ['compare', '-f', format, '-F', format, ...strict, mine, join(theirFolder, made)],
    ourFolder,
  );
  const check = format === 'qcow2' ? await runOne('qemu-img', ['check', '-q', mine], ourFolder) : sound;
  const found = { outcome: told(ours, each), same, check, facts: await factsOf(mine, format) };
  const theirFacts = await factsOf(join(theirFolder, made), format);
  const expected = { outcome: told(theirs, each), same: identical, check: sound, facts: theirFacts };
  return { ours: found, theirs: expected };
}

async function runInChain(
  each: TableCase,
  images: readonly string[],
  number: number,
  folders: readonly [string, string],
  command: CommandProcess,
): Promise<Pair> {
  const [mine, theirs] = folders.map((folder) => {
    const own = join(folder, `case${number}`);
    cpSync(join(folder, 'chain'), own, { recursive: true });
    return own;
  }) as [string, string];
  const [ours, expected] = await Promise.all([
    command.run(each.args, mine),
    runOne('qemu-img', each.args, theirs),
  ]);
  const found: unknown[] = [];
  const wanted: unknown[] = [];
  for (const image of images) {
    const format = image.endsWith('.raw') ? 'raw' : 'qcow2';
    const both = ['compare', '-f', format, '-F', format, join(mine, image), join(theirs, image)];
    const check = format === 'raw' ? sound : await runOne('qemu-img', ['check', '-q', image], mine);
    found.push(image, await runOne('qemu-img', both, mine), check, await factsOf(join(mine, image), format));
    wanted.push(image, identical, sound, await factsOf(join(theirs, image), format));
  }
  if (each.keeps !== undefined) {
    const raw = each.keeps.replace('.qcow2', '.raw');
    found.push(await runOne('qemu-img', ['compare', '-F', 'raw', each.keeps, raw], mine));
    wanted.push(identical);
  }
  return {
    ours: { outcome: told(ours, each), found },
    theirs: { outcome: told(expected, each), found: wanted },
  };
}

const sound: Outcome = { status: 0, stdout: '', stderr: '' };
const identical: Outcome = { status: 0, stdout: 'Images are identical.\n', stderr: '' };

async function formatOf(path: string): Promise<string> {
  const info = await runOne('qemu-img', ['info', '--output=json', path], '.');
  return info.status === 0 ? String(JSON.parse(info.stdout).format) : 'raw';
}

/** What an image says of itself; how much space its file takes is not part of it. */
async function factsOf(path: string, format: string): Promise<unknown> {
  const info = await runOne('qemu-img', ['info', '-f', format, '--output=json', path], '.');
  const { 'actual-size': _, filename: __, 'full-backing-filename': ___, ...facts } = JSON.parse(info.stdout);
  return withoutTimes(facts);
}

function withoutTimes(facts: { snapshots?: readonly Record<string, unknown>[] }): unknown {
  const snapshots = facts.snapshots?.map(({ 'date-sec': _, 'date-nsec': __, ...rest }) => rest);
  return { ...facts, snapshots };
}

/** Progress comes in steps of the machine's own choice: where it begins and ends is compared. Some messages lack their line break. */
function told(outcome: Outcome, each: ParityCase): Outcome {
  const stderr = outcome.stderr.trimEnd();
  return {
    ...outcome,
    stdout: outcome.stdout
      .replace(/completed in \d+\.\d{3} seconds/, 'completed in SOME seconds')
      .replaceAll(/( {4}\(\d+\.\d\d\/100%\)\r)(?: {4}\(\d+\.\d\d\/100%\)\r)*(?= {4})/g, '$1…'),
    stderr: each.ignoreStderr === true && stderr !== '' ? '(something)' : stderr,
  };
}

function runOne(program: string, args: readonly string[], cwd: string): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { cwd, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') reject(error);
      else resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}
