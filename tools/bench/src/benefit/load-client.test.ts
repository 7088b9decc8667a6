import { describe, expect, it } from 'vitest';
import { BenchmarkFailure } from '../failure.ts';
import { parseReport } from './load-client.ts';

describe('reports of the load client', () => {
  it('are read', () => {
    const text = '{"elapsedNs": 5, "flushNs": [2, 1], "began": 1.5, "ended": 2.5}';
    expect(parseReport(text)).toEqual({ elapsedNs: 5, flushNs: [2, 1], began: 1.5, ended: 2.5 });
  });

  it.each([
    '',
    'Traceback (most recent call last):',
    '{"elapsedNs": 0, "flushNs": []}',
    '{"elapsedNs": 5}',
    '[]',
  ])('are refused where they are none: %j', (text) => {
    expect(() => parseReport(text)).toThrow(BenchmarkFailure);
  });
});
