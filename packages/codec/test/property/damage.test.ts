/**
 * Damaged structures: whatever the damage, a decoder answers with a value or a FormatError that names a place, and
 * a value that it accepts can be encoded again.
 */
import {
  checkL1Entry,
  checkL2Entry,
  checkRefcountTableEntry,
  classifyL2Entry,
  clusterKind,
  decodeBitmapDirectory,
  decodeFeatureNames,
  decodeHeader,
  decodeSnapshotTable,
  encodeBitmapDirectory,
  encodeHeader,
  encodeSnapshotTable,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryOffset,
  readRefcountBlockOffset,
} from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bitmaps, header, snapshot } from '../support/arbitraries.ts';

/** The value, or undefined where it was refused as it should be. Anything else fails the test. */
function decoded<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    expect(error).toBeInstanceOf(FormatError);
    if (!(error instanceof FormatError)) return undefined;
    expect(error.context.hostOffset).toBeTypeOf('number');
    expect(error.context.clause).toMatch(/^[A-Z0-9]+-\d{3}$/);
    expect(error.context.field).toBeTypeOf('string');
    return undefined;
  }
}

function withFlip(bytes: Uint8Array, bit: number): Uint8Array {
  const flipped = bytes.slice();
  const at = (bit >>> 3) % bytes.length;
  flipped[at] = (flipped[at] ?? 0) ^ (1 << (bit & 7));
  return flipped;
}

const bit = fc.nat(8 * 4096);

describe('one bit flipped', () => {
  it('[HDR-024] in a header', () => {
    fc.assert(
      fc.property(header, fc.nat(8 * 600), (value, flip) => {
        const bytes = withFlip(encodeHeader(value), flip);
        const again = decoded(() => decodeHeader(bytes, 2 ** 40));
        if (again !== undefined) expect(encodeHeader(again)).toHaveLength(2 ** again.clusterBits);
      }),
    );
  });

  it('[SNP-018] in a snapshot table', () => {
    fc.assert(
      fc.property(fc.array(snapshot, { minLength: 1, maxLength: 4 }), bit, (snapshots, flip) => {
        const bytes = withFlip(encodeSnapshotTable(snapshots, 3), flip);
        const table = decoded(() => decodeSnapshotTable(bytes, snapshots.length, { clusterBytes: 65536 }));
        if (table === undefined) return;
        const again = encodeSnapshotTable(table.snapshots, 2);
        expect(decodeSnapshotTable(again, snapshots.length).snapshots).toEqual(table.snapshots);
      }),
    );
  });

  it('[BMD-015] in a bitmap directory', () => {
    fc.assert(
      fc.property(bitmaps, bit, (entries, flip) => {
        const bytes = withFlip(encodeBitmapDirectory(entries), flip);
        const again = decoded(() => decodeBitmapDirectory(bytes, entries.length, { clusterBytes: 65536 }));
        if (again !== undefined) expect(encodeBitmapDirectory(again)).toEqual(bytes);
      }),
    );
  });
});

describe('cut off anywhere', () => {
  it('[HDR-024, EXT-005] a header is refused', () => {
    fc.assert(
      fc.property(header, fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (value, part) => {
        const bytes = encodeHeader(value);
        const { backingFileOffset, backingFileLengthBytes } = decodeHeader(bytes);
        const area = value.extensions.reduce((sum, { data }) => sum + 8 + Math.ceil(data.length / 8) * 8, 0);
        const needed = Math.max(
          value.headerLengthBytes + area + 8,
          backingFileOffset + backingFileLengthBytes,
        );
        const cut = bytes.subarray(0, Math.floor(needed * part));
        expect(decoded(() => decodeHeader(cut))).toBeUndefined();
        expect(decoded(() => decodeHeader(bytes.subarray(0, needed)))).toBeDefined();
      }),
    );
  });
});

describe('any bytes at all', () => {
  const bytes = fc.uint8Array({ minLength: 0, maxLength: 400 });

  it('[HDR-001] as a header', () => {
    const start = Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0);
    fc.assert(
      fc.property(fc.constantFrom(2, 3), bytes, (version, rest) => {
        decoded(() => decodeHeader(Uint8Array.of(...start, version, ...rest)));
      }),
    );
  });

  it('[SNP-018, BMD-015, FNT-001] as a table of variable length', () => {
    fc.assert(
      fc.property(bytes, fc.nat(10), (table, count) => {
        decoded(() => decodeSnapshotTable(table, count));
        decoded(() => decodeBitmapDirectory(table, count));
        decoded(() => decodeFeatureNames(table, { hostOffset: 0 }));
      }),
    );
  });

  it('[L1E-003, L2E-008, RCT-004, LIM-015] as an entry: what passes the check has a usable offset', () => {
    const entry = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const sparse = fc
      .array(fc.nat(63), { maxLength: 6 })
      .map((bits) => bits.reduce((sum, n) => sum | (1n << BigInt(n)), 0n));
    const clusterBits = fc.integer({ min: 9, max: 21 });
    const flags = fc.record({
      version: fc.constantFrom(2, 3),
      extended: fc.boolean(),
      externalData: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.oneof(entry, sparse),
        fc.oneof(entry, sparse),
        clusterBits,
        flags,
        (first, second, bits, format) => {
          const view = new DataView(new ArrayBuffer(16));
          view.setBigUint64(0, first);
          view.setBigUint64(8, second);
          const usable = (hostOffset: number) =>
            Number.isSafeInteger(hostOffset) && hostOffset % 2 ** bits === 0;
          const passes = (check: () => void) => decoded(() => [check()]) !== undefined;
          if (passes(() => checkL1Entry(view, 0, bits, 0)))
            expect(usable(readEntryOffset(view, 0))).toBe(true);
          if (passes(() => checkRefcountTableEntry(view, 0, bits, 0))) {
            expect(usable(readRefcountBlockOffset(view, 0))).toBe(true);
          }
          const l2Format = { clusterBits: bits, ...format };
          if (!passes(() => checkL2Entry(view, 0, l2Format, 0))) return;
          if (classifyL2Entry(view, 0, l2Format) === clusterKind.compressed) {
            const end = readCompressedOffset(view, 0, bits) + readCompressedLengthBytes(view, 0, bits);
            expect(Number.isSafeInteger(end)).toBe(true);
          } else {
            expect(usable(readEntryOffset(view, 0))).toBe(true);
          }
        },
      ),
      { numRuns: 1000 },
    );
  });
});
