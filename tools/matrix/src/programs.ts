/** Starting the programs of QEMU. What comes of them is compared by who asked. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
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
