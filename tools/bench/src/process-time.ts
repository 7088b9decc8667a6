/**
 * Processor time of a server: what a request costs, as far as that can be told on a machine that others use too. Their load
 * slows a request down, but hardly changes how long its server computes for it.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Microseconds that all threads of a process have run so far; NaN where the system does not tell. */
export function processTimeUs(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN;
  try {
    const tasks = `/proc/${pid}/task`;
    return readdirSync(tasks).reduce((sum, task) => sum + ranUs(join(tasks, task, 'schedstat')), 0);
  } catch {
    return Number.NaN;
  }
}

function ranUs(path: string): number {
  // Nanoseconds on a processor, nanoseconds waiting for one, number of time slices.
  return Number(readFileSync(path, 'utf8').split(' ')[0]) / 1000;
}
