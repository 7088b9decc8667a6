import { describe, expect, it } from 'vitest';
import type { Machine } from '../machine.ts';
import { bars, isMet } from './bars.ts';
import { benefitCases } from './cases.ts';
import { contenderIds } from './contenders.ts';
import { type BenefitResult, BenefitView, type Cell, storedText } from './result.ts';
import { documentSections } from './tables.ts';

const machine: Machine = {
  date: '2020-01-01',
  system: 'a system',
  processor: 'a processor',
  cores: 2,
  fileSystem: 'ext4',
  load: 0,
  node: '1',
  qemu: '1',
  fio: '1',
};

const idle = { syncs: 0, writes: 0, writtenBytes: 0, readBytes: 0, backingReadBytes: 0 };

/** v1 as good as it has to be, and everybody else the same as each other. */
function resultWith(change: (cell: Cell) => Cell = (cell) => cell): BenefitResult {
  const cells = benefitCases.flatMap(({ name }) =>
    contenderIds.map((contender): Cell => {
      const ours = contender === 'v1';
      const part = {
        syncs: ours ? 100 : 200,
        writes: 100,
        writtenBytes: ours ? 819_200 : 13_107_200,
        readBytes: 0,
        backingReadBytes: 0,
      };
      return change({
        case: name,
        contender,
        writes: 100,
        flushes: 100,
        rates: {
          writesPerSecond: ours ? [3000, 4000, 5000] : [1000, 1000, 1000],
          processorUs: [10, 10, 10],
          flushP50Us: [100, 100, 100],
          flushP99Us: [300, 400, 500],
        },
        cost: { flushes: 100, guestBytes: 409_600, opening: idle, serving: part, closing: idle },
      });
    }),
  );
  const same = { median: 1, min: 1, max: 1 };
  const replay = [2 ** 30, 2 ** 40].map((diskBytes) => ({
    diskBytes,
    ringBytes: 2 ** 29,
    liveBytes: 2 ** 27,
    records: 16_384,
    readBytes: 2 ** 27,
    readMs: same,
    openMs: same,
    openToRead: same,
    cold: { readMs: same, openMs: same, openToRead: same },
    recoverMs: same,
  }));
  return { machine, quick: false, rounds: 3, seconds: 1, without: [], cells, replay, failures: [] };
}

const verdicts = (result: BenefitResult): (boolean | undefined)[] =>
  bars.map((bar) => {
    const reading = bar.read(new BenefitView(result));
    return reading && isMet(bar, reading);
  });

describe('bars', () => {
  it('are all met by a journal that is as good as it has to be', () => {
    expect(verdicts(resultWith())).toEqual(bars.map(() => true));
  });

  it('are all missed by a journal that is no better than the others, or reads and waits too much', () => {
    const bad = resultWith((cell) => {
      if (cell.contender !== 'v1') return cell;
      const part = { syncs: 300, writes: 300, writtenBytes: 13_107_200, readBytes: 0, backingReadBytes: 1 };
      return {
        ...cell,
        rates: { writesPerSecond: [900, 900, 900], processorUs: [10], flushP50Us: [100], flushP99Us: [501] },
        cost: { flushes: 100, guestBytes: 409_600, opening: idle, serving: part, closing: idle },
      };
    });
    const slow = { median: 3, min: 3, max: 3 };
    const replay = bad.replay.map((one) => ({
      ...one,
      readBytes: 2 ** 28,
      openMs: one.diskBytes === 2 ** 40 ? slow : one.openMs,
      openToRead: slow,
      cold: { readMs: slow, openMs: slow, openToRead: slow },
    }));
    expect(verdicts({ ...bad, replay })).toEqual(bars.map(() => false));
  });

  it('say nothing where a case was not measured', () => {
    const nothing = { ...resultWith(), cells: [], replay: [] };
    expect(verdicts(nothing)).toEqual(bars.map(() => undefined));
    expect(documentSections(new BenefitView(nothing)).get('bars')).toContain('not measured');
  });

  it('name the case that is the worst of several', () => {
    const result = resultWith((cell) =>
      cell.contender === 'v1' && cell.case === 'database'
        ? { ...cell, rates: { ...cell.rates!, flushP99Us: [600, 700, 800] } }
        : cell,
    );
    const [tail] = bars.filter(({ figure }) => figure.startsWith('flush latency'));
    expect(tail!.read(new BenefitView(result))).toMatchObject({ value: 7, note: 'database' });
    expect(documentSections(new BenefitView(result)).get('bars')).toContain('**missed**: 71 % of the way');
  });

  it('name every case where lazy refcounts are faster', () => {
    const result = resultWith((cell) =>
      cell.contender === 'qemu-lazy' && ['random-8', 'bulk-16'].includes(cell.case)
        ? { ...cell, rates: { ...cell.rates!, writesPerSecond: [8000, 8000, 8000] } }
        : cell,
    );
    const [lazy] = bars.filter(({ figure }) => figure.includes('lazy refcounts'));
    const reading = lazy!.read(new BenefitView(result));
    expect(reading).toMatchObject({ value: 0.5 });
    expect(reading!.note).toMatch(/slower in 2 of \d+: random-8, bulk-16/);
  });
});

describe('results', () => {
  it('come back from their file as they were', () => {
    const result = resultWith();
    expect(JSON.parse(storedText(result))).toEqual(result);
  });

  it('compare within a round', () => {
    const view = new BenefitView(resultWith());
    expect(view.ratio('random-1', 'v1', 'qemu')).toEqual({ median: 4, min: 3, max: 5 });
    expect(view.tail('random-1', 'v1')).toEqual({ median: 4, min: 3, max: 5 });
    expect(view.cost('random-1', 'qemu', 'inAll')).toMatchObject({ syncsPerFlush: 2, writtenPerByte: 32 });
  });
});
