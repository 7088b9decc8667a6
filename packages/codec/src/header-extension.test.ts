import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import {
  ascii,
  refusal,
  sampleHeader,
  sampleHeaderV2,
  spoiledHeader,
  viewOf,
} from '../test/support/samples.ts';
import { decodeHeader, encodeHeader } from './header.ts';
import {
  decodeBackingFormat,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeExternalDataFile,
  decodeHeaderExtensions,
  encodeBackingFormat,
  encodeBitmapsExtension,
  encodeEncryptionHeaderPointer,
  encodeExternalDataFile,
  encodeHeaderExtensions,
  findHeaderExtension,
} from './header-extension.ts';

const one = { type: 0x11111111, data: ascii('one') };
const eight = { type: 0x22222222, data: ascii('12345678') };

describe('the extension area', () => {
  it('[EXT-001, EXT-002, EXT-003, EXT-004, EXT-009] is heads, data and zero padding, then the end marker', () => {
    const bytes = encodeHeaderExtensions([one, eight]);
    const head = (type: number, length: number) => [type, type, type, type, 0, 0, 0, length];
    const expected = [
      ...[...head(0x11, 3), ...ascii('one'), 0, 0, 0, 0, 0],
      ...[...head(0x22, 8), ...ascii('12345678')],
      ...head(0, 0),
    ];
    expect(bytes).toEqual(Uint8Array.from(expected));
    expect(decodeHeaderExtensions(bytes, 0, bytes.length)).toEqual({ extensions: [one, eight], endsAt: 40 });
  });

  it('[EXT-004] what follows the end marker is not looked at', () => {
    const bytes = new Uint8Array(64).fill(0xff);
    bytes.set(encodeHeaderExtensions([one]));
    expect(decodeHeaderExtensions(bytes, 0, 64).extensions).toEqual([one]);
  });

  it('[EXT-009] padding may be anything', () => {
    const bytes = encodeHeaderExtensions([one]);
    bytes.fill(0xff, 11, 16);
    expect(decodeHeaderExtensions(bytes, 0, bytes.length).extensions).toEqual([one]);
  });

  it('[EXT-013] begins at byte 72 in version 2, behind the header in version 3', () => {
    const v2 = encodeHeader(sampleHeaderV2({ extensions: [one] }));
    const v3 = encodeHeader(sampleHeader({ extensions: [one], headerLengthBytes: 128 }));
    expect(viewOf(v2).getUint32(72)).toBe(one.type);
    expect(viewOf(v3).getUint32(128)).toBe(one.type);
    expect(decodeHeader(v2).extensions).toEqual([one]);
    expect(decodeHeader(v3).extensions).toEqual([one]);
  });

  it('[EXT-014] needs no end marker where it is full', () => {
    const bytes = encodeHeaderExtensions([one, eight]).subarray(0, 32);
    expect(decodeHeaderExtensions(bytes, 0, 32).extensions).toEqual([one, eight]);
    const directlyBehind = decodeHeader(
      spoiledHeader([
        [8, 8, 112n],
        [16, 4, 4],
        [112, 4, 0x62617365],
      ]),
    );
    expect(directlyBehind).toMatchObject({ backingFileName: 'base', extensions: [] });
  });

  it('[EXT-005] is refused where the file ends in it', () => {
    const bytes = encodeHeaderExtensions([one, eight]);
    for (let length = 0; length < bytes.length; length++) {
      const error = refusal(() => decodeHeaderExtensions(bytes.subarray(0, length), 0, 512));
      expect(error).toMatchObject({ code: 'TRUNCATED', clause: 'EXT-005' });
    }
  });

  it('[EXT-006] is refused where an extension reaches beyond it', () => {
    const bytes = encodeHeaderExtensions([one, eight]);
    const tooLong = bytes.slice();
    viewOf(tooLong).setUint32(20, 0xffffffff);
    const error = { code: 'OVERLAP', clause: 'EXT-006', field: 'lengthBytes', hostOffset: 16 };
    expect(refusal(() => decodeHeaderExtensions(tooLong, 0, 512))).toEqual(error);
    expect(refusal(() => decodeHeaderExtensions(bytes, 0, 31))).toEqual(error);
    expect(refusal(() => decodeHeaderExtensions(bytes, 0, 20))).toEqual(error);
  });

  it('[EXT-006] ends at the backing file name', () => {
    const bytes = encodeHeader(sampleHeader({ extensions: [one], backingFileName: 'b' }));
    viewOf(bytes).setUint32(116, 25);
    expect(refusal(() => decodeHeader(bytes))).toMatchObject({ code: 'OVERLAP', clause: 'EXT-006' });
  });

  it('[EXT-007] has each type that has a name at most once', () => {
    const twice = encodeHeaderExtensions([encodeBackingFormat('raw'), encodeBackingFormat('raw')]);
    const error = { code: 'BAD_FIELD', clause: 'EXT-007', field: 'type', hostOffset: 16 };
    expect(refusal(() => decodeHeaderExtensions(twice, 0, twice.length))).toEqual(error);
    const unknown = encodeHeaderExtensions([one, one]);
    expect(decodeHeaderExtensions(unknown, 0, unknown.length).extensions).toEqual([one, one]);
  });
});

describe('string extensions', () => {
  it('[EXT-010, EXT-012] the format of the backing file', () => {
    const extension = encodeBackingFormat('raw');
    expect(extension).toEqual({ type: 0xe2792aca, data: ascii('raw') });
    expect(decodeBackingFormat(extension.data)).toBe('raw');
  });

  it('[EXT-011, EXT-012] the name of the external data file', () => {
    const extension = encodeExternalDataFile('däta.raw');
    expect(extension).toEqual({ type: 0x44415441, data: ascii('däta.raw') });
    expect(decodeExternalDataFile(extension.data)).toBe('däta.raw');
  });

  it('are found by type', () => {
    const extensions = [one, encodeBackingFormat('raw')];
    expect(findHeaderExtension(extensions, headerExtensionTypes.backingFormat)).toEqual(ascii('raw'));
    expect(findHeaderExtension(extensions, headerExtensionTypes.bitmaps)).toBeUndefined();
  });
});

describe('the bitmaps extension', () => {
  const value = { bitmapCount: 3, directoryLengthBytes: 96, directoryOffset: 0x50000 };

  it('[BMX-001, BMX-002, BMX-003, BMX-004, BMX-005] is count, zeros, length and offset', () => {
    const { type, data } = encodeBitmapsExtension(value);
    expect(type).toBe(headerExtensionTypes.bitmaps);
    expect(data).toEqual(
      Uint8Array.of(0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 0, 0, 5, 0, 0),
    );
    expect(decodeBitmapsExtension(data)).toEqual(value);
  });

  it.each([
    ['BMX-002', 'BAD_FIELD', 3, 0, 1000],
    ['BMX-003', 'RESERVED_SET', 7, 1, 1004],
    ['BMX-005', 'BAD_ALIGNMENT', 23, 1, 1016],
    ['LIM-010', 'LIMIT_EXCEEDED', 11, 1, 1008],
  ])('[BMX-002, BMX-003, BMX-005, LIM-010] is refused: %s, %s', (clause, code, at, byte, hostOffset) => {
    const { data } = encodeBitmapsExtension(value);
    data[at] = byte;
    const error = refusal(() => decodeBitmapsExtension(data, { hostOffset: 1000, clusterBytes: 65536 }));
    expect(error).toMatchObject({ clause, code, hostOffset });
  });

  it('[LIM-009] counts at most 65535 bitmaps', () => {
    const most = encodeBitmapsExtension({ ...value, bitmapCount: 65535 });
    expect(decodeBitmapsExtension(most.data).bitmapCount).toBe(65535);
    expect(refusal(() => encodeBitmapsExtension({ ...value, bitmapCount: 65536 })).clause).toBe('BMX-002');
  });

  it('[BMX-001] has 24 bytes', () => {
    for (const length of [0, 23, 25]) {
      expect(refusal(() => decodeBitmapsExtension(new Uint8Array(length))).clause).toBe('BMX-001');
    }
  });
});

describe('the encryption header pointer', () => {
  const value = { headerOffset: 0x50000, headerLengthBytes: 2_068_480 };

  it('[FDE-001, FDE-003, FDE-004] is offset and length', () => {
    const { type, data } = encodeEncryptionHeaderPointer(value, 65536);
    expect(type).toBe(headerExtensionTypes.fullDiskEncryption);
    expect([...data]).toEqual([0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0x90, 0]);
    expect(decodeEncryptionHeaderPointer(data)).toEqual(value);
  });

  it('[FDE-001, FDE-003, LIM-014] is refused: another length, an unaligned offset, a header above 16 MiB', () => {
    const options = { clusterBytes: 65536, hostOffset: 500 };
    const { data } = encodeEncryptionHeaderPointer({ ...value, headerLengthBytes: 2 ** 24 });
    expect(decodeEncryptionHeaderPointer(data, options).headerLengthBytes).toBe(2 ** 24);
    expect(refusal(() => decodeEncryptionHeaderPointer(data.subarray(0, 15))).clause).toBe('FDE-001');
    data[15] = 1;
    expect(refusal(() => decodeEncryptionHeaderPointer(data, options))).toMatchObject({
      clause: 'LIM-014',
      hostOffset: 508,
    });
    data[7] = 1;
    expect(refusal(() => decodeEncryptionHeaderPointer(data, options))).toMatchObject({
      clause: 'FDE-003',
      hostOffset: 500,
    });
  });
});
