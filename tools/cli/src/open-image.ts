/**
 * From a name to a device: the file, its format, and, where an image is opened for its data, the files behind
 * it. Following the names that stand in images is this command's decision, not the library's (`follow.ts`).
 */
import { existsSync, realpathSync, statSync } from 'node:fs';
import type { BlockDevice } from '@qcow2/block-device';
import type { ClusterCompression } from '@qcow2/codec';
import type { FileReference, FoundFile, OpenOptions, ResolvedChain } from '@qcow2/driver';
import { ForeignImage } from '@qcow2/foreign';
import { type ImageUse, type OpenFileOptions, openFile } from '@qcow2/fs';
import { Qcow2Error, StateError } from '@qcow2/spec';
import { keptInMemory } from './dry-run.ts';
import { CommandFailure, describeOpenFailure, openFailureReason } from './failures.ts';
import { besideImage, isHttp, localPath } from './file-name.ts';
import { type FollowedName, type FollowPolicy, followName, guessedFailure, localFiles } from './follow.ts';
import { foreignFacts } from './foreign-facts.ts';
import { type ForeignChoice, openForeignFile } from './foreign-file.ts';
import { gatherFacts, readHeader } from './gather-facts.ts';
import type { ImageFacts } from './image-facts.ts';
import { isForeign, probeFormat, type ServedFormat, servedFormat } from './image-format.ts';
import { type ImageLock, lockOpened } from './image-lock.ts';
import type { ImageNode } from './image-options.ts';
import { type NamedImage, secretOf } from './named-image.ts';
import { debugged, openProtocol } from './protocol-device.ts';
import { type BlkdebugNode, isProtocolName, protocolNode } from './protocol-name.ts';
import type { Secrets } from './secrets.ts';

/** A file, open, and what it is. */
export interface OpenedFile {
  readonly path: string;
  /** The same for two names of one file. */
  readonly id: string;
  readonly device: BlockDevice;
  readonly format: ServedFormat;
  /** The format was not given but found. */
  readonly probed: boolean;
  /** What it takes of this machine's disks, of what is no file. */
  readonly diskBytes?: number | undefined;
  /** False where QEMU's driver says nothing more of it. */
  readonly hasInfo?: boolean;
  /** Close the file and let go of its lock. Where something else has closed `device`, only the latter. */
  close(): Promise<void>;
}

export interface OpenFileChoice {
  /** The `--object`s of the call: what a connection is encrypted with. */
  readonly secrets?: Secrets | undefined;
  readonly format?: string | undefined;
  readonly readOnly: boolean;
  /** Read although somebody may be writing. */
  readonly shared?: boolean;
  /** It holds the data of an image that stands in another file. */
  readonly isDataFile?: boolean;
  /** It is named by an image, and not by the caller. */
  readonly isNamed?: boolean;
  /** What is done about names that stand in it, where they are files that its bytes stand in. */
  readonly follow?: FollowPolicy | undefined;
  /** No byte of the disk is asked for. */
  readonly factsOnly?: boolean;
  /** Whether a discard gives space back; not if not given. */
  readonly discard?: 'ignore' | 'unmap';
  /** Opened for reading whatever `readOnly` says: what is written stays in memory. */
  readonly dryRun?: boolean;
  readonly access?: FileAccess | undefined;
}

/** Where the calls of a file run, and whether it is ever flushed. */
export type FileAccess = Pick<OpenFileOptions, 'io' | 'flush'>;

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
    const virtualSizeBytes = opened.format === 'qcow2' ? await qcow2SizeBytes(device) : rawSizeBytes(device);
    return { ...opened, virtualSizeBytes };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** @throws what is wrong, without the words "Could not open" */
async function openPlainly(name: string, choice: OpenFileChoice): Promise<OpenedFile> {
  if (name === '') throw new CommandFailure("The 'file' block driver requires a file name");
  if (isHttp(name)) return await openRemote(name, choice);
  if (isProtocolName(name)) return await openNoFile(name, choice);
  const path = localPath(name);
  const { format: given, dryRun = false } = choice;
  const readOnly = choice.readOnly || dryRun;
  const wanted = given === undefined ? undefined : servedFormat(given);
  refuseSpecialFile(path);
  const device = openFile(path, { readOnly, discard: choice.discard ?? 'ignore', ...choice.access });
  let lock: ImageLock | undefined;
  let foreign: ForeignImage | undefined;
  const close = async (): Promise<void> => {
    await foreign?.close();
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
    lock = await lockOpened(device, useOf(format, { ...choice, readOnly }));
    const kept = dryRun && !choice.readOnly ? keptInMemory(device) : device;
    if (isForeign(format)) foreign = await openForeignFile(kept, path, format, foreignChoice(choice));
    return { path, id: fileId(path), device: foreign ?? kept, format, probed: wanted === undefined, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A file on a server, which is only read. Nothing is locked there: that it changes is seen when it is read. */
async function openRemote(url: string, choice: OpenFileChoice): Promise<OpenedFile> {
  const { format: given, readOnly } = choice;
  if (!readOnly) throw new CommandFailure('curl driver does not support writes');
  const wanted = given === undefined ? undefined : servedFormat(given);
  const { openHttp } = await import('@qcow2/http');
  const device = await openHttp(url);
  try {
    const found = await probeFormat(device);
    if (wanted === 'qcow2' && !found.startsWith('qcow')) {
      throw new CommandFailure('Image is not in qcow2 format');
    }
    const format = wanted ?? servedFormat(found);
    const disk = isForeign(format)
      ? await openForeignFile(device, url, format, foreignChoice(choice))
      : device;
    const close = async (): Promise<void> => await disk.close();
    return { path: url, id: url, device: disk, format, probed: wanted === undefined, close };
  } catch (error) {
    device.close();
    throw error;
  }
}

/** What was found by itself in a place that an image names may be a guest's writing. */
function foreignChoice(choice: OpenFileChoice): ForeignChoice {
  return { ...choice, isGuessed: choice.format === undefined && choice.isNamed === true };
}

/** An export of a server, or nothing at all. Nothing is locked: who else writes there is the server's to say. */
async function openNoFile(name: string, choice: OpenFileChoice): Promise<OpenedFile> {
  const { format: given, readOnly, dryRun = false } = choice;
  const wanted = given === undefined ? undefined : servedFormat(given);
  const node = await protocolNode(name);
  if (node.driver === 'blkdebug') return await openDebugged(node, choice);
  const { device, shown, diskBytes } = await openProtocol(node, readOnly || dryRun, choice.secrets);
  try {
    const found = await probeFormat(device);
    if (wanted === 'qcow2' && !found.startsWith('qcow')) {
      throw new CommandFailure('Image is not in qcow2 format');
    }
    const format = wanted ?? servedFormat(found);
    const kept = dryRun && !readOnly ? keptInMemory(device) : device;
    const disk = isForeign(format) ? await openForeignFile(kept, shown, format, foreignChoice(choice)) : kept;
    const close = async (): Promise<void> => await disk.close();
    const probed = wanted === undefined;
    return { path: shown, id: shown, device: disk, format, probed, diskBytes, hasInfo: false, close };
  } catch (error) {
    await device.close();
    throw error;
  }
}

/** What is below, locked as if it were named itself; its requests fail by rules. */
async function openDebugged(node: BlkdebugNode, choice: OpenFileChoice): Promise<OpenedFile> {
  let below: OpenedFile;
  try {
    below = await openPlainly(node.image, choice);
  } catch (error) {
    throw new CommandFailure(openFailureReason(node.image, error), { cause: error });
  }
  try {
    if (isForeign(below.format))
      throw new CommandFailure(`Image format '${below.format}' is not supported here`);
    const device = debugged(below.device, node, below.format === 'raw');
    return { ...below, path: node.shown, device, diskBytes: undefined };
  } catch (error) {
    await below.close();
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

/** How facts are asked for. */
export type FactsChoice = Pick<OpenFileChoice, 'shared' | 'follow'>;

/** The facts about one file, for `info`. @throws CommandFailure */
export async function imageFacts(
  name: string,
  options: FactsChoice & Pick<OpenFileChoice, 'format' | 'isNamed' | 'secrets'> = {},
): Promise<ImageFacts> {
  const opened = await openImageFile(name, { ...options, readOnly: true, factsOnly: true });
  const { device, path } = opened;
  try {
    const isFile = !isHttp(name) && !isProtocolName(name);
    const diskBytes = isFile ? statSync(path).blocks * sectorBytes : opened.diskBytes;
    if (opened.format !== 'qcow2') {
      const { format, hasInfo = true } = opened;
      if (device instanceof ForeignImage) return foreignFacts(device, path, diskBytes);
      return { path, format, virtualSizeBytes: rawSizeBytes(device), diskBytes, hasInfo };
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

/** The facts about the image that a command was given. @throws CommandFailure */
export async function namedFacts(
  { fileName, format, explain, options, secrets }: NamedImage,
  choice: FactsChoice = {},
): Promise<ImageFacts> {
  try {
    const facts = await imageFacts(fileName, { ...choice, format, secrets });
    return options?.protocol === undefined ? facts : { ...facts, format: options.protocol };
  } catch (error) {
    throw explain(error);
  }
}

/** One file of a chain, below the top one. */
export interface OpenedLayer {
  readonly path: string;
  readonly format: ServedFormat;
  /** What the chain shows from here on. */
  readonly device: BlockDevice;
  /** Of an image whose guest bytes stand in another file. */
  readonly dataPath: string | undefined;
}

/** An opened chain: the device on top, and what stands below and beside it. */
export interface OpenedChain {
  readonly top: OpenedFile;
  /** What the top image's unallocated ranges read from; undefined without a backing file. */
  readonly backing: BlockDevice | undefined;
  /** What the top image is opened with. */
  readonly opening: OpeningOptions;
  /** Where the top image's guest bytes stand, if not in itself. */
  readonly dataPath: string | undefined;
  /** What stands below the top image, from the top down. */
  readonly layers: readonly OpenedLayer[];
  /** Close everything that is still open, below the top file and at last that. */
  close(): Promise<void>;
}

/** Part of what `openImage` and `repairImage` take: what an image has beside its own file. */
export interface OpeningOptions extends Pick<OpenOptions, 'dataFile' | 'compression' | 'encryption'> {
  readonly backing: BlockDevice | 'none';
}

export interface ChainChoice extends Omit<OpenFileChoice, 'isDataFile' | 'format'> {
  /** What is done about names that stand in images; local files are followed if not given. */
  readonly follow?: FollowPolicy | undefined;
  /** Nothing but the image itself is opened. */
  readonly alone?: boolean;
  /** An image below, by its depth, that is to be written to. */
  readonly writableDepth?: number | undefined;
}

/**
 * Open an image for its data, with the chain of backing files below it, and its data file.
 * @throws CommandFailure: for a missing, foreign or circular file too, and for one that is not to be followed
 */
export async function openChain(image: NamedImage, options: ChainChoice): Promise<OpenedChain> {
  try {
    const name = image.fileName;
    const top = await openImageFile(name, { ...options, format: image.format, secrets: image.secrets });
    try {
      const { nodeCompression } = await import('@qcow2/compression');
      const compression = nodeCompression();
      const below = new BelowImages(top, image, options, compression);
      const chain = await explainingOpen(name, () => below.open());
      try {
        const secret = top.format !== 'qcow2' ? {} : await secretOf(image.node, image.secrets, top.device);
        const { backing, dataFile } = chain;
        const opening = { ...secret, compression, backing: backing ?? ('none' as const) };
        return {
          top,
          backing,
          dataPath: below.dataPathOf(0),
          // What a foreign image knows of its places, it tells of itself.
          layers: chain.below.map((device, at) => ({ device, ...below.layer(at + 1) })),
          opening: { ...opening, ...(dataFile === undefined ? {} : { dataFile }) },
          close: async () => {
            await chain.close();
            await top.close();
          },
        };
      } catch (error) {
        await chain.close();
        throw error;
      }
    } catch (error) {
      await top.close();
      throw error;
    }
  } catch (error) {
    throw image.explain(error);
  }
}

/** What is known of an image that is open. */
interface OpenImage {
  readonly path: string;
  /** Nobody said that it is an image and not a raw disk. */
  readonly guessed: boolean;
  /** What the caller, or a name, said of the image below. */
  readonly below: ImageNode['backing'];
}

const noBackingFile = "Parameter 'backing' is not supported for an image that names no backing file";

/** The device of a foreign image; of others, the chain has it. */
type NotedLayer = Omit<OpenedLayer, 'device'> & Partial<Pick<OpenedLayer, 'device'>>;

/** What an image names, all the way down. Every file but the top one is only read, and the top one's data file. */
class BelowImages {
  readonly #top: OpenedFile;
  readonly #named: NamedImage;
  readonly #options: ChainChoice;
  readonly #compression: ClusterCompression;
  readonly #images = new Map<string, OpenImage>();
  /** The images that name a backing file. */
  readonly #asked = new Set<string>();
  readonly #opened: OpenedFile[] = [];
  /** From the top image down. */
  readonly #layers: NotedLayer[] = [];

  constructor(top: OpenedFile, named: NamedImage, options: ChainChoice, compression: ClusterCompression) {
    this.#top = top;
    this.#named = named;
    this.#options = options;
    this.#compression = compression;
  }

  async open(): Promise<ResolvedChain> {
    const { device, path, format, id } = this.#top;
    this.#layers.push({ path, format, dataPath: undefined });
    if (format !== 'qcow2' || this.#options.alone === true) {
      return { backing: undefined, dataFile: undefined, below: [], close: async () => undefined };
    }
    const { resolveChain } = await import('@qcow2/driver');
    this.#images.set(id, { path, guessed: false, below: this.#named.node.backing });
    try {
      const chain = await resolveChain(device, {
        id,
        resolve: (reference) => this.#resolve(reference),
        writableDepth: this.#options.writableDepth,
        below: { compression: this.#compression },
      });
      const unused = this.#saidOfNothing();
      if (unused !== undefined) {
        await chain.close();
        throw new CommandFailure(`Could not open '${unused}': ${noBackingFile}`);
      }
      return {
        ...chain,
        close: async () => {
          await chain.close();
          await this.#release();
        },
      };
    } catch (error) {
      await this.#release();
      throw error;
    }
  }

  layer(depth: number): NotedLayer {
    return this.#layers[depth]!;
  }

  dataPathOf(depth: number): string | undefined {
    return this.#layers[depth]?.dataPath;
  }

  /** The image that names no backing file where something is said of one: that must not be passed over. */
  #saidOfNothing(): string | undefined {
    for (const [id, { path, below }] of this.#images) {
      if (below !== undefined && below !== 'none' && !this.#asked.has(id)) return path;
    }
    return undefined;
  }

  async #resolve(reference: FileReference): Promise<FoundFile | 'none'> {
    const { role, namedBy } = reference;
    const image = this.#images.get(namedBy)!;
    const said = role === 'backing' ? image.below : undefined;
    if (role === 'backing') this.#asked.add(namedBy);
    if (said === 'none') return 'none';
    const explain = (error: unknown) => namedFailure(role, besideImage(image.path, reference.name), error);
    try {
      return { ...(await this.#find(reference, image, said)), explain };
    } catch (error) {
      throw explain(error);
    }
  }

  async #find(reference: FileReference, image: OpenImage, said: ImageNode | undefined): Promise<FoundFile> {
    const { role, depth } = reference;
    const { follow = localFiles, shared = false, discard = 'ignore', dryRun = false } = this.#options;
    // What the caller says is the caller's: no name that stands in an image is followed for it.
    const { path, format, node } =
      said?.fileName === undefined
        ? this.#follow(reference, image, follow)
        : { path: said.fileName, format: undefined, node: undefined };
    const how = said ?? node;
    const id = fileId(path);
    // Before it is opened: a file that is in the chain already is locked by us.
    if (this.#images.has(id)) throw new CommandFailure(`The backing chain contains '${path}' twice`);
    const wanted = role === 'data' ? 'raw' : (how?.format ?? reference.format ?? format);
    const file = await openPlainly(path, {
      format: wanted,
      secrets: this.#named.secrets,
      readOnly: this.#isOnlyRead(role, depth),
      shared,
      access: this.#options.access,
      isDataFile: role === 'data',
      isNamed: true,
      follow,
      dryRun,
      discard: role === 'data' ? discard : 'ignore',
    });
    this.#opened.push(file);
    this.#noteLayer(role, file);
    this.#images.set(id, { path, guessed: file.probed && role === 'backing', below: how?.backing });
    const isImage = file.format === 'qcow2';
    const secret = isImage ? await secretOf(how, this.#named.secrets, file.device) : {};
    return { device: file.device, format: isImage ? 'qcow2' : 'raw', id, ...secret };
  }

  #follow(reference: FileReference, image: OpenImage, follow: FollowPolicy): FollowedName {
    if (image.guessed) throw guessedFailure(image.path, reference.name);
    return followName(reference, image.path, follow);
  }

  /** `depth`: images above what is named, so a data file is of the image one higher. */
  #isOnlyRead(role: FileReference['role'], depth: number): boolean {
    const { readOnly, writableDepth } = this.#options;
    const ofImage = role === 'backing' ? depth : depth - 1;
    return ofImage === 0 ? readOnly : ofImage !== writableDepth;
  }

  /** A data file is asked for before the image below is. */
  #noteLayer(role: FileReference['role'], { path, format, device }: OpenedFile): void {
    const foreign = isForeign(format) ? { device } : {};
    if (role === 'backing') this.#layers.push({ path, format, dataPath: undefined, ...foreign });
    else this.#layers.push({ ...this.#layers.pop()!, dataPath: path });
  }

  async #release(): Promise<void> {
    for (const file of this.#opened) await file.close();
  }
}

/** The same for two names of one file. */
export function fileId(path: string): string {
  if (isHttp(path)) return path;
  if (isProtocolName(path)) return path;
  return existsSync(path) ? realpathSync(path) : path;
}

/** In QEMU's words: why a file that an image names could not be opened. */
function namedFailure(role: FileReference['role'], name: string, error: unknown): CommandFailure {
  if (error instanceof CommandFailure && /^Could not open (backing|data) file/.test(error.message))
    return error;
  const plain = plainReason(error);
  if (plain !== undefined)
    return new CommandFailure(`Could not open ${role} file: ${plain}`, { cause: error });
  // A missing file is "Could not open" already.
  const missing = error instanceof Qcow2Error && error.code === 'NOT_FOUND';
  const reason = missing
    ? `Could not open '${error.context.path ?? name}': No such file or directory`
    : describeOpenFailure(name, error);
  return new CommandFailure(`Could not open ${role} file: ${reason}`, { cause: error });
}

/** What QEMU says of secrets without the name of the file. */
function plainReason(error: unknown): string | undefined {
  if (error instanceof CommandFailure)
    return error.message.startsWith('No secret') ? error.message : undefined;
  if (!(error instanceof Qcow2Error)) return undefined;
  return error.code === 'NO_SECRET' || error.code === 'WRONG_SECRET'
    ? openFailureReason('', error)
    : undefined;
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
  const what = opened.format === 'raw' ? 'a raw file' : `a ${opened.format} image`;
  throw new StateError('INVALID_ARGUMENT', `${command}: '${opened.path}' is ${what}, not a qcow2 image`, {
    path: opened.path,
  });
}
