import { expect, it } from 'vitest';
import { countGroup, newCounters } from './counters.ts';

it('counts groups of callers by powers of two: 1, 2, 3-4, 5-8, …', () => {
  const counters = newCounters();
  for (const callers of [1, 1, 2, 3, 4, 5, 8, 9, 16]) countGroup(counters, callers);
  expect(counters.groupSizes).toEqual([2, 1, 2, 2, 2]);
});
