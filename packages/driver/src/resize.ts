/** Another size of the disk: which operation that is. */
import type { Task } from '@qcow2/block-device';
import { withBitmapsOfSize } from './bitmap-resize.ts';
import { growDisk } from './grow-operation.ts';
import type { ImageParts } from './parts.ts';
import { keepSnapshotSizes, shrinkDisk } from './shrink-operation.ts';

/** Holds: `operations`. @throws as `growDisk` and `shrinkDisk`; UNSUPPORTED_OPERATION for a version 2 disk with snapshots */
export function* resizeDisk(parts: ImageParts, sizeBytes: number): Task<void> {
  const before = parts.core.header.sizeBytes;
  if (sizeBytes === before) return;
  yield* withBitmapsOfSize(parts, sizeBytes, function* () {
    yield* keepSnapshotSizes(parts);
    if (sizeBytes < before) return yield* shrinkDisk(parts, sizeBytes);
    yield* growDisk(parts, sizeBytes);
    // Bitmaps follow a size that is durable.
    if (parts.bitmaps.slots.length > 0) yield* parts.core.log.commit();
  });
}
