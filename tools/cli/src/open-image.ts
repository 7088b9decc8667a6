/**
 * From a name to a device: the file, its format, and, where an image is opened for its data, the files behind
 * it. Following the names that stand in images is this command's decision, not the library's (`follow.ts`).
 */
import { existsSync, realpathSync, statSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import type { FileReference, FoundFile, ResolvedChain } from '@qcow2/driver';
import { type FileDevice, type ImageUse, openFile } from '@qcow2/fs';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { CommandFailure, describeOpenFailure } from './failures.ts';
import { besideImage, localPath } from './file-name.ts';
import { type FollowPolicy, followName, guessedFailure, localFiles } from './follow.ts';
import { gatherFacts, readHeader } from './gather-facts.ts';
import type { ImageFacts } from './image-facts.ts';
import { probeFormat, type ServedFormat, servedFormat } from './image-format.ts';
import { type ImageLock, lockOpened } from './image-lock.ts';

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
  /** It holds the data of an image that stands in another file. */
  readonly isDataFile?: boolean;
  /** Whether a discard gives space back; not if not given. */
  readonly discard?: 'ignore' | 'unmap';
}

const sectorBytes = 512;

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
  const device = openFile(path, { readOnly, discard: choice.discard ?? 'ignore' });
  let lock: ImageLock | undefined;
  const close = async (): Promise<void> => {
    device.close();
    lock?.release();
  };
  try {
    const found = await probeFormat(device);
    if (wanted === 'qcow2' && !found.startsWith('qcow')) {
      throw new CommandFailure('Image is not in qcow2 format');
    }
    const format = wanted ?? servedFormat(found);
    // What was looked at before says nothing but which lock it is to be.
    lock = await lockOpened(device, useOf(format, choice));
    return { path, device, format, probed: wanted === undefined, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** As QEMU: who serves a raw disk leaves it to the guests whether others may write to it. */
function useOf(format: ServedFormat, { readOnly, shared, isDataFile }: OpenFileChoice): ImageUse {
  if (shared === true) return 'shared';
  if (isDataFile === true && !readOnly) return 'data-writer';
  if (format === 'raw') return readOnly ? 'raw-reader' : 'raw-writer';
  return readOnly ? 'reader' : 'writer';
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

/** An opened chain: the device on top, and what stands below and beside it. */
export interface OpenedChain {
  readonly top: OpenedFile;
  /** What the top image's unallocated ranges read from; undefined without a backing file. */
  readonly backing: BlockDevice | undefined;
  /** Where the top image's guest data stands, if not in itself. */
  readonly dataFile: BlockDevice | undefined;
  /** Close everything that is still open, below the top file and at last that. */
  close(): Promise<void>;
}

export interface ChainChoice extends Omit<OpenFileChoice, 'shared' | 'isDataFile'> {
  /** What is done about names that stand in images; local files are followed if not given. */
  readonly follow?: FollowPolicy | undefined;
}

/**
 * Open an image for its data, with the chain of backing files below it, and its data file.
 * @throws CommandFailure: for a missing, foreign or circular file too, and for one that is not to be followed
 */
export async function openChain(name: string, options: ChainChoice): Promise<OpenedChain> {
  const top = await openImageFile(name, options);
  try {
    const { backing, dataFile, close } = await explainingOpen(name, () => openBelow(top, options));
    return {
      top,
      backing,
      dataFile,
      close: async () => {
        await close();
        await top.close();
      },
    };
  } catch (error) {
    await top.close();
    throw error;
  }
}

/** What the image names, all the way down. Every file but the top one is only read, and the top one's data file. */
async function openBelow(
  top: OpenedFile,
  { readOnly, follow = localFiles, discard = 'ignore' }: ChainChoice,
): Promise<ResolvedChain> {
  if (top.format === 'raw') return { backing: undefined, dataFile: undefined, close: async () => undefined };
  const { resolveChain } = await import('@qcow2/driver');
  const images = new Map([[realpathSync(top.path), { path: top.path, guessed: false }]]);
  const opened: OpenedFile[] = [];
  const resolve = async (reference: FileReference): Promise<FoundFile> => {
    const { role, namedBy, depth } = reference;
    const image = images.get(namedBy)!;
    const explain = (error: unknown) => namedFailure(role, besideImage(image.path, reference.name), error);
    try {
      if (image.guessed) throw guessedFailure(image.path, reference.name);
      const { path, format } = followName(reference, image.path, follow);
      const id = existsSync(path) ? realpathSync(path) : path;
      // Before it is opened: a file that is in the chain already is locked by us.
      if (images.has(id)) throw new CommandFailure(`The backing chain contains '${path}' twice`);
      const wanted = role === 'data' ? 'raw' : (reference.format ?? format);
      const file = await openPlainly(path, {
        format: wanted,
        readOnly: role === 'backing' || readOnly || depth > 1,
        isDataFile: role === 'data',
        discard: role === 'data' ? discard : 'ignore',
      });
      opened.push(file);
      images.set(id, { path, guessed: file.probed && role === 'backing' });
      return { device: file.device, format: file.format, id, explain };
    } catch (error) {
      throw explain(error);
    }
  };
  const release = async (): Promise<void> => {
    for (const file of opened) await file.close();
  };
  try {
    const { nodeCompression } = await import('@qcow2/compression');
    const chain = await resolveChain(top.device, {
      id: realpathSync(top.path),
      resolve,
      below: { compression: nodeCompression() },
    });
    return {
      ...chain,
      close: async () => {
        await chain.close();
        await release();
      },
    };
  } catch (error) {
    await release();
    throw error;
  }
}

/** In QEMU's words: why a file that an image names could not be opened. */
function namedFailure(role: FileReference['role'], name: string, error: unknown): CommandFailure {
  if (error instanceof CommandFailure && /^Could not open (backing|data) file/.test(error.message))
    return error;
  // A missing file is "Could not open" already.
  const missing = error instanceof Qcow2Error && error.code === 'NOT_FOUND';
  const reason = missing
    ? `Could not open '${error.context.path ?? name}': No such file or directory`
    : describeOpenFailure(name, error);
  return new CommandFailure(`Could not open ${role} file: ${reason}`, { cause: error });
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
