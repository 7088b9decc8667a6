/**
 * What a case costs a contender in system calls and bytes, by strace: one run of each, since neither depends on how busy
 * the machine is. Three sums: opening, while the client waits for answers, and the rest up to the clean close, where everything
 * that was held back is written.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { serveImage, syncFile } from '../contender.ts';
import { BenchmarkFailure } from '../failure.ts';
import { billOf, parseTrace, straceArguments, type TimedCall } from '../strace.ts';
import type { Workspace } from '../workspace.ts';
import type { BenefitCase } from './cases.ts';
import type { BenefitContender, Sources } from './contenders.ts';
import { operationsFile, runLoad } from './load-client.ts';
import { randomFrom, sumOf } from './operations.ts';

/** Sums over a run. */
export interface Cost {
  readonly flushes: number;
  readonly guestBytes: number;
  readonly opening: CostPart;
  readonly serving: CostPart;
  readonly closing: CostPart;
}

export interface CostPart {
  readonly syncs: number;
  /** Calls. */
  readonly writes: number;
  readonly writtenBytes: number;
  /** From the image. */
  readonly readBytes: number;
  readonly backingReadBytes: number;
}

export async function costOf(
  workspace: Workspace,
  sources: Sources,
  contender: BenefitContender,
  one: BenefitCase,
  share: number,
): Promise<Cost> {
  const place = { guestOffset: 0, lengthBytes: one.placeBytes };
  const operations = one.operations(place, randomFrom(1), share);
  const file = operationsFile(workspace, operations);
  const image = workspace.path('image');
  await contender.prepare(image, { kind: one.image, sizeBytes: one.placeBytes });
  syncFile(image);
  const backing = one.image === 'overlay' ? [await sources.random(one.placeBytes)] : [];
  const trace = workspace.path('trace');
  const server = await serveImage(workspace, contender, image, straceArguments([image, ...backing], trace));
  const { began, ended } = await runLoad(workspace, server.socket, file, operations, undefined);
  await server.stop();
  const calls = parseTrace(await wholeTrace(trace));
  if (!calls.some(({ name }) => name.includes('write'))) {
    throw new BenchmarkFailure(`strace saw nothing that ${contender.name} wrote`);
  }
  await workspace.run('rm', ['-f', image, trace, file]);
  const { flushes, guestBytes } = sumOf(operations);
  return {
    flushes,
    guestBytes,
    opening: partOf(calls, backing, 0, began),
    serving: partOf(calls, backing, began, ended),
    closing: partOf(calls, backing, ended, Number.POSITIVE_INFINITY),
  };
}

/** strace ends a moment after what it traced; until then its last lines may be missing. */
async function wholeTrace(path: string): Promise<string> {
  const deadline = Date.now() + 5000;
  for (;;) {
    const text = readFileSync(path, 'utf8');
    if (/\+\+\+ (?:exited|killed) .*\n$/.test(text) || Date.now() > deadline) return text;
    await sleep(20);
  }
}

export function inAll({ opening, serving, closing }: Cost): CostPart {
  const sum = (pick: (part: CostPart) => number): number => pick(opening) + pick(serving) + pick(closing);
  return {
    syncs: sum(({ syncs }) => syncs),
    writes: sum(({ writes }) => writes),
    writtenBytes: sum(({ writtenBytes }) => writtenBytes),
    readBytes: sum(({ readBytes }) => readBytes),
    backingReadBytes: sum(({ backingReadBytes }) => backingReadBytes),
  };
}

function partOf(calls: readonly TimedCall[], backing: readonly string[], from: number, to: number): CostPart {
  const ofBacking = (call: TimedCall): boolean => call.file !== undefined && backing.includes(call.file);
  const { syncs, writes, writtenBytes, readBytes } = billOf(
    calls.filter((call) => !ofBacking(call)),
    from,
    to,
  );
  return {
    syncs,
    writes,
    writtenBytes,
    readBytes,
    backingReadBytes: billOf(calls.filter(ofBacking), from, to).readBytes,
  };
}
