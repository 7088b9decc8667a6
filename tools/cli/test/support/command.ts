/** Running the command, as built, and the programs of QEMU beside it. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The launcher of a clone. Its process is the command's. */
export const launcher = join(import.meta.dirname, '../../qcow2');

/** For hooks that start many programs, on a machine that is busy with other tests. */
export const hookLimitMs = 120_000;

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly cwd?: string;
  /** What the command believes it was called as. */
  readonly programName?: string;
  /** Beside the environment of the tests. */
  readonly env?: Readonly<Record<string, string>>;
}

export function qcow2(args: readonly string[], options: RunOptions = {}): Outcome {
  return run(launcher, args, options);
}

export function run(program: string, args: readonly string[], options: RunOptions = {}): Outcome {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    encoding: 'utf8',
    cwd: options.cwd,
    // NODE_OPTIONS of the test runner are not the command's.
    env: {
      ...process.env,
      NODE_OPTIONS: '',
      ...(options.programName === undefined ? {} : { QCOW2_PROGRAM_NAME: options.programName }),
      ...options.env,
    },
  });
  if (error !== undefined) throw error;
  return { status, stdout, stderr };
}

/** Run it and expect it to succeed. @returns standard output */
export function must(program: string, args: readonly string[], options: RunOptions = {}): string {
  const outcome = run(program, args, options);
  if (outcome.status !== 0) {
    throw new Error(
      `${program} ${args.join(' ')}: exit code ${outcome.status}\n${outcome.stdout}${outcome.stderr}`,
    );
  }
  return outcome.stdout;
}

/** A folder of its own for a test file; `remove` takes it away. */
export function scratchFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'qcow2-cli-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Servers of tests that failed before they ended them: they go with the test process. */
const running = new Set<ChildProcess>();
process.once('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/** A `serve` that is running and says so. */
export interface RunningServer {
  readonly process: ChildProcess;
  readonly stderr: () => string;
  /** Send the signal and wait for the end. @returns exit code, or the signal that ended it */
  end(signal: NodeJS.Signals): Promise<number | NodeJS.Signals | null>;
  /** Wait for the end that comes by itself. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
}

/** Start `qcow2 serve -v …` and wait until it listens. `prefix` runs in front of it, e.g. strace. */
export async function startServer(
  args: readonly string[],
  prefix: readonly string[] = [],
  options: Pick<RunOptions, 'cwd' | 'env'> = {},
): Promise<RunningServer> {
  const [program = launcher, ...words] = [...prefix, launcher, 'serve', '-v', ...args];
  const child = spawn(program, words, {
    stdio: ['ignore', 'ignore', 'pipe'],
    cwd: options.cwd,
    env: { ...process.env, NODE_OPTIONS: '', ...options.env },
  });
  running.add(child);
  let stderr = '';
  const listening = Promise.withResolvers<void>();
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
    if (stderr.includes('serving ')) listening.resolve();
  });
  const ended = once(child, 'close').then(
    ([code, signal]) => (code ?? signal) as number | NodeJS.Signals | null,
  );
  void ended.then(() => running.delete(child));
  void ended.then((how) => listening.reject(new Error(`serve ended (${how}) before it listened: ${stderr}`)));
  await listening.promise;
  return {
    process: child,
    stderr: () => stderr,
    ended,
    end: async (signal) => {
      child.kill(signal);
      return await ended;
    },
  };
}
