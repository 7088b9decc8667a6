/** Which charts `docs/benefit.md` shows, made from a result. */
import { benefitCases } from './cases.ts';
import { type Axis, type Chart, chartText, type Mark } from './chart.ts';
import { type ContenderId, contenderIds } from './contenders.ts';
import type { BenefitView } from './result.ts';

/** Colours that stay apart for the colour-blind, on white and on black. Ours are cold, qemu-nbd's warm. */
const colours: Readonly<Record<ContenderId, string>> = {
  v1: '#2a7fd4',
  'draft-2013': '#6cb8ee',
  ordered: '#119d77',
  lazy: '#7cc9a8',
  qemu: '#d55e00',
  'qemu-lazy': '#e69f00',
  raw: '#999999',
};

/** Files of `docs/benefit/`, by name. */
export function chartFiles(view: BenefitView): Map<string, string> {
  return new Map([
    ['rates.svg', chartText(rates(view))],
    ['bytes.svg', chartText(bytes(view))],
    ['flushes.svg', chartText(flushes(view))],
    ['latency.svg', chartText(latency(view))],
  ]);
}

function rates(view: BenefitView): Chart {
  const ids = contenderIds.filter((id) => id !== 'qemu');
  const axis: Axis = {
    label: 'times the rate of qemu-nbd on qcow2; line: spread over the rounds (logarithmic)',
    scale: 'log',
    min: 0.1,
    max: 10,
    ticks: [0.1, 0.2, 0.5, 1, 2, 5, 10],
    base: 1,
  };
  return chartOf('Writes a second, against qemu-nbd on qcow2', axis, ids, (name, id) => {
    const spread = view.ratio(name, id, 'qemu');
    return spread && { to: spread.median, low: spread.min, high: spread.max, text: spread.median.toFixed(2) };
  });
}

function bytes(view: BenefitView): Chart {
  const axis: Axis = {
    label: 'bytes written to the host for a guest byte, close included (logarithmic)',
    scale: 'log',
    min: 0.5,
    max: 100,
    ticks: [0.5, 1, 2, 5, 10, 20, 50, 100],
    base: 1,
  };
  return chartOf('Bytes written', axis, contenderIds, (name, id) => {
    const cost = view.cost(name, id, 'inAll');
    return cost && { to: cost.writtenPerByte, text: cost.writtenPerByte.toFixed(2) };
  });
}

function flushes(view: BenefitView): Chart {
  const axis: Axis = {
    label: 'fdatasync calls for a flush of the guest',
    scale: 'linear',
    min: 0,
    max: 4,
    ticks: [0, 1, 2, 3, 4],
    base: 0,
  };
  return chartOf('Flushes of the host', axis, contenderIds, (name, id) => {
    const cost = view.cost(name, id, 'serving');
    if (cost === undefined || Number.isNaN(cost.syncsPerFlush)) return undefined;
    return { to: cost.syncsPerFlush, text: cost.syncsPerFlush.toFixed(2) };
  });
}

function latency(view: BenefitView): Chart {
  const axis: Axis = {
    label: 'µs from p50 to p99 (logarithmic); the number is p99 to p50',
    scale: 'log',
    min: 50,
    max: 100_000,
    ticks: [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000],
    base: 50,
  };
  return chartOf('Latency of a flush, p50 to p99', axis, contenderIds, (name, id) => {
    const found = view.flushLatencyUs(name, id);
    if (found === undefined) return undefined;
    const [p50, p99] = [found.p50.median, found.p99.median];
    return { from: p50, to: p99, text: `${(p99 / p50).toFixed(1)}×` };
  });
}

function chartOf(
  title: string,
  axis: Axis,
  ids: readonly ContenderId[],
  mark: (name: string, id: ContenderId) => Omit<Mark, 'series'> | undefined,
): Chart {
  const groups = benefitCases.map(({ name }) => ({
    label: name,
    marks: ids.flatMap((id, series) => {
      const found = mark(name, id);
      return found === undefined ? [] : [{ series, ...found }];
    }),
  }));
  return {
    title,
    axis,
    series: ids.map((id) => ({ name: id, colour: colours[id] })),
    groups: groups.filter(({ marks }) => marks.length > 0),
  };
}
