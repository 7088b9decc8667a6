/**
 * From a name to a device: the file, its format, and, where an image is opened for its data, the files behind
 * it. Following the names that stand in images is this command's decision, not the library's: only to local
 * files, resolved beside the image that names them, and read-only.
 */
import { existsSync, realpathSync, statSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import { type FileDevice, openFile } from '@qcow2/fs';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { CommandFailure, describeOpenFailure } from './failures.ts';
import { localPath } from './file-name.ts';
import { gatherFacts, readHeader } from './gather-facts.ts';
import type { ImageFacts } from './image-facts.ts';
import { probeFormat, type ServedFormat, servedFormat } from './image-format.ts';
import { checkNoWriter, type ImageLock, lockForWriting } from './image-lock.ts';

/** A file, open, and what it is. */
export interface OpenedFile {
  readonly path: string;
  readonly device: FileDevice;
  readonly format: ServedFormat;
  /** The format was not given but found. */
  readonly probed: boolean;
  /** Close the file and let go of its lock. Where something else has closed `device`, only the latter. */
  close(): Promise<void>;
}

export interface OpenFileChoice {
  readonly format?: string | undefined;
  readonly readOnly: boolean;
  /** Read although somebody may be writing. */
  readonly shared?: boolean;
}

const sectorBytes = 512;
const maxChainLength = 200;

/**
 * Open a file and find its format, unless given. The caller closes it.
 * @throws CommandFailure: "Could not open '…': …"
 */
export async function openImageFile(name: string, choice: OpenFileChoice): Promise<OpenedFile> {
  return await explainingOpen(name, () => openPlainly(name, choice));
}

/** Open an image as the backing file of one that is to be made: its format, and its size as a guest sees it. */
export async function openForReading(
  name: string,
  format: string | undefined,
): Promise<OpenedFile & { readonly virtualSizeBytes: number }> {
  const opened = await openPlainly(name, { format, readOnly: true });
  try {
    const { device } = opened;
    const virtualSizeBytes = opened.format === 'raw' ? rawSizeBytes(device) : await qcow2SizeBytes(device);
    return { ...opened, virtualSizeBytes };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** @throws what is wrong, without the words "Could not open" */
async function openPlainly(name: string, choice: OpenFileChoice): Promise<OpenedFile> {
  if (name === '') throw new CommandFailure("The 'file' block driver requires a file name");
  const path = localPath(name);
  const { format: given, readOnly } = choice;
  const wanted = given === undefined ? undefined : servedFormat(given);
  refuseSpecialFile(path);
  const device = openFile(path, { readOnly });
  let lock: ImageLock | undefined;
  const close = async (): Promise<void> => {
    device.close();
    lock?.release();
  };
  try {
    if (!readOnly) lock = await lockForWriting(path);
    else if (choice.shared !== true) await checkNoWriter(path);
    const found = await probeFormat(device);
    if (wanted === 'qcow2' && !found.startsWith('qcow')) {
      throw new CommandFailure('Image is not in qcow2 format');
    }
    return { path, device, format: wanted ?? servedFormat(found), probed: wanted === undefined, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** The facts about one file, for `info`. @throws CommandFailure */
export async function imageFacts(
  name: string,
  options: { readonly format?: string | undefined; readonly shared?: boolean } = {},
): Promise<ImageFacts> {
  const opened = await openImageFile(name, { ...options, readOnly: true });
  const { device, path } = opened;
  try {
    const diskBytes = statSync(path).blocks * sectorBytes;
    if (opened.format === 'raw') {
      return { path, format: 'raw', virtualSizeBytes: rawSizeBytes(device), diskBytes };
    }
    return await explainingOpen(name, async () => ({
      path,
      format: 'qcow2',
      virtualSizeBytes: await qcow2SizeBytes(device),
      diskBytes,
      qcow2: await gatherFacts(device, path),
    }));
  } finally {
    await opened.close();
  }
}

/** An opened chain: the device on top, and what stands below it. */
export interface OpenedChain {
  readonly top: OpenedFile;
  /** What the top image's unallocated ranges read from; undefined without a backing file. */
  readonly backing: BlockDevice | undefined;
  /** Close everything that is still open, below the top file and at last that. */
  close(): Promise<void>;
}

/** Names read from images, each with its format and the image that named it. */
interface BackingReference {
  readonly name: string;
  readonly format: string | undefined;
}

/**
 * Open an image for its data, with the chain of backing files below it.
 * @throws CommandFailure: for a missing, foreign or circular backing file too
 */
export async function openChain(
  name: string,
  options: { readonly format?: string | undefined; readonly readOnly: boolean },
): Promise<OpenedChain> {
  const top = await openImageFile(name, options);
  const below: BlockDevice[] = [];
  try {
    const backing = await explainingOpen(name, () =>
      openBacking(top, below, new Set([realpathSync(top.path)])),
    );
    const close = async (): Promise<void> => {
      await closeAll(below);
      await top.close();
    };
    return { top, backing, close };
  } catch (error) {
    await closeAll(below);
    await top.close();
    throw error;
  }
}

async function openBacking(
  image: OpenedFile,
  below: BlockDevice[],
  seen: Set<string>,
): Promise<BlockDevice | undefined> {
  const reference = await backingOf(image);
  if (reference === undefined) return undefined;
  if (seen.size >= maxChainLength) throw new CommandFailure('The backing chain is too long');
  try {
    const path = localPath(reference.name);
    // Before it is opened: a file that is in the chain already is locked by us.
    const real = existsSync(path) ? realpathSync(path) : path;
    if (seen.has(real)) throw new CommandFailure(`The backing chain contains '${path}' twice`);
    seen.add(real);
    const opened = await openForReading(reference.name, reference.format);
    below.unshift(opened.device);
    const backing = await openBacking(opened, below, seen);
    if (opened.format === 'raw') return opened.device;
    const { openImage } = await import('@qcow2/driver');
    const device = await openImage(opened.device, { readOnly: true, backing: backing ?? 'none' });
    below.unshift(device);
    return device;
  } catch (error) {
    if (error instanceof CommandFailure && error.message.startsWith('Could not open backing file'))
      throw error;
    // A missing file is "Could not open" already.
    const missing = error instanceof Qcow2Error && error.code === 'NOT_FOUND';
    const reason = missing
      ? `Could not open '${reference.name}': No such file or directory`
      : describeOpenFailure(reference.name, error);
    throw new CommandFailure(`Could not open backing file: ${reason}`, { cause: error });
  }
}

async function backingOf(image: OpenedFile): Promise<BackingReference | undefined> {
  if (image.format === 'raw') return undefined;
  const facts = await gatherFacts(image.device, image.path);
  return facts.fullBackingFile === undefined
    ? undefined
    : { name: facts.fullBackingFile, format: facts.backingFormat };
}

async function closeAll(devices: readonly BlockDevice[]): Promise<void> {
  for (const device of devices) await device.close();
}

/** @throws CommandFailure in place of what `action` throws, beginning with "Could not open '…'" */
export async function explainingOpen<T>(name: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof CommandFailure && error.message.startsWith('Could not open')) {
      if (error.message.startsWith(`Could not open '${name}':`)) throw error;
    }
    throw new CommandFailure(describeOpenFailure(name, error), { cause: error });
  }
}

/** In QEMU's words, before opening: a directory, FIFO or socket is no image. */
function refuseSpecialFile(path: string): void {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined || status.isFile() || status.isBlockDevice() || status.isCharacterDevice()) return;
  throw new CommandFailure(`'file' driver requires '${path}' to be a regular file`);
}

async function qcow2SizeBytes(device: BlockDevice): Promise<number> {
  return Math.ceil((await readHeader(device)).sizeBytes / sectorBytes) * sectorBytes;
}

/** Raw disks are shown in whole sectors. */
export function rawSizeBytes(device: BlockDevice): number {
  return Math.ceil(device.sizeBytes / sectorBytes) * sectorBytes;
}

/** @throws INVALID_ARGUMENT where the file is not of the format that the command works on */
export function requireQcow2(opened: OpenedFile, command: string): void {
  if (opened.format === 'qcow2') return;
  throw new StateError('INVALID_ARGUMENT', `${command}: '${opened.path}' is a raw file, not a qcow2 image`, {
    path: opened.path,
  });
}
