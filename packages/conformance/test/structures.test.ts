/** Single structures of golden vectors: bytes at their places, and data that the mapping of the guest does not reach. */
import {
  decodeEncryptionHeaderPointer,
  decodeFeatureNames,
  findHeaderExtension,
  readBitmapAllOnes,
  readEntryOffset,
} from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type ImageWalk, walkImage } from '../src/image-walk.ts';
import { loadVector, vectorNames } from '../src/vector.ts';

const load = (name: string) => {
  const { bytes, manifest } = loadVector(name);
  return { bytes, manifest, walk: walkImage(bytes), view: new DataView(bytes.buffer) };
};
const KiB = 1024;
const MiB = 1024 * KiB;

describe('header', () => {
  it.each(vectorNames())(
    '[IMG-001, IMG-004, HDR-001, HDR-002, HDR-014, HDR-019, HDR-023] bytes of %s',
    (name) => {
      const { view, manifest } = load(name);
      const { compat } = manifest.qemu.info['format-specific'].data;
      const { header } = walkImage(new Uint8Array(view.buffer));
      expect([view.getUint8(0), view.getUint8(1), view.getUint8(2), view.getUint8(3)]).toEqual([
        0x51, 0x46, 0x49, 0xfb,
      ]);
      expect([view.getUint32(4), header.version]).toEqual(compat === '0.10' ? [2, 2] : [3, 3]);
      expect([2 ** view.getUint32(20), view.getUint32(24) * 2 ** 32 + view.getUint32(28)]).toEqual([
        manifest.qemu.info['cluster-size'],
        manifest.qemu.info['virtual-size'],
      ]);
      if (header.version === 2) {
        expect(header).toMatchObject({
          headerLengthBytes: 72,
          refcountOrder: 4,
          compressionType: 0,
          incompatibleFeatures: 0n,
          compatibleFeatures: 0n,
          autoclearFeatures: 0n,
        });
      } else {
        expect(header.headerLengthBytes).toBe(view.getUint32(100));
        expect(header.headerLengthBytes % 8).toBe(0);
        expect(header.headerLengthBytes).toBeGreaterThanOrEqual(104);
      }
    },
  );

  it.each(vectorNames())('[IMG-005, HDR-032, HDR-033] structures of %s do not overlap', (name) => {
    const { walk, bytes } = load(name);
    const fileEnd = Math.ceil(bytes.length / walk.clusterBytes) * walk.clusterBytes;
    let end = 0;
    for (const structure of walk.structures.toSorted((a, b) => a.at - b.at)) {
      expect(structure.at).toBeGreaterThanOrEqual(end);
      end = structure.at + structure.lengthBytes;
      expect(end).toBeLessThanOrEqual(fileEnd);
    }
  });

  it('[FNT-001, FNT-002, FNT-003, FNT-004] names the features that QEMU 7.2 knows', () => {
    const { header } = load('v3-64k').walk;
    const table = findHeaderExtension(header.extensions, headerExtensionTypes.featureNameTable);
    expect(decodeFeatureNames(table ?? new Uint8Array())).toEqual([
      { type: 0, bit: 0, name: 'dirty bit' },
      { type: 0, bit: 1, name: 'corrupt bit' },
      { type: 0, bit: 2, name: 'external data file' },
      { type: 0, bit: 3, name: 'compression type' },
      { type: 0, bit: 4, name: 'extended L2 entries' },
      { type: 1, bit: 0, name: 'lazy refcounts' },
      { type: 2, bit: 0, name: 'bitmaps' },
      { type: 2, bit: 1, name: 'raw external data' },
    ]);
  });
});

describe('encryption header', () => {
  it.each(['luks', 'luks-512'])('[FDE-001, FDE-002, FDE-003, FDE-004] of %s', (name) => {
    const { walk, view, bytes, manifest } = load(name);
    const data = findHeaderExtension(walk.header.extensions, headerExtensionTypes.fullDiskEncryption);
    const pointer = decodeEncryptionHeaderPointer(data ?? new Uint8Array(), {
      clusterBytes: walk.clusterBytes,
    });
    expect(data).toHaveLength(16);
    expect(
      Buffer.from(bytes.subarray(pointer.headerOffset, pointer.headerOffset + 6)).toString('latin1'),
    ).toBe('LUKS\u00ba\u00be');
    // The payload offset of the LUKS header, in sectors, is where the header ends.
    expect(pointer.headerLengthBytes).toBe(view.getUint32(pointer.headerOffset + 104) * 512);
    expect(pointer.headerLengthBytes).toBe(
      manifest.qemu.info['format-specific'].data.encrypt?.['payload-offset'],
    );
    const end = pointer.headerOffset + pointer.headerLengthBytes;
    const wholeEnd = Math.ceil(end / walk.clusterBytes) * walk.clusterBytes;
    expect(bytes.subarray(end, wholeEnd).every((byte) => byte === 0)).toBe(true);
  });

  it.each(['aes', 'aes-v2', 'v3-64k'])('[FDE-002] is not there in %s', (name) => {
    const { extensions } = load(name).walk.header;
    expect(findHeaderExtension(extensions, headerExtensionTypes.fullDiskEncryption)).toBeUndefined();
  });
});

describe('bitmaps', () => {
  /** By vector and bitmap: the ranges that were written while it was enabled, which its bits must cover and no others. */
  const written: readonly (readonly [string, string, readonly (readonly [number, number])[]])[] = [
    ['bitmap-empty', 'first', []],
    [
      'bitmap-recorded',
      'writes',
      [
        [0, 64 * KiB],
        [5 * MiB, 4 * KiB],
        [7 * MiB, 64 * KiB],
      ],
    ],
    ['bitmap-several', 'b0', [[MiB, 128 * KiB]]],
    [
      'bitmap-several',
      'größe',
      [
        [MiB, 128 * KiB],
        [3 * MiB, 4 * KiB],
      ],
    ],
    ['bitmap-several', 'off', []],
    ['bitmap-several', 'merged', [[MiB, 128 * KiB]]],
    ['bitmap-several', 'cleared', []],
    [
      'bitmap-large-table',
      'fine',
      [
        [MiB, 512],
        [63 * MiB, KiB],
      ],
    ],
    ['bitmap-and-snapshot', 'since-base', [[4 * KiB, 4 * KiB]]],
  ];

  it.each(written)(
    '[BMD-002, BMD-003, BMD-010, BMT-001, BMT-002, BMT-004, BMT-005, BMP-001, BMP-002, BMP-003] %s: %s',
    (vector, name, ranges) => {
      const { walk, bytes } = load(vector);
      const index = walk.bitmaps.findIndex((bitmap) => bitmap.name === name);
      const granuleBytes = 2 ** (walk.bitmaps[index]?.granularityBits ?? 0);
      const expected = ranges.flatMap(([offset, lengthBytes]) => {
        const first = Math.floor(offset / granuleBytes);
        const last = Math.floor((offset + lengthBytes - 1) / granuleBytes);
        return Array.from({ length: last - first + 1 }, (_, i) => first + i);
      });
      const data = bitmapData(walk, bytes, index);
      expect(setBits(data)).toEqual(expected);
      const bits = Math.ceil(walk.header.sizeBytes / granuleBytes);
      expect(data.length).toBe(Math.ceil(bits / 8 / walk.clusterBytes) * walk.clusterBytes);
    },
  );

  it('one is marked in use where QEMU was killed', () => {
    const [lost] = load('bitmap-in-use').walk.bitmaps;
    expect([lost?.name, (lost?.flags ?? 0) & 1]).toEqual(['lost', 1]);
  });
});

/** The data of a bitmap, all clusters of its table. */
function bitmapData(walk: ImageWalk, bytes: Uint8Array, index: number): Uint8Array {
  const view = walk.bitmapTables[index]?.view ?? new DataView(new ArrayBuffer(0));
  const data = new Uint8Array((view.byteLength / 8) * walk.clusterBytes);
  for (let at = 0; at < view.byteLength; at += 8) {
    const cluster = data.subarray((at / 8) * walk.clusterBytes, (at / 8 + 1) * walk.clusterBytes);
    const offset = readEntryOffset(view, at);
    if (offset !== 0) cluster.set(bytes.subarray(offset, offset + walk.clusterBytes));
    else if (readBitmapAllOnes(view, at)) cluster.fill(0xff);
  }
  return data;
}

function setBits(data: Uint8Array): number[] {
  const set: number[] = [];
  data.forEach((byte, index) => {
    for (let bit = 0; bit < 8; bit++) if (((byte >>> bit) & 1) === 1) set.push(index * 8 + bit);
  });
  return set;
}
