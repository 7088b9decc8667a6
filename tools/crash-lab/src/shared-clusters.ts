/**
 * Images whose clusters something else refers to as well, made by hand out of an ordinary one: what the driver
 * can not make itself, and must copy out of when it writes.
 *
 * - `twins`: pairs of guest clusters that lead to one host cluster. A write into one must leave the other.
 * - `snapshot`: an internal snapshot of all that stands there. It refers to the same L2 tables, and so, once
 *   more, to every data cluster; nothing that a guest does may change what it shows (`frozenContent`).
 *
 * Both are what `qemu-img check` calls clean: refcounts that say how many refer, and no COPIED flag where it is
 * more than one. Whole images in memory: they are tiny.
 */
import {
  decodeSnapshotTable,
  encodeHeader,
  encodeSnapshotTable,
  l2EntryBytes,
  l2FormatOf,
  readEntryOffset,
  writeEntryCopied,
  writeL1Entry,
  writeStandardEntry,
} from '@qcow2/codec';
import { InvariantError } from '@qcow2/spec';
import { ImageBytes } from './image-bytes.ts';

export type Sharing = 'none' | 'twins' | 'snapshot';

/** Guest clusters that share: the second leads to the host cluster of the first. */
export const twinPairs: readonly (readonly [number, number])[] = [
  [0, 1],
  [5, 6],
];

/** L2 tables of the active disk that lie wholly behind its end. */
export function tablesBehindEnd(bytes: Uint8Array<ArrayBuffer>): number {
  const image = new ImageBytes(bytes);
  const { header, clusterBytes } = image;
  const tableBytes = (clusterBytes / l2EntryBytes(l2FormatOf(header))) * clusterBytes;
  let count = 0;
  for (let index = Math.ceil(header.sizeBytes / tableBytes); index < header.l1Entries; index++) {
    if (readEntryOffset(image.view, header.l1Offset + index * 8) !== 0) count++;
  }
  return count;
}

/** @returns the image with clusters shared; `bytes` itself may be changed */
export function shareClusters(
  bytes: Uint8Array<ArrayBuffer>,
  sharing: Exclude<Sharing, 'none'>,
): Uint8Array<ArrayBuffer> {
  const image = new ImageBytes(bytes);
  if (sharing === 'twins') for (const [left, right] of twinPairs) makeTwins(image, left, right);
  else takeSnapshot(image);
  return image.bytes;
}

function makeTwins(image: ImageBytes, left: number, right: number): void {
  const [from, to] = [image.entryAt(left), image.entryAt(right)];
  const host = readEntryOffset(image.view, from);
  const before = readEntryOffset(image.view, to);
  if (before !== 0) image.count(before / image.clusterBytes, -1);
  image.count(host / image.clusterBytes, 1);
  writeStandardEntry(image.view, from, host, false);
  writeStandardEntry(image.view, to, host, false);
}

function takeSnapshot(image: ImageBytes): void {
  const { header, clusterBytes } = image;
  for (const { at } of image.entries(header.l1Offset, header.l1Entries)) {
    const host = readEntryOffset(image.view, at);
    if (host === 0) continue;
    image.count(host / clusterBytes, 1);
    writeEntryCopied(image.view, at, false);
  }
  for (let index = 0; index < header.l1Entries; index++) {
    const at = header.l1Offset + index * 8;
    const table = readEntryOffset(image.view, at);
    if (table === 0) continue;
    image.count(table / clusterBytes, 1);
    writeL1Entry(image.view, at, table, false);
  }
  const l1Offset = image.append(image.bytes.slice(header.l1Offset, header.l1Offset + header.l1Entries * 8));
  const table = encodeSnapshotTable(
    [
      {
        l1Offset,
        l1Entries: header.l1Entries,
        id: '1',
        name: 'before',
        dateSeconds: 0,
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
  header.snapshotsOffset = image.append(table);
  header.snapshotCount = 1;
  image.bytes.set(encodeHeader(header));
}

/** What the snapshot of `takeSnapshot` shows, in an image without backing file. */
export function frozenContent(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
  const image = new ImageBytes(bytes);
  const { header, clusterBytes } = image;
  const table = bytes.subarray(header.snapshotsOffset);
  const options = { hostOffset: header.snapshotsOffset, clusterBytes };
  const snapshot = decodeSnapshotTable(table, header.snapshotCount, options).snapshots[0];
  if (snapshot === undefined) throw new InvariantError('the snapshot is gone');
  const content = new Uint8Array(snapshot.diskSizeBytes ?? header.sizeBytes);
  for (const { guestCluster, at } of image.entries(snapshot.l1Offset, snapshot.l1Entries)) {
    const host = readEntryOffset(image.view, at);
    if (host !== 0) content.set(bytes.subarray(host, host + clusterBytes), guestCluster * clusterBytes);
  }
  return content;
}
