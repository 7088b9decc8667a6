/** Runs the load client, a small program of Python over libnbd that costs every contender the same. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BenchmarkFailure } from '../failure.ts';
import type { Workspace } from '../workspace.ts';
import { encodeOperations, type Operation, sumOf } from './operations.ts';

/** Beside the source, also when this runs from `dist`. */
const client = join(import.meta.dirname, '../../src/benefit/load-client.py');

export interface LoadReport {
  /** From the first operation to the answer to the last. */
  readonly elapsedNs: number;
  /** Of each flush, in their order. */
  readonly flushNs: readonly number[];
  /** Seconds since 1970. */
  readonly began: number;
  readonly ended: number;
}

/** A list of operations in a file; the same file serves all contenders of a round. */
export function operationsFile(workspace: Workspace, operations: readonly Operation[]): string {
  const path = workspace.path('operations');
  writeFileSync(path, encodeOperations(operations));
  return path;
}

/**
 * Ask the server behind the socket everything in the file.
 * @param processors keep the client on these, as taskset names them
 * @throws BenchmarkFailure where the server refuses, or not every flush was answered
 */
export async function runLoad(
  workspace: Workspace,
  socket: string,
  file: string,
  operations: readonly Operation[],
  processors: string | undefined,
): Promise<LoadReport> {
  const command = [workspace.python, client, socket, file];
  const [first = '', ...rest] =
    processors === undefined ? command : ['taskset', '-c', processors, ...command];
  const report = parseReport(await workspace.run(first, rest, 300_000));
  const { flushes } = sumOf(operations);
  if (report.flushNs.length !== flushes) {
    throw new BenchmarkFailure(`the load client flushed ${report.flushNs.length} times, not ${flushes}`);
  }
  return report;
}

/** @throws BenchmarkFailure where it is no report */
export function parseReport(output: string): LoadReport {
  try {
    const report = JSON.parse(output) as LoadReport;
    if (report.elapsedNs > 0 && Array.isArray(report.flushNs)) return report;
  } catch (cause) {
    throw new BenchmarkFailure(`the load client gave no report: ${output.slice(0, 200)}`, { cause });
  }
  throw new BenchmarkFailure(`the load client gave no report: ${output.slice(0, 200)}`);
}
