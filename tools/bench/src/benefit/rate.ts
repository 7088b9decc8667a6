/**
 * Rates and latencies of a case. The servers of all contenders are up at once, each with its own image, after a warm-up
 * that is not measured. In a round each runs the same operations in the same place of its disk, one right
 * after the other, in an order that rotates.
 */
import { type Served, serveImage, syncFile } from '../contender.ts';
import { quantile, rotated } from '../statistics.ts';
import type { Workspace } from '../workspace.ts';
import type { BenefitCase } from './cases.ts';
import type { BenefitContender, ContenderId } from './contenders.ts';
import { operationsFile, runLoad } from './load-client.ts';
import { type Operation, randomFrom, sumOf } from './operations.ts';

/** One value for each round. */
export interface RateSeries {
  readonly writesPerSecond: number[];
  /** Empty where nothing was flushed. */
  readonly flushP50Us: number[];
  readonly flushP99Us: number[];
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
  const series = new Map<ContenderId, RateSeries>();
  /** Whoever fails is out: half a series would be compared with whole ones. */
  const each = async (order: readonly Running[], body: (who: Running) => Promise<void>): Promise<void> => {
    for (const who of order) {
      try {
        await body(who);
      } catch (reason) {
        failed(who.contender, reason);
        running = running.filter((other) => other !== who);
        series.delete(who.contender.id);
        await who.server.stop().catch(() => {});
      }
    }
  };
  const images: string[] = [];
  for (const contender of contenders) {
    try {
      const image = workspace.path('image');
      images.push(image);
      await contender.prepare(image, { kind: one.image, sizeBytes: one.placeBytes * places });
      syncFile(image);
      running.push({ contender, server: await serveImage(workspace, contender, image) });
      series.set(contender.id, { writesPerSecond: [], flushP50Us: [], flushP99Us: [] });
    } catch (reason) {
      failed(contender, reason);
    }
  }
  for (let turn = 0; turn <= plan.rounds; turn++) {
    const warmUp = turn === 0;
    const operations = listOf(warmUp ? plan.rounds : turn - 1);
    const file = operationsFile(workspace, operations);
    await each(rotated(running, turn), async ({ contender, server }) => {
      if (one.oneProcessor) await server.place('0');
      const report = await runLoad(workspace, server.socket, file, operations, one.oneProcessor && '0');
      if (warmUp) return;
      const into = series.get(contender.id)!;
      into.writesPerSecond.push((sumOf(operations).writes / report.elapsedNs) * 1e9);
      if (report.flushNs.length === 0) return;
      into.flushP50Us.push(quantile(report.flushNs, 0.5) / 1000);
      into.flushP99Us.push(quantile(report.flushNs, 0.99) / 1000);
    });
    await workspace.run('rm', ['-f', file]);
  }
  await each([...running], async ({ server }) => await server.stop());
  await workspace.run('rm', ['-f', ...images]);
  return series;
}
