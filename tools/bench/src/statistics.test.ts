import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { median, percentile, quantile, ratioOf, rotated, spreadOf } from './statistics.ts';

const numbers = fc.array(fc.double({ min: 0.001, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 50 });

describe('statistics', () => {
  it('takes the middle value, or the mean of the two in the middle', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([])).toBeNaN();
  });

  it('takes a percentile that is one of the values', () => {
    const values = Array.from({ length: 200 }, (_, i) => 200 - i);
    expect(percentile(values, 0.99)).toBe(198);
    expect(percentile(values, 1)).toBe(200);
    expect(percentile(values, 0)).toBe(1);
    expect(percentile([], 0.5)).toBeNaN();
  });

  it('leaves at least the share at or below a percentile, and not without its value', () => {
    fc.assert(
      fc.property(numbers, fc.double({ min: 0.01, max: 1, noNaN: true }), (values, share) => {
        const limit = percentile(values, share);
        expect(values).toContain(limit);
        expect(values.filter((value) => value <= limit).length / values.length).toBeGreaterThanOrEqual(share);
        expect(values.filter((value) => value < limit).length / values.length).toBeLessThan(share);
      }),
    );
  });

  it('interpolates a quantile between its neighbours', () => {
    expect(quantile([10, 20], 0.5)).toBe(15);
    expect(quantile([4, 1, 3, 2, 5], 0.5)).toBe(3);
    expect(
      quantile(
        Array.from({ length: 401 }, (_, i) => i),
        0.99,
      ),
    ).toBeCloseTo(396, 9);
    expect(quantile([], 0.5)).toBeNaN();
    fc.assert(
      fc.property(numbers, fc.double({ min: 0, max: 1, noNaN: true }), (values, share) => {
        expect(quantile(values, share)).toBeGreaterThanOrEqual(Math.min(...values));
        expect(quantile(values, share)).toBeLessThanOrEqual(Math.max(...values));
      }),
    );
  });

  it('compares within rounds: what slows a whole round down cancels out', () => {
    fc.assert(
      fc.property(numbers, fc.double({ min: 0.1, max: 10, noNaN: true }), (rounds, factor) => {
        const {
          median: middle,
          min,
          max,
        } = ratioOf(
          rounds.map((speed) => speed * factor),
          rounds,
        );
        for (const ratio of [middle, min, max]) expect(ratio / factor).toBeCloseTo(1, 9);
      }),
    );
    expect(ratioOf([2, 9, 4], [1, 3])).toEqual({ median: 2.5, min: 2, max: 3 });
  });

  it('gives the spread of a series', () => {
    expect(spreadOf([5, 1, 9])).toEqual({ median: 5, min: 1, max: 9 });
  });

  it('lets each member come first once', () => {
    const list = ['a', 'b', 'c'];
    expect([0, 1, 2, 3].map((round) => rotated(list, round).join(''))).toEqual(['abc', 'bca', 'cab', 'abc']);
    expect(rotated([], 5)).toEqual([]);
  });
});
