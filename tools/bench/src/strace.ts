/** What a process asked of its files, from strace's output: a bill in system calls and bytes. */

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
  'pread64',
  'preadv',
  'preadv2',
  'read',
  'readv',
] as const;

export interface Bill {
  readonly syncs: number;
  readonly writes: number;
  readonly writtenBytes: number;
  readonly reads: number;
  readonly readBytes: number;
}

export interface TimedCall {
  /** Seconds since 1970, when the call was made (or, where another thread's line came between, when it ended). */
  readonly at: number;
  readonly name: string;
  readonly result: number;
  /** Whose descriptor it was given; absent where the trace does not say. */
  readonly file?: string;
}

/** Arguments of strace in front of the traced command: the calls on the files, with times, to `output`. */
export function straceArguments(files: string | readonly string[], output: string): string[] {
  const paths = typeof files === 'string' ? [files] : files;
  // -D: the traced command is our child, not strace's, so a signal reaches it.
  return [
    'strace',
    '-D',
    '-f',
    '--seccomp-bpf',
    '-ttt',
    '-y',
    '-s',
    '0',
    ...paths.flatMap((path) => ['-P', path]),
    '-e',
    `trace=${billedCalls.join(',')}`,
    '-o',
    output,
  ];
}

const line = /^(\d+)\s+(\d+\.\d+) (<\.\.\. )?(\w+)(?: resumed>|\()(.*)$/;
const descriptor = /^\d+<(.*?)>[,)\s]/;
const outcome = /= (-?\d+)(?: E[A-Z]+ .*)?$/;

/** Every finished call of a trace. A call whose line was cut in two counts once, with its result. */
export function parseTrace(text: string): TimedCall[] {
  const calls: TimedCall[] = [];
  /** The file of the call that a thread is in, where its line was cut. */
  const begun = new Map<string, string | undefined>();
  for (const one of text.split('\n')) {
    const match = line.exec(one);
    if (match === null) continue;
    const [, thread = '', at = '', resumed, name = '', rest = ''] = match;
    const file = resumed === undefined ? descriptor.exec(rest)?.[1] : begun.get(thread);
    const result = outcome.exec(rest)?.[1];
    if (result === undefined) {
      begun.set(thread, file);
      continue;
    }
    calls.push({ at: Number(at), name, result: Number(result), ...(file !== undefined && { file }) });
  }
  return calls;
}

/** The sum of calls that happened in a span of seconds, its end not included. */
export function billOf(calls: readonly TimedCall[], from = 0, to = Number.POSITIVE_INFINITY): Bill {
  let [syncs, writes, writtenBytes, reads, readBytes] = [0, 0, 0, 0, 0];
  for (const { at, name, result } of calls) {
    if (at < from || at >= to || result < 0) continue;
    if (name.includes('write')) {
      writes++;
      writtenBytes += result;
    } else if (name.includes('read')) {
      reads++;
      readBytes += result;
    } else {
      syncs++;
    }
  }
  return { syncs, writes, writtenBytes, reads, readBytes };
}
