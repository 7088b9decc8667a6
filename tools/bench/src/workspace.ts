/**
 * A folder of its own and the processes in it, so that a benchmark leaves nothing behind: neither when it
 * ends, nor when it fails, nor when it is interrupted.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BenchmarkFailure } from './failure.ts';

const endGraceMs = 20_000;

export class Workspace {
  readonly folder: string;
  readonly #children = new Set<ChildProcess>();
  #nextName = 1;
  #python: string | undefined;

  /** @param parent the folder decides which disk is measured */
  constructor(parent: string = tmpdir()) {
    this.folder = mkdtempSync(join(parent, 'qcow2-bench-'));
  }

  /**
   * Python with libnbd's bindings: Debian's bindings are for Debian's interpreter, which need not be the first one on the path.
   * @throws BenchmarkFailure where there is none
   */
  get python(): string {
    this.#python ??= ['python3', '/usr/bin/python3'].find(
      (interpreter) => spawnSync(interpreter, ['-c', 'import nbd']).status === 0,
    );
    if (this.#python === undefined)
      throw new BenchmarkFailure('no Python with libnbd (Debian: python3-libnbd)');
    return this.#python;
  }

  /** A path that nothing stands at. */
  path(name: string): string {
    return join(this.folder, `${this.#nextName++}-${name}`);
  }

  /** Start a process that runs until it is ended. What it says on standard error is kept for `end`. */
  start(command: string, args: readonly string[]): ChildProcess {
    const child = spawn(command, args, { cwd: this.folder, stdio: ['ignore', 'ignore', 'pipe'] });
    this.#children.add(child);
    child.once('close', () => this.#children.delete(child));
    return child;
  }

  /** Ask a process to end, and wait until it has. @throws BenchmarkFailure where it had to be killed */
  async end(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, 'close');
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), endGraceMs);
    await closed;
    clearTimeout(timer);
    if (child.signalCode === 'SIGKILL') throw new BenchmarkFailure(`${child.spawnfile} did not end`);
  }

  /** Run a program to its end. @returns its standard output. @throws BenchmarkFailure unless it succeeds */
  async run(command: string, args: readonly string[], limitMs = 60_000): Promise<string> {
    const child = spawn(command, args, {
      cwd: this.folder, // some programs leave files behind where they stand
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: limitMs,
    });
    this.#children.add(child);
    const output: string[] = [];
    const errors: string[] = [];
    child.stdout.setEncoding('utf8').on('data', (text: string) => output.push(text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => errors.push(text));
    try {
      await once(child, 'close'); // rejects where the program can not be started
    } catch (cause) {
      throw new BenchmarkFailure(`${command} can not be run`, { cause });
    } finally {
      this.#children.delete(child);
    }
    if (child.exitCode !== 0) {
      const how = child.signalCode ?? `status ${child.exitCode}`;
      throw new BenchmarkFailure(`${command} ended with ${how}: ${errors.join('').slice(-500)}`);
    }
    return output.join('');
  }

  /** Kill what still runs and remove the folder. Synchronous: it must work in a signal handler. */
  remove(): void {
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Run with a workspace that is gone afterwards, whatever happens. */
export async function withWorkspace<T>(
  parent: string | undefined,
  body: (workspace: Workspace) => Promise<T>,
): Promise<T> {
  const workspace = new Workspace(parent);
  const onSignal = (signal: NodeJS.Signals): void => {
    workspace.remove();
    process.exit(signal === 'SIGINT' ? 130 : 143);
  };
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    return await body(workspace);
  } finally {
    process.removeListener('SIGINT', onSignal);
    process.removeListener('SIGTERM', onSignal);
    workspace.remove();
  }
}
