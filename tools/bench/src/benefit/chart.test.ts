import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Axis, type Chart, chartText } from './chart.ts';

const log: Axis = { label: 'x', scale: 'log', min: 0.1, max: 10, ticks: [0.1, 1, 10], base: 1 };
const linear: Axis = { label: 'x', scale: 'linear', min: 0, max: 4, ticks: [0, 2, 4], base: 0 };

function chartWith(axis: Axis, to: number, low?: number, high?: number): Chart {
  const spread = low === undefined || high === undefined ? {} : { low, high };
  return {
    title: 'a < b & c',
    axis,
    series: [{ name: 's', colour: '#123456' }],
    groups: [{ label: 'g', marks: [{ series: 0, to, text: 't', ...spread }] }],
  };
}

/** The bar of the only mark: the rectangle after the legend's. */
function barOf(svg: string): { x: number; width: number } {
  const [, bar = ''] = [...svg.matchAll(/<rect [^>]*>/g)].map(([tag]) => tag);
  const number = (name: string): number => Number(new RegExp(` ${name}="([-\\d.]+)"`).exec(bar)?.[1]);
  return { x: number('x'), width: number('width') };
}

describe('charts', () => {
  it('begin a bar at the base, and let it go either way', () => {
    const up = barOf(chartText(chartWith(log, 10)));
    const down = barOf(chartText(chartWith(log, 0.1)));
    expect(up.width).toBe(down.width);
    expect(down.x + down.width).toBe(up.x);
    expect(barOf(chartText(chartWith(linear, 4))).width).toBe(
      2 * barOf(chartText(chartWith(linear, 2))).width,
    );
  });

  it('keep everything inside, whatever is measured', () => {
    const value = fc.oneof(fc.double({ min: 0, max: 1e9 }), fc.constant(Number.NaN), fc.constant(Infinity));
    fc.assert(
      fc.property(fc.constantFrom(log, linear), value, value, value, (axis, to, low, high) => {
        const svg = chartText(chartWith(axis, to, low, high));
        const width = Number(/viewBox="0 0 (\d+) /.exec(svg)?.[1]);
        for (const [, x] of svg.matchAll(/ x[12]?="([^"]*)"/g)) {
          expect(Number(x)).toBeGreaterThanOrEqual(0);
          expect(Number(x)).toBeLessThanOrEqual(width);
        }
      }),
    );
  });

  it('are well-formed, words of any kind included', () => {
    const svg = chartText(chartWith(log, 2, 1, 3));
    expect(svg).toContain('a &lt; b &amp; c');
    const open: string[] = [];
    for (const [, close, name = '', self] of svg.matchAll(/<(\/?)([a-z]+)[^>]*?(\/?)>/g)) {
      if (close === '/') expect(open.pop()).toBe(name);
      else if (self === '') open.push(name);
    }
    expect(open).toEqual([]);
  });
});
