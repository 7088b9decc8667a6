import { expect, test } from 'vitest';
import { Coverage } from './coverage.ts';

test('is whole when every byte came once, in any order', () => {
  for (const order of [
    [0, 1, 2, 3],
    [3, 2, 1, 0],
    [2, 0, 3, 1],
    [1, 3, 0, 2],
  ]) {
    const coverage = new Coverage(40);
    for (const part of order) {
      expect(coverage.isWhole).toBe(false);
      coverage.add(part * 10, 10);
    }
    expect(coverage.isWhole).toBe(true);
  }
});

test.each([
  ['again', 10, 10],
  ['again in part, from before', 5, 6],
  ['again in part, from within', 19, 2],
  ['around it', 0, 40],
  ['of no length', 30, 0],
  ['before the start', -1, 2],
  ['behind the end', 39, 2],
])('refuses bytes that come %s', (_, start, lengthBytes) => {
  const coverage = new Coverage(40);
  coverage.add(10, 10);
  expect(() => coverage.add(start, lengthBytes)).toThrow(expect.objectContaining({ code: 'BAD_FIELD' }));
});

test('keeps no endless list of parts', () => {
  const coverage = new Coverage(1_000_000);
  expect(() => {
    for (let at = 0; at < 1_000_000; at += 2) coverage.add(at, 1);
  }).toThrow(expect.objectContaining({ code: 'LIMIT_EXCEEDED' }));
});
