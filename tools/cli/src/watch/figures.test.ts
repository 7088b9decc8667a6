import { describe, expect, it } from 'vitest';
import { figuresBetween } from './figures.ts';
import { parseSample, type WatchSample } from './sample.ts';
import { jsonView, lineView, screenView } from './view.ts';

const commands = ['READ', 'WRITE', 'DISC', 'FLUSH', 'TRIM', 'CACHE', 'WRITE_ZEROES', 'BLOCK_STATUS'] as const;

/** After so many seconds, with so many of everything. */
function sampleAt(seconds: number, count: number): WatchSample {
  const buckets = [0, 0, 0, 0, count];
  const cache = { hits: 9 * count, misses: count, evictions: 0, cleaned: 0, bytes: 0, maxBytes: 1 };
  const counters = {
    ...{ records: 2 * count, submittedBytes: 900 * count, loggedBytes: 400 * count, commits: count },
    ...{ sharedCommits: count, writtenBackBytes: 0, groupSizes: [count] },
  };
  return {
    version: 1,
    image: 'disk.qcow2',
    process: 42,
    elapsedMs: seconds * 1000,
    server: {
      connections: 3,
      connectionsOpen: 2,
      connectionsWaiting: 1,
      requests: {
        ...Object.fromEntries(commands.map((name) => [name, 0])),
        READ: count,
        WRITE: count,
        FLUSH: count,
      } as never,
      failures: 0,
      bytesRead: 4096 * count,
      bytesWritten: 512 * count,
      latencies: Object.fromEntries(commands.map((name) => [name, name === 'TRIM' ? [0] : buckets])) as never,
    },
    fileSyncs: 2 * count,
    cache: { l2: cache, refcount: cache, decompressed: { hits: 0, misses: 0, bytes: 0 } },
    journal: { profile: 'v1', counters, use: { usedBytes: 1, ringBytes: 4 }, lagMs: 1500 } as never,
  };
}

describe('what two samples say', () => {
  const [before, now] = [sampleAt(10, 100), sampleAt(12, 300)];
  const figures = figuresBetween(before, now);

  it('rates and quotients of the time between them', () => {
    expect(figures).toMatchObject({
      seconds: 2,
      clients: 2,
      waitingClients: 1,
      requestsPerSecond: 300,
      readBytesPerSecond: 409_600,
      writtenBytesPerSecond: 51_200,
      flushes: 200,
      fileSyncs: 400,
      fileSyncsPerFlush: 2,
      cacheHitShare: 0.9,
      latencyMicroseconds: { all: { p50: 2, p99: 2 }, write: { p50: 2, p99: 2 } },
    });
    expect(figures.journal).toEqual({
      ...{ records: 400, mergedBytes: 100_000, commits: 200, callersPerCommit: 2, writtenBackBytes: 0 },
      ...{ ringShare: 0.25, lagMs: 1500 },
    });
  });

  it('say nothing where nothing happened, and of what is not there', () => {
    const still = figuresBetween(before, before);
    expect(still).toMatchObject({
      requestsPerSecond: 0,
      fileSyncsPerFlush: undefined,
      cacheHitShare: undefined,
    });
    expect(still.latencyMicroseconds.all).toBeUndefined();
    const bare = { fileSyncs: null, cache: null, journal: null };
    const raw = figuresBetween({ ...before, ...bare }, { ...now, ...bare });
    expect(raw).toMatchObject({ fileSyncs: undefined, cacheHitShare: undefined, journal: undefined });
    expect(lineView(raw, { ...now, ...bare })).toContain('fdatasync/flush -');
  });

  it('shown in one line, on a screen, and as JSON', () => {
    expect(lineView(figures, now)).toBe(
      '12.0 s, clients 2, 300 requests/s, read 400 KiB/s, written 50 KiB/s, ' +
        'flushes 200, fdatasync/flush 2.00, p50 2 us, p99 2 us, cache hits 90.0%, ring 25.0%, lag 1.5 s\n',
    );
    const screen = screenView(figures, now);
    expect(screen.startsWith('\x1b[H\x1b[Jdisk.qcow2 (process 42)\n')).toBe(true);
    expect(screen).toContain('requests    300/s, 900 so far, 0 failed\n');
    expect(screen).toContain('write-back  0 B, 1.5 s behind\n');
    const json = JSON.parse(jsonView(figures, now));
    expect(json).toMatchObject({
      version: 1,
      interval: { requestsPerSecond: 300 },
      total: { fileSyncs: 600 },
    });
    expect(json.total.server.latencies).toBeUndefined();
  });
});

it('a line of another form is no sample', () => {
  expect(parseSample('{"version":2}')).toBeUndefined();
  expect(parseSample('[1')).toBeUndefined();
  expect(parseSample('null')).toBeUndefined();
  expect(parseSample(JSON.stringify(sampleAt(1, 1)))?.process).toBe(42);
});
