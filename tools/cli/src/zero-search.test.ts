import { describe, expect, test } from 'vitest';
import { firstDifference, firstNonZero, isZero } from './zero-search.ts';

const sizes = [1, 511, 512, 4095, 4096, 4097, 10_000];

describe('what is zero, and what differs', () => {
  test('one byte is found wherever it is', () => {
    for (const size of sizes) {
      const bytes = new Uint8Array(size);
      expect(firstNonZero(bytes)).toBeUndefined();
      expect(isZero(bytes, 0, size)).toBe(true);
      for (const at of [0, 1, 500, 4095, 4096, size - 1].filter((place) => place >= 0 && place < size)) {
        bytes[at] = 7;
        expect(firstNonZero(bytes), `${at} of ${size}`).toBe(at);
        expect(isZero(bytes, 0, size), `${at} of ${size}`).toBe(false);
        expect(isZero(bytes, 0, at), `${at} of ${size}`).toBe(true);
        expect(isZero(bytes, at + 1, size - at - 1), `${at} of ${size}`).toBe(true);
        expect(firstDifference(bytes, new Uint8Array(size)), `${at} of ${size}`).toBe(at);
        bytes[at] = 0;
      }
      expect(firstDifference(bytes, new Uint8Array(size))).toBeUndefined();
    }
  });

  test('a piece of a larger buffer is looked at alone', () => {
    const whole = new Uint8Array(9000).fill(1);
    whole.fill(0, 100, 8900);
    expect(isZero(whole.subarray(100, 8900), 0, 8800)).toBe(true);
    expect(isZero(whole.subarray(99, 8900), 0, 8801)).toBe(false);
  });
});
