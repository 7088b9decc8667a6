/**
 * What every device asks of a request before it does anything, and small arithmetic on extents. A device
 * that checks with these refuses the same requests with the same codes as all others.
 */
import { StateError } from '@qcow2/spec';
import type { BlockDevice, Extent, ReadOptions } from './block-device.ts';

/**
 * @throws INVALID_ARGUMENT unless both are non-negative integers that a double holds exactly; OUT_OF_RANGE
 *   where the range reaches beyond `limitBytes` (which for a growable device is the largest size it can have)
 */
export function checkRange(offset: number, lengthBytes: number, limitBytes: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0) {
    throw new StateError('INVALID_ARGUMENT', 'not a byte offset', { field: 'offset', value: offset });
  }
  if (!Number.isSafeInteger(lengthBytes) || lengthBytes < 0) {
    throw new StateError('INVALID_ARGUMENT', 'not a length in bytes', {
      field: 'lengthBytes',
      value: lengthBytes,
    });
  }
  // Written as a difference: the sum may not be exact beyond 2^53.
  if (lengthBytes > limitBytes - offset) {
    throw new StateError('OUT_OF_RANGE', `the request reaches beyond byte ${limitBytes}`, {
      hostOffset: offset,
      lengthBytes,
    });
  }
}

/** @throws INVALID_ARGUMENT unless `sizeBytes` can be a device's size */
export function checkSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) {
    throw new StateError('INVALID_ARGUMENT', 'not a size in bytes', { field: 'sizeBytes', value: sizeBytes });
  }
}

/** Append an extent to a list in order, merged with the last one where their kinds agree. Empty ones vanish. */
export function pushExtent(extents: Extent[], next: Extent): void {
  if (next.lengthBytes === 0) return;
  const last = extents.at(-1);
  const isSame =
    last !== undefined &&
    last.kind === next.kind &&
    last.compressed === next.compressed &&
    last.marked === next.marked;
  if (isSame) extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
  else extents.push(next);
}

/**
 * Fill `into` from `offset` on; bytes beyond the device's end read as zeros, however far beyond.
 * @throws what `device.read` throws
 */
export function readPadded(
  device: BlockDevice,
  offset: number,
  into: Uint8Array,
  options?: ReadOptions,
): void | Promise<void> {
  const presentBytes = Math.max(0, Math.min(into.length, device.sizeBytes - offset));
  if (presentBytes < into.length) into.fill(0, presentBytes);
  if (presentBytes === 0) return;
  return device.read(offset, presentBytes < into.length ? into.subarray(0, presentBytes) : into, options);
}
