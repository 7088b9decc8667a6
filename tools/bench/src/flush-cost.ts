/**
 * `bench flush-cost`: what a flushed 4 KiB write costs in fdatasync calls and bytes written to the file, by
 * strace. System calls and bytes do not depend on how busy the machine is, so one run of each is enough.
 *
 * Two workloads: writes into an empty image (each allocates a cluster), and overwrites of an image whose every
 * cluster is written. Two sums: while the writes ran, and in all, opening and clean close included.
 */
import { readFileSync } from 'node:fs';
import {
  type Contender,
  filledImage,
  freshCopy,
  ourContenders,
  qemuNbd,
  serveImage,
  syncFile,
} from './contender.ts';
import { BenchmarkFailure } from './failure.ts';
import { runFio } from './fio.ts';
import type { BenchOptions } from './options.ts';
import { type Bill, billOf, parseTrace, straceArguments } from './strace.ts';
import { tableText } from './table.ts';
import type { Workspace } from './workspace.ts';

const blockBytes = 4096;

interface Cost {
  readonly workload: 'allocating' | 'overwriting';
  readonly server: string;
  readonly writes: number;
  readonly syncsPerFlush: number;
  readonly bytesPerWrite: number;
  readonly callsPerWrite: number;
  /** Opening and closing included. */
  readonly syncsPerFlushInAll: number;
  readonly bytesPerWriteInAll: number;
}

export async function flushCost(workspace: Workspace, options: BenchOptions): Promise<unknown> {
  const writes = options.quick ? 300 : 1000;
  const { journalled, ordinary } = ourContenders(options.command);
  const ours = [journalled, ordinary];
  const costs: Cost[] = [];
  const emptyBytes = 2 ** 30;
  for (const contender of [...ours, qemuNbd.qcow2, qemuNbd.lazy, qemuNbd.raw]) {
    const image = workspace.path('image');
    await contender.create(workspace, image, emptyBytes);
    costs.push(await costOf(workspace, contender, image, 'allocating', writes, emptyBytes));
  }
  const filledBytes = 64 * 2 ** 20;
  const filled = await filledImage(workspace, filledBytes);
  for (const contender of [...ours, qemuNbd.qcow2]) {
    const image = workspace.path('image');
    freshCopy(filled, image);
    await contender.adopt?.(workspace, image);
    costs.push(await costOf(workspace, contender, image, 'overwriting', writes, filledBytes));
  }
  options.print(`\nCost of a random 4 KiB write and its flush (${writes} of them), by strace\n`);
  const head = ['workload', 'server', 'fdatasync', 'writes', 'bytes', 'fdatasync in all', 'bytes in all'];
  const rows = costs.map((cost) => [
    cost.workload,
    cost.server,
    cost.syncsPerFlush.toFixed(3),
    cost.callsPerWrite.toFixed(2),
    cost.bytesPerWrite.toFixed(0),
    cost.syncsPerFlushInAll.toFixed(3),
    cost.bytesPerWriteInAll.toFixed(0),
  ]);
  options.print(tableText(head, rows));
  return { costs };
}

async function costOf(
  workspace: Workspace,
  contender: Contender,
  image: string,
  workload: Cost['workload'],
  writes: number,
  sizeBytes: number,
): Promise<Cost> {
  syncFile(image);
  const trace = workspace.path('trace');
  const server = await serveImage(workspace, contender, image, straceArguments(image, trace));
  const from = Date.now() / 1000;
  const result = await runFio(workspace, server.socket, {
    pattern: 'randwrite',
    queueDepth: 1,
    blockBytes,
    sizeBytes,
    seed: 1,
    limitMs: 60_000,
    requests: writes,
    flushEvery: 1,
  });
  const to = Date.now() / 1000;
  await server.stop();
  const calls = parseTrace(readFileSync(trace, 'utf8'));
  // fio does not wait for a flush behind its last write.
  if (result.requests !== writes || result.flushes < writes - 1) {
    throw new BenchmarkFailure(`fio made ${result.requests} writes and ${result.flushes} flushes`);
  }
  await workspace.run('rm', [image, trace]);
  return costFrom(
    workload,
    contender.name,
    result.requests,
    result.flushes,
    billOf(calls, from, to),
    billOf(calls),
  );
}

function costFrom(
  workload: Cost['workload'],
  server: string,
  writes: number,
  flushes: number,
  serving: Bill,
  all: Bill,
): Cost {
  return {
    workload,
    server,
    writes,
    syncsPerFlush: serving.syncs / flushes,
    bytesPerWrite: serving.writtenBytes / writes,
    callsPerWrite: serving.writes / writes,
    syncsPerFlushInAll: all.syncs / flushes,
    bytesPerWriteInAll: all.writtenBytes / writes,
  };
}
