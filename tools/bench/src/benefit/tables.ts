/** The generated parts of `docs/benefit.md`, by the name of their place in it. */
import { machineText } from '../machine.ts';
import type { Spread } from '../statistics.ts';
import { compactTable, countText, ratioText } from '../table.ts';
import { type Bar, bars, isMet, type Reading } from './bars.ts';
import { benefitCases } from './cases.ts';
import { type ContenderId, contenderIds } from './contenders.ts';
import { inAll } from './cost.ts';
import type { ReplayFigures } from './replay.ts';
import type { BenefitView } from './result.ts';

const nothing = '–';

export function documentSections(view: BenefitView): Map<string, string> {
  return new Map([
    ['machine', machineSection(view)],
    ['bars', barsTable(view)],
    ['cases', casesTable(view)],
    ['rates-qemu', ratioTable(view, 'qemu')],
    ['rates-raw', ratioTable(view, 'raw')],
    ['rates', caseTable((name, id) => countText(view.rate(name, id) ?? Number.NaN))],
    ['processor', caseTable((name, id) => countText(view.processorUs(name, id) ?? Number.NaN))],
    ['flushes', costTable((name, id) => perFlush(view, name, id))],
    ['written', costTable((name, id) => view.cost(name, id, 'inAll')?.writtenPerByte.toFixed(2))],
    ['read', costTable((name, id) => readText(view, name, id))],
    ['latency', caseTable((name, id) => latencyText(view, name, id))],
    ['replay', replayTable(view.result.replay)],
  ]);
}

function machineSection({ result }: BenefitView): string {
  const lines = [machineText(result.machine), `${result.rounds} rounds, ${result.seconds} seconds in all.`];
  if (result.quick) lines.push('A quick run, for trying only: a tenth of the operations.');
  if (result.without.length > 0) lines.push(`Left out: ${result.without.join(', ')}.`);
  for (const { case: name, contender, reason } of result.failures) {
    lines.push(`Not measured: ${contender} in ${name} (${reason.replaceAll('\n', ' ').slice(0, 120)}).`);
  }
  return lines.join('\n\n');
}

function barsTable(view: BenefitView): string {
  const rows = bars.map((bar) => {
    const reading = bar.read(view);
    return [
      bar.figure,
      `${bar.sense === 'at least' ? '≥' : '≤'} ${boundText(bar.bound)}`,
      reading === undefined ? nothing : readingText(reading),
      verdictText(bar, reading),
    ];
  });
  return compactTable(['figure', 'bar', 'measured', ''], rows);
}

/** A bar of whole flushes leaves room for the one that makes the image dirty at the beginning: 1.01 means 1. */
function boundText(bound: number): string {
  return bound === 1.01 || bound === 2.01 ? String(Math.floor(bound)) : bound.toLocaleString('en-US');
}

function readingText({ value, spread, note }: Reading): string {
  const measured = spread === undefined ? exactText(value) : ratioText(spread);
  return note === undefined ? measured : `${measured} (${note})`;
}

function exactText(value: number): string {
  return value >= 100 ? countText(value) : value.toFixed(3).replace(/(\.\d\d)0$/, '$1');
}

function verdictText(bar: Bar, reading: Reading | undefined): string {
  if (reading === undefined) return 'not measured';
  if (isMet(bar, reading)) return 'met';
  const { value } = reading;
  const share = bar.sense === 'at least' ? value / bar.bound : bar.bound / value;
  return share > 0 ? `**missed**: ${(share * 100).toFixed(0)} % of the way` : '**missed**';
}

function casesTable(view: BenefitView): string {
  const rows = benefitCases.map(({ name, title }) => {
    const cell = view.result.cells.find((one) => one.case === name);
    return [`\`${name}\``, title, countOf(cell?.writes), countOf(cell?.flushes)];
  });
  return compactTable(['case', 'what the guest does', 'writes a round', 'flushes a round'], rows);
}

function countOf(value: number | undefined): string {
  return value === undefined ? nothing : value.toLocaleString('en-US');
}

function ratioTable(view: BenefitView, other: ContenderId): string {
  const ids = contenderIds.filter((id) => id !== other);
  return caseTable((name, id) => spreadText(view.ratio(name, id, other)), ids);
}

function spreadText(spread: Spread | undefined): string {
  return spread === undefined ? nothing : ratioText(spread);
}

function perFlush(view: BenefitView, name: string, id: ContenderId): string | undefined {
  const [serving, all] = [view.cost(name, id, 'serving'), view.cost(name, id, 'inAll')];
  if (serving === undefined || all === undefined) return undefined;
  if (Number.isNaN(serving.syncsPerFlush)) {
    const cost = view.cell(name, id)?.cost;
    return cost && `(${cost.serving.syncs}; ${inAll(cost).syncs})`;
  }
  return `${serving.syncsPerFlush.toFixed(3)}; ${all.syncsPerFlush.toFixed(3)}`;
}

function readText(view: BenefitView, name: string, id: ContenderId): string | undefined {
  const cost = view.cost(name, id, 'serving');
  return cost && `${cost.readPerByte.toFixed(2)} + ${cost.backingReadPerByte.toFixed(2)}`;
}

function latencyText(view: BenefitView, name: string, id: ContenderId): string {
  const found = view.flushLatencyUs(name, id);
  return found === undefined ? nothing : `${countText(found.p50.median)}; ${countText(found.p99.median)}`;
}

function costTable(cell: (name: string, id: ContenderId) => string | undefined): string {
  return caseTable((name, id) => cell(name, id) ?? nothing);
}

function caseTable(
  cell: (name: string, id: ContenderId) => string,
  ids: readonly ContenderId[] = contenderIds,
): string {
  const rows = benefitCases.map(({ name }) => [`\`${name}\``, ...ids.map((id) => cell(name, id))]);
  return compactTable(['case', ...ids], rows);
}

export function replayTable(figures: readonly ReplayFigures[]): string {
  const ms = (spread: Spread | undefined): string =>
    spread === undefined ? nothing : spread.median.toFixed(0);
  const rows = figures.map((one) => [
    one.diskBytes === 2 ** 40 ? '1 TiB' : `${one.diskBytes / 2 ** 30} GiB`,
    `${(one.liveBytes / 2 ** 20).toFixed(0)} MiB of ${(one.ringBytes / 2 ** 20).toFixed(0)}`,
    one.records.toLocaleString('en-US'),
    (one.readBytes / one.liveBytes).toFixed(2),
    ms(one.readMs),
    ms(one.openMs),
    ratioText(one.openToRead),
    ms(one.cold?.readMs),
    ms(one.cold?.openMs),
    spreadText(one.cold?.openToRead),
    ms(one.recoverMs),
  ]);
  const head = ['disk', 'log', 'records', 'bytes read per live byte', 'read ms', 'open ms', 'ratio'];
  return compactTable([...head, 'read cold ms', 'open cold ms', 'ratio cold', 'open for writing ms'], rows);
}
