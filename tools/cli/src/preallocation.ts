/** Space for a file that has just been made, so that writing to it later can not fail for want of it. */
import type { BlockDevice } from '@qcow2/block-device';
import { FileDevice } from '@qcow2/fs';
import { Qcow2Error } from '@qcow2/spec';

/** `falloc`: the file system sets space aside. `full`: every byte is written. */
export type SpaceReservation = 'falloc' | 'full';

/** Long enough to be written at the disk's pace, and no more memory than that. */
const pieceBytes = 1024 * 1024;

/**
 * Reserve the whole file; its bytes stay as they are. Where the system can not set space aside, the file is written in
 * full. Durable on return.
 * @throws NO_SPACE, WRITE_FAILED
 */
export async function reserveSpace(device: BlockDevice, how: SpaceReservation): Promise<void> {
  await reserveRange(device, 0, device.sizeBytes, how);
  await device.flush();
}

/** The same for a range, not durable on return. @throws NO_SPACE, WRITE_FAILED */
export async function reserveRange(
  device: BlockDevice,
  offset: number,
  lengthBytes: number,
  how: SpaceReservation,
): Promise<void> {
  if (how === 'full' || !(await setAside(device, offset, lengthBytes))) {
    await writeInFull(device, offset, offset + lengthBytes);
  }
}

/** @returns false where it can not be done */
async function setAside(device: BlockDevice, offset: number, lengthBytes: number): Promise<boolean> {
  if (!(device instanceof FileDevice)) return false;
  try {
    await device.preallocate(offset, lengthBytes);
    return true;
  } catch (error) {
    if (error instanceof Qcow2Error && error.code === 'UNSUPPORTED_OPERATION') return false;
    throw error;
  }
}

/** Write what stands there once more: also where nobody tells what is a hole. */
async function writeInFull(device: BlockDevice, offset: number, end: number): Promise<void> {
  const piece = new Uint8Array(Math.min(pieceBytes, end - offset));
  for (let at = offset; at < end; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, end - at));
    const [first] = await device.extents(at, part.length);
    if (first?.kind === 'data' && first.lengthBytes === part.length && device.capabilities.extents) continue;
    await device.read(at, part);
    await device.write(at, part);
  }
}
