/** Starting the programs of QEMU. What comes of them is compared by who asked. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { StateError } from '@qcow2/spec';

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

const neededPrograms = ['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo'] as const;

/** Longest that one of them may take: they work on disks of some MiB. */
const limitMs = 120_000;

/** @throws INVALID_ARGUMENT where there is no such program */
export function start(program: string, words: readonly string[], folder: string): Outcome {
  const { status, stdout, stderr, error } = spawnSync(program, words, {
    encoding: 'utf8',
    cwd: folder,
    timeout: limitMs,
    maxBuffer: 2 ** 26,
  });
  if (error !== undefined) {
    throw new StateError('INVALID_ARGUMENT', `${program} could not be run`, { value: program }, error);
  }
  return { status, stdout, stderr };
}

/** Something that was to succeed did not: a finding, with what the program said. */
export class ProgramFailed extends StateError {
  constructor(program: string, words: readonly string[], { status, stdout, stderr }: Outcome) {
    const said = `${stdout}${stderr}`.trim().split('\n').slice(-6).join('\n');
    super('INVALID_ARGUMENT', `${program} ${words.join(' ')}: exit code ${status}\n${said}`);
  }
}

/** @returns standard output. @throws ProgramFailed */
export function must(program: string, words: readonly string[], folder: string): string {
  const outcome = start(program, words, folder);
  if (outcome.status !== 0) throw new ProgramFailed(program, words, outcome);
  return outcome.stdout;
}

/** A program that runs until it is told to end. It ends with this process. */
export class Server {
  readonly #words: readonly string[];
  readonly #program: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #killer = () => this.#child.kill('SIGKILL');
  #said = '';

  constructor(program: string, words: readonly string[], folder: string) {
    this.#program = program;
    this.#words = words;
    this.#child = spawn(program, words, { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#said += text;
    });
    this.#ended = once(this.#child, 'close');
    process.once('exit', this.#killer);
  }

  /** Until it has made a file. @throws ProgramFailed where it ends before that, or takes too long */
  async made(path: string): Promise<void> {
    const latest = performance.now() + limitMs;
    while (!existsSync(path)) {
      const { exitCode: status } = this.#child;
      if (status !== null || performance.now() > latest) {
        throw new ProgramFailed(this.#program, this.#words, { status, stdout: '', stderr: this.#said });
      }
      await setTimeout(2);
    }
  }

  /** And wait until it has let go of everything. */
  async end(): Promise<void> {
    this.#child.kill('SIGTERM');
    await this.#ended;
    process.off('exit', this.#killer);
  }
}

/** Those that this machine has not. */
export function missingPrograms(): string[] {
  const folders = (process.env.PATH ?? '').split(delimiter);
  return neededPrograms.filter((program) => !folders.some((folder) => isProgram(join(folder, program))));
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
