/**
 * One process that runs the command, as built, again and again: a start costs more than most calls take. What `main.ts` adds, a name and
 * streams, is played here. It also shows what a call leaves behind in its process: a file that stays open keeps its lock.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { InvariantError } from '@qcow2/spec';
import type { Outcome } from './command.ts';

const program = join(import.meta.dirname, '../../dist/program.js');

const server = `
const { runProgram } = await import(${JSON.stringify(program)});
const { createInterface } = await import('node:readline');
for await (const line of createInterface({ input: process.stdin })) {
  const { args, cwd } = JSON.parse(line);
  process.chdir(cwd);
  const said = { stdout: '', stderr: '' };
  const status = await runProgram(args, {
    programName: 'qemu-img',
    out: (text) => { said.stdout += text; },
    err: (text) => { said.stderr += text; },
    stop: new AbortController().signal,
  }, '0');
  process.stdout.write(JSON.stringify({ status, ...said }) + '\\n');
}`;

export class CommandProcess {
  readonly #process: ChildProcess;
  readonly #lines: Interface;
  readonly #answers: AsyncIterator<string>;

  constructor() {
    this.#process = spawn(process.execPath, ['--input-type=module', '-e', server], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    this.#lines = createInterface({ input: this.#process.stdout! });
    this.#answers = this.#lines[Symbol.asyncIterator]();
  }

  /** One call at a time. */
  async run(args: readonly string[], cwd: string): Promise<Outcome> {
    this.#process.stdin?.write(`${JSON.stringify({ args, cwd })}\n`);
    const { value, done } = await this.#answers.next();
    if (done === true) throw new InvariantError(`the process of the command ended at: ${args.join(' ')}`);
    return JSON.parse(value) as Outcome;
  }

  async end(): Promise<void> {
    const gone = this.#process.exitCode === null ? once(this.#process, 'exit') : undefined;
    this.#process.stdin?.end();
    await gone;
    this.#lines.close();
  }
}
