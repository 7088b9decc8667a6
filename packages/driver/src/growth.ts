/**
 * The disk's size and the L1 table in the header: one change makes the one larger, or both.
 *
 * A new table is written whole, with what the old one means now, into clusters that nobody refers to; then
 * one change of the header's first sector names size and table, and drops the old one. A crash before it is
 * durable finds the old disk, after it the new one. Changes of the old table that still wait in the log are in
 * the new one's content, and revoked. Holds: the write lock.
 */
import type { Task } from '@qcow2/block-device';
import { l1EntriesFor, type Qcow2Header } from '@qcow2/codec';
import { qcow2Limits, StateError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { MetadataUpdate } from './metadata-update.ts';

/** Header bytes from the disk's size to the end of the L1 table's offset (HDR-006 and the three after it). */
const sizeAt = 24;

export interface DiskChange {
  /** The size that the header shows from now on. */
  readonly sizeBytes: number;
  /** The L1 table reaches at least as far as a disk of this size needs. */
  readonly reachBytes: number;
  /** The operation that this completes. */
  readonly intentDone?: number | undefined;
}

/** @throws INVALID_ARGUMENT beyond what an L1 table of 32 MiB reaches */
export function l1EntriesNeeded(header: Qcow2Header, sizeBytes: number): number {
  const entries = l1EntriesFor({ ...header, sizeBytes });
  if (entries * 8 <= qcow2Limits.maxL1TableBytes) return entries;
  throw new StateError('INVALID_ARGUMENT', 'too large for this cluster size: the L1 table may have 32 MiB', {
    field: 'sizeBytes',
    value: sizeBytes,
    clause: 'LIM-002',
  });
}

/**
 * Not durable on return; in the log behind all that was submitted before, and after a flush.
 * @throws INVALID_ARGUMENT beyond what an L1 table of 32 MiB reaches
 */
export function* changeDisk(
  core: ImageCore,
  allocator: Allocator,
  update: MetadataUpdate,
  change: DiskChange,
): Task<void> {
  const { header, clusterBytes } = core;
  const { sizeBytes, intentDone } = change;
  const entries = l1EntriesNeeded(header, change.reachBytes);
  const old = { offset: header.l1Offset, lengthBytes: header.l1Entries * 8 };
  const oldClusters = Math.ceil(old.lengthBytes / clusterBytes);
  let table = { offset: old.offset, entries: header.l1Entries };
  let l1 = core.l1;
  if (entries > header.l1Entries) {
    const count = Math.ceil((entries * 8) / clusterBytes);
    refuseTooLarge(core, count + oldClusters, 'the L1 table of a disk of this size', change.reachBytes);
    const first = yield* allocator.allocateRow(count);
    const content = new Uint8Array(count * clusterBytes);
    content.set(new Uint8Array(core.l1.buffer, core.l1.byteOffset, old.lengthBytes));
    yield* core.writeInPlace(first * clusterBytes, content, 'l1_grow_write_table');
    for (let i = 0; i < count; i++) update.addReference(first + i);
    for (let i = 0; i < oldClusters; i++) update.dropReference(old.offset / clusterBytes + i);
    if (oldClusters > 0) update.revoke(old.offset, oldClusters * clusterBytes);
    table = { offset: first * clusterBytes, entries };
    l1 = new DataView(content.buffer, 0, entries * 8);
  }
  const disk = { sizeBytes, l1Offset: table.offset, l1 };
  writeDisk(core, update, disk);
  yield* update.submit({ required: true, afterData: true, intentDone });
  adoptDisk(core, disk);
}

/** What the header says of the disk, and the table that it leads to. */
export interface DiskTable {
  readonly sizeBytes: number;
  readonly l1Offset: number;
  readonly l1: DataView;
}

/** Put a size and an L1 table into the header, with the change. */
export function writeDisk({ header }: ImageCore, update: MetadataUpdate, disk: DiskTable): void {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(disk.sizeBytes));
  view.setUint32(8, header.cryptMethod);
  view.setUint32(12, disk.l1.byteLength / 8);
  view.setBigUint64(16, BigInt(disk.l1Offset));
  update.writeBytes(2, sizeAt, bytes);
}

/** That change is submitted: from now on the image means it. */
export function adoptDisk(core: ImageCore, { sizeBytes, l1Offset, l1 }: DiskTable): void {
  core.header.sizeBytes = sizeBytes;
  core.header.l1Entries = l1.byteLength / 8;
  core.header.l1Offset = l1Offset;
  core.l1 = l1;
}

/** What else the change has: the header's fields, revokes, heads of descriptors. */
const fixedBytes = 512;

/**
 * The refcounts of so many clusters, of an old table and a new one, change together, in one record: it must fit.
 * @throws INVALID_ARGUMENT where the journal is too small for it; nothing was changed
 */
export function refuseTooLarge(core: ImageCore, clusters: number, what: string, sizeBytes?: number): void {
  const bytes = clusters * Math.max(1, core.refcounts.widthBits / 8) + fixedBytes;
  // A record takes a quarter of the ring, four times what one operation submits otherwise.
  if (bytes <= 4 * core.log.changeBytes) return;
  const message = `the journal is too small for ${what}: give it a larger size first`;
  throw new StateError('INVALID_ARGUMENT', message, {
    field: sizeBytes === undefined ? undefined : 'sizeBytes',
    value: sizeBytes,
    clause: 'JRN-FAIL-003',
  });
}
