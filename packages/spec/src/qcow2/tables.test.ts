import { describe, expect, it } from 'vitest';
import type { BitLayout } from '../layout.ts';
import { bitmapFlagBits, bitmapFlags } from './bitmaps.ts';
import {
  autoclearFeatureBits,
  autoclearFeatures,
  compatibleFeatureBits,
  compatibleFeatures,
  featureNames,
  featureTypes,
  incompatibleFeatureBits,
  incompatibleFeatures,
} from './feature-bits.ts';
import {
  headerLayout,
  headerUnknownAt,
  headerV2Bytes,
  headerV3MinBytes,
  qcow2Magic,
} from './header-layout.ts';
import { snapshotExtraLayout, snapshotExtraV3MinBytes } from './snapshots.ts';
import { qcow2BitLayouts, qcow2ConstantTables, qcow2Layouts } from './tables.ts';

/** Masks of the bits that have a name, as a layout has them. */
function masksOf(layout: BitLayout): Record<string, bigint> {
  const named = layout.bits.filter((field) => field.reserved === undefined);
  return Object.fromEntries(named.map((field) => [field.name, 1n << BigInt(field.bit)]));
}

describe('qcow2 as data', () => {
  it('stands under its own names, in the document qcow2', () => {
    for (const [name, layout] of Object.entries({ ...qcow2Layouts, ...qcow2BitLayouts })) {
      expect(layout).toMatchObject({ name, document: 'qcow2' });
    }
    expect(Object.keys(qcow2ConstantTables)).toContain('limits');
  });

  it('[FEA-014] has masks that are those of its bits', () => {
    expect(incompatibleFeatures).toEqual(masksOf(incompatibleFeatureBits));
    expect(compatibleFeatures).toEqual(masksOf(compatibleFeatureBits));
    expect(autoclearFeatures).toEqual(masksOf(autoclearFeatureBits));
    const flags = Object.fromEntries(Object.entries(bitmapFlags).map(([name, mask]) => [name, BigInt(mask)]));
    expect(flags).toEqual(masksOf(bitmapFlagBits));
  });

  it('[FNT-006] names every feature bit once', () => {
    const maskOf = (type: number) =>
      featureNames
        .filter((row) => row.type === type)
        .reduce((mask, { bit }) => mask | (1n << BigInt(bit)), 0n);
    const all = (masks: Record<string, bigint>) => Object.values(masks).reduce((sum, mask) => sum + mask, 0n);
    expect(maskOf(featureTypes.incompatible)).toBe(all(incompatibleFeatures));
    expect(maskOf(featureTypes.compatible)).toBe(all(compatibleFeatures));
    expect(maskOf(featureTypes.autoclear)).toBe(all(autoclearFeatures));
    expect(new Set(featureNames.map(({ name }) => name)).size).toBe(featureNames.length);
  });

  it('[HDR-014, HDR-020, HDR-021] has header lengths that are places of fields', () => {
    const placeOf = (name: string) => headerLayout.fields.find((field) => field.name === name)?.at;
    expect(placeOf('incompatibleFeatures')).toBe(headerV2Bytes);
    expect(placeOf('compressionType')).toBe(headerV3MinBytes);
    expect(placeOf('unknownFields')).toBe(headerUnknownAt);
    expect(headerLayout.fields[0].oneOf).toEqual([qcow2Magic]);
    expect(snapshotExtraLayout.fields[2].at).toBe(snapshotExtraV3MinBytes);
  });
});
