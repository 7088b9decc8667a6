import { describe, expect, it } from 'vitest';
import { entryView, refusal } from '../test/support/samples.ts';
import {
  readCompressedLengthBytes,
  readCompressedOffset,
  writeCompressedEntry,
} from './compressed-descriptor.ts';
import { checkL2Entry } from './l2-entry.ts';

const compressed = 1n << 62n;

describe('compressed cluster descriptors', () => {
  it.each([
    [9, 61n],
    [12, 58n],
    [16, 54n],
    [21, 49n],
  ])('[CMP-001, CMP-002, CMP-003] with clusters of 2^%i bytes, sectors begin at bit %i', (clusterBits, x) => {
    const sectors = (1n << (62n - x)) - 1n;
    const view = entryView(compressed | (sectors << x) | 0x1_2345_6789n);
    expect(readCompressedOffset(view, 0, clusterBits)).toBe(0x1_2345_6789);
    expect(readCompressedLengthBytes(view, 0, clusterBits)).toBe((Number(sectors) + 1) * 512 - 0x189);
    expect(
      checkL2Entry(view, 0, { clusterBits, version: 3, extended: false, externalData: false }, 0),
    ).toBeUndefined();
  });

  it.each([
    [0x50000, 512, 0n],
    [0x50000, 513, 1n],
    [0x501ff, 1, 0n],
    [0x501ff, 2, 1n],
    [0x501ff, 514, 2n],
    [0x8000_0000, 65536, 127n],
  ])(
    '[CMP-003, CMP-004] data at %i of %i bytes takes %i more sectors',
    (hostOffset, lengthBytes, sectors) => {
      const view = entryView(0n);
      writeCompressedEntry(view, 0, 16, hostOffset, lengthBytes);
      expect(view.getBigUint64(0)).toBe(compressed | (sectors << 54n) | BigInt(hostOffset));
      expect(readCompressedOffset(view, 0, 16)).toBe(hostOffset);
      const end = hostOffset + readCompressedLengthBytes(view, 0, 16);
      expect(end % 512).toBe(0);
      expect(end).toBeGreaterThanOrEqual(hostOffset + lengthBytes);
      expect(end).toBeLessThan(hostOffset + lengthBytes + 512);
    },
  );

  it('[CMP-002, CMP-007] an offset beyond what the descriptor can name is not written', () => {
    const view = entryView(0n);
    writeCompressedEntry(view, 0, 21, 2 ** 49 - 512, 512);
    expect(readCompressedOffset(view, 0, 21)).toBe(2 ** 49 - 512);
    const error = refusal(() => writeCompressedEntry(view, 0, 21, 2 ** 49 - 511, 512));
    expect(error).toMatchObject({ code: 'NO_SPACE', clause: 'CMP-002' });
  });

  it('[CMP-003] nor is a length', () => {
    const view = entryView(0n);
    writeCompressedEntry(view, 0, 9, 0, 1024);
    for (const lengthBytes of [0, -1, Number.NaN, 1025]) {
      const error = refusal(() => writeCompressedEntry(view, 0, 9, 0, lengthBytes));
      expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', clause: 'CMP-003' });
    }
  });
});
