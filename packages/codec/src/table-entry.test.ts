import { describe, expect, it } from 'vitest';
import { entryView, refusal } from '../test/support/samples.ts';
import {
  checkL1Entry,
  checkRefcountTableEntry,
  clearReservedL1,
  clearReservedRefcountTable,
  readEntryCopied,
  readEntryOffset,
  readRefcountBlockOffset,
  writeEntryCopied,
  writeL1Entry,
  writeRefcountTableEntry,
} from './table-entry.ts';

const copied = 1n << 63n;

describe('L1 entries', () => {
  it('[L1E-001, L1E-003] the offset is bits 9 to 55', () => {
    expect(readEntryOffset(entryView(0xffff_ffff_ffff_ffffn), 0)).toBe(Number(0x00ff_ffff_ffff_fe00n));
    expect(readEntryOffset(entryView(copied | 0x12_3456_7890_0000n), 0)).toBe(0x12_3456_7890_0000);
    expect(readEntryOffset(entryView(0x8000_0000n), 0)).toBe(0x8000_0000);
  });

  it('[L1E-004] bit 63 is read, set and cleared alone', () => {
    const view = entryView(copied | 0x50000n);
    expect(readEntryCopied(view, 0)).toBe(true);
    writeEntryCopied(view, 0, false);
    expect(view.getBigUint64(0)).toBe(0x50000n);
    expect(readEntryCopied(view, 0)).toBe(false);
    writeEntryCopied(view, 0, true);
    expect(view.getBigUint64(0)).toBe(copied | 0x50000n);
  });

  it('[L1E-003, L1E-005] are written as offset and bit 63; 0 is unallocated', () => {
    const view = entryView(0xffff_ffff_ffff_ffffn);
    writeL1Entry(view, 0, 0x1f_ffff_fff0_0000, true);
    expect(view.getBigUint64(0)).toBe(copied | 0x1f_ffff_fff0_0000n);
    writeL1Entry(view, 0, 0, false);
    expect(view.getBigUint64(0)).toBe(0n);
    checkL1Entry(view, 0, 16, 0);
    expect(readEntryOffset(view, 0)).toBe(0);
  });

  it.each([
    ['L1E-002', 'RESERVED_SET', 0x10001n],
    ['L1E-002', 'RESERVED_SET', 0x10100n],
    ['L1E-002', 'RESERVED_SET', (1n << 56n) | 0x10000n],
    ['L1E-002', 'RESERVED_SET', (1n << 62n) | 0x10000n],
    ['LIM-015', 'OFFSET_TOO_LARGE', 1n << 53n],
    ['L1E-003', 'BAD_ALIGNMENT', 0x18000n],
    ['L1E-003', 'BAD_ALIGNMENT', 0x10200n],
    ['L1E-004', 'BAD_FIELD', copied],
  ])('[L1E-002, L1E-003, L1E-004, LIM-015] are refused: %s, %s, %i', (clause, code, entry) => {
    const view = entryView(0n, entry);
    const error = { clause, code, field: 'entry', hostOffset: 0x30008 };
    expect(refusal(() => checkL1Entry(view, 8, 16, 0x30000))).toEqual(error);
  });

  it('[L1E-002] are taken where nothing is wrong', () => {
    for (const entry of [0n, 0x10000n, copied | 0x10000n, copied | 0x1f_ffff_ffff_0000n]) {
      expect(checkL1Entry(entryView(entry), 0, 16, 0)).toBeUndefined();
    }
  });
});

describe('refcount table entries', () => {
  it('[RCT-002, RCT-004] the offset is bits 9 to 63', () => {
    const view = entryView(0x001f_ffff_ffff_fe00n);
    expect(readRefcountBlockOffset(view, 0)).toBe(0x1f_ffff_ffff_fe00);
    writeRefcountTableEntry(view, 0, 0x12_3456_8000_0000);
    expect(view.getBigUint64(0)).toBe(0x12_3456_8000_0000n);
    expect(readRefcountBlockOffset(view, 0)).toBe(0x12_3456_8000_0000);
  });

  it('[RCT-005] 0 is no block', () => {
    const view = entryView(0n);
    checkRefcountTableEntry(view, 0, 16, 0);
    expect(readRefcountBlockOffset(view, 0)).toBe(0);
  });

  it.each([
    ['RCT-003', 'RESERVED_SET', 0x10001n],
    ['RCT-003', 'RESERVED_SET', 0x10100n],
    ['LIM-015', 'OFFSET_TOO_LARGE', 1n << 53n],
    ['LIM-015', 'OFFSET_TOO_LARGE', 1n << 63n],
    ['RCT-004', 'BAD_ALIGNMENT', 0x18000n],
  ])('[RCT-003, RCT-004, LIM-015] are refused: %s, %s, %i', (clause, code, entry) => {
    const error = { clause, code, field: 'entry', hostOffset: 0x10008 };
    expect(refusal(() => checkRefcountTableEntry(entryView(0n, entry), 8, 16, 0x10000))).toEqual(error);
  });
});

describe('clearing reserved bits', () => {
  it('[L1E-002, RCT-003] leaves everything else', () => {
    const l1 = entryView(copied | (1n << 57n) | 0x40000n | 5n);
    clearReservedL1(l1, 0);
    expect(l1.getBigUint64(0)).toBe(copied | 0x40000n);
    const table = entryView((1n << 50n) | 0x40000n | 257n);
    clearReservedRefcountTable(table, 0);
    expect(table.getBigUint64(0)).toBe((1n << 50n) | 0x40000n);
  });
});
