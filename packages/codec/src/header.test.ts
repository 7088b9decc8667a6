import { autoclearFeatures, headerExtensionTypes, incompatibleFeatures } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  ascii,
  refusal,
  sampleHeader,
  sampleHeaderV2,
  spoiledHeader,
  viewOf,
} from '../test/support/samples.ts';
import { decodeClusterBytes, decodeHeader, encodeHeader } from './header.ts';
import { encodeBackingFormat } from './header-extension.ts';

describe('fields of the header', () => {
  const everyField = sampleHeader({
    sizeBytes: 0x123_4567,
    l1Entries: 0x102,
    snapshotCount: 3,
    snapshotsOffset: 0x50000,
    incompatibleFeatures: incompatibleFeatures.dirty | incompatibleFeatures.compressionType,
    compatibleFeatures: 1n << 40n,
    autoclearFeatures: 1n << 41n,
    refcountOrder: 6,
    headerLengthBytes: 120,
    compressionType: 1,
    unknownHeaderBytes: Uint8Array.from({ length: 15 }, (_, index) => index + 1),
    backingFileName: 'b',
  });

  it('[IMG-001, IMG-004, HDR-001, HDR-002, HDR-005, HDR-006, HDR-008, HDR-009, HDR-010, HDR-011, HDR-012, HDR-013] stand big-endian at their places', () => {
    const view = viewOf(encodeHeader(everyField));
    const u32 = [0, 4, 20, 36, 56, 60].map((at) => view.getUint32(at));
    expect(u32).toEqual([0x514649fb, 3, 16, 0x102, 1, 3]);
    const u64 = [24, 40, 48, 64].map((at) => view.getBigUint64(at));
    expect(u64).toEqual([0x123_4567n, 0x30000n, 0x10000n, 0x50000n]);
  });

  it('[HDR-015, HDR-016, HDR-017, HDR-018, HDR-019, HDR-020, HDR-021] of version 3 stand at theirs', () => {
    const bytes = encodeHeader(everyField);
    const view = viewOf(bytes);
    expect([72, 80, 88].map((at) => view.getBigUint64(at))).toEqual([9n, 1n << 40n, 1n << 41n]);
    expect([96, 100].map((at) => view.getUint32(at))).toEqual([6, 120]);
    expect(bytes[104]).toBe(1);
    expect(bytes.subarray(105, 120)).toEqual(everyField.unknownHeaderBytes);
  });

  it('[HDR-003, HDR-004, HDR-028, HDR-030] place the backing file name behind the extensions', () => {
    const header = sampleHeader({ backingFileName: 'base.img', extensions: [encodeBackingFormat('raw')] });
    const bytes = encodeHeader(header);
    const nameAt = 112 + 16 + 8;
    expect(viewOf(bytes).getBigUint64(8)).toBe(BigInt(nameAt));
    expect(viewOf(bytes).getUint32(16)).toBe(8);
    expect(bytes.subarray(nameAt, nameAt + 8)).toEqual(ascii('base.img'));
    expect(bytes.subarray(nameAt + 8).every((byte) => byte === 0)).toBe(true);
    expect(decodeHeader(bytes)).toEqual({ ...header, backingFileOffset: nameAt, backingFileLengthBytes: 8 });
  });

  it('[HDR-004] a name length without a backing file is ignored', () => {
    const header = decodeHeader(spoiledHeader([[16, 4, 5000]]));
    expect(header.backingFileLengthBytes).toBe(0);
    expect(header.backingFileName).toBeUndefined();
  });

  it('a whole header comes back as it was', () => {
    const decoded = decodeHeader(encodeHeader(everyField));
    expect(decoded).toEqual({ ...everyField, backingFileOffset: 128, backingFileLengthBytes: 1 });
    expect(encodeHeader(decoded)).toEqual(encodeHeader(everyField));
  });
});

describe('lengths of the header', () => {
  it('[HDR-014, HDR-023] version 2 has 72 bytes, no features, and 16-bit refcounts', () => {
    const bytes = encodeHeader(sampleHeaderV2());
    bytes.fill(0, 72);
    const header = decodeHeader(bytes);
    expect(header).toEqual(sampleHeaderV2());
    expect(header).toMatchObject({ refcountOrder: 4, headerLengthBytes: 72, compressionType: 0 });
  });

  it.each([
    ['incompatible', { incompatibleFeatures: 1n }],
    ['compatible', { compatibleFeatures: 1n }],
    ['autoclear', { autoclearFeatures: 4n }],
    ['refcount order', { refcountOrder: 3 }],
  ])('[HDR-023] version 2 can not say: %s', (_what, change) => {
    expect(refusal(() => encodeHeader(sampleHeaderV2(change))).clause).toBe('HDR-023');
  });

  it('[HDR-020] a header of 104 bytes has compression type 0', () => {
    const header = sampleHeader({ headerLengthBytes: 104, unknownHeaderBytes: new Uint8Array() });
    const bytes = encodeHeader(header);
    expect(decodeHeader(bytes)).toEqual(header);
    expect(viewOf(bytes).getUint32(100)).toBe(104);
  });

  it('[HDR-021, HDR-035] fields that come later are not looked at and are kept', () => {
    const unknown = Uint8Array.from({ length: 95 }, (_, index) => 255 - index);
    const bytes = encodeHeader(sampleHeader({ headerLengthBytes: 200, unknownHeaderBytes: unknown }));
    const decoded = decodeHeader(bytes);
    expect(decoded.unknownHeaderBytes).toEqual(unknown);
    expect(encodeHeader(decoded)).toEqual(bytes);
  });

  it.each([
    ['103', 103, 'BAD_FIELD', 'HDR-019'],
    ['no multiple of 8', 108, 'BAD_ALIGNMENT', 'HDR-019'],
    ['0', 0, 'BAD_FIELD', 'HDR-019'],
    ['longer than a cluster', 65544, 'BAD_FIELD', 'HDR-022'],
    ['2^32 - 8', 2 ** 32 - 8, 'BAD_FIELD', 'HDR-022'],
  ])('[HDR-019, HDR-022] a header length is refused: %s', (_what, length, code, clause) => {
    const error = refusal(() => decodeHeader(spoiledHeader([[100, 4, length]])));
    expect(error).toEqual({ code, clause, field: 'headerLengthBytes', hostOffset: 100 });
  });

  it('[HDR-022] what does not fit a cluster is not encoded', () => {
    const data = new Uint8Array(512 - 112 - 16);
    const extensions = [{ type: 0x12345678, data }];
    const small = { clusterBits: 9, l1Entries: 32768, extensions };
    expect(encodeHeader(sampleHeader(small))).toHaveLength(512);
    const error = refusal(() => encodeHeader(sampleHeader({ ...small, backingFileName: 'b' })));
    expect(error).toMatchObject({ code: 'NO_SPACE', clause: 'HDR-022' });
  });

  it('[HDR-024] a header that is cut off is refused, wherever the cut is', () => {
    const extensions = [{ type: 0x12345678, data: ascii('some data') }];
    const bytes = encodeHeader(sampleHeader({ extensions, backingFileName: 'backing' }));
    const needed = 112 + 8 + 16 + 8 + 7;
    for (let length = 0; length < needed; length++) {
      expect(refusal(() => decodeHeader(bytes.subarray(0, length))).code).toBe('TRUNCATED');
    }
    expect(decodeHeader(bytes.subarray(0, needed)).backingFileName).toBe('backing');
  });

  it('[HDR-024] version 2 needs 72 bytes', () => {
    const bytes = encodeHeader(sampleHeaderV2({ backingFileName: 'x' }));
    expect(refusal(() => decodeHeader(bytes.subarray(0, 71)))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('[HDR-005] 24 bytes tell the cluster size', () => {
    expect(decodeClusterBytes(encodeHeader(sampleHeader()).subarray(0, 24))).toBe(65536);
    expect(refusal(() => decodeClusterBytes(new Uint8Array(23))).code).toBe('TRUNCATED');
  });
});

describe('a header is refused', () => {
  it.each([
    ['HDR-001', 'BAD_MAGIC', 0, 4, 0x514649fa, 'magic'],
    ['HDR-002', 'BAD_FIELD', 4, 4, 1, 'version'],
    ['HDR-002', 'BAD_FIELD', 4, 4, 4, 'version'],
    ['HDR-005', 'BAD_FIELD', 20, 4, 8, 'clusterBits'],
    ['HDR-005', 'BAD_FIELD', 20, 4, 22, 'clusterBits'],
    ['HDR-005', 'BAD_FIELD', 20, 4, 0xffffffff, 'clusterBits'],
    ['HDR-006', 'OFFSET_TOO_LARGE', 24, 8, 2n ** 53n, 'sizeBytes'],
    ['HDR-007', 'BAD_FIELD', 32, 4, 3, 'cryptMethod'],
    ['HDR-009', 'BAD_ALIGNMENT', 40, 8, 0x30200n, 'l1Offset'],
    ['HDR-010', 'BAD_ALIGNMENT', 48, 8, 0x10001n, 'refcountTableOffset'],
    ['HDR-013', 'BAD_ALIGNMENT', 64, 8, 8n, 'snapshotsOffset'],
    ['HDR-018', 'BAD_FIELD', 96, 4, 7, 'refcountOrder'],
    ['HDR-027', 'BAD_FIELD', 36, 4, 1, 'l1Entries'],
    ['HDR-031', 'BAD_FIELD', 56, 4, 0, 'refcountTableClusters'],
  ] as const)(
    '[HDR-001, HDR-002, HDR-005, HDR-006, HDR-007, HDR-009, HDR-010, HDR-013, HDR-018, HDR-027, HDR-031] %s, %s at byte %i',
    (clause, code, at, width, value, field) => {
      const error = refusal(() => decodeHeader(spoiledHeader([[at, width, value]])));
      expect(error).toEqual({ code, clause, field, hostOffset: at });
    },
  );

  it('[HDR-004, LIM-002] with a backing file name of 1024 bytes', () => {
    const spoiled = spoiledHeader([
      [8, 8, 200n],
      [16, 4, 1024],
    ]);
    expect(refusal(() => decodeHeader(spoiled))).toMatchObject({ clause: 'HDR-004', hostOffset: 16 });
    const longest = sampleHeader({ backingFileName: 'n'.repeat(1023) });
    expect(decodeHeader(encodeHeader(longest)).backingFileName).toHaveLength(1023);
    expect(refusal(() => encodeHeader({ ...longest, backingFileName: 'n'.repeat(1024) })).clause).toBe(
      'HDR-004',
    );
  });

  it.each([
    ['in the header', 111n, 4],
    ['beyond the cluster', 65533n, 4],
    ['far beyond the cluster', 2n ** 52n, 4],
  ])('[HDR-028] with the backing file name %s', (_what, offset, length) => {
    const spoiled = spoiledHeader([
      [8, 8, offset],
      [16, 4, length],
    ]);
    const error = { code: 'OVERLAP', clause: 'HDR-028', field: 'backingFileOffset', hostOffset: 8 };
    expect(refusal(() => decodeHeader(spoiled))).toEqual(error);
  });

  it('[HDR-025, FEA-004] where compression type and incompatible bit contradict each other', () => {
    const bit = incompatibleFeatures.compressionType;
    expect(refusal(() => decodeHeader(spoiledHeader([[104, 1, 1]])))).toMatchObject({ clause: 'HDR-025' });
    expect(refusal(() => decodeHeader(spoiledHeader([[72, 8, bit]])))).toMatchObject({ clause: 'HDR-025' });
    const both = decodeHeader(
      spoiledHeader([
        [72, 8, bit],
        [104, 1, 1],
      ]),
    );
    expect(both.compressionType).toBe(1);
  });

  it('[HDR-034] a compression type without a name is decoded', () => {
    const bit = incompatibleFeatures.compressionType;
    expect(
      decodeHeader(
        spoiledHeader([
          [72, 8, bit],
          [104, 1, 77],
        ]),
      ).compressionType,
    ).toBe(77);
  });

  it('[HDR-026] with extended L2 entries in clusters of less than 16 KiB', () => {
    const extended = { incompatibleFeatures: incompatibleFeatures.extendedL2, l1Entries: 4096 };
    expect(encodeHeader(sampleHeader({ ...extended, clusterBits: 14 }))).toHaveLength(16384);
    const error = refusal(() => encodeHeader(sampleHeader({ ...extended, clusterBits: 13 })));
    expect(error).toMatchObject({ code: 'BAD_FIELD', clause: 'HDR-026' });
  });

  it('[HDR-029] with raw external data and a backing file', () => {
    const changes = {
      incompatibleFeatures: incompatibleFeatures.externalDataFile,
      autoclearFeatures: autoclearFeatures.rawExternalData,
    };
    expect(encodeHeader(sampleHeader(changes))).toHaveLength(65536);
    const error = refusal(() => encodeHeader(sampleHeader({ ...changes, backingFileName: 'b' })));
    expect(error.clause).toBe('HDR-029');
  });

  it('a header length that does not hold what the header has is the caller error', () => {
    const cases = [
      sampleHeader({ headerLengthBytes: 104 }),
      sampleHeader({ headerLengthBytes: 112, unknownHeaderBytes: new Uint8Array(8) }),
      sampleHeader({ headerLengthBytes: 104, unknownHeaderBytes: new Uint8Array(), compressionType: 1 }),
      sampleHeaderV2({ headerLengthBytes: 104 }),
    ];
    for (const header of cases) {
      expect(refusal(() => encodeHeader(header))).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
  });

  it('[EXT-008] never loses an extension of unknown type', () => {
    const extensions = [
      { type: 0xdeadbeef, data: ascii('one') },
      encodeBackingFormat('qcow2'),
      { type: 0xdeadbeef, data: ascii('two') },
      { type: headerExtensionTypes.journal, data: new Uint8Array(8) },
    ];
    const bytes = encodeHeader(sampleHeader({ extensions }));
    expect(decodeHeader(bytes).extensions).toEqual(extensions);
  });
});
