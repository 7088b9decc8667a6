import { incompatibleFeatures } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { entryView, refusal } from '../test/support/samples.ts';
import {
  checkL2Entry,
  classifyL2Entry,
  classifySubcluster,
  clearReservedL2,
  clusterKind,
  isSoundL2Entry,
  type L2Format,
  l2EntriesPerTable,
  l2EntryBytes,
  l2FormatOf,
  readAllocatedSubclusters,
  readZeroSubclusters,
  writeExtendedEntry,
  writeStandardEntry,
  writeUnallocated,
  writeZeroEntry,
} from './l2-entry.ts';
import { readEntryCopied, readEntryOffset } from './table-entry.ts';

const v3: L2Format = { clusterBits: 16, version: 3, extended: false, externalData: false };
const v2: L2Format = { ...v3, version: 2 };
const extended: L2Format = { ...v3, extended: true };
const external: L2Format = { ...v3, externalData: true };
const copied = 1n << 63n;
const compressed = 1n << 62n;
const allSubclusters = 0xffff_ffffn;

describe('the format of L2 entries', () => {
  it('[FEA-003, FEA-005, L2E-001, L2E-009, SUB-001] follows from the header', () => {
    const header = { version: 3, clusterBits: 16, incompatibleFeatures: 0n };
    expect(l2FormatOf(header)).toEqual(v3);
    expect([l2EntryBytes(v3), l2EntriesPerTable(v3)]).toEqual([8, 8192]);
    const extendedL2 = l2FormatOf({ ...header, incompatibleFeatures: incompatibleFeatures.extendedL2 });
    expect(extendedL2).toEqual(extended);
    expect([l2EntryBytes(extended), l2EntriesPerTable(extended)]).toEqual([16, 4096]);
    expect(l2FormatOf({ ...header, incompatibleFeatures: incompatibleFeatures.externalDataFile })).toEqual(
      external,
    );
  });
});

describe('kinds of clusters', () => {
  it.each([
    ['unallocated', v3, 0n, 'unallocated'],
    ['reads as zeros', v3, 1n, 'zeroPlain'],
    ['reads as zeros, with a host cluster', v3, 0x50001n, 'zeroAllocated'],
    ['standard', v3, copied | 0x50000n, 'standard'],
    ['standard and shared', v3, 0x50000n, 'standard'],
    ['compressed', v3, compressed | 0x50123n, 'compressed'],
    ['in external data at 0', external, copied, 'standard'],
    ['zeros in external data at 0', external, copied | 1n, 'zeroAllocated'],
  ] as const)('[L2E-002, L2E-003, L2E-005, L2E-006, L2E-008] %s', (_what, format, entry, kind) => {
    expect(classifyL2Entry(entryView(entry), 0, format)).toBe(clusterKind[kind]);
    expect(checkL2Entry(entryView(entry), 0, format, 0)).toBeUndefined();
  });

  it.each([
    ['nothing set', 0n, 0n, 'unallocated'],
    ['a host cluster that nothing uses', 0x50000n, 0n, 'preallocated'],
    ['all allocated', copied | 0x50000n, allSubclusters, 'standard'],
    ['all zeros', 0n, allSubclusters << 32n, 'zeroPlain'],
    ['all zeros, with a host cluster', 0x50000n, allSubclusters << 32n, 'zeroAllocated'],
    ['some allocated', 0x50000n, 0b101n, 'mixed'],
    ['some zeros', 0n, 1n << 63n, 'mixed'],
    ['allocated and zeros', 0x50000n, 0xffff_0000_0000_ffffn, 'mixed'],
    ['compressed', compressed | 0x50123n, 0n, 'compressed'],
  ] as const)('[SUB-003, SUB-004, SUB-005, SUB-007] extended, %s', (_what, entry, bitmap, kind) => {
    const view = entryView(entry, bitmap);
    expect(classifyL2Entry(view, 0, extended)).toBe(clusterKind[kind]);
    expect(checkL2Entry(view, 0, extended, 0)).toBeUndefined();
  });

  it('[SUB-003, SUB-004, SUB-005, SUB-007] bit n and bit 32 + n belong to sub-cluster n', () => {
    const view = entryView(copied | 0x50000n, (1n << 63n) | (1n << 32n) | (1n << 1n) | (1n << 30n));
    const kinds = Array.from({ length: 32 }, (_, index) => classifySubcluster(view, 0, index));
    expect(kinds[0]).toBe(clusterKind.zeroAllocated);
    expect(kinds[1]).toBe(clusterKind.standard);
    expect(kinds[30]).toBe(clusterKind.standard);
    expect(kinds[31]).toBe(clusterKind.zeroAllocated);
    expect(new Set(kinds.slice(2, 30))).toEqual(new Set([clusterKind.preallocated]));
    const plain = entryView(0n, 1n << 33n);
    expect(classifySubcluster(plain, 0, 0)).toBe(clusterKind.unallocated);
    expect(classifySubcluster(plain, 0, 1)).toBe(clusterKind.zeroPlain);
    expect(classifySubcluster(entryView(compressed), 0, 7)).toBe(clusterKind.compressed);
  });
});

describe('writing L2 entries', () => {
  it('[L2E-004, L2E-008] standard: offset and bit 63', () => {
    const view = entryView(0n);
    writeStandardEntry(view, 0, 0x1f_ffff_8000_0000, true);
    expect(view.getBigUint64(0)).toBe(copied | 0x1f_ffff_8000_0000n);
    expect(readEntryOffset(view, 0)).toBe(0x1f_ffff_8000_0000);
    expect(readEntryCopied(view, 0)).toBe(true);
    writeStandardEntry(view, 0, 0x50000, false);
    expect(view.getBigUint64(0)).toBe(0x50000n);
  });

  it('[L2E-006] zeros: with a host cluster and without', () => {
    const view = entryView(0n);
    writeZeroEntry(view, 0, 0x8000_0000, true);
    expect(view.getBigUint64(0)).toBe(copied | 0x8000_0001n);
    writeZeroEntry(view, 0, 0, false);
    expect(view.getBigUint64(0)).toBe(1n);
    writeUnallocated(view, 0);
    expect(view.getBigUint64(0)).toBe(0n);
  });

  it('[SUB-001, SUB-003] extended: entry and bitmap', () => {
    const view = entryView(0n);
    writeExtendedEntry(view, 0, 0x50000, true, 0x8000_0001, 0x4000_0000);
    expect(view.getBigUint64(0)).toBe(copied | 0x50000n);
    expect(view.getBigUint64(8)).toBe(0x4000_0000_8000_0001n);
    expect(readAllocatedSubclusters(view, 0)).toBe(0x8000_0001);
    expect(readZeroSubclusters(view, 0)).toBe(0x4000_0000);
  });
});

describe('L2 entries are refused', () => {
  it.each([
    ['L2E-007', 'RESERVED_SET', v3, 0x50002n],
    ['L2E-007', 'RESERVED_SET', v3, 0x50100n],
    ['L2E-007', 'RESERVED_SET', v3, (1n << 56n) | 0x50000n],
    ['L2E-007', 'RESERVED_SET', v3, (1n << 61n) | 0x50000n],
    ['L2E-010', 'RESERVED_SET', v2, 0x50001n],
    ['SUB-002', 'RESERVED_SET', extended, 0x50001n],
    ['LIM-015', 'OFFSET_TOO_LARGE', v3, 1n << 53n],
    ['L2E-008', 'BAD_ALIGNMENT', v3, 0x58000n],
    ['L2E-008', 'BAD_ALIGNMENT', v3, 0x50200n],
    ['L2E-011', 'BAD_FIELD', v3, copied],
    ['L2E-011', 'BAD_FIELD', v3, copied | 1n],
    ['L2E-004', 'BAD_FIELD', v3, copied | compressed | 0x50000n],
    ['FEA-003', 'BAD_FIELD', external, compressed | 0x50000n],
    ['LIM-015', 'OFFSET_TOO_LARGE', v3, compressed | (1n << 53n)],
    ['LIM-015', 'OFFSET_TOO_LARGE', v3, compressed | (1n << 54n) | 0x1ff_ffff_ffff_ffffn],
    ['CMP-002', 'RESERVED_SET', { ...v3, clusterBits: 9 }, compressed | (1n << 56n)],
    ['CMP-002', 'RESERVED_SET', { ...v3, clusterBits: 9 }, compressed | (1n << 60n)],
  ] as const)(
    '[L2E-004, L2E-007, L2E-008, L2E-010, L2E-011, SUB-002, FEA-003, CMP-002, LIM-015] %s, %s',
    (clause, code, format, entry) => {
      const error = { clause, code, field: 'entry', hostOffset: 0x60000 };
      expect(refusal(() => checkL2Entry(entryView(entry), 0, format, 0x60000))).toEqual(error);
    },
  );

  it.each([
    ['SUB-006', 'RESERVED_SET', compressed | 0x50000n, 1n],
    ['SUB-006', 'RESERVED_SET', compressed | 0x50000n, 1n << 63n],
    ['SUB-005', 'BAD_FIELD', 0x50000n, (1n << 32n) | 1n],
    ['SUB-004', 'BAD_FIELD', 0n, 1n << 31n],
  ])('[SUB-004, SUB-005, SUB-006] %s, %s', (clause, code, entry, bitmap) => {
    const error = { clause, code, field: 'entry', hostOffset: 0x60008 };
    expect(refusal(() => checkL2Entry(entryView(entry, bitmap), 0, extended, 0x60000))).toEqual(error);
  });
});

describe('isSoundL2Entry', () => {
  it('is what checkL2Entry lets pass, of any bits', () => {
    const formats = [v3, v2, extended, external];
    let state = 1;
    const word = (): bigint => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return BigInt(state);
    };
    let sound = 0;
    for (let i = 0; i < 4000; i++) {
      // Few bits, so that some of them are sound.
      const entry = (1n << (word() % 64n)) | (1n << (16n + (word() % 40n)));
      const bitmaps = 1n << (word() % 64n);
      const view = new DataView(new ArrayBuffer(16));
      view.setBigUint64(0, entry);
      view.setBigUint64(8, i % 2 === 0 ? bitmaps : 0n);
      const format = formats[i % formats.length]!;
      let passes = true;
      try {
        checkL2Entry(view, 0, format, 0);
      } catch {
        passes = false;
      }
      expect(isSoundL2Entry(view, 0, format)).toBe(passes);
      if (passes) sound++;
    }
    expect(sound).toBeGreaterThan(100);
    expect(sound).toBeLessThan(3900);
  });

  it('[L2E-007, L2E-010, SUB-002] reserved bits are cleared, and nothing else', () => {
    const entry = copied | (1n << 58n) | 0x50000n | 9n;
    const cleared = (format: L2Format, from: bigint): bigint => {
      const view = entryView(from);
      clearReservedL2(view, 0, format);
      return view.getBigUint64(0);
    };
    expect(cleared(v3, entry)).toBe(copied | 0x50001n);
    expect(cleared(v2, entry)).toBe(copied | 0x50000n);
    expect(cleared(extended, entry)).toBe(copied | 0x50000n);
    expect(cleared(v3, compressed | 0x50123n)).toBe(compressed | 0x50123n);
  });
});
