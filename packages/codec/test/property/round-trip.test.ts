/** What is encoded decodes to the same, and what is decoded encodes to the same bytes. */
import {
  classifyL2Entry,
  clusterKind,
  decodeBitmapDirectory,
  decodeHeader,
  decodeName,
  decodeSnapshotTable,
  encodeBitmapDirectory,
  encodeHeader,
  encodeName,
  encodeSnapshotTable,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryOffset,
  refcountCodec,
  writeCompressedEntry,
  writeStandardEntry,
  writeZeroEntry,
} from '@qcow2/codec';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bitmaps, header, snapshot } from '../support/arbitraries.ts';

describe('round trips', () => {
  it('[HDR-021, HDR-030, EXT-008, FEA-009] headers', () => {
    fc.assert(
      fc.property(header, (value) => {
        const bytes = encodeHeader(value);
        const {
          backingFileOffset: _offset,
          backingFileLengthBytes: _length,
          ...decoded
        } = decodeHeader(bytes);
        const { backingFileOffset: _0, backingFileLengthBytes: _1, ...expected } = value;
        expect(decoded).toEqual(expected);
        expect(Buffer.compare(encodeHeader(decodeHeader(bytes)), bytes)).toBe(0);
      }),
    );
  });

  it('[SNP-001, SNP-011] snapshot tables', () => {
    fc.assert(
      fc.property(fc.array(snapshot, { maxLength: 6 }), (snapshots) => {
        const bytes = encodeSnapshotTable(snapshots, 3);
        expect(decodeSnapshotTable(bytes, snapshots.length).snapshots).toEqual(snapshots);
      }),
    );
  });

  it('[BMD-001, BMD-013] bitmap directories', () => {
    fc.assert(
      fc.property(bitmaps, (entries) => {
        const bytes = encodeBitmapDirectory(entries, 65536);
        expect(decodeBitmapDirectory(bytes, entries.length, { clusterBytes: 65536 })).toEqual(entries);
      }),
    );
  });

  it('names, from any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        expect(encodeName(decodeName(bytes))).toEqual(bytes);
      }),
    );
  });
});

describe('entries in place', () => {
  const clusterBits = fc.integer({ min: 9, max: 21 });
  const view = () => new DataView(new ArrayBuffer(16));

  it('[L2E-005, L2E-006, L2E-008] standard and zero clusters keep their offset', () => {
    fc.assert(
      fc.property(clusterBits, fc.nat(2 ** 31 - 1), fc.boolean(), (bits, cluster, copied) => {
        const format = { clusterBits: bits, version: 3, extended: false, externalData: false };
        const hostOffset = (cluster + 1) * 2 ** bits;
        const entry = view();
        writeStandardEntry(entry, 8, hostOffset, copied);
        expect(readEntryOffset(entry, 8)).toBe(hostOffset);
        expect(classifyL2Entry(entry, 8, format)).toBe(clusterKind.standard);
        writeZeroEntry(entry, 8, hostOffset, copied);
        expect(readEntryOffset(entry, 8)).toBe(hostOffset);
        expect(classifyL2Entry(entry, 8, format)).toBe(clusterKind.zeroAllocated);
        expect(entry.getBigUint64(0)).toBe(0n);
      }),
    );
  });

  it('[CMP-001, CMP-002, CMP-003] compressed clusters keep their offset and cover their data', () => {
    const place = clusterBits.chain((bits) =>
      fc.tuple(fc.constant(bits), fc.nat(2 ** 48), fc.integer({ min: 1, max: 2 ** bits })),
    );
    fc.assert(
      fc.property(place, ([bits, hostOffset, lengthBytes]) => {
        const entry = view();
        writeCompressedEntry(entry, 0, bits, hostOffset, lengthBytes);
        expect(readCompressedOffset(entry, 0, bits)).toBe(hostOffset);
        const covered = readCompressedLengthBytes(entry, 0, bits);
        expect(covered).toBeGreaterThanOrEqual(lengthBytes);
        expect(covered).toBeLessThan(lengthBytes + 512);
      }),
    );
  });

  it('[RCB-002, RCB-003, RCB-004] refcounts are independent of each other, at every width', () => {
    const order = fc.integer({ min: 0, max: 6 });
    const writes = fc.array(fc.tuple(fc.nat(63), fc.maxSafeNat()), { maxLength: 60 });
    fc.assert(
      fc.property(order, writes, (widthOrder, sets) => {
        const codec = refcountCodec(widthOrder);
        const block = new DataView(new ArrayBuffer(512));
        const model = new Array<number>(64).fill(0);
        for (const [index, number] of sets) {
          const value = number % (codec.maxValue + 1) || codec.maxValue;
          codec.set(block, index, value);
          model[index] = value;
        }
        expect(model.map((_, index) => codec.get(block, index))).toEqual(model);
      }),
    );
  });
});
