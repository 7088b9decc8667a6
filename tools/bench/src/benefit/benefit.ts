/**
 * `bench benefit`: what the journal is worth. Every contender in every case: what a case costs in system calls and bytes
 * (`cost.ts`), then rates and latencies (`rate.ts`). Whoever fails in a case is left out of it and named at the end; the
 * others go on, and the exit status is 1.
 */
import { BenchmarkFailure } from '../failure.ts';
import { describeMachine } from '../machine.ts';
import type { BenchOptions } from '../options.ts';
import { countText, ratioText, tableText } from '../table.ts';
import type { Workspace } from '../workspace.ts';
import { type BenefitCase, benefitCases } from './cases.ts';
import {
  type BenefitContender,
  benefitContenders,
  type ContenderId,
  contenderIds,
  Sources,
} from './contenders.ts';
import { type Cost, costOf } from './cost.ts';
import { randomFrom, sumOf } from './operations.ts';
import { type RateSeries, ratesOf } from './rate.ts';
import { type BenefitResult, BenefitView, type Cell, type Failure, roundedSeries } from './result.ts';

const quickShare = 0.1;

export async function benefit(workspace: Workspace, options: BenchOptions): Promise<BenefitResult> {
  const started = Date.now();
  const machine = await describeMachine(workspace);
  const cases = chosen(
    options.only,
    benefitCases.map(({ name }) => name),
    'case',
  ).map((name) => benefitCases.find((one) => one.name === name)!);
  const without = chosen(options.without, contenderIds, 'contender', []);
  const failures: Failure[] = [];
  const cells: Cell[] = [];
  for (const one of cases) {
    const fail = (contender: string, reason: unknown): void => {
      const text = reason instanceof Error ? reason.message : String(reason);
      failures.push({ case: one.name, contender, reason: text.slice(0, 300) });
      options.print(`FAILED: ${one.name}, ${contender}: ${text}`);
    };
    try {
      const done = await runCase(workspace, options, one, without, fail);
      cells.push(...done);
      const sofar = { machine, quick: options.quick, rounds: options.rounds, seconds: 0, cells, failures };
      printCase(options, one, new BenefitView(sofar));
    } catch (reason) {
      fail('all', reason);
    }
  }
  const seconds = Math.round((Date.now() - started) / 1000);
  if (failures.length > 0) process.exitCode = 1;
  return { machine, quick: options.quick, rounds: options.rounds, seconds, cells, failures };
}

async function runCase(
  workspace: Workspace,
  options: BenchOptions,
  one: BenefitCase,
  without: readonly string[],
  fail: (contender: string, reason: unknown) => void,
): Promise<Cell[]> {
  const sources = new Sources(workspace);
  const contenders = benefitContenders(workspace, sources, options.command).filter(
    ({ id }) => !without.includes(id),
  );
  const share = options.quick ? quickShare : 1;
  const costs = new Map<ContenderId, Cost>();
  const able: BenefitContender[] = [];
  for (const contender of contenders) {
    try {
      costs.set(contender.id, await costOf(workspace, sources, contender, one, share));
      able.push(contender);
    } catch (reason) {
      fail(contender.id, reason);
    }
  }
  await sources.remove();
  const plan = { rounds: options.rounds, share };
  const rates = await ratesOf(workspace, able, one, plan, ({ id }, reason) => fail(id, reason));
  await sources.remove();
  const { writes, flushes } = sumOf(
    one.operations({ guestOffset: 0, lengthBytes: one.placeBytes }, randomFrom(1), share),
  );
  return able.map(({ id }) => cellOf(one.name, id, writes, flushes, rates.get(id), costs.get(id)));
}

function cellOf(
  name: string,
  contender: ContenderId,
  writes: number,
  flushes: number,
  rates: RateSeries | undefined,
  cost: Cost | undefined,
): Cell {
  return {
    case: name,
    contender,
    writes,
    flushes,
    ...(rates && { rates: roundedSeries(rates) }),
    ...(cost && { cost }),
  };
}

/** @throws BenchmarkFailure for a name that is not in the list */
function chosen(
  given: readonly string[],
  known: readonly string[],
  what: string,
  otherwise: readonly string[] = known,
): readonly string[] {
  for (const name of given) {
    if (!known.includes(name))
      throw new BenchmarkFailure(`no ${what} ${name}; there are ${known.join(', ')}`);
  }
  return given.length === 0 ? otherwise : given;
}

function printCase(options: BenchOptions, one: BenefitCase, view: BenefitView): void {
  const rows = contenderIds
    .filter((id) => view.cell(one.name, id) !== undefined)
    .map((id) => {
      const cost = view.cost(one.name, id, 'inAll');
      const latency = view.flushLatencyUs(one.name, id);
      const ratio = (to: ContenderId): string => {
        const spread = view.ratio(one.name, id, to);
        return spread === undefined ? '–' : ratioText(spread);
      };
      return [
        id,
        ...[cost?.syncsPerFlush, cost?.writtenPerByte, cost?.readPerByte, cost?.backingReadPerByte].map(
          (value) => (value === undefined || Number.isNaN(value) ? '–' : value.toFixed(3)),
        ),
        countText(view.rate(one.name, id) ?? Number.NaN),
        ratio('qemu'),
        ratio('raw'),
        ratio('qemu-lazy'),
        countText(latency?.p50.median ?? Number.NaN),
        countText(latency?.p99.median ?? Number.NaN),
      ];
    });
  options.print(`\n${one.name}: ${one.title}\n`);
  options.print(tableText(head, rows));
}

const head = [
  'server',
  'fdatasync/flush',
  'written/byte',
  'read/byte',
  'backing/byte',
  'writes/s',
  'to qemu',
  'to raw',
  'to qemu-lazy',
  'p50 µs',
  'p99 µs',
];
