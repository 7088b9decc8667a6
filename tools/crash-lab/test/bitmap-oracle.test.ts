/** What bitmaps may say, by the oracle alone: too little is told at once, too much where it is not excused. */
import { describe, expect, it } from 'vitest';
import { bitmapListBytes, decodeBitmapList, encodeBitmapList } from '../src/attached-lists.ts';
import { type BitmapPromise, expectFound, whileResizing, withSize } from '../src/bitmap-oracle.ts';
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

/** What a crash is said to have left: sectors that hold 7 instead of 0, and bitmaps, of a disk as large as these say. */
function violation(oracle: GuestOracle, written: readonly number[], ...bitmaps: BitmapState[]): string {
  const sizeBytes = bitmaps[0]!.dirty.length * 512;
  const content = new Uint8Array(sizeBytes + bitmapListBytes);
  for (const index of written) content.set(sector(7), index * 512);
  content.set(encodeBitmapList(bitmaps), sizeBytes);
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

  it('[BMP-007] takes each for what it says of the old disk or of the new one, or marked as in use, until that is done', () => {
    for (const promise of ['too-much', 'in-use'] as const) {
      const seen = [bitmap([1, 3]), bitmap([3], { name: 'off', enabled: false })];
      const [kept, off] = seen as [BitmapState, BitmapState];
      const small = (one: BitmapState, ...dirty: number[]): BitmapState => ({
        ...one,
        dirty: Uint8Array.from([0, 1], (index) => (dirty.includes(index) ? 1 : 0)),
      });
      const marked = (one: BitmapState): BitmapState => ({ ...one, inconsistent: true });
      const oracle = oracleOf(promise, ...seen);
      const after = withSize(oracle.bitmaps, seen, 2, oracle.mark());
      oracle.allowBitmaps(promise, whileResizing(oracle.bitmaps), whileResizing(after));
      const token = oracle.beginResize(sectors * 512, 1024);
      expect(violation(oracle, [], kept, off)).toBe('');
      expect(violation(oracle, [], marked(kept), off)).toBe('');
      expect(violation(oracle, [], kept, marked(off))).toBe('');
      expect(violation(oracle, [], marked(small(kept)), small(off))).toBe('');
      expect(violation(oracle, [], small(kept, 1), small(off))).toBe('');
      expect(violation(oracle, [], small(kept), small(off))).toContain('has forgotten sector 1');
      expect(violation(oracle, [], small(kept, 0, 1), small(off))).toContain('sector 0 is dirty');
      expect(violation(oracle, [], small(kept, 1), small(off, 1))).toContain('sector 1 is dirty');
      oracle.endResize(token, 1024);
      oracle.allowBitmaps(promise, after);
      expect(violation(oracle, [], kept, off)).toBe('size');
      expect(violation(oracle, [], small(kept, 1), small(off))).toBe('');
      expect(violation(oracle, [], small(kept, 1), marked(small(off)))).toContain('is inconsistent');
    }
  });

  it('[BMP-007] says of what is new that it is clean, but for the granule in which the disk ended', () => {
    const seen = [bitmap([2], { granularityBytes: 2048 })];
    const oracle = oracleOf('too-much', ...seen);
    const token = oracle.beginResize(sectors * 512, 6 * 512);
    oracle.allowBitmaps('too-much', withSize(oracle.bitmaps, seen, 6, oracle.mark()));
    oracle.endResize(token, 6 * 512);
    const found = (...dirty: number[]): BitmapState => ({ ...seen[0]!, dirty: Uint8Array.from(dirty) });
    expect(violation(oracle, [], found(1, 1, 1, 1, 0, 0))).toBe('');
    expect(violation(oracle, [], found(1, 1, 1, 1, 1, 1))).toContain('sector 4 is dirty');
    expect(violation(oracle, [], found(0, 0, 0, 0, 0, 0))).toContain('has forgotten sector 2');
  });

  it('knows coarser bitmaps, and lists come back as they were', () => {
    const coarse = bitmap([2, 3], { granularityBytes: 1024 });
    const oracle = oracleOf('in-use', bitmap([], { granularityBytes: 1024 }));
    write(oracle, 2);
    expect(violation(oracle, [2], coarse)).toBe('');
    expect(violation(oracle, [2], { ...coarse, enabled: false })).toContain('turned off');
    const lists = [coarse, bitmap([]), bitmap([0, 1, 3], { name: 'from the first on' })];
    expect(decodeBitmapList(encodeBitmapList(lists))).toEqual(lists);
  });
});
