/**
 * Making the disk smaller: a shorter L1 table takes the place of the disk's, with the new size, and what only the old
 * one led to is counted down.
 *
 * The end of the disk may lie within what one L2 table maps. Then that table is copied up to the end, and the copy is the disk's: the
 * entries up to there have their references from the copy, those behind it from the old one. So the old L1 table counts from the first
 * guest cluster behind the end, and nothing of the new disk has been touched when the header changes.
 *
 * Crash argument. The size and the table are one change of the header's first sector, after everything that it leads
 * to is durable. Before it a crash leaves the old disk, after it the new one; what is left of either table is
 * counted down by recovery, or, without a journal of v1, leaked (`detached-table.ts`).
 *
 * A data file is cut last, when the new size is durable: before that a crash may bring the old disk back, with all of its bytes [DAT-009].
 *
 * Bytes of the last cluster behind the end stay where they are. Making the disk larger again hides them (`grow-operation.ts`).
 */
import { type Task, wait } from '@qcow2/block-device';
import { readEntryOffset, writeL1Entry } from '@qcow2/codec';
import { StateError, UnsupportedFeatureError } from '@qcow2/spec';
import { DetachedTable } from './detached-table.ts';
import { l1EntriesNeeded } from './growth.ts';
import { refuseToCount } from './host-clusters.ts';
import { lastSection, orEndWriting, orUndo, section, whileGuestsWait } from './operation.ts';
import type { ImageParts } from './parts.ts';
import { switchDisk } from './snapshot-operations.ts';
import { checkSnapshots, completeEntries, replaceSnapshots } from './snapshot-table.ts';

const undoFailed = 'a disk could neither be made smaller nor left as it was';
const finishFailed = 'what a disk lost could not be given back';

/**
 * Make the disk smaller. Durable on return. Holds: `operations`.
 * @throws INVALID_ARGUMENT for a size of nothing; REFCOUNT_WRONG, FormatError where what is to be given back is damaged. The
 *   disk is as it was then
 */
export function* shrinkDisk(parts: ImageParts, sizeBytes: number): Task<void> {
  if (sizeBytes === 0) {
    throw new StateError('INVALID_ARGUMENT', 'a disk does not shrink to nothing', { field: 'sizeBytes' });
  }
  const old = yield* whileGuestsWait(parts, () => cut(parts, sizeBytes));
  yield* orEndWriting(function* countDownTask(): Task<void> {
    if (old !== undefined) yield* old.countDown();
    if (parts.core.data.isExternal) yield* section(parts, () => parts.core.data.cutBehind(sizeBytes));
    yield* parts.core.log.commit();
  }, finishFailed);
}

/**
 * Version 2 has snapshots without a size of their own; in version 3 those that lack it get it, before the disk's changes [SNP-028].
 * Holds: `operations`. @throws UNSUPPORTED_OPERATION
 */
export function* keepSnapshotSizes(parts: ImageParts): Task<void> {
  const { core, snapshots, clusterWriter } = parts;
  if (snapshots.length === 0) return;
  if (core.header.version < 3) {
    const message = 'the size of a version 2 disk that has snapshots does not change';
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'SNP-028' });
  }
  if (snapshots.every(({ diskSizeBytes }) => diskSizeBytes !== undefined)) return;
  const entries = completeEntries(snapshots, core.header);
  yield* checkSnapshots(parts, entries);
  yield* section(parts, () => replaceSnapshots(parts, entries, clusterWriter.update(), {}));
  yield* core.log.commit();
}

/** Returns the table that was the disk's before, to be counted down. */
function* cut(parts: ImageParts, sizeBytes: number): Task<DetachedTable | undefined> {
  const { core, allocator, clusterWriter } = parts;
  const { l2Entries, clusterBytes } = core;
  yield* refuseToCount(core, allocator, core.l1, core.header.l1Offset, 'down');
  const end = Math.ceil(sizeBytes / clusterBytes);
  const entries = l1EntriesNeeded(core.header, sizeBytes);
  const l1 = new DataView(core.l1.buffer.slice(core.l1.byteOffset, core.l1.byteOffset + entries * 8));
  const last = Math.floor(end / l2Entries);
  const divided = end % l2Entries === 0 ? 0 : readEntryOffset(l1, last * 8);
  const copy =
    divided === 0 ? undefined : yield* section(parts, () => copyUpTo(parts, divided, end % l2Entries));
  if (copy !== undefined) writeL1Entry(l1, last * 8, copy * clusterBytes, true);
  const giveCopyBack = (): void => {
    if (copy !== undefined) allocator.unreserve(copy, 1);
  };
  let table: DetachedTable;
  try {
    table = yield* DetachedTable.make(parts, l1);
  } catch (error) {
    giveCopyBack();
    throw error;
  }
  const body = function* shrinkTask(): Task<DetachedTable | undefined> {
    yield* core.log.commit();
    const update = clusterWriter.update();
    if (copy !== undefined) update.addReference(copy);
    const disk = { sizeBytes, l1Offset: table.l1Offset, l1 };
    return yield* lastSection(parts, () => switchDisk(parts, disk, table, { countedFrom: end, update }));
  };
  const undo = function* undoTask(): Task<void> {
    giveCopyBack();
    yield* table.countDown();
  };
  const old = yield* orUndo(body, undo, undoFailed);
  yield* orEndWriting(() => core.log.commit(), finishFailed);
  return old;
}

/** A reserved cluster with the first entries of an L2 table, their flags as they are: nobody refers to it yet. */
function* copyUpTo(parts: ImageParts, table: number, entries: number): Task<number> {
  const { core, allocator } = parts;
  const content = new Uint8Array(core.clusterBytes);
  yield* wait(core.readPatched(table, content, { event: 'l2_load' }));
  content.fill(0, entries * core.l2EntryBytes);
  const { first } = yield* allocator.allocate();
  try {
    yield* core.writeInPlace(first * core.clusterBytes, content, 'l2_alloc_write');
  } catch (error) {
    allocator.unreserve(first, 1);
    throw error;
  }
  core.l2Cache.drop(first * core.clusterBytes, core.clusterBytes);
  return first;
}
