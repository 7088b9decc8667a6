/**
 * Rates and latencies of a case. The servers of all contenders are up at once, each with its own image, after a warm-up
 * that is not measured. In a round each runs the same operations in the same place of its disk, one right
 * after the other, in an order that rotates.
 */
import { type Served, serveImage, syncFile } from '../contender.ts';
import { quantile, rotated } from '../statistics.ts';
import type { Workspace } from '../workspace.ts';
import { type BenefitCase, ratedFlushes } from './cases.ts';
import type { BenefitContender, ContenderId } from './contenders.ts';
import { operationsFile, runLoad } from './load-client.ts';
import { type Operation, randomFrom, sumOf } from './operations.ts';

/** One value for each round. */
export interface RateSeries {
  readonly writesPerSecond: readonly number[];
  /** Of the server for a write, its share of flushes included. */
  readonly processorUs: readonly number[];
  /** Empty where nothing was flushed; one for all rounds together where a round has too few flushes for a 99th percentile. */
  readonly flushP50Us: readonly number[];
  readonly flushP99Us: readonly number[];
}

/** What a contender did, round by round. */
interface Log {
  readonly writesPerSecond: number[];
  readonly processorUs: number[];
  readonly flushNs: (readonly number[])[];
}

export interface RatePlan {
  readonly rounds: number;
  readonly share: number;
}

interface Running {
  readonly contender: BenefitContender;
  readonly server: Served;
}

/** @param failed is told of a contender that dropped out; the others go on */
export async function ratesOf(
  workspace: Workspace,
  contenders: readonly BenefitContender[],
  one: BenefitCase,
  plan: RatePlan,
  failed: (contender: BenefitContender, reason: unknown) => void,
): Promise<Map<ContenderId, RateSeries>> {
  const places = plan.rounds + 1;
  const listOf = (place: number): Operation[] =>
    one.operations(
      { guestOffset: place * one.placeBytes, lengthBytes: one.placeBytes },
      randomFrom(place + 1),
      plan.share,
    );
  let running: Running[] = [];
  const logs = new Map<ContenderId, Log>();
  /** Whoever fails is out: half a series would be compared with whole ones. */
  const each = async (order: readonly Running[], body: (who: Running) => Promise<void>): Promise<void> => {
    for (const who of order) {
      try {
        await body(who);
      } catch (reason) {
        failed(who.contender, reason);
        running = running.filter((other) => other !== who);
        logs.delete(who.contender.id);
        await who.server.stop().catch(() => {});
      }
    }
  };
  const images: string[] = [];
  try {
    for (const contender of contenders) {
      try {
        const image = workspace.path('image');
        images.push(image);
        await contender.prepare(image, { kind: one.image, sizeBytes: one.placeBytes * places });
        syncFile(image);
        running.push({ contender, server: await serveImage(workspace, contender, image) });
        logs.set(contender.id, { writesPerSecond: [], processorUs: [], flushNs: [] });
      } catch (reason) {
        failed(contender, reason);
      }
    }
    for (let turn = 0; turn <= plan.rounds; turn++) {
      const operations = listOf(turn === 0 ? plan.rounds : turn - 1);
      const file = operationsFile(workspace, operations);
      await each(rotated(running, turn), async ({ contender, server }) => {
        if (one.oneProcessor) await server.place('0');
        const before = server.processTimeUs();
        const report = await runLoad(workspace, server.socket, file, operations, one.oneProcessor && '0');
        if (turn === 0) return; // the warm-up
        const log = logs.get(contender.id)!;
        const { writes } = sumOf(operations);
        log.writesPerSecond.push((writes / report.elapsedNs) * 1e9);
        log.processorUs.push((server.processTimeUs() - before) / writes);
        log.flushNs.push(report.flushNs);
      });
      await workspace.run('rm', ['-f', file]);
    }
    await each([...running], async ({ server }) => await server.stop());
    running = [];
  } finally {
    // Where something else went wrong, nobody goes on serving beside the next case.
    for (const { server } of running) await server.stop().catch(() => {});
    await workspace.run('rm', ['-f', ...images]);
  }
  return new Map([...logs].map(([id, log]) => [id, seriesOf(log)]));
}

function seriesOf({ writesPerSecond, processorUs, flushNs }: Log): RateSeries {
  const enough = flushNs.every((list) => list.length >= ratedFlushes);
  const lists = (enough ? flushNs : [flushNs.flat()]).filter((list) => list.length > 0);
  const us = (share: number): number[] => lists.map((list) => quantile(list, share) / 1000);
  return { writesPerSecond, processorUs, flushP50Us: us(0.5), flushP99Us: us(0.99) };
}
