/**
 * `serve --snapshot`: an image that is shown as it is, under a temporary one that takes what is written. The temporary file has no name
 * from its first moment on, where the system allows that, so that nothing stays behind whatever ends the process; what is written to
 * it is never made durable, which nobody could make use of.
 */
import { randomBytes } from 'node:crypto';
import { unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import type { ServedImage } from './served-image.ts';
import { wholeSectors } from './whole-sectors.ts';

/** @param image opened for reading; closed with what is returned */
export async function underTemporary(image: ServedImage): Promise<ServedImage> {
  const { path, file } = temporaryFile();
  const isUnnamed = tryUnlink(path);
  try {
    const below = wholeSectors(image.device);
    await createImage(file, { sizeBytes: below.sizeBytes });
    const overlay = await openImage(file, { backing: below });
    return {
      ...image,
      device: overlay,
      layers: [overlay, ...image.layers],
      hasBacking: true,
      close: async () => {
        overlay.abandon(); // nothing of it is worth writing
        await file.close();
        await image.close();
        if (!isUnnamed) tryUnlink(path);
      },
    };
  } catch (error) {
    await file.close();
    tryUnlink(path);
    throw error;
  }
}

/** Where QEMU has its own: what TMPDIR says, or /var/tmp, which is on a disk. */
function temporaryFile() {
  const folder = process.env.TMPDIR ?? (process.platform === 'win32' ? tmpdir() : '/var/tmp');
  const path = join(folder, `qcow2-${randomBytes(8).toString('hex')}`);
  return { path, file: openFile(path, { create: 'exclusive', mode: 0o600, flush: 'none' }) };
}

function tryUnlink(path: string): boolean {
  try {
    unlinkSync(path);
    return true;
  } catch {
    return false; // a system that keeps the name of an open file
  }
}
