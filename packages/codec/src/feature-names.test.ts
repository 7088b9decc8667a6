import { featureNames, headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { ascii, refusal } from '../test/support/samples.ts';
import { decodeFeatureNames, encodeFeatureNames, unknownIncompatibleFeatures } from './feature-names.ts';

describe('the feature name table', () => {
  it('[FNT-001, FNT-002, FNT-003, FNT-004] is rows of 48 bytes: mask, bit, name', () => {
    const { type, data } = encodeFeatureNames([{ type: 2, bit: 63, name: 'journal valid' }]);
    expect(type).toBe(headerExtensionTypes.featureNameTable);
    expect(data).toHaveLength(48);
    expect(data.subarray(0, 16)).toEqual(Uint8Array.of(2, 63, ...ascii('journal valid'), 0));
    expect(data.subarray(16).every((byte) => byte === 0)).toBe(true);
  });

  it('[FNT-006] names every bit that we may set', () => {
    expect(decodeFeatureNames(encodeFeatureNames(featureNames).data)).toEqual(featureNames);
  });

  it('[FNT-004] takes a name of 46 bytes, without a terminator, and none of 47', () => {
    const names = [{ type: 0, bit: 5, name: 'n'.repeat(46) }];
    expect(decodeFeatureNames(encodeFeatureNames(names).data)).toEqual(names);
    const error = refusal(() => encodeFeatureNames([{ type: 0, bit: 5, name: 'n'.repeat(47) }]));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', clause: 'FNT-004' });
  });

  it.each([
    ['FNT-002', 48, 3, 1048],
    ['FNT-003', 49, 64, 1049],
  ])('[FNT-002, FNT-003] is refused: %s', (clause, at, byte, hostOffset) => {
    const { data } = encodeFeatureNames(featureNames);
    data[at] = byte;
    expect(refusal(() => decodeFeatureNames(data, { hostOffset: 1000 }))).toMatchObject({
      clause,
      hostOffset,
    });
  });

  it('[FNT-001] is refused where its last row is not whole', () => {
    const { data } = encodeFeatureNames(featureNames);
    expect(refusal(() => decodeFeatureNames(data.subarray(1))).clause).toBe('FNT-001');
  });
});

describe('unknown incompatible features', () => {
  const table = encodeFeatureNames([
    { type: 0, bit: 40, name: 'time travel' },
    { type: 1, bit: 41, name: 'of another mask' },
  ]);

  it('[FEA-006] are named by the table, or by their number', () => {
    const header = { incompatibleFeatures: (1n << 40n) | (1n << 41n) | 0b11111n, extensions: [table] };
    expect(unknownIncompatibleFeatures(header)).toEqual([
      { bit: 40, name: 'time travel' },
      { bit: 41, name: 'incompatible feature bit 41' },
    ]);
  });

  it('[FEA-006] the bits that have a name here are not among them', () => {
    const known = 0b11111n | (1n << 63n);
    expect(unknownIncompatibleFeatures({ incompatibleFeatures: known, extensions: [] })).toEqual([]);
    const all = unknownIncompatibleFeatures({ incompatibleFeatures: 2n ** 64n - 1n, extensions: [] });
    expect(all.map(({ bit }) => bit)).toEqual(Array.from({ length: 58 }, (_, index) => index + 5));
  });

  it('[FNT-005] are reported with a damaged table as well', () => {
    const data = table.data.slice(0, 47);
    const header = { incompatibleFeatures: 1n << 40n, extensions: [{ ...table, data }] };
    expect(unknownIncompatibleFeatures(header)).toEqual([{ bit: 40, name: 'incompatible feature bit 40' }]);
  });
});
