/**
 * Making, applying and deleting an internal snapshot. Each is a detached table that is counted, and one change of a
 * name in the header; see `detached-table.ts` for what a crash in the counting leaves.
 *
 *   create   a copy of the active L1 table is counted up, then the snapshot table names it
 *   apply    a copy of the snapshot's is counted up, then the header names it as the disk's, with the size that the snapshot has;
 *            the table that was the disk's before is counted down
 *   delete   the snapshot table names it no more; it is counted down
 *
 * Crash argument. The change of the name is one change of the header's first sector. Before it is durable a crash
 * leaves the image as it was (and a table to be counted down), after it the image as it was to become (and perhaps a table to be
 * counted down). It is submitted when all that it leads to counts, durably: also where nothing but the order of writes
 * protects, a flag that says "alone" of what a snapshot shares is gone before the snapshot is there.
 *
 * Counting up finds the disk at rest (`whileGuestsWait`): everything that guests have written is in place, nothing is
 * left to the log, and no cluster is a target of a copy, which only the active disk's mapping would end [JRN-COMMIT-014].
 * While a table is counted down guests go on.
 */
import type { Task } from '@qcow2/block-device';
import { readEntryOffset, type Snapshot, writeL1Entry } from '@qcow2/codec';
import { StateError, UnsupportedFeatureError } from '@qcow2/spec';
import { DetachedTable, readL1 } from './detached-table.ts';
import { adoptDisk, type DiskTable, l1EntriesNeeded, writeDisk } from './growth.ts';
import { refuseToCount } from './host-clusters.ts';
import type { MetadataUpdate } from './metadata-update.ts';
import { lastSection, orEndWriting, orUndo, section, whileGuestsWait } from './operation.ts';
import type { ImageParts } from './parts.ts';
import {
  checkSnapshots,
  chooseSnapshot,
  completeEntries,
  nextSnapshotId,
  replaceSnapshots,
  type SnapshotChoice,
} from './snapshot-table.ts';

export interface NewSnapshot {
  readonly name: string;
  /** Default: the number behind the greatest id that is a number. */
  readonly id?: string | undefined;
  /** Default: now. */
  readonly date?: Date | undefined;
}

const undoFailed = 'an operation on snapshots could neither be done nor undone';
const finishFailed = 'an operation on snapshots could not be finished';

/** Holds: `operations`. Durable on return. */
export function* createSnapshot(parts: ImageParts, wanted: NewSnapshot): Task<Snapshot> {
  refuseDataFile(parts);
  return yield* whileGuestsWait(parts, () => create(parts, wanted));
}

function* create(parts: ImageParts, wanted: NewSnapshot): Task<Snapshot> {
  const { core, allocator, clusterWriter } = parts;
  const others = completeEntries(parts.snapshots, core.header);
  const snapshot = newEntry(parts, wanted);
  yield* checkSnapshots(parts, [...others, snapshot]);
  yield* refuseToCount(core, allocator, core.l1, core.header.l1Offset, 'up');
  const table = yield* DetachedTable.make(parts, withoutFlags(core.l1, snapshot.l1Entries));
  const named = { ...snapshot, l1Offset: table.l1Offset };
  const body = function* createTask(): Task<void> {
    yield* table.countUp();
    yield* core.log.commit();
    yield* lastSection(parts, () =>
      replaceSnapshots(parts, [...others, named], clusterWriter.update(), { intentDone: table.intentDone }),
    );
  };
  yield* orUndo(body, () => table.countDown(), undoFailed);
  yield* core.log.commit();
  return named;
}

/** Holds: `operations`. Durable on return. */
export function* deleteSnapshot(parts: ImageParts, choice: SnapshotChoice): Task<void> {
  const { core, allocator, clusterWriter } = parts;
  const snapshot = chooseSnapshot(parts.snapshots, choice);
  const { l1Offset, l1Entries } = snapshot;
  const rest = completeEntries(
    parts.snapshots.filter((one) => one !== snapshot),
    core.header,
  );
  yield* checkSnapshots(parts, rest);
  const l1 = yield* readL1(parts, l1Offset, l1Entries);
  yield* refuseToCount(core, allocator, l1, l1Offset, 'down');
  const table = l1Entries === 0 ? undefined : DetachedTable.of(parts, { l1Offset, l1 }, 0);
  yield* section(parts, () =>
    replaceSnapshots(parts, rest, clusterWriter.update(), { intent: table?.intent }),
  );
  parts.snapshotIsGone(snapshot);
  yield* orEndWriting(function* countDownTask(): Task<void> {
    yield* core.log.commit();
    if (table !== undefined) yield* table.countDown();
    yield* core.log.commit();
  }, finishFailed);
}

/** Holds: `operations`. Durable on return. */
export function* applySnapshot(parts: ImageParts, choice: SnapshotChoice): Task<void> {
  refuseDataFile(parts);
  parts.bitmaps.refuseOtherDisk();
  const snapshot = chooseSnapshot(parts.snapshots, choice);
  const old = yield* whileGuestsWait(parts, () => apply(parts, snapshot));
  yield* orEndWriting(function* countDownTask(): Task<void> {
    if (old !== undefined) yield* old.countDown();
    yield* parts.core.log.commit();
  }, finishFailed);
}

/** Returns the table that was the disk's before, to be counted down. */
function* apply(parts: ImageParts, snapshot: Snapshot): Task<DetachedTable | undefined> {
  const { core, allocator } = parts;
  const sizeBytes = snapshot.diskSizeBytes ?? core.header.sizeBytes;
  const its = yield* readL1(parts, snapshot.l1Offset, snapshot.l1Entries);
  const entries = Math.max(1, snapshot.l1Entries, l1EntriesNeeded(core.header, sizeBytes));
  yield* refuseToCount(core, allocator, its, snapshot.l1Offset, 'up');
  yield* refuseToCount(core, allocator, core.l1, core.header.l1Offset, 'down');
  const table = yield* DetachedTable.make(parts, withoutFlags(its, entries));
  const body = function* applyTask(): Task<DetachedTable | undefined> {
    yield* table.countUp();
    yield* core.log.commit();
    const disk = { sizeBytes, l1Offset: table.l1Offset, l1: table.l1 };
    const how = { countedFrom: 0, update: parts.clusterWriter.update() };
    return yield* lastSection(parts, () => switchDisk(parts, disk, table, how));
  };
  const old = yield* orUndo(body, () => table.countDown(), undoFailed);
  yield* orEndWriting(() => core.log.commit(), finishFailed);
  return old;
}

/**
 * The header names another table as the disk's. Returns the one that it named before, which counts from a guest cluster
 * on, to be counted down. Holds: the write lock; the guest gate is closed.
 */
export function* switchDisk(
  parts: ImageParts,
  disk: DiskTable,
  table: DetachedTable,
  { countedFrom, update }: { readonly countedFrom: number; readonly update: MetadataUpdate },
): Task<DetachedTable | undefined> {
  const { core } = parts;
  const before = { l1Offset: core.header.l1Offset, l1: core.l1 };
  const old = before.l1.byteLength === 0 ? undefined : DetachedTable.of(parts, before, countedFrom, table);
  writeDisk(core, update, disk);
  const intents = old === undefined ? { intentDone: table.intentDone } : { intent: old.intent };
  yield* update.submit({ required: true, afterData: true, ...intents });
  adoptDisk(core, disk);
  return old;
}

function newEntry(parts: ImageParts, { name, id, date = new Date() }: NewSnapshot): Snapshot {
  const { header } = parts.core;
  if (id !== undefined && parts.snapshots.some((one) => one.id === id)) {
    throw new StateError('INVALID_ARGUMENT', 'there is a snapshot with this id', { field: 'id', value: id });
  }
  const milliseconds = date.getTime();
  const dateSeconds = Math.floor(milliseconds / 1000);
  return {
    l1Offset: 0,
    l1Entries: Math.max(1, header.l1Entries),
    id: id ?? nextSnapshotId(parts.snapshots),
    name,
    dateSeconds,
    dateNanoseconds: (milliseconds - dateSeconds * 1000) * 1_000_000,
    vmClockNanoseconds: 0n,
    vmStateLengthBytes: 0,
    vmStateInExtraData: true,
    diskSizeBytes: header.sizeBytes,
    instructionCount: 0n,
    unknownExtraData: new Uint8Array(0),
  };
}

/** What an L1 table leads to, all of it shared. */
export function withoutFlags(l1: DataView, entries: number): DataView {
  const copy = new DataView(new ArrayBuffer(entries * 8));
  for (let at = 0; at < Math.min(l1.byteLength, copy.byteLength); at += 8) {
    writeL1Entry(copy, at, readEntryOffset(l1, at), false);
  }
  return copy;
}

/** Guest clusters in another file have no refcounts, and a snapshot of them would not hold. */
function refuseDataFile({ core }: ImageParts): void {
  if (!core.l2Format.externalData) return;
  const message = 'an image with an external data file has no snapshots';
  throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'SNP-020' });
}
