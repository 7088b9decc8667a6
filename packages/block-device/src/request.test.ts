import { describe, expect, it } from 'vitest';
import type { Extent } from './block-device.ts';
import { MemoryDevice } from './memory-device.ts';
import { checkRange, pushExtent, readPadded } from './request.ts';

describe('checkRange', () => {
  it('is exact up to 2^53 - 1', () => {
    checkRange(Number.MAX_SAFE_INTEGER - 1, 1, Number.MAX_SAFE_INTEGER);
    expect(() => checkRange(Number.MAX_SAFE_INTEGER - 1, 2, Number.MAX_SAFE_INTEGER)).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
    expect(() => checkRange(2, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
  });
});

describe('pushExtent', () => {
  it('merges neighbours of one kind and drops empty extents', () => {
    const extents: Extent[] = [];
    pushExtent(extents, { offset: 0, lengthBytes: 0, kind: 'zero' });
    pushExtent(extents, { offset: 0, lengthBytes: 2, kind: 'data' });
    pushExtent(extents, { offset: 2, lengthBytes: 0, kind: 'hole' });
    pushExtent(extents, { offset: 2, lengthBytes: 3, kind: 'data' });
    pushExtent(extents, { offset: 5, lengthBytes: 1, kind: 'hole' });
    expect(extents).toEqual([
      { offset: 0, lengthBytes: 5, kind: 'data' },
      { offset: 5, lengthBytes: 1, kind: 'hole' },
    ]);
  });
});

describe('readPadded', () => {
  it('reads zeros beyond the end, across it, and wholly', () => {
    const device = MemoryDevice.fromBytes(Uint8Array.of(1, 2, 3));
    const cases: [number, number[]][] = [
      [0, [1, 2, 3, 0]],
      [2, [3, 0, 0, 0]],
      [3, [0, 0, 0, 0]],
      [1000, [0, 0, 0, 0]],
    ];
    for (const [offset, expected] of cases) {
      const into = new Uint8Array(4).fill(9);
      readPadded(device, offset, into);
      expect([...into]).toEqual(expected);
    }
  });
});
