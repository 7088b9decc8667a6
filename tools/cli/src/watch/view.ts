/** How figures are shown: a screen that is drawn anew, a line for each interval, or JSON. */
import { formatSize } from '../sizes.ts';
import { type Quantiles, requestsOf, type WatchFigures } from './figures.ts';
import type { WatchSample } from './sample.ts';

/** @returns the text for one interval */
export type WatchView = (figures: WatchFigures, sample: WatchSample) => string;

/** One line of JSON: the figures of the interval, and what the server has counted in all. */
export const jsonView: WatchView = (figures, { image, process, elapsedMs, ...totals }) => {
  const { version, server, fileSyncs, cache, journal } = totals;
  // The buckets of latencies are for this program; what they say is among the figures.
  const { latencies: _, ...counted } = server;
  const since = { elapsedSeconds: elapsedMs / 1000, server: counted, fileSyncs, cache, journal };
  return `${JSON.stringify({ version, image, process, interval: figures, total: since })}\n`;
};

/** One line for people who read a file of them later. */
export const lineView: WatchView = (figures, sample) => {
  const { journal } = figures;
  const parts = [
    `${(sample.elapsedMs / 1000).toFixed(1)} s`,
    `clients ${figures.clients}`,
    `${rounded(figures.requestsPerSecond)} requests/s`,
    `read ${formatSize(figures.readBytesPerSecond)}/s`,
    `written ${formatSize(figures.writtenBytesPerSecond)}/s`,
    `flushes ${figures.flushes}`,
    `fdatasync/flush ${ratio(figures.fileSyncsPerFlush)}`,
    `p50 ${duration(figures.latencyMicroseconds.all?.p50)}`,
    `p99 ${duration(figures.latencyMicroseconds.all?.p99)}`,
    `cache hits ${percent(figures.cacheHitShare)}`,
    ...(journal === undefined ? [] : [`ring ${percent(journal.ringShare)}`, `lag ${seconds(journal.lagMs)}`]),
  ];
  return `${parts.join(', ')}\n`;
};

const clearScreen = '\x1b[H\x1b[J';

/** All of it, over what was there. */
export const screenView: WatchView = (figures, sample) => {
  const { server, elapsedMs, image, process } = sample;
  const { latencyMicroseconds: latency, journal } = figures;
  const rows: [string, string][] = [
    ['served for', seconds(elapsedMs)],
    ['clients', `${figures.clients}, ${figures.waitingClients} waiting, ${server.connections} so far`],
    [
      'requests',
      `${rounded(figures.requestsPerSecond)}/s, ${requestsOf(sample)} so far, ${server.failures} failed`,
    ],
    ['read', `${formatSize(figures.readBytesPerSecond)}/s, ${formatSize(server.bytesRead)} so far`],
    ['written', `${formatSize(figures.writtenBytesPerSecond)}/s, ${formatSize(server.bytesWritten)} so far`],
    ['flushes', `${figures.flushes}, ${server.requests.FLUSH} so far`],
    ['fdatasync', `${figures.fileSyncs ?? '-'}, for each flush ${ratio(figures.fileSyncsPerFlush)}`],
    ['latency', quantiles(latency.all)],
    ['  reads', quantiles(latency.read)],
    ['  writes', quantiles(latency.write)],
    ['  flushes', quantiles(latency.flush)],
    ['cache hits', percent(figures.cacheHitShare)],
  ];
  if (journal !== undefined) {
    const merged = journal.mergedBytes === undefined ? '' : `, ${formatSize(journal.mergedBytes)} merged`;
    rows.push(
      ['journal', `${journal.records} records${merged}`],
      ['commits', `${journal.commits ?? '-'}, callers of each ${ratio(journal.callersPerCommit)}`],
      ['ring', `${percent(journal.ringShare)} in use`],
      ['write-back', `${formatSize(journal.writtenBackBytes ?? 0)}, ${seconds(journal.lagMs)} behind`],
    );
  }
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
  return `${clearScreen}${image} (process ${process})\n\n${lines.join('\n')}\n`;
};

function quantiles(of: Quantiles | undefined): string {
  return of === undefined ? '-' : `p50 ${duration(of.p50)}, p99 ${duration(of.p99)}`;
}

function duration(microseconds: number | undefined): string {
  if (microseconds === undefined) return '-';
  if (microseconds < 1000) return `${Math.round(microseconds)} us`;
  return microseconds < 1_000_000
    ? `${(microseconds / 1000).toFixed(1)} ms`
    : `${(microseconds / 1_000_000).toFixed(1)} s`;
}

function seconds(milliseconds: number): string {
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

function rounded(value: number): string {
  return value < 10 ? value.toFixed(1) : String(Math.round(value));
}

function ratio(value: number | undefined): string {
  return value === undefined ? '-' : value.toFixed(2);
}

function percent(share: number | undefined): string {
  return share === undefined ? '-' : `${(share * 100).toFixed(1)}%`;
}
