/** Another size of the disk: which operation that is. */
import type { Task } from '@qcow2/block-device';
import { withBitmapsOfSize } from './bitmap-resize.ts';
import { growDisk } from './grow-operation.ts';
import { orUndo } from './operation.ts';
import type { ImageParts } from './parts.ts';
import { preallocateBehind, type ResizePreallocation } from './resize-preallocation.ts';
import { keepSnapshotSizes, shrinkDisk } from './shrink-operation.ts';

/** How a disk may get another size. */
export interface ResizeOptions {
  /** It may become smaller, and lose what lies behind its new end. Default false. */
  readonly shrink?: boolean;
  /**
   * What it gains has its places in the file when this is done: `metadata` with entries; `data` with entries that say that there is data, for a caller who sets
   * the space aside. A crash may leave the new size with some of them. Default `off`.
   */
  readonly preallocation?: ResizePreallocation;
}

/** Holds: `operations`. @throws as `growDisk` and `shrinkDisk`; UNSUPPORTED_OPERATION for a version 2 disk with snapshots */
export function* resizeDisk(
  parts: ImageParts,
  sizeBytes: number,
  preallocation: ResizePreallocation = 'off',
): Task<void> {
  const before = parts.core.header.sizeBytes;
  if (sizeBytes === before) return;
  yield* changeSize(parts, before, sizeBytes);
  if (preallocation === 'off' || sizeBytes < before) return;
  yield* orUndo(
    () => preallocateBehind(parts, before, preallocation),
    () => changeSize(parts, sizeBytes, before),
    'a disk has the new size, and not all of it has its place',
  );
}

function* changeSize(parts: ImageParts, before: number, sizeBytes: number): Task<void> {
  yield* withBitmapsOfSize(parts, sizeBytes, function* () {
    yield* keepSnapshotSizes(parts);
    if (sizeBytes < before) return yield* shrinkDisk(parts, sizeBytes);
    yield* growDisk(parts, sizeBytes);
    // Bitmaps follow a size that is durable.
    if (parts.bitmaps.slots.length > 0) yield* parts.core.log.commit();
  });
}
