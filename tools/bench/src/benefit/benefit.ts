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
import { checkPage, storedResult, writeDocuments } from './documents.ts';
import { randomFrom, sumOf } from './operations.ts';
import { type RateSeries, ratesOf } from './rate.ts';
import { type ReplayFigures, replayOf } from './replay.ts';
import { type BenefitResult, BenefitView, type Cell, type Failure, roundedSeries } from './result.ts';
import { replayTable } from './tables.ts';

const quickShare = 0.1;
const replayCase = 'replay';

type Fail = (name: string, contender: string, reason: unknown) => void;

export async function benefit(workspace: Workspace, options: BenchOptions): Promise<BenefitResult> {
  if (options.stored) {
    const stored = storedResult();
    writeDocuments(stored);
    return stored;
  }
  const started = Date.now();
  const known = [...benefitCases.map(({ name }) => name), replayCase];
  const names = chosen(options.only, known, 'case', known);
  const without = chosen(options.without, contenderIds, 'contender', []);
  if (options.writeDocs && names.length < known.length)
    throw new BenchmarkFailure(
      'documents are written by a run of all cases, so that their figures belong together',
    );
  if (options.writeDocs) checkPage();
  const machine = await describeMachine(workspace);
  const failures: Failure[] = [];
  const cells: Cell[] = [];
  const replay: ReplayFigures[] = [];
  const fail: Fail = (name, contender, reason) => {
    const text = reason instanceof Error ? reason.message : String(reason);
    failures.push({ case: name, contender, reason: text.slice(0, 300) });
    options.print(`FAILED: ${name}, ${contender}: ${text}`);
  };
  const result = (): BenefitResult => {
    const seconds = Math.round((Date.now() - started) / 1000);
    return {
      machine,
      quick: options.quick,
      rounds: options.rounds,
      seconds,
      without,
      cells,
      replay,
      failures,
    };
  };
  for (const one of benefitCases) {
    if (!names.includes(one.name)) continue;
    try {
      cells.push(...(await runCase(workspace, options, one, without, fail)));
      printCase(options, one, new BenefitView(result()));
    } catch (reason) {
      fail(one.name, 'all', reason);
    }
  }
  if (names.includes(replayCase)) replay.push(...(await runReplay(workspace, options, fail)));
  if (options.writeDocs) writeDocuments(result());
  if (failures.length > 0) process.exitCode = 1;
  return result();
}

/** A small disk and a large one: replay must not know the difference. */
async function runReplay(workspace: Workspace, options: BenchOptions, fail: Fail): Promise<ReplayFigures[]> {
  const scale = options.quick ? 8 : 1;
  const plan = { rounds: options.rounds, ringBytes: 2 ** 29 / scale, liveBytes: 2 ** 27 / scale };
  const figures: ReplayFigures[] = [];
  for (const diskBytes of [2 ** 30, 2 ** 40]) {
    try {
      figures.push(await replayOf(workspace, diskBytes, plan));
    } catch (reason) {
      fail(replayCase, `disk of ${diskBytes} bytes`, reason);
    }
  }
  options.print(`\n${replayCase}: opening after a crash\n`);
  options.print(replayTable(figures));
  return figures;
}

async function runCase(
  workspace: Workspace,
  options: BenchOptions,
  one: BenefitCase,
  without: readonly string[],
  fail: Fail,
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
      fail(one.name, contender.id, reason);
    }
  }
  await sources.remove();
  const plan = { rounds: options.rounds, share };
  const rates = await ratesOf(workspace, able, one, plan, ({ id }, reason) => fail(one.name, id, reason));
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
  otherwise: readonly string[],
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
