/** What a run of `bench benefit` found, as it is stored, and what can be read from it. */
import type { Machine } from '../machine.ts';
import { median, ratioOf, type Spread, spreadOf } from '../statistics.ts';
import type { ContenderId } from './contenders.ts';
import { type Cost, type CostPart, inAll } from './cost.ts';
import type { RateSeries } from './rate.ts';
import type { ReplayFigures } from './replay.ts';

export interface BenefitResult {
  readonly machine: Machine;
  readonly quick: boolean;
  readonly rounds: number;
  readonly seconds: number;
  /** Contenders that were not asked for. */
  readonly without: readonly string[];
  readonly cells: readonly Cell[];
  readonly replay: readonly ReplayFigures[];
  readonly failures: readonly Failure[];
}

/** One contender in one case. */
export interface Cell {
  readonly case: string;
  readonly contender: ContenderId;
  /** Writes and flushes of one round. */
  readonly writes: number;
  readonly flushes: number;
  readonly rates?: RateSeries;
  readonly cost?: Cost;
}

export interface Failure {
  readonly case: string;
  readonly contender: string;
  readonly reason: string;
}

/** A cell's figures per flush and per guest byte. */
export interface Ratios {
  /** NaN where the guest never flushed. */
  readonly syncsPerFlush: number;
  readonly writtenPerFlush: number;
  readonly writtenPerByte: number;
  readonly readPerByte: number;
  readonly backingReadPerByte: number;
}

export class BenefitView {
  readonly result: BenefitResult;

  constructor(result: BenefitResult) {
    this.result = result;
  }

  cell(name: string, contender: ContenderId): Cell | undefined {
    return this.result.cells.find((cell) => cell.case === name && cell.contender === contender);
  }

  /** Ratio of the rates, each within its round; undefined where one of them is missing. */
  ratio(name: string, ours: ContenderId, theirs: ContenderId): Spread | undefined {
    const [one, other] = [this.cell(name, ours)?.rates, this.cell(name, theirs)?.rates];
    if (one === undefined || other === undefined) return undefined;
    return ratioOf(one.writesPerSecond, other.writesPerSecond);
  }

  rate(name: string, contender: ContenderId): number | undefined {
    const rates = this.cell(name, contender)?.rates;
    return rates && median(rates.writesPerSecond);
  }

  /** Processor time of the server for a write. */
  processorUs(name: string, contender: ContenderId): number | undefined {
    const rates = this.cell(name, contender)?.rates;
    return rates && median(rates.processorUs);
  }

  flushLatencyUs(name: string, contender: ContenderId): { p50: Spread; p99: Spread } | undefined {
    const rates = this.cell(name, contender)?.rates;
    if (rates === undefined || rates.flushP50Us.length === 0) return undefined;
    return { p50: spreadOf(rates.flushP50Us), p99: spreadOf(rates.flushP99Us) };
  }

  /** p99 to p50, each within its round. */
  tail(name: string, contender: ContenderId): Spread | undefined {
    const rates = this.cell(name, contender)?.rates;
    if (rates === undefined || rates.flushP50Us.length === 0) return undefined;
    return ratioOf(rates.flushP99Us, rates.flushP50Us);
  }

  cost(name: string, contender: ContenderId, part: 'opening' | 'serving' | 'inAll'): Ratios | undefined {
    const cost = this.cell(name, contender)?.cost;
    return cost && ratiosOf(cost, part === 'inAll' ? inAll(cost) : cost[part]);
  }
}

function ratiosOf({ flushes, guestBytes }: Cost, part: CostPart): Ratios {
  return {
    syncsPerFlush: flushes === 0 ? Number.NaN : part.syncs / flushes,
    writtenPerFlush: flushes === 0 ? Number.NaN : part.writtenBytes / flushes,
    writtenPerByte: part.writtenBytes / guestBytes,
    readPerByte: part.readBytes / guestBytes,
    backingReadPerByte: part.backingReadBytes / guestBytes,
  };
}

/** To four digits: more than that is noise. */
export function roundedSeries(series: RateSeries): RateSeries {
  const rounded = (values: readonly number[]): number[] =>
    values.map((value) => Number(value.toPrecision(4)));
  return {
    writesPerSecond: rounded(series.writesPerSecond),
    processorUs: rounded(series.processorUs),
    flushP50Us: rounded(series.flushP50Us),
    flushP99Us: rounded(series.flushP99Us),
  };
}

/** For a file under version control: one line for each cell. */
export function storedText(result: BenefitResult): string {
  const { cells, replay, failures, ...about } = result;
  const head = Object.entries(about).map(
    ([key, value]) => `  ${JSON.stringify(key)}: ${JSON.stringify(value)},\n`,
  );
  const lists = Object.entries({ cells, replay, failures }).map(([key, list]) => {
    const lines = list.map((one) => `\n    ${JSON.stringify(one)}`);
    return `  ${JSON.stringify(key)}: [${lines.join(',')}${lines.length > 0 ? '\n  ' : ''}]`;
  });
  return `{\n${head.join('')}${lists.join(',\n')}\n}\n`;
}
