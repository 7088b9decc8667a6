import { type Extent, type ExtentKind, MemoryDevice } from '@qcow2/block-device';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { statusDescriptors } from './block-status.ts';
import { servedExport } from './export.ts';

const HOLE_ZERO = 3;
const ZERO = 2;

function exported(minimumBlockBytes = 1, holesReadAsZeros = true) {
  const device = new MemoryDevice({ sizeBytes: 1 << 20 });
  return servedExport({ name: '', device, minimumBlockBytes, holesReadAsZeros });
}

/** Extents from 0 on. */
function extents(...parts: [ExtentKind, number][]): Extent[] {
  let offset = 0;
  return parts.map(([kind, lengthBytes]) => {
    offset += lengthBytes;
    return { kind, lengthBytes, offset: offset - lengthBytes };
  });
}

function pairs(descriptors: readonly { lengthBytes: number; status: number }[]): [number, number][] {
  return descriptors.map(({ lengthBytes, status }) => [lengthBytes, status]);
}

describe('descriptors', () => {
  test('one for each kind', () => {
    const known = extents(['data', 1000], ['zero', 2000], ['hole', 3000]);
    expect(pairs(statusDescriptors(exported(), known, 0, 6000))).toEqual([
      [1000, 0],
      [2000, ZERO],
      [3000, HOLE_ZERO],
    ]);
  });

  test('holes are data where they may read as something else', () => {
    const known = extents(['hole', 1000], ['data', 1000], ['zero', 1000]);
    expect(pairs(statusDescriptors(exported(1, false), known, 0, 3000))).toEqual([
      [2000, 0],
      [1000, ZERO],
    ]);
  });

  test('cover no more than asked for, and no less than one block', () => {
    expect(pairs(statusDescriptors(exported(), extents(['zero', 9000]), 100, 500))).toEqual([[500, ZERO]]);
    expect(pairs(statusDescriptors(exported(512), extents(['zero', 100]), 0, 2048))).toEqual([[512, 0]]);
    expect(pairs(statusDescriptors(exported(), [], 0, 2048))).toEqual([[1, 0]]);
  });

  test('a block that is zero in part is data', () => {
    const known = extents(['data', 100], ['zero', 2000], ['data', 460]);
    expect(pairs(statusDescriptors(exported(512), known, 0, 2560))).toEqual([
      [512, 0],
      [1536, ZERO],
      [512, 0],
    ]);
  });

  test('stop at the maximum count', () => {
    const known = extents(['zero', 10], ['data', 10], ['zero', 10], ['data', 10]);
    expect(pairs(statusDescriptors(exported(), known, 0, 40, 1))).toEqual([[10, ZERO]]);
    expect(pairs(statusDescriptors(exported(), known, 0, 40, 2))).toEqual([
      [10, ZERO],
      [10, 0],
    ]);
  });
});

test('never claim zero for a byte of data, never leave a gap, and never repeat a status', () => {
  const kind = fc.constantFrom<ExtentKind>('data', 'zero', 'hole');
  const part = fc.tuple(kind, fc.integer({ min: 1, max: 3000 }));
  const blockBytes = fc.constantFrom(1, 512, 4096);
  fc.assert(
    fc.property(
      fc.array(part, { minLength: 1, maxLength: 20 }),
      blockBytes,
      fc.nat(20),
      fc.integer({ min: 1, max: 20 }),
      fc.boolean(),
      (parts, block, from, count, holesReadAsZeros) => {
        const known = extents(...parts);
        const knownBytes = known.reduce((sum, each) => sum + each.lengthBytes, 0);
        const offset = Math.min(from * block, knownBytes - 1 - ((knownBytes - 1) % block));
        const lengthBytes = count * block;
        const inRange = known.filter((each) => each.offset + each.lengthBytes > offset);
        const descriptors = statusDescriptors(
          exported(block, holesReadAsZeros),
          inRange,
          offset,
          lengthBytes,
        );
        expect(descriptors.length).toBeGreaterThan(0);
        let at = offset;
        let before: number | undefined;
        for (const { lengthBytes: length, status } of descriptors) {
          expect(length).toBeGreaterThan(0);
          expect(length % block).toBe(0);
          expect(status).not.toBe(before);
          if (status !== 0) {
            const kinds = known.filter(
              (each) => each.offset < at + length && each.offset + each.lengthBytes > at,
            );
            expect(
              kinds.some((each) => each.kind === 'data' || (each.kind === 'hole' && !holesReadAsZeros)),
            ).toBe(false);
            expect(at + length).toBeLessThanOrEqual(knownBytes);
          }
          before = status;
          at += length;
        }
        expect(at).toBeLessThanOrEqual(offset + lengthBytes);
      },
    ),
    { numRuns: 1000 },
  );
});
