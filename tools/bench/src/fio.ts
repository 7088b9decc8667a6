/** fio with its nbd engine: the load of every comparison over a socket, the same for all servers. */
import { BenchmarkFailure } from './failure.ts';
import type { Workspace } from './workspace.ts';

export interface FioLoad {
  readonly pattern: 'read' | 'randread' | 'randwrite' | 'write';
  readonly queueDepth: number;
  readonly blockBytes: number;
  /** Requests go to `[offset, offset + sizeBytes)`. */
  readonly offset?: number;
  readonly sizeBytes: number;
  /** Same seed, same order: all contenders of a round get the same. */
  readonly seed: number;
  /** Ends after this time, */
  readonly limitMs: number;
  /** or after so many requests, if given. */
  readonly requests?: number;
  /** A flush after so many writes. */
  readonly flushEvery?: number;
  /** Keep fio on these processors, as taskset names them. */
  readonly processors?: string;
}

export interface FioResult {
  /** Reads or writes, flushes not counted. */
  readonly requests: number;
  readonly requestsPerSecond: number;
  /** Latency of the requests themselves. */
  readonly latencyUs: Percentiles;
  readonly flushes: number;
  /** Zeros where nothing was flushed. */
  readonly flushLatencyUs: Percentiles;
}

export interface Percentiles {
  readonly p50: number;
  readonly p99: number;
}

export async function runFio(workspace: Workspace, socket: string, load: FioLoad): Promise<FioResult> {
  const { limitMs, processors } = load;
  const fio = ['fio', ...fioArguments(socket, load)];
  const [command = 'fio', ...args] = processors === undefined ? fio : ['taskset', '-c', processors, ...fio];
  // Beyond its own limit fio ends what is in flight; a server that never answers would keep it for ever.
  const output = await workspace.run(command, args, limitMs + 30_000);
  return parseFio(output);
}

export function fioArguments(socket: string, load: FioLoad): string[] {
  const {
    pattern,
    queueDepth,
    blockBytes,
    offset = 0,
    sizeBytes,
    seed,
    limitMs,
    requests,
    flushEvery,
  } = load;
  return [
    '--name=bench',
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${socket}`,
    `--rw=${pattern}`,
    `--bs=${blockBytes}`,
    `--offset=${offset}`,
    `--size=${sizeBytes}`,
    `--iodepth=${queueDepth}`,
    `--randseed=${seed}`,
    `--runtime=${limitMs}ms`,
    // Buffers filled once: the load generator shares the machine with what is measured.
    '--refill_buffers=0',
    '--percentile_list=50:99',
    '--lat_percentiles=1',
    '--output-format=json',
    ...(requests === undefined ? ['--time_based=1'] : [`--io_size=${requests * blockBytes}`]),
    ...(flushEvery === undefined ? [] : [`--fsync=${flushEvery}`]),
  ];
}

interface FioDirection {
  readonly total_ios: number;
  readonly iops?: number;
  readonly lat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: FioDirection;
    readonly write: FioDirection;
    readonly sync: FioDirection;
  }[];
}

/**
 * fio's JSON of a run with one job. Notes of the engine may stand before it.
 * @throws BenchmarkFailure where fio reports an error, or did nothing
 */
export function parseFio(output: string): FioResult {
  const start = output.search(/^\{/m);
  if (start < 0) throw new BenchmarkFailure(`fio gave no report: ${output.slice(0, 200)}`);
  const report = JSON.parse(output.slice(start)) as FioReport;
  const [job] = report.jobs;
  if (job === undefined || job.error !== 0) throw new BenchmarkFailure(`fio failed: error ${job?.error}`);
  const direction = job.read.total_ios > 0 ? job.read : job.write;
  if (direction.total_ios === 0) throw new BenchmarkFailure('fio did no request');
  return {
    requests: direction.total_ios,
    requestsPerSecond: direction.iops ?? 0,
    latencyUs: percentilesOf(direction),
    flushes: job.sync.total_ios,
    flushLatencyUs: percentilesOf(job.sync),
  };
}

function percentilesOf({ lat_ns: { percentile } }: FioDirection): Percentiles {
  const us = (key: string): number => (percentile?.[key] ?? 0) / 1000;
  return { p50: us('50.000000'), p99: us('99.000000') };
}
