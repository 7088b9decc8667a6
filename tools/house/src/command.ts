/** Running other programs: their output in one text, their end as a value, and a limit on their time. */
import { spawn } from 'node:child_process';

export interface CommandOptions {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Show the output as it comes, as well as keeping it. */
  readonly live?: boolean;
  readonly limitMs?: number;
}

export interface CommandResult {
  /** What it wrote to both outputs, in the order of arrival. */
  readonly output: string;
  /** Exit status; undefined where a signal ended it or it could not be started. */
  readonly status: number | undefined;
  /** Why it did not end by itself, in words. */
  readonly trouble: string | undefined;
}

const defaultLimitMs = 10 * 60_000;

/** Run a program to its end, without standard input. Never rejects. */
export function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions,
): Promise<CommandResult> {
  const limitMs = options.limitMs ?? defaultLimitMs;
  return new Promise((resolve) => {
    let output = '';
    let late = false;
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const timer = setTimeout(() => {
      late = true;
      child.kill('SIGTERM');
      setTimeout(() => child.kill('SIGKILL'), 10_000).unref();
    }, limitMs);
    for (const [stream, copy] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ] as const) {
      stream.setEncoding('utf8');
      stream.on('data', (text: string) => {
        output += text;
        if (options.live === true) copy.write(text);
      });
    }
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve({ output, status: undefined, trouble: `${program} could not be started: ${error.message}` });
    });
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      const trouble = late ? `took longer than ${limitMs / 60_000} minutes` : signal && `ended by ${signal}`;
      resolve({ output, status: status ?? undefined, trouble: trouble ?? undefined });
    });
  });
}
