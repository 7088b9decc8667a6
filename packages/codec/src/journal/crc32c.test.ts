import { describe, expect, it } from 'vitest';
import { crc32c, crc32cOfZeros } from './crc32c.ts';

/** The definition, bit by bit. */
function slowCrc32c(bytes: Uint8Array, seed = 0): number {
  let crc = ~seed;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

const pattern = Uint8Array.from({ length: 1000 }, (_, i) => (i * 167 + (i >> 3)) & 255);

describe('crc32c', () => {
  it('[JRN-CRC-001] gives the values that everybody gives', () => {
    expect(crc32c(new TextEncoder().encode('123456789'))).toBe(0xe3069283);
    expect(crc32c(new Uint8Array(0))).toBe(0);
    // RFC 3720, appendix B.4
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });

  it('agrees with the definition at every length and alignment', () => {
    for (let from = 0; from < 9; from++) {
      for (let length = 0; length < 200; length++) {
        const piece = pattern.subarray(from, from + length);
        expect(crc32c(piece), `${length} bytes from ${from}`).toBe(slowCrc32c(piece));
      }
    }
  });

  it('continues where a seed stands', () => {
    const whole = crc32c(pattern);
    for (const cut of [0, 1, 63, 64, 65, 500, 1000]) {
      expect(crc32c(pattern.subarray(cut), crc32c(pattern.subarray(0, cut)))).toBe(whole);
    }
  });

  it('goes on over zeros without reading them', () => {
    const before = crc32c(pattern);
    for (const count of [0, 1, 2, 3, 7, 8, 100, 511, 3992, 4095, 1 << 20]) {
      expect(crc32cOfZeros(count, before), `${count} zeros`).toBe(crc32c(new Uint8Array(count), before));
      expect(crc32cOfZeros(count, 0)).toBe(crc32c(new Uint8Array(count)));
    }
  });
});
