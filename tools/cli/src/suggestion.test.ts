import { describe, expect, it } from 'vitest';
import { nearest } from './suggestion.ts';

const commands = ['create', 'info', 'check', 'convert', 'commit', 'compare', 'map', 'snapshot'];

describe('nearest', () => {
  it.each([
    ['chek', 'check'],
    ['snaphsot', 'snapshot'],
    ['confert', 'convert'],
    ['mpa', 'map'],
    ['inof', 'info'],
  ])('of %s is %s', (typed, meant) => {
    expect(nearest(typed, commands)).toBe(meant);
  });

  it.each(['frobnicate', '', 'x', 'tap.qcow2', 'c'.repeat(100_000)])('of %s is nothing', (typed) => {
    expect(nearest(typed, commands)).toBeUndefined();
  });
});
