/**
 * The snapshot table of an open image: finding an entry, and putting another table in its place.
 *
 * A new table is written whole into clusters that nobody refers to; then the header's two fields lead to it, in a change that the
 * caller submits with what else belongs together, and that drops the old table. A crash before it is durable finds
 * the old table, after it the new one. Holds: the write lock.
 */
import type { Task } from '@qcow2/block-device';
import { encodeSnapshotTable, type Snapshot } from '@qcow2/codec';
import { hostOffset, StateError } from '@qcow2/spec';
import { refuseTooLarge } from './growth.ts';
import { refuseFree } from './host-clusters.ts';
import type { MetadataUpdate, SubmitOptions } from './metadata-update.ts';
import type { ImageParts } from './parts.ts';

/** Header bytes of the number of snapshots and the table's offset (HDR-013, HDR-014). */
const snapshotsAt = 60;

/** Which snapshot is meant: an id, or else a name, or either by its kind. */
export type SnapshotChoice = string | { readonly id: string } | { readonly name: string };

/** The first that fits; of a text an id goes before a name. @throws INVALID_ARGUMENT where there is none */
export function chooseSnapshot(snapshots: readonly Snapshot[], choice: SnapshotChoice): Snapshot {
  const found =
    typeof choice === 'string'
      ? (snapshots.find(({ id }) => id === choice) ?? snapshots.find(({ name }) => name === choice))
      : 'id' in choice
        ? snapshots.find(({ id }) => id === choice.id)
        : snapshots.find(({ name }) => name === choice.name);
  if (found !== undefined) return found;
  const value = typeof choice === 'string' ? choice : 'id' in choice ? choice.id : choice.name;
  throw new StateError('INVALID_ARGUMENT', 'there is no such snapshot', { field: 'snapshot', value });
}

/** The number behind the greatest id that is one [SNP-024]. */
export function nextSnapshotId(snapshots: readonly Snapshot[]): string {
  let greatest = 0n;
  for (const { id } of snapshots) {
    if (!/^[0-9]+$/.test(id)) continue;
    const number = BigInt(id);
    if (number > greatest) greatest = number;
  }
  return `${greatest + 1n}`;
}

/** The entries as they are written from now on: what version 3 asks for is there [SNP-015]. */
export function completeEntries(
  snapshots: readonly Snapshot[],
  header: { readonly version: number; readonly sizeBytes: number },
): Snapshot[] {
  if (header.version < 3) return [...snapshots];
  return snapshots.map((one) =>
    one.diskSizeBytes === undefined
      ? { ...one, vmStateInExtraData: true, diskSizeBytes: header.sizeBytes }
      : one,
  );
}

/**
 * Whether a table can take the place of the image's, known before anything is changed.
 * @throws LIMIT_EXCEEDED, BAD_FIELD for what no table can hold; INVALID_ARGUMENT where the journal is too small;
 *   REFCOUNT_WRONG where the old table counts as free
 */
export function* checkSnapshots({ core, allocator }: ImageParts, snapshots: readonly Snapshot[]): Task<void> {
  const bytes = encodeSnapshotTable(snapshots, core.header.version);
  const clusters = Math.ceil(bytes.length / core.clusterBytes);
  refuseTooLarge(
    core,
    clusters + Math.ceil(core.snapshotTableBytes / core.clusterBytes),
    'a table of so many snapshots',
  );
  yield* refuseFree(core, allocator, core.header.snapshotsOffset, core.snapshotTableBytes);
}

/**
 * Put a table in the place of the image's. Not durable on return.
 * @param update what belongs to the same change
 * @param snapshots `checkSnapshots` has no objection
 * @throws NO_SPACE
 */
export function* replaceSnapshots(
  parts: ImageParts,
  snapshots: readonly Snapshot[],
  update: MetadataUpdate,
  options: Pick<SubmitOptions, 'intent' | 'intentDone'>,
): Task<void> {
  const { core, allocator } = parts;
  const { header, clusterBytes } = core;
  const bytes = encodeSnapshotTable(snapshots, header.version);
  const count = Math.ceil(bytes.length / clusterBytes);
  const old = {
    cluster: header.snapshotsOffset / clusterBytes,
    count: Math.ceil(core.snapshotTableBytes / clusterBytes),
  };
  const first = count === 0 ? 0 : yield* allocator.allocateRow(count);
  try {
    const content = new Uint8Array(count * clusterBytes);
    content.set(bytes);
    if (count > 0) yield* core.writeInPlace(first * clusterBytes, content, 'snapshot_table_write');
    for (let i = 0; i < count; i++) update.addReference(first + i);
    for (let i = 0; i < old.count; i++) update.dropReference(old.cluster + i);
    if (old.count > 0) update.revoke(old.cluster * clusterBytes, old.count * clusterBytes);
    update.writeBytes(2, snapshotsAt, pointer(snapshots.length, first * clusterBytes));
    yield* update.submit({ required: true, afterData: true, ...options });
  } catch (error) {
    allocator.unreserve(first, count);
    throw error;
  }
  header.snapshotCount = snapshots.length;
  header.snapshotsOffset = hostOffset(first * clusterBytes);
  core.snapshotTableBytes = bytes.length;
  parts.snapshots = snapshots;
}

function pointer(count: number, tableOffset: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, count);
  view.setBigUint64(4, BigInt(tableOffset));
  return bytes;
}
