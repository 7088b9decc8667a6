/** Another size of the disk: which operation that is. */
import type { Task } from '@qcow2/block-device';
import { growDisk } from './grow-operation.ts';
import type { ImageParts } from './parts.ts';
import { keepSnapshotSizes, shrinkDisk } from './shrink-operation.ts';

/** Holds: `operations`. @throws as `growDisk` and `shrinkDisk`; UNSUPPORTED_OPERATION for a version 2 disk with snapshots */
export function* resizeDisk(parts: ImageParts, sizeBytes: number): Task<void> {
  const before = parts.core.header.sizeBytes;
  if (sizeBytes === before) return;
  parts.bitmaps.refuseOtherDisk('is given another size');
  yield* keepSnapshotSizes(parts);
  if (sizeBytes > before) yield* growDisk(parts, sizeBytes);
  else yield* shrinkDisk(parts, sizeBytes);
}
