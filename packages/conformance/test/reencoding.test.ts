/** What was decoded from a golden vector encodes to the bytes that QEMU wrote. */
import {
  classifyL2Entry,
  clusterKind,
  decodeBackingFormat,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeExternalDataFile,
  decodeFeatureNames,
  encodeBackingFormat,
  encodeBitmapDirectory,
  encodeBitmapsExtension,
  encodeEncryptionHeaderPointer,
  encodeExternalDataFile,
  encodeFeatureNames,
  encodeHeader,
  encodeSnapshotTable,
  type HeaderExtension,
  l2EntryBytes,
  readAllocatedSubclusters,
  readBitmapAllOnes,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
  readRefcountBlockOffset,
  readZeroSubclusters,
  writeBitmapTableEntry,
  writeCompressedEntry,
  writeExtendedEntry,
  writeL1Entry,
  writeRefcountTableEntry,
  writeStandardEntry,
  writeZeroEntry,
} from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type ImageWalk, type StructureKind, type Table, walkImage } from '../src/image-walk.ts';
import { loadVector, vectorNames } from '../src/vector.ts';

describe.each(vectorNames())('%s', (name) => {
  const { bytes } = loadVector(name);
  const walk = walkImage(bytes);

  it('[HDR-014, HDR-021, HDR-022, HDR-028, EXT-001, EXT-003, EXT-004, EXT-009, EXT-013] header, extensions and backing file name', () => {
    expectSame(encodeHeader(walk.header), bytes.slice(0, walk.clusterBytes));
  });

  it('[EXT-002, EXT-008, FNT-001, FNT-002, FNT-003, FNT-004] the data of each header extension', () => {
    const again = walk.header.extensions.map((extension) => encodeAgain(extension));
    expect(again).toEqual(walk.header.extensions);
  });

  it('[SNP-001, SNP-015, BMD-001, BMD-016] snapshot table and bitmap directory', () => {
    // The padding of the last snapshot counts to no structure; where the file ends before it, it is not there.
    const { snapshots, bitmaps, header, clusterBytes } = walk;
    if (snapshots.length > 0) {
      const stored = stretch(walk, bytes, 'snapshot-table');
      expectSame(encodeSnapshotTable(snapshots, header.version).slice(0, stored.length), stored);
    }
    if (bitmaps.length > 0) {
      expectSame(encodeBitmapDirectory(bitmaps, clusterBytes), stretch(walk, bytes, 'bitmap-directory'));
    }
    const hasTables = walk.structures.some(
      ({ kind }) => kind === 'snapshot-table' || kind === 'bitmap-directory',
    );
    expect(hasTables).toBe(snapshots.length + bitmaps.length > 0);
  });

  it('[RCT-003, RCT-004, RCB-003, RCB-004] refcount table and blocks', () => {
    rewrite(walk.refcountTable, 8, (from, to, at) => {
      writeRefcountTableEntry(to, at, readRefcountBlockOffset(from, at));
    });
    for (const block of walk.refcountBlocks.values()) {
      const copy = new DataView(new ArrayBuffer(block.view.byteLength));
      for (let index = 0; index < walk.refcounts.entriesPerBlock(walk.clusterBytes); index++) {
        const refcount = walk.refcounts.get(block.view, index);
        if (refcount !== 0) walk.refcounts.set(copy, index, refcount);
      }
      expectSame(bytesOf(copy), bytesOf(block.view));
    }
  });

  it('[L1E-002, L2E-007, CMP-001, CMP-003] L1 and L2 tables', () => {
    for (const mapping of [walk.active, ...walk.snapshotMappings]) {
      rewrite(mapping.l1, 8, (from, to, at) => {
        writeL1Entry(to, at, readEntryOffset(from, at), readEntryCopied(from, at));
      });
      for (const table of mapping.l2.values()) {
        rewrite(table, l2EntryBytes(walk.l2Format), (from, to, at) => rewriteL2Entry(walk, from, to, at));
      }
    }
  });

  it('[BMT-003, BMT-004] bitmap tables', () => {
    for (const table of walk.bitmapTables) {
      rewrite(table, 8, (from, to, at) => {
        writeBitmapTableEntry(to, at, readEntryOffset(from, at), readBitmapAllOnes(from, at));
      });
    }
    expect(walk.bitmapTables).toHaveLength(walk.bitmaps.length);
  });
});

/** Encode what the extension's data decodes to; a type without a codec is an error of the vector. */
function encodeAgain({ type, data }: HeaderExtension): HeaderExtension | undefined {
  switch (type) {
    case headerExtensionTypes.backingFormat:
      return encodeBackingFormat(decodeBackingFormat(data));
    case headerExtensionTypes.externalDataFile:
      return encodeExternalDataFile(decodeExternalDataFile(data));
    case headerExtensionTypes.featureNameTable:
      return encodeFeatureNames(decodeFeatureNames(data));
    case headerExtensionTypes.bitmaps:
      return encodeBitmapsExtension(decodeBitmapsExtension(data));
    case headerExtensionTypes.fullDiskEncryption:
      return encodeEncryptionHeaderPointer(decodeEncryptionHeaderPointer(data));
    default:
      return undefined;
  }
}

/** Write every entry that is not all zeros into a table of zeros, and compare. */
function rewrite(
  table: Table,
  entryBytes: number,
  write: (from: DataView, to: DataView, at: number) => void,
): void {
  const { view } = table;
  const copy = new DataView(new ArrayBuffer(view.byteLength));
  for (let at = 0; at < view.byteLength; at += entryBytes) {
    let word = 0;
    for (let i = 0; i < entryBytes; i += 4) word |= view.getUint32(at + i);
    if (word !== 0) write(view, copy, at);
  }
  expectSame(bytesOf(copy), bytesOf(view));
}

function rewriteL2Entry({ l2Format, header }: ImageWalk, from: DataView, to: DataView, at: number): void {
  const kind = classifyL2Entry(from, at, l2Format);
  const hostOffset = readEntryOffset(from, at);
  const copied = readEntryCopied(from, at);
  if (kind === clusterKind.compressed) {
    const { clusterBits } = header;
    const compressedAt = readCompressedOffset(from, at, clusterBits);
    const lengthBytes = readCompressedLengthBytes(from, at, clusterBits);
    writeCompressedEntry(to, at, clusterBits, compressedAt, lengthBytes);
  } else if (l2Format.extended) {
    const allocated = readAllocatedSubclusters(from, at);
    writeExtendedEntry(to, at, hostOffset, copied, allocated, readZeroSubclusters(from, at));
  } else if (kind === clusterKind.standard) {
    writeStandardEntry(to, at, hostOffset, copied);
  } else {
    writeZeroEntry(to, at, hostOffset, copied);
  }
}

/** The stored bytes of the only structure of a kind, as many as the file has. */
function stretch(walk: ImageWalk, bytes: Uint8Array, kind: StructureKind): Uint8Array {
  const [first] = walk.structures.filter((structure) => structure.kind === kind);
  return bytes.slice(first?.at, (first?.at ?? 0) + (first?.lengthBytes ?? 0));
}

function bytesOf(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** As `toEqual`, without spelling out a table of 32 MiB where they differ. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  expect(actual.length).toBe(expected.length);
  if (Buffer.compare(actual, expected) === 0) return;
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  expect([at, ...actual.slice(at, at + 32)]).toEqual([at, ...expected.slice(at, at + 32)]);
}
