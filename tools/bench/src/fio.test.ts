import { describe, expect, it } from 'vitest';
import { BenchmarkFailure } from './failure.ts';
import { type FioLoad, fioArguments, parseFio } from './fio.ts';

const none = { total_ios: 0, iops: 0, lat_ns: {} };
const report = (job: object): string =>
  JSON.stringify({ jobs: [{ error: 0, read: none, write: none, sync: none, ...job }] });

describe('fio', () => {
  it('reads rates and latencies, whatever stands before the report', () => {
    const text = report({
      write: {
        total_ios: 1500,
        iops: 812.5,
        lat_ns: { percentile: { '50.000000': 12_000, '99.000000': 80_500 } },
      },
      sync: { total_ios: 1499, lat_ns: { percentile: { '50.000000': 400_000, '99.000000': 2_000_000 } } },
    });
    expect(parseFio(`note: something\n${text}`)).toEqual({
      requests: 1500,
      requestsPerSecond: 812.5,
      latencyUs: { p50: 12, p99: 80.5 },
      flushes: 1499,
      flushLatencyUs: { p50: 400, p99: 2000 },
    });
  });

  it('reads a report of reads', () => {
    const result = parseFio(report({ read: { total_ios: 7, iops: 70, lat_ns: {} } }));
    expect(result).toMatchObject({ requests: 7, requestsPerSecond: 70, flushes: 0 });
  });

  it.each([
    ['nothing', ''],
    ['no report', 'nbd: connection refused'],
    ['an error', report({ error: 5, read: { total_ios: 7, iops: 70, lat_ns: {} } })],
    ['no requests', report({})],
    ['no job', JSON.stringify({ jobs: [] })],
  ])('refuses %s', (_, text) => {
    expect(() => parseFio(text)).toThrow(BenchmarkFailure);
  });

  it('runs by time, or by number of requests', () => {
    const load: FioLoad = {
      pattern: 'randread',
      queueDepth: 32,
      blockBytes: 4096,
      sizeBytes: 2 ** 20,
      seed: 3,
      limitMs: 1200,
    };
    const byTime = fioArguments('/tmp/s', load);
    expect(byTime).toEqual(
      expect.arrayContaining(['--time_based=1', '--runtime=1200ms', '--iodepth=32', '--randseed=3']),
    );
    expect(byTime.join(' ')).not.toContain('fsync');
    const counted = fioArguments('/tmp/s', { ...load, requests: 10, flushEvery: 1 });
    expect(counted).toEqual(
      expect.arrayContaining(['--io_size=40960', '--fsync=1', '--offset=0', '--size=1048576']),
    );
    expect(counted).not.toContain('--time_based=1');
  });
});
