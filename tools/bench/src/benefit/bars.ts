/**
 * What the journal has to reach, and whether it does: each bar is a bound and a way to read the measured value from a result.
 * "Met" is judged by the median; the spread stands beside it.
 */
import type { Spread } from '../statistics.ts';
import { benefitCases } from './cases.ts';
import type { BenefitView } from './result.ts';

export interface Bar {
  readonly figure: string;
  readonly sense: 'at least' | 'at most';
  readonly bound: number;
  readonly unit?: string;
  /** Undefined where it was not measured. */
  read(view: BenefitView): Reading | undefined;
}

export interface Reading {
  readonly value: number;
  readonly spread?: Spread;
  /** Which of several cases this is the worst of, and whatever else must be known. */
  readonly note?: string;
}

/**
 * Cases where at most 256 KiB gather between any two flushes. (At a checkpoint of `database` 800 KiB do.)
 */
const littleData = [
  'random-1',
  'random-8',
  'random-64',
  'random-backing-1',
  'sequential-4096-1',
  'sequential-4096-64',
  'sequential-512-1',
  'sequential-512-64',
  'shared-1',
];
const sequential = benefitCases.map(({ name }) => name).filter((name) => name.startsWith('sequential'));
const steadyTails = ['random-1', 'random-8', 'random-backing-1', 'database'];

export const bars: readonly Bar[] = [
  {
    figure: 'fdatasync per flush, at most 256 KiB since the last one, write-back included',
    sense: 'at most',
    bound: 1.01,
    read: (view) =>
      worst(littleData, (name) => count(view.cost(name, 'v1', 'serving')?.syncsPerFlush), 'largest'),
  },
  {
    figure: '… 1 MiB since the last one',
    sense: 'at most',
    bound: 2.01,
    read: (view) => count(view.cost('bulk-16', 'v1', 'serving')?.syncsPerFlush),
  },
  {
    figure: '… overwrites of flushed clusters',
    sense: 'at most',
    bound: 1.01,
    read: (view) => count(view.cost('overwrite-1', 'v1', 'serving')?.syncsPerFlush),
  },
  {
    figure: 'bytes written for an overwrite of 4 KiB and its flush: itself and at most one journal block',
    sense: 'at most',
    bound: 8192,
    read: (view) => count(view.cost('overwrite-1', 'v1', 'serving')?.writtenPerFlush),
  },
  {
    figure:
      'bytes written for a random allocating write of 4 KiB and its flush, write-back and close included',
    sense: 'at most',
    bound: 16_384,
    read: (view) => count(view.cost('random-1', 'v1', 'inAll')?.writtenPerFlush),
  },
  {
    figure: '… how many times fewer than qemu-nbd on qcow2',
    sense: 'at least',
    bound: 8,
    read: (view) => {
      const [ours, theirs] = (['v1', 'qemu'] as const).map((id) => view.cost('random-1', id, 'inAll'));
      return ours && theirs && { value: theirs.writtenPerFlush / ours.writtenPerFlush };
    },
  },
  rateBar('random, allocating, flushed every 1: rate to qemu-nbd on qcow2 (aim: 3)', 2.2, 'random-1', 'qemu'),
  rateBar('… to qemu-nbd on raw sparse', 1.3, 'random-1', 'raw'),
  rateBar('… flushed every 8, to qemu-nbd on qcow2', 1.7, 'random-8', 'qemu'),
  rateBar('… flushed every 64, to qemu-nbd on qcow2', 1.2, 'random-64', 'qemu'),
  rateBar(
    'random over a backing file, flushed every 1: rate to qemu-nbd on qcow2',
    3,
    'random-backing-1',
    'qemu',
  ),
  rateBar(
    '4 KiB sequential over a backing file, flushed every 1: rate to qemu-nbd on qcow2',
    1.5,
    'sequential-4096-1',
    'qemu',
  ),
  {
    figure: 'sequential writes over a backing file: backing bytes read for a guest byte',
    sense: 'at most',
    bound: 0,
    read: (view) => worst(sequential, (name) => count(backingRead(view, name)), 'largest'),
  },
  {
    figure: 'rate to qemu-nbd with lazy refcounts, in every case',
    sense: 'at least',
    bound: 1,
    read: (view) => lazyReading(view),
  },
  {
    figure: 'flush latency, p99 to p50, while writing back',
    sense: 'at most',
    bound: 5,
    read: (view) => worst(steadyTails, (name) => spreadReading(view.tail(name, 'v1')), 'largest'),
  },
  {
    figure: 'replay: bytes read for a byte of live log',
    sense: 'at most',
    bound: 1.05,
    read: ({ result }) =>
      worst(sizes, (size) => count(replay(result, size, (one) => one.readBytes / one.liveBytes)), 'largest'),
  },
  {
    figure: 'replay of 128 MiB into memory: time to that of reading those bytes, from the page cache',
    sense: 'at most',
    bound: 2,
    read: ({ result }) =>
      worst(sizes, (size) => spreadReading(replay(result, size, (one) => one.openToRead)), 'largest'),
  },
  {
    figure: '… from the disk',
    sense: 'at most',
    bound: 2,
    read: ({ result }) =>
      worst(sizes, (size) => spreadReading(replay(result, size, (one) => one.cold?.openToRead)), 'largest'),
  },
  {
    figure: '… of a disk of 1 TiB to that of one of 1 GiB',
    sense: 'at most',
    bound: 1.2,
    read: ({ result }) => {
      const [small, large] = [
        replay(result, '1 GiB', (one) => one.openMs),
        replay(result, '1 TiB', (one) => one.openMs),
      ];
      return small && large && { value: large.median / small.median };
    },
  },
];

/** Whether a reading reaches its bar. */
export function isMet({ sense, bound }: Bar, { value }: Reading): boolean {
  return sense === 'at least' ? value >= bound : value <= bound;
}

/** Write-back and close included. At opening its first bytes may be looked at, whatever is written then. */
function backingRead(view: BenefitView, name: string): number | undefined {
  const [opening, all] = [view.cost(name, 'v1', 'opening'), view.cost(name, 'v1', 'inAll')];
  return opening && all && all.backingReadPerByte - opening.backingReadPerByte;
}

function rateBar(figure: string, bound: number, name: string, other: 'qemu' | 'raw'): Bar {
  return { figure, sense: 'at least', bound, read: (view) => spreadReading(view.ratio(name, 'v1', other)) };
}

function lazyReading(view: BenefitView): Reading | undefined {
  const names = benefitCases.map(({ name }) => name);
  const slower = names.filter((name) => (view.ratio(name, 'v1', 'qemu-lazy')?.median ?? 1) < 1);
  const least = worst(names, (name) => spreadReading(view.ratio(name, 'v1', 'qemu-lazy')), 'smallest');
  if (least === undefined || slower.length === 0) return least;
  return {
    ...least,
    note: `${least.note}; slower in ${slower.length} of ${names.length}: ${slower.join(', ')}`,
  };
}

function count(value: number | undefined): Reading | undefined {
  return value === undefined ? undefined : { value };
}

function spreadReading(spread: Spread | undefined): Reading | undefined {
  return spread && { value: spread.median, spread };
}

/** The worst of several readings; undefined where one of them is missing, for nothing is said about that one. */
function worst(
  names: readonly string[],
  read: (name: string) => Reading | undefined,
  which: 'largest' | 'smallest',
): Reading | undefined {
  const readings: Reading[] = [];
  for (const name of names) {
    const reading = read(name);
    if (reading === undefined) return undefined;
    readings.push({ ...reading, note: name });
  }
  const sign = which === 'largest' ? -1 : 1;
  return readings.sort((a, b) => sign * (a.value - b.value))[0];
}

type Result = BenefitView['result'];
type Replay = Result['replay'][number];

const sizeNames = new Map([
  [2 ** 30, '1 GiB'],
  [2 ** 40, '1 TiB'],
]);

const sizes = [...sizeNames.values()];

function replay<T>(result: Result, size: string, pick: (one: Replay) => T): T | undefined {
  const found = result.replay.find(({ diskBytes }) => sizeNames.get(diskBytes) === size);
  return found && pick(found);
}
