/** What a process asked of one file, from strace's output: a bill in system calls and bytes. */

/** Calls that strace is told to record. */
export const billedCalls = [
  'fdatasync',
  'fsync',
  'sync_file_range',
  'pwrite64',
  'pwritev',
  'pwritev2',
  'write',
  'writev',
] as const;

export interface Bill {
  readonly syncs: number;
  readonly writes: number;
  readonly writtenBytes: number;
}

export interface TimedCall {
  /** Seconds since 1970, when the call was made (or, where another thread's line came between, when it ended). */
  readonly at: number;
  readonly name: string;
  readonly result: number;
}

/** Arguments of strace in front of the traced command: the calls on `file`, with times, to `output`. */
export function straceArguments(file: string, output: string): string[] {
  // -D: the traced command is our child, not strace's, so a signal reaches it.
  return [
    'strace',
    '-D',
    '-f',
    '--seccomp-bpf',
    '-ttt',
    '-s',
    '0',
    '-P',
    file,
    '-e',
    `trace=${billedCalls.join(',')}`,
    '-o',
    output,
  ];
}

const line = /^\d+\s+(\d+\.\d+) (?:<\.\.\. )?(\w+)(?: resumed>|\().*= (-?\d+)(?: E[A-Z]+ .*)?$/;

/** Every finished call of a trace. A call whose line was cut in two counts once, with its result. */
export function parseTrace(text: string): TimedCall[] {
  const calls: TimedCall[] = [];
  for (const one of text.split('\n')) {
    const match = line.exec(one);
    if (match === null) continue;
    const [, at = '', name = '', result = ''] = match;
    calls.push({ at: Number(at), name, result: Number(result) });
  }
  return calls;
}

/** The sum of calls that happened in a span of seconds. */
export function billOf(calls: readonly TimedCall[], from = 0, to = Number.POSITIVE_INFINITY): Bill {
  let [syncs, writes, writtenBytes] = [0, 0, 0];
  for (const { at, name, result } of calls) {
    if (at < from || at > to || result < 0) continue;
    if (name.includes('write')) {
      writes++;
      writtenBytes += result;
    } else {
      syncs++;
    }
  }
  return { syncs, writes, writtenBytes };
}
