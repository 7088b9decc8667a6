/**
 * A file of a foreign format as a disk, with failures in qemu-img's words where it has some. Such images are read, and never written.
 *
 * The extents that a VMDK descriptor names are found as data files are: beside the image, by a path and nothing else, as far as the caller's
 * policy lets names in images be followed.
 */
import type { BlockDevice } from '@qcow2/block-device';
import {
  type ExtentResolver,
  type ForeignFile,
  type ForeignFormat,
  type ForeignImage,
  openForeign,
} from '@qcow2/foreign';
import { openFile } from '@qcow2/fs';
import { Qcow2Error } from '@qcow2/spec';
import { CommandFailure, openFailureReason } from './failures.ts';
import { isHttp, localPath } from './file-name.ts';
import { type FollowPolicy, followName, guessedFailure, localFiles } from './follow.ts';
import { lockOpened } from './image-lock.ts';

export interface ForeignChoice {
  readonly readOnly: boolean;
  /** Read although somebody may be writing. */
  readonly shared?: boolean | undefined;
  /** What is done about names that stand in the image; local files are followed if not given. */
  readonly follow?: FollowPolicy | undefined;
  /** Nobody said that it is an image and not a raw disk, and it was not the caller who named it. */
  readonly isGuessed?: boolean | undefined;
  /** No byte of the disk is asked for. */
  readonly factsOnly?: boolean | undefined;
}

/**
 * @param file closed with the disk; the caller's still where this fails
 * @param path of the file, which names in it are seen from
 * @throws CommandFailure without the words "Could not open"; Qcow2Error for what is damaged, or not served
 */
export async function openForeignFile(
  file: BlockDevice,
  path: string,
  format: ForeignFormat,
  choice: ForeignChoice,
): Promise<ForeignImage> {
  if (!choice.readOnly) throw new CommandFailure(`Images of format '${format}' can only be read`);
  try {
    const resolveExtent = extentResolver(path, choice);
    return await openForeign(file, format, { resolveExtent, withoutParent: choice.factsOnly === true });
  } catch (error) {
    if (error instanceof Qcow2Error && error.code === 'BAD_MAGIC') {
      throw new CommandFailure(notOfFormat[format](error, path), { cause: error });
    }
    if (error instanceof Qcow2Error && error.code === 'NEEDS_REPLAY') {
      throw new CommandFailure(
        `VHDX image file '${path}' opened read-only, but contains a log that needs to be replayed\n` +
          `To replay the log, run:\nqemu-img check -r all '${path}'`,
        { cause: error },
      );
    }
    const isNamed = error instanceof Qcow2Error && error.context.field === 'createType';
    if (isNamed)
      throw new CommandFailure(`Unsupported image type '${error.context.value}'`, { cause: error });
    throw error;
  }
}

function extentResolver(
  imagePath: string,
  { follow = localFiles, shared, isGuessed }: ForeignChoice,
): ExtentResolver {
  return async (name) => {
    if (isGuessed === true) throw guessedFailure(imagePath, name);
    const { path } = followName({ role: 'data', name }, imagePath, follow);
    try {
      return isHttp(path) ? await remoteExtent(path) : await localExtent(path, shared === true);
    } catch (error) {
      if (!(error instanceof Qcow2Error) || error instanceof CommandFailure) throw error;
      throw new CommandFailure(openFailureReason(path, error), { cause: error });
    }
  };
}

async function remoteExtent(path: string): Promise<ForeignFile> {
  const { openHttp } = await import('@qcow2/http');
  return { device: await openHttp(path), path };
}

async function localExtent(path: string, shared: boolean): Promise<ForeignFile> {
  const device = openFile(localPath(path), { readOnly: true });
  try {
    const lock = await lockOpened(device, shared ? 'shared' : 'reader');
    const close = (): void => {
      device.close();
      lock?.release();
    };
    return { device, path, close };
  } catch (error) {
    device.close();
    throw error;
  }
}

const notOfFormat: Readonly<Record<ForeignFormat, (error: Qcow2Error, path: string) => string>> = {
  vdi: ({ context }) =>
    `Image not in VDI format (bad signature ${Number(context.value ?? 0)
      .toString(16)
      .padStart(8, '0')})`,
  vpc: () => 'invalid VPC image',
  vmdk: () => 'invalid VMDK image descriptor',
  vhdx: (_, path) => `Could not open '${path}': Could not open '${path}': Invalid argument`,
};
