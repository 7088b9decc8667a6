import { constants, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { outlineZstdFrame } from './zstd-frame.ts';

const cluster = 65536;
const content = new Uint8Array(cluster).map((_, i) => (i * i) >> 7);

describe('the outline of a zstd frame', () => {
  it('[CMP-009] ends where the frame ends, whatever stands behind it', () => {
    const choices = fc.record({
      level: fc.integer({ min: 1, max: 19 }),
      checksum: fc.nat(1),
      sized: fc.boolean(),
      content: fc.constantFrom(content, new Uint8Array(cluster), new Uint8Array(cluster).fill(1, 9000)),
      behind: fc.uint8Array({ maxLength: 600 }),
    });
    fc.assert(
      fc.property(choices, ({ level, checksum, sized, content: bytes, behind }) => {
        const frame = zstdCompressSync(bytes, {
          params: {
            [constants.ZSTD_c_compressionLevel]: level,
            [constants.ZSTD_c_checksumFlag]: checksum,
            [constants.ZSTD_c_contentSizeFlag]: sized ? 1 : 0,
          },
          ...(sized ? { pledgedSrcSize: cluster } : {}),
        });
        const stored = new Uint8Array([...frame, ...behind]);
        const outline = outlineZstdFrame(stored, cluster);
        expect(outline.lengthBytes).toBe(frame.length);
        expect(outline.windowBytes).toBeGreaterThanOrEqual(cluster);
        if (sized) expect(outline.contentBytes).toBe(cluster);
      }),
      { numRuns: 60 },
    );
  });

  const head = [0x28, 0xb5, 0x2f, 0xfd];
  const block = [1, 0, 0];
  it.each([
    ['no frame', [1, 2, 3, 4, 5, 6, 7, 8, 9], 'COMPRESSED_DAMAGED'],
    ['a skippable frame', [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0], 'COMPRESSED_DAMAGED'],
    ['gigabytes of content', [...head, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, ...block], 'COMPRESSED_DAMAGED'],
    ['2^64 - 1 bytes of content', [...head, 0xe0, ...Array(8).fill(255), ...block], 'COMPRESSED_DAMAGED'],
    ['a smaller content', [...head, 0x60, 0, 0, ...block], 'COMPRESSED_DAMAGED'],
    ['a window of 9 MiB', [...head, 0, (13 << 3) | 1, ...block], 'LIMIT_EXCEEDED'],
    ['a window of terabytes', [...head, 0, 0xff, ...block], 'LIMIT_EXCEEDED'],
    ['a dictionary', [...head, 1, 0x30, 7, ...block], 'COMPRESSED_DAMAGED'],
    ['a reserved bit', [...head, 8, 0x30, ...block], 'COMPRESSED_DAMAGED'],
    ['a reserved block', [...head, 0, 0x30, 7, 0, 0], 'COMPRESSED_DAMAGED'],
    ['a frame that is cut off in its head', head, 'COMPRESSED_DAMAGED'],
    ['a frame that is cut off in a block', [...head, 0, 0x30, 0x81, 0, 0, 1], 'COMPRESSED_DAMAGED'],
    ['a frame without its last block', [...head, 0, 0x30, 0x08, 0, 0, 1], 'COMPRESSED_DAMAGED'],
  ])('[CMP-009, LIM-021] refuses %s', (_, bytes, code) => {
    expect(() => outlineZstdFrame(Uint8Array.from(bytes), cluster)).toThrow(
      expect.objectContaining({ code }),
    );
  });

  it('[LIM-021] takes a window of 8 MiB', () => {
    const bytes = Uint8Array.from([...head, 0, 13 << 3, ...block]);
    expect(outlineZstdFrame(bytes, cluster)).toEqual({
      lengthBytes: bytes.length,
      windowBytes: 8 << 20,
      contentBytes: undefined,
    });
  });
});
