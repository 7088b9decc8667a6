import { autoclearFeatures, headerExtensionTypes, incompatibleFeatures } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { refusal, sampleHeader, spoiledHeader } from '../test/support/samples.ts';
import { decodeHeader, encodeHeader } from './header.ts';
import { encodeBitmapsExtension, encodeEncryptionHeaderPointer } from './header-extension.ts';
import { l1EntriesFor } from './header-rules.ts';

describe('limits', () => {
  it('[LIM-003] an L1 table of 32 MiB is taken, one entry more is not', () => {
    const most = { l1Entries: 2 ** 22, l1Offset: 0x100000 };
    expect(decodeHeader(encodeHeader(sampleHeader(most))).l1Entries).toBe(2 ** 22);
    const error = refusal(() => decodeHeader(spoiledHeader([[36, 4, 2 ** 22 + 1]], sampleHeader(most))));
    expect(error).toEqual({ code: 'LIMIT_EXCEEDED', clause: 'LIM-003', field: 'l1Entries', hostOffset: 36 });
  });

  it('[LIM-004] a refcount table of 8 MiB is taken, one cluster more is not', () => {
    const most = { refcountTableClusters: 128, refcountTableOffset: 0x100000 };
    expect(decodeHeader(encodeHeader(sampleHeader(most))).refcountTableClusters).toBe(128);
    const error = refusal(() => decodeHeader(spoiledHeader([[56, 4, 129]], sampleHeader(most))));
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', clause: 'LIM-004', hostOffset: 56 });
  });

  it('[LIM-006] 65536 snapshots are taken, one more is not', () => {
    const most = { snapshotCount: 65536, snapshotsOffset: 0x100000 };
    expect(decodeHeader(encodeHeader(sampleHeader(most))).snapshotCount).toBe(65536);
    const error = refusal(() => decodeHeader(spoiledHeader([[60, 4, 65537]], sampleHeader(most))));
    expect(error).toMatchObject({ code: 'LIMIT_EXCEEDED', clause: 'LIM-006', hostOffset: 60 });
  });

  it('[LIM-001] clusters of 512 bytes and of 2 MiB are taken', () => {
    const small = sampleHeader({ clusterBits: 9, l1Entries: 32768 });
    const large = sampleHeader({ clusterBits: 21, l1Offset: 0x600000, refcountTableOffset: 0x200000 });
    expect(decodeHeader(encodeHeader(small)).clusterBits).toBe(9);
    expect(decodeHeader(encodeHeader(large)).clusterBits).toBe(21);
  });

  it('[LIM-015] a table that ends beyond 2^53 - 1 is refused', () => {
    const last = 2 ** 53 - 65536;
    const error = refusal(() => encodeHeader(sampleHeader({ refcountTableOffset: last })));
    expect(error).toMatchObject({
      code: 'OFFSET_TOO_LARGE',
      clause: 'LIM-015',
      field: 'refcountTableOffset',
    });
  });
});

describe('the active L1 table', () => {
  it.each([
    [16, 0, 0],
    [16, 1, 1],
    [16, 2 ** 29, 1],
    [16, 2 ** 29 + 1, 2],
    [9, 32768, 1],
    [9, 32769, 2],
    [21, 2 ** 39, 1],
  ])(
    '[HDR-027, L1E-001] with clusters of 2^%i bytes, a disk of %i needs %i entries',
    (clusterBits, sizeBytes, entries) => {
      expect(l1EntriesFor({ clusterBits, sizeBytes, incompatibleFeatures: 0n })).toBe(entries);
    },
  );

  it('[HDR-027, SUB-001] extended entries are twice as large, so a table maps half', () => {
    const extended = { clusterBits: 16, incompatibleFeatures: incompatibleFeatures.extendedL2 };
    expect(l1EntriesFor({ ...extended, sizeBytes: 2 ** 28 })).toBe(1);
    expect(l1EntriesFor({ ...extended, sizeBytes: 2 ** 28 + 1 })).toBe(2);
  });
});

describe('places of tables', () => {
  it.each([
    ['L1 table in the header', { l1Offset: 0 }, 'l1Offset'],
    ['refcount table in the header', { refcountTableOffset: 0 }, 'refcountTableOffset'],
    ['snapshot table in the header', { snapshotCount: 1 }, 'snapshotsOffset'],
    ['L1 table in the refcount table', { l1Offset: 0x10000 }, 'refcountTableOffset'],
    ['L1 table at the end of the refcount table', { refcountTableClusters: 3 }, 'l1Offset'],
    ['snapshots in the L1 table', { snapshotCount: 1, snapshotsOffset: 0x30000 }, 'snapshotsOffset'],
  ])('[HDR-032] are refused: %s', (_what, change, field) => {
    const error = refusal(() => encodeHeader(sampleHeader(change)));
    expect(error).toMatchObject({ code: 'OVERLAP', clause: 'HDR-032', field });
  });

  it('[HDR-032] tables without entries do not count', () => {
    const empty = sampleHeader({ sizeBytes: 0, l1Entries: 0, l1Offset: 0 });
    expect(decodeHeader(encodeHeader(empty)).l1Entries).toBe(0);
  });

  it('[HDR-033] lie in the file, whose last cluster may be incomplete', () => {
    const bytes = encodeHeader(sampleHeader());
    expect(decodeHeader(bytes, 0x30001).l1Offset).toBe(0x30000);
    const error = { code: 'TRUNCATED', clause: 'HDR-033', field: 'l1Offset', hostOffset: 40 };
    expect(refusal(() => decodeHeader(bytes, 0x30000))).toEqual(error);
  });
});

describe('features', () => {
  it('[FEA-011] raw external data needs an external data file', () => {
    const raw = { autoclearFeatures: autoclearFeatures.rawExternalData };
    expect(refusal(() => encodeHeader(sampleHeader(raw)))).toMatchObject({ clause: 'FEA-011' });
    const both = { ...raw, incompatibleFeatures: incompatibleFeatures.externalDataFile };
    expect(encodeHeader(sampleHeader(both))).toHaveLength(65536);
  });

  it('[FEA-010] the bitmaps bit needs the extension; without the bit its data is not looked at', () => {
    const bitmaps = { autoclearFeatures: autoclearFeatures.bitmaps };
    expect(refusal(() => encodeHeader(sampleHeader(bitmaps)))).toMatchObject({ clause: 'FEA-010' });
    const broken = { type: headerExtensionTypes.bitmaps, data: new Uint8Array(24) };
    const unused = encodeHeader(sampleHeader({ extensions: [broken] }));
    expect(decodeHeader(unused).extensions).toEqual([broken]);
    const used = sampleHeader({ ...bitmaps, extensions: [broken] });
    expect(refusal(() => encodeHeader(used))).toMatchObject({ clause: 'BMX-002', hostOffset: 120 });
    const sound = encodeBitmapsExtension({
      bitmapCount: 1,
      directoryLengthBytes: 32,
      directoryOffset: 0x40000,
    });
    expect(encodeHeader(sampleHeader({ ...bitmaps, extensions: [sound] }))).toHaveLength(65536);
  });

  it('[FDE-002] an encryption header is there with LUKS, and only then', () => {
    const pointer = encodeEncryptionHeaderPointer({ headerOffset: 0x40000, headerLengthBytes: 4096 });
    const luks = { cryptMethod: 2 };
    expect(encodeHeader(sampleHeader({ ...luks, extensions: [pointer] }))).toHaveLength(65536);
    expect(refusal(() => encodeHeader(sampleHeader(luks))).clause).toBe('FDE-002');
    expect(refusal(() => encodeHeader(sampleHeader({ extensions: [pointer] }))).clause).toBe('FDE-002');
    expect(refusal(() => encodeHeader(sampleHeader({ cryptMethod: 1, extensions: [pointer] }))).clause).toBe(
      'FDE-002',
    );
  });

  it('[FEA-009] compatible bits without a name are taken and kept', () => {
    const header = sampleHeader({ compatibleFeatures: 2n ** 64n - 1n });
    expect(decodeHeader(encodeHeader(header)).compatibleFeatures).toBe(2n ** 64n - 1n);
  });
});
