import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { expandRuns, findRuns, packRuns, type Run } from './sparse.ts';

describe('runs', () => {
  it('packs and expands to the same bytes', () => {
    const piece = fc.tuple(fc.nat(9000), fc.uint8Array({ maxLength: 200 }));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 8 }), fc.nat(300), (pieces, tail) => {
        const file = concat(
          pieces.flatMap(([zeros, bytes]) => [new Uint8Array(zeros), bytes]).concat(new Uint8Array(tail)),
        );
        const runs = findRuns(file);
        expect(expandRuns(file.length, runs, packRuns(file, runs))).toEqual(file);
        expect(runs.every(([offset, length], i) => length > 0 && offset > end(runs[i - 1]))).toBe(true);
      }),
    );
  });

  it('stores no stretch of zeros that another run would save', () => {
    const file = new Uint8Array(20000);
    file[4095] = 1;
    file[4096] = 2;
    file[4096 + 63] = 3;
    file[4096 + 63 + 65] = 4;
    expect(findRuns(file)).toEqual([
      [4095, 65],
      [4224, 1],
    ]);
  });

  it('finds nothing in zeros, also in the view of a larger buffer', () => {
    const large = new Uint8Array(9000).fill(7);
    large.fill(0, 3, 8200);
    expect(findRuns(large.subarray(3, 8200))).toEqual([]);
  });
});

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function end(run: Run | undefined): number {
  return run === undefined ? -1 : run[0] + run[1];
}
