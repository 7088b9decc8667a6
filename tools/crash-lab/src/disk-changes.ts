/**
 * What is done to the whole disk: snapshots are made, applied and deleted, it becomes smaller, its bitmaps are changed, it is put on another
 * backing file, and where it has bitmaps it becomes larger. Each is asked for while nothing else is under way, and is durable when it is done.
 *
 * A snapshot is named after what it holds (`snapshotName`), so that the check of its content needs no memory. What can not
 * be asked for as things are (there is no snapshot, the disk is small already) is left out.
 */
import { InvariantError } from '@qcow2/spec';
import { changeBitmap, resizeWithBitmaps } from './bitmap-changes.ts';
import type { GuestOracle } from './guest-oracle.ts';
import { snapshotName } from './recovery.ts';
import type { OpenSystem, SystemUnderTest } from './system-under-test.ts';
import { fewestClusters, type GuestOperation, mostGrownClusters, mostSnapshots } from './workload.ts';

export type DiskOperation = Extract<
  GuestOperation,
  { kind: 'shrink' | 'snapshot' | 'apply' | 'delete' | 'bitmap' | 'rebase' }
>;

type Growth = Extract<GuestOperation, { kind: 'grow' }>;

export function isDiskOperation(operation: GuestOperation): operation is DiskOperation {
  return ['shrink', 'snapshot', 'apply', 'delete', 'bitmap', 'rebase'].includes(operation.kind);
}

export interface DiskWatch {
  readonly system: SystemUnderTest;
  readonly oracle: GuestOracle;
  /** What a crash may leave has changed. */
  readonly note: (stricter: boolean) => void;
  /** Asks for it; true where it was answered without an error. Default: it must be. */
  readonly attempt?: (body: () => Promise<unknown>) => Promise<boolean>;
}

/** @param index of the operation in its workload */
export async function changeDisk(
  open: OpenSystem,
  operation: DiskOperation | Growth,
  index: number,
  watch: DiskWatch,
): Promise<void> {
  if (operation.kind === 'grow') return await growDisk(open, operation.clusters, watch);
  if (operation.kind === 'bitmap') return await changeBitmap(open, operation.change, index, watch);
  if (operation.kind === 'rebase') return await changeBacking(open, watch);
  if (operation.kind === 'shrink') return await shrinkDisk(open, operation.clusters, watch);
  const { snapshots, guest } = open;
  if (snapshots === undefined) throw unchangeable();
  const names = snapshots.names();
  const [oldest] = names;
  switch (operation.kind) {
    case 'snapshot': {
      if (names.length >= mostSnapshots) return;
      const name = snapshotName(`s${index}`, await contentOf(open, guest.sizeBytes));
      return await changeSnapshots([...names, name], names, () => snapshots.create(name), watch);
    }
    case 'apply':
      if (oldest === undefined) return;
      return await replaceDisk(await snapshots.read(oldest), () => snapshots.apply(oldest), watch);
    case 'delete':
      if (oldest === undefined) return;
      return await changeSnapshots(names.slice(1), names, () => snapshots.delete(oldest), watch);
  }
}

/**
 * Until it is done the one or the other is named; where it is the other, everything that was written before is there [BAK-005]. Who opened an
 * image on a disk that has failed may have been told of a name that is not durable: those that were allowed before are so still.
 */
async function changeBacking(
  { backing }: OpenSystem,
  { oracle, note, attempt = succeed }: DiskWatch,
): Promise<void> {
  if (backing === undefined) throw unchangeable();
  const after = { named: backing.next, since: oracle.beginFlush() };
  oracle.allowBacking(...oracle.backings, after);
  note(false);
  if (!(await attempt(() => backing.change()))) return;
  oracle.endFlush(after.since);
  oracle.allowBacking({ named: after.named });
  note(true);
}

async function shrinkDisk(open: OpenSystem, clusters: number, watch: DiskWatch): Promise<void> {
  const { shrink, guest } = open;
  if (shrink === undefined) throw unchangeable();
  const { clusterBytes } = watch.system;
  const sizeBytes = guest.sizeBytes - clusters * clusterBytes;
  if (sizeBytes < fewestClusters * clusterBytes) return;
  if (watch.oracle.bitmaps.length > 0) {
    return await resizeWithBitmaps(open, sizeBytes, () => shrink(sizeBytes), watch);
  }
  return await replaceDisk(await contentOf(open, sizeBytes), () => shrink(sizeBytes), watch);
}

/** Durable when it is done where there are bitmaps, and with the next flush where they are all gone. */
async function growDisk(open: OpenSystem, clusters: number, watch: DiskWatch): Promise<void> {
  const { grow, guest } = open;
  const { system, oracle, note, attempt = succeed } = watch;
  if (grow === undefined) throw unchangeable();
  const sizeBytes = guest.sizeBytes + clusters * system.clusterBytes;
  if (sizeBytes > system.guestBytes + mostGrownClusters * system.clusterBytes) return;
  const change = async () => grow(sizeBytes);
  if (oracle.bitmaps.length > 0) return await resizeWithBitmaps(open, sizeBytes, change, watch);
  const token = oracle.beginGrow(guest.sizeBytes, sizeBytes);
  note(false);
  if (await attempt(change)) oracle.endGrow(token);
}

function unchangeable(): InvariantError {
  return new InvariantError('a workload changes the disk of a system that can not be changed');
}

async function contentOf({ guest }: OpenSystem, lengthBytes: number): Promise<Uint8Array> {
  const content = new Uint8Array(lengthBytes);
  await guest.read(0, content);
  return content;
}

/** It may make durable what was written before, as a flush does; it need not. */
async function changeSnapshots(
  after: readonly string[],
  before: readonly string[],
  change: () => Promise<unknown>,
  { oracle, note, attempt = succeed }: DiskWatch,
): Promise<void> {
  oracle.allowSnapshots(before, after);
  note(false);
  if (!(await attempt(change))) return;
  oracle.allowSnapshots(after);
  note(true);
}

async function replaceDisk(
  content: Uint8Array,
  change: () => Promise<unknown>,
  { oracle, note, attempt = succeed }: DiskWatch,
): Promise<void> {
  const token = oracle.beginReplace(content);
  note(false);
  if (!(await attempt(change))) return;
  oracle.endReplace(token);
  note(true);
}

async function succeed(body: () => Promise<unknown>): Promise<boolean> {
  await body();
  return true;
}
