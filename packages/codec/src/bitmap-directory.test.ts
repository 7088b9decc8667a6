import { describe, expect, it } from 'vitest';
import { ascii, entryView, refusal, viewOf } from '../test/support/samples.ts';
import {
  type BitmapDirectoryEntry,
  bitmapTableEntriesFor,
  checkBitmapTableEntry,
  decodeBitmapDirectory,
  encodeBitmapDirectory,
  readBitmapAllOnes,
  writeBitmapTableEntry,
} from './bitmap-directory.ts';
import { readEntryOffset } from './table-entry.ts';

function bitmap(changes: Partial<BitmapDirectoryEntry> = {}): BitmapDirectoryEntry {
  return {
    tableOffset: 0x90000,
    tableEntries: 3,
    flags: 2,
    type: 1,
    granularityBits: 16,
    name: 'backup',
    extraData: new Uint8Array(),
    ...changes,
  };
}

describe('the bitmap directory', () => {
  it('[BMD-001, BMD-002, BMD-003, BMD-004, BMD-009, BMD-010, BMD-011, BMD-012] is heads, extra data, names, padding', () => {
    const entry = bitmap({ extraData: ascii('extra'), flags: 6 });
    const bytes = encodeBitmapDirectory([entry]);
    const view = viewOf(bytes);
    expect(view.getBigUint64(0)).toBe(0x90000n);
    expect([8, 12, 20].map((at) => view.getUint32(at))).toEqual([3, 6, 5]);
    expect([bytes[16], bytes[17], view.getUint16(18)]).toEqual([1, 16, 6]);
    expect(bytes.subarray(24, 35)).toEqual(ascii('extrabackup'));
    expect(bytes).toHaveLength(40);
    expect(decodeBitmapDirectory(bytes, 1)).toEqual([entry]);
  });

  it('[BMD-013, BMD-015] keeps extra data and order of all its entries', () => {
    const entries = [
      bitmap({ name: 'a', extraData: Uint8Array.of(1, 2, 3) }),
      bitmap({ name: 'bb', flags: 1 }),
      bitmap({ name: 'ccc', extraData: new Uint8Array(4096).fill(9), granularityBits: 63 }),
    ];
    expect(decodeBitmapDirectory(encodeBitmapDirectory(entries, 65536), 3)).toEqual(entries);
  });

  it.each([
    ['BMD-002', 'BAD_ALIGNMENT', 7, 1, 0],
    ['LIM-012', 'LIMIT_EXCEEDED', 8, 9, 8],
    ['BMD-008', 'RESERVED_SET', 15, 8, 12],
    ['BMD-008', 'RESERVED_SET', 12, 0x80, 12],
    ['BMD-009', 'BAD_FIELD', 16, 2, 16],
    ['BMD-010', 'BAD_FIELD', 17, 64, 17],
    ['BMD-015', 'TRUNCATED', 20, 1, 0],
    ['BMD-016', 'RESERVED_SET', 31, 1, 30],
  ])(
    '[BMD-002, BMD-008, BMD-009, BMD-010, BMD-015, BMD-016, LIM-012] is refused: %s, %s',
    (clause, code, at, byte, where) => {
      const bytes = encodeBitmapDirectory([bitmap()]);
      bytes[at] = byte;
      const options = { hostOffset: 0x80000, clusterBytes: 65536 };
      const error = refusal(() => decodeBitmapDirectory(bytes, 1, options));
      expect(error).toMatchObject({ clause, code, hostOffset: 0x80000 + where });
    },
  );

  it('[BMD-011, LIM-011] names have from 1 to 1023 bytes', () => {
    const longest = bitmap({ name: 'n'.repeat(1023) });
    expect(decodeBitmapDirectory(encodeBitmapDirectory([longest]), 1)).toEqual([longest]);
    for (const name of ['', 'n'.repeat(1024)]) {
      expect(refusal(() => encodeBitmapDirectory([bitmap({ name })])).clause).toBe('BMD-011');
    }
  });

  it('[BMD-014] two bitmaps of one name are refused', () => {
    const bytes = encodeBitmapDirectory([bitmap({ name: 'one' }), bitmap({ name: 'two' })]);
    bytes.set(ascii('one'), 32 + 24);
    const error = { code: 'BAD_FIELD', clause: 'BMD-014', hostOffset: 32 };
    expect(refusal(() => decodeBitmapDirectory(bytes, 2))).toMatchObject(error);
    expect(refusal(() => encodeBitmapDirectory([bitmap(), bitmap()])).clause).toBe('BMD-014');
  });

  it('[BMD-015] has as many entries and bytes as the extension says', () => {
    const bytes = encodeBitmapDirectory([bitmap({ name: 'a' }), bitmap({ name: 'b' })]);
    for (const count of [0, 1, 3]) {
      expect(refusal(() => decodeBitmapDirectory(bytes, count)).clause).toBe('BMD-015');
    }
    for (let length = 0; length < bytes.length; length++) {
      expect(refusal(() => decodeBitmapDirectory(bytes.subarray(0, length), 2)).code).toMatch(
        /TRUNCATED|BAD_FIELD/,
      );
    }
  });

  it('[LIM-009, LIM-010] has at most 65535 entries and 65535 KiB', () => {
    expect(refusal(() => decodeBitmapDirectory(new Uint8Array(), 65536)).clause).toBe('LIM-009');
    expect(refusal(() => decodeBitmapDirectory(new Uint8Array(65535 * 1024 + 8), 1)).clause).toBe('LIM-010');
  });
});

describe('bitmap tables', () => {
  it.each([
    [0, 16, 16, 0],
    [1, 16, 16, 1],
    [2 ** 35, 16, 16, 1],
    [2 ** 35 + 1, 16, 16, 2],
    [2 ** 21, 9, 9, 1],
    [2 ** 21 + 1, 9, 9, 2],
  ])(
    '[BMT-005] a disk of %i, granularity 2^%i, clusters of 2^%i: %i entries',
    (size, granularityBits, clusterBits, entries) => {
      expect(bitmapTableEntriesFor(size, granularityBits, clusterBits)).toBe(entries);
    },
  );

  it('[LIM-013] bitmap data above 512 MiB is refused', () => {
    expect(bitmapTableEntriesFor(2 ** 41, 9, 16)).toBe(8192);
    expect(refusal(() => bitmapTableEntriesFor(2 ** 41 + 1, 9, 16)).clause).toBe('LIM-013');
  });

  it('[BMT-001, BMT-002, BMT-004] entries are an offset, all zeros, or all ones', () => {
    const view = entryView(0n);
    writeBitmapTableEntry(view, 0, 0x12_3456_8000_0000, false);
    expect(view.getBigUint64(0)).toBe(0x12_3456_8000_0000n);
    expect([readEntryOffset(view, 0), readBitmapAllOnes(view, 0)]).toEqual([0x12_3456_8000_0000, false]);
    writeBitmapTableEntry(view, 0, 0, true);
    expect(view.getBigUint64(0)).toBe(1n);
    expect([readEntryOffset(view, 0), readBitmapAllOnes(view, 0)]).toEqual([0, true]);
    writeBitmapTableEntry(view, 0, 0, false);
    expect(view.getBigUint64(0)).toBe(0n);
    expect(refusal(() => writeBitmapTableEntry(view, 0, 0x10000, true)).clause).toBe('BMT-002');
  });

  it.each([
    ['BMT-002', 'RESERVED_SET', 0x10001n],
    ['BMT-003', 'RESERVED_SET', 0x10002n],
    ['BMT-003', 'RESERVED_SET', 0x10100n],
    ['BMT-003', 'RESERVED_SET', (1n << 56n) | 0x10000n],
    ['BMT-003', 'RESERVED_SET', (1n << 63n) | 0x10000n],
    ['LIM-015', 'OFFSET_TOO_LARGE', 1n << 53n],
    ['BMT-004', 'BAD_ALIGNMENT', 0x18000n],
  ])('[BMT-002, BMT-003, BMT-004, LIM-015] entries are refused: %s, %s, %i', (clause, code, entry) => {
    const error = { clause, code, field: 'entry', hostOffset: 0x90008 };
    expect(refusal(() => checkBitmapTableEntry(entryView(0n, entry), 8, 16, 0x90000))).toEqual(error);
  });

  it('[BMT-002] entries are taken where nothing is wrong', () => {
    for (const entry of [0n, 1n, 0x10000n]) {
      expect(checkBitmapTableEntry(entryView(entry), 0, 16, 0)).toBeUndefined();
    }
  });
});
