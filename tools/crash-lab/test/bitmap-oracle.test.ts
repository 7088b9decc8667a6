/** What bitmaps may say, by the oracle alone: too little is told at once, too much where it is not excused. */
import { describe, expect, it } from 'vitest';
import { bitmapListBytes, decodeBitmapList, encodeBitmapList } from '../src/attached-lists.ts';
import { type BitmapPromise, expectFound } from '../src/bitmap-oracle.ts';
import { GuestOracle } from '../src/guest-oracle.ts';
import type { BitmapState } from '../src/system-under-test.ts';

const sectors = 4;
const sector = (fill: number): Uint8Array => new Uint8Array(512).fill(fill);

function bitmap(dirty: readonly number[], more: Partial<BitmapState> = {}): BitmapState {
  const bits = Uint8Array.from({ length: sectors }, (_, index) => (dirty.includes(index) ? 1 : 0));
  return { name: 'kept', granularityBytes: 512, enabled: true, inconsistent: false, dirty: bits, ...more };
}

function oracleOf(promise: BitmapPromise, ...bitmaps: BitmapState[]): GuestOracle {
  const oracle = new GuestOracle(new Uint8Array(sectors * 512));
  oracle.allowBitmaps(promise, expectFound(bitmaps));
  return oracle;
}

/** What a crash is said to have left: sectors that hold 7 instead of 0, and bitmaps. */
function violation(oracle: GuestOracle, written: readonly number[], ...bitmaps: BitmapState[]): string {
  const content = new Uint8Array(sectors * 512 + bitmapListBytes);
  for (const index of written) content.set(sector(7), index * 512);
  content.set(encodeBitmapList(bitmaps), sectors * 512);
  const found = oracle.allowed().firstViolation(content);
  return found === undefined ? '' : found.kind === 'bitmaps' ? found.message : found.kind;
}

function write(oracle: GuestOracle, index: number): void {
  oracle.endWrite(oracle.beginWrite(index * 512, 512, sector(7)), false);
}

function rest(oracle: GuestOracle): void {
  const startedAt = oracle.beginFlush();
  oracle.endFlush(startedAt);
  oracle.endRest(startedAt);
}

describe('the oracle of bitmaps', () => {
  it('[BMD-006] asks that what changed is dirty, durable or not', () => {
    const oracle = oracleOf('too-much', bitmap([]));
    write(oracle, 1);
    expect(violation(oracle, [], bitmap([]))).toBe('');
    expect(violation(oracle, [1], bitmap([1]))).toBe('');
    expect(violation(oracle, [1], bitmap([]))).toContain('misses sector 1');
    oracle.endFlush(oracle.beginFlush());
    expect(violation(oracle, [1], bitmap([0]))).toContain('misses sector 1');
  });

  it('[BMP-004] lets it say too much with a journal until rest, and be in use without one', () => {
    const [journalled, ordered] = [oracleOf('too-much', bitmap([])), oracleOf('in-use', bitmap([]))];
    const inUse = bitmap([], { inconsistent: true });
    expect(violation(journalled, [], bitmap([0]))).toContain('sector 0 is dirty, which it is not');
    for (const oracle of [journalled, ordered]) write(oracle, 1);
    expect(violation(journalled, [1], bitmap([0, 1, 2, 3]))).toBe('');
    expect(violation(journalled, [1], inUse)).toContain('is inconsistent');
    expect(violation(ordered, [1], inUse)).toBe('');
    expect(violation(ordered, [1], bitmap([0, 1]))).toContain('sector 0 is dirty');
    for (const oracle of [journalled, ordered]) {
      rest(oracle);
      expect(violation(oracle, [1], bitmap([1]))).toBe('');
      expect(violation(oracle, [1], bitmap([0, 1]))).toContain('sector 0 is dirty');
      expect(violation(oracle, [1], inUse)).toContain('is inconsistent');
    }
  });

  it('[BMP-004] takes no rest for one while something is written meanwhile', () => {
    const oracle = oracleOf('too-much', bitmap([]));
    const startedAt = oracle.beginFlush();
    write(oracle, 1);
    oracle.endRest(startedAt);
    expect(violation(oracle, [1], bitmap([0, 1, 2, 3]))).toBe('');
    rest(oracle);
    expect(violation(oracle, [1], bitmap([0, 1, 2, 3]))).toContain('sector 0 is dirty');
  });

  it('[BMP-004] does not believe again what was found in use, and lets what a killed process left say too much', () => {
    const inUse = bitmap([], { inconsistent: true });
    const ordered = oracleOf('in-use', inUse);
    expect(violation(ordered, [], bitmap([]))).toContain('is believed now');
    const journalled = oracleOf('too-much', bitmap([]));
    write(journalled, 1);
    journalled.kill();
    journalled.findBitmaps([bitmap([0, 1, 2, 3])]);
    rest(journalled);
    expect(violation(journalled, [1], bitmap([0, 1, 2, 3]))).toBe('');
    expect(violation(journalled, [1], bitmap([0]))).toContain('misses sector 1');
  });

  it('[BMP-005] takes the bitmaps from before a change or those from after it', () => {
    const oracle = oracleOf('too-much', bitmap([2]));
    const after = expectFound([bitmap([]), bitmap([], { name: 'new', enabled: false })]);
    oracle.allowBitmaps('too-much', oracle.bitmaps, after);
    const made = bitmap([], { name: 'new', enabled: false });
    expect(violation(oracle, [], bitmap([2]))).toBe('');
    expect(violation(oracle, [], bitmap([]), made)).toBe('');
    expect(violation(oracle, [], bitmap([]))).toContain('has forgotten sector 2');
    expect(violation(oracle, [], bitmap([2]), made)).toContain('sector 2 is dirty');
  });

  it('knows coarser bitmaps, and lists come back as they were', () => {
    const coarse = bitmap([2, 3], { granularityBytes: 1024 });
    const oracle = oracleOf('in-use', bitmap([], { granularityBytes: 1024 }));
    write(oracle, 2);
    expect(violation(oracle, [2], coarse)).toBe('');
    expect(violation(oracle, [2], { ...coarse, enabled: false })).toContain('turned off');
    expect(decodeBitmapList(encodeBitmapList([coarse, bitmap([])]))).toEqual([coarse, bitmap([])]);
  });
});
