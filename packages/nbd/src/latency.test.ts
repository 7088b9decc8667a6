import { expect, test } from 'vitest';
import { LatencyTally, latencyQuantile } from './latency.ts';
import { command } from './protocol.ts';

test('quantiles are told to a fifth of their value, upwards', () => {
  const tally = new LatencyTally();
  for (let microseconds = 1; microseconds <= 1000; microseconds++)
    tally.add(command.READ, microseconds / 1000);
  const { READ, WRITE } = tally.snapshot();
  for (const [share, exact] of [
    [0.5, 500],
    [0.99, 990],
    [1, 1000],
  ] as const) {
    const told = latencyQuantile(READ, share) ?? 0;
    expect(told).toBeGreaterThanOrEqual(exact);
    expect(told).toBeLessThan(exact * 1.2);
  }
  expect(latencyQuantile(WRITE, 0.5)).toBeUndefined();
});

test('nothing is too short or too long, and a snapshot stays as it is', () => {
  const tally = new LatencyTally();
  const before = tally.snapshot();
  for (const milliseconds of [0, 1e-9, 1e12]) tally.add(command.FLUSH, milliseconds);
  tally.add(99, 1);
  const counts = tally.snapshot().FLUSH;
  expect([counts[0], counts.at(-1)]).toEqual([2, 1]);
  expect(latencyQuantile(counts, 0.5)).toBe(1);
  expect(before.FLUSH.every((count) => count === 0)).toBe(true);
});

test('an interval is the difference of two snapshots', () => {
  const tally = new LatencyTally();
  tally.add(command.WRITE, 1);
  const first = tally.snapshot().WRITE;
  tally.add(command.WRITE, 16);
  const second = tally.snapshot().WRITE;
  const interval = second.map((count, index) => count - (first[index] ?? 0));
  expect(latencyQuantile(interval, 0.5)).toBeGreaterThanOrEqual(16_000);
});
