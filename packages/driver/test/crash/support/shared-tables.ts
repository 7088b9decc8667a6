/**
 * An internal snapshot, made by hand in a closed image: the L1 table is copied, everything that it leads to is
 * counted twice, and the active tables lose their "copied" flags. So every later write meets tables and clusters
 * that are shared, as after `qemu-img snapshot -c`. For images with 16-bit refcounts of which one block covers all.
 */
import type { MemoryDevice } from '@qcow2/block-device';
import {
  decodeHeader,
  encodeHeader,
  encodeSnapshotTable,
  readEntryOffset,
  readRefcountBlockOffset,
  writeEntryCopied,
} from '@qcow2/codec';

/** The image's bytes are changed in place. */
export function addSnapshot(image: MemoryDevice): void {
  const head = new Uint8Array(512);
  image.read(0, head);
  const clusterBytes = 2 ** new DataView(head.buffer).getUint32(20);
  const cluster = (offset: number): Uint8Array => {
    const bytes = new Uint8Array(clusterBytes);
    image.read(offset, bytes.subarray(0, Math.min(clusterBytes, image.sizeBytes - offset)));
    return bytes;
  };
  const header = decodeHeader(cluster(0), image.sizeBytes);
  const blockOffset = readRefcountBlockOffset(view(cluster(header.refcountTableOffset)), 0);
  const block = cluster(blockOffset);
  const counts = view(block);
  const count = (offset: number, by: number): void => {
    const at = (offset / clusterBytes) * 2;
    counts.setUint16(at, counts.getUint16(at) + by);
  };
  const l1 = new Uint8Array(Math.ceil((header.l1Entries * 8) / clusterBytes) * clusterBytes);
  image.read(header.l1Offset, l1);
  for (let index = 0; index < header.l1Entries; index++) {
    const tableOffset = readEntryOffset(view(l1), index * 8);
    if (tableOffset === 0) continue;
    writeEntryCopied(view(l1), index * 8, false);
    count(tableOffset, 1);
    const table = cluster(tableOffset);
    for (let at = 0; at < clusterBytes; at += 8) {
      const offset = readEntryOffset(view(table), at);
      if (offset === 0) continue;
      writeEntryCopied(view(table), at, false);
      count(offset, 1);
    }
    image.write(tableOffset, table);
  }
  image.write(header.l1Offset, l1);
  // New clusters behind the end of the file, which the one refcount block must cover.
  const copyOffset = Math.ceil(image.sizeBytes / clusterBytes) * clusterBytes;
  image.write(copyOffset, l1);
  for (let at = 0; at < l1.length; at += clusterBytes) count(copyOffset + at, 1);
  const tableOffset = copyOffset + l1.length;
  const snapshots = encodeSnapshotTable(
    [
      {
        l1Offset: copyOffset,
        l1Entries: header.l1Entries,
        id: '1',
        name: 'before',
        dateSeconds: 1,
        dateNanoseconds: 0,
        vmClockNanoseconds: 0n,
        vmStateLengthBytes: 0,
        vmStateInExtraData: true,
        diskSizeBytes: header.sizeBytes,
        unknownExtraData: new Uint8Array(0),
      },
    ],
    header.version,
  );
  const padded = new Uint8Array(Math.ceil(snapshots.length / clusterBytes) * clusterBytes);
  padded.set(snapshots);
  image.write(tableOffset, padded);
  for (let at = 0; at < padded.length; at += clusterBytes) count(tableOffset + at, 1);
  image.write(blockOffset, block);
  header.snapshotCount = 1;
  header.snapshotsOffset = tableOffset;
  image.write(0, encodeHeader(header));
}

/**
 * What a snapshot shared is shared with nobody, and counted once: all but the flags that say so. A write then frees
 * what it copies from.
 */
export function dropSnapshot(image: MemoryDevice): void {
  const head = new Uint8Array(512);
  image.read(0, head);
  const clusterBytes = 2 ** view(head).getUint32(20);
  const bytes = new Uint8Array(clusterBytes);
  image.read(0, bytes);
  const header = decodeHeader(bytes, image.sizeBytes);
  const table = new Uint8Array(clusterBytes);
  image.read(header.refcountTableOffset, table);
  const blockOffset = readRefcountBlockOffset(view(table), 0);
  const block = new Uint8Array(clusterBytes);
  image.read(blockOffset, block);
  const counts = view(block);
  for (let at = 0; at < clusterBytes; at += 2) {
    if (counts.getUint16(at) === 2) counts.setUint16(at, 1);
  }
  image.write(blockOffset, block);
  header.snapshotCount = 0;
  header.snapshotsOffset = 0;
  image.write(0, encodeHeader(header));
}

/** A copy of the image whose active table is that of the snapshot: what it shows is the snapshot's disk. */
export function snapshotView(image: MemoryDevice): MemoryDevice {
  const twin = image.clone();
  const bytes = new Uint8Array(512);
  twin.read(0, bytes);
  const head = view(bytes);
  const table = new Uint8Array(16);
  twin.read(Number(head.getBigUint64(64)), table);
  // Entry of the snapshot table: host offset and length of its L1 table.
  head.setBigUint64(40, view(table).getBigUint64(0));
  twin.write(0, bytes);
  return twin;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
