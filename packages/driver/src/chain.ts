/**
 * An image with the files that it names: backing files, of any depth, and external data files.
 *
 * A name in an image is text of whoever wrote the image. Nothing here opens one: the caller's resolver is asked for each,
 * and answers with a device, or with nothing [EXT-017]. It also says of what format the file is. The image's own word on that is
 * handed on [BAK-001]; where it has none the resolver decides, and should know what it means to guess: a guest that was given a file
 * as its raw disk may have written another format's header into it, with any name it likes.
 *
 * The walk down is a loop, and so is the way up, in which images are opened: a chain is as deep as there is memory. A read
 * goes down through the images, one inside the other; every so often it goes on in a fresh stack (`Landing`).
 *
 * A file that is met twice, as whatever, is refused: as a backing file it would be a chain without end, as a data file it would be
 * written by one image and believed by another. What is one file the resolver says, by an id.
 */
import { type BlockDevice, ReadOnlyDevice, type ReadOptions } from '@qcow2/block-device';
import {
  decodeBackingFormat,
  decodeExternalDataFile,
  findHeaderExtension,
  type Qcow2Header,
} from '@qcow2/codec';
import { FormatError, headerExtensionTypes, incompatibleFeatures } from '@qcow2/spec';
import type { ImageEncryption } from './encryption.ts';
import { needsSecret } from './encryption-header.ts';
import type { Qcow2Image } from './image.ts';
import { readImageHeader } from './load-header.ts';
import { type OpenOptions, openImage } from './open.ts';

/** A name that stands in an image. */
export interface FileReference {
  readonly role: 'backing' | 'data';
  /** As it stands in the image: a path, relative to whatever its author meant, or anything else. */
  readonly name: string;
  /** The format that the image says a backing file has; undefined where it says none. A data file is raw bytes. */
  readonly format: string | undefined;
  /** The `id` of the image that names it. */
  readonly namedBy: string;
  /** Images above it in the chain: 1 for what the top image names. */
  readonly depth: number;
}

/** What a resolver found. The device is the chain's from then on, and closed with it. */
export interface FoundFile {
  readonly device: BlockDevice;
  /** Of a backing file; `raw`: its bytes are the disk, whatever they look like. */
  readonly format: 'qcow2' | 'raw';
  /** The same for two names of one file, and for no others. */
  readonly id: string;
  /** What opens it, where it is encrypted. */
  readonly encryption?: ImageEncryption | undefined;
  /** What is thrown in place of an error that shows when the file is opened as an image. */
  readonly explain?: (error: unknown) => unknown;
}

/**
 * Opens a file that an image names, or refuses by throwing. `none`: a backing file is left out, and zeros show in its place;
 * of a data file, no guest byte is reached.
 */
export type FileResolver = (reference: FileReference) => FoundFile | 'none' | Promise<FoundFile | 'none'>;

export interface ResolveOptions {
  /** The top image's own id, as the resolver would give it. */
  readonly id: string;
  readonly resolve: FileResolver;
  /** One image below the top one that is opened for writing, by its depth. The caller says so; the others are only read. */
  readonly writableDepth?: number | undefined;
  /** What the images below the top one are opened with. */
  readonly below?: Omit<OpenOptions, 'backing' | 'dataFile' | 'readOnly'>;
}

export interface ChainOptions extends ResolveOptions, Omit<OpenOptions, 'backing' | 'dataFile'> {}

/** What an image is opened with, beside its own file. */
export interface ResolvedChain {
  /** What its unallocated clusters show; undefined where it names nothing, or nothing was found. */
  readonly backing: BlockDevice | undefined;
  readonly dataFile: BlockDevice | undefined;
  /**
   * The devices below the top image one by one, from the top down: each shows what the chain has from there on. They are the chain's, to be
   * looked at; all but a raw file at the bottom are images.
   */
  readonly below: readonly BlockDevice[];
  /** Close all of it. An image that was opened with it does so itself. */
  close(): Promise<void>;
}

/** An image of the chain that is still to be opened, from the top down. */
interface Layer {
  readonly file: FoundFile;
  dataFile: BlockDevice | undefined;
}

/** Images between two landings: what a stack takes easily. */
const imagesPerLanding = 24;

/**
 * Open an image on a device, and whatever it names. Only the top one is opened for writing.
 * @returns the top image; closing it closes the chain
 * @throws as `resolveChain` and `openImage`. The top device is the caller's still then
 */
export async function openChain(device: BlockDevice, options: ChainOptions): Promise<Qcow2Image> {
  const { id, resolve, below, writableDepth, ...openOptions } = options;
  const chain = await resolveChain(device, {
    id,
    resolve,
    writableDepth,
    ...(below === undefined ? {} : { below }),
  });
  const { backing, dataFile } = chain;
  try {
    return await openImage(device, {
      ...openOptions,
      backing: backing ?? 'none',
      ...(dataFile === undefined ? {} : { dataFile }),
    });
  } catch (error) {
    await chain.close();
    throw error;
  }
}

/**
 * Find and open whatever an image names, but not the image itself: what `openImage` is to be told.
 * @throws CHAIN_LOOP for a file that is met twice [BAK-002]; NO_SECRET for an encrypted image below that the
 *   resolver gave nothing to open with; what the resolver throws; and as `openImage` for what is below.
 *   All that was resolved is closed then
 */
export async function resolveChain(device: BlockDevice, options: ResolveOptions): Promise<ResolvedChain> {
  const { writableDepth } = options;
  const walk = new ChainWalk(options.resolve, { device, id: options.id, format: 'qcow2' }, writableDepth);
  let backing: BlockDevice | undefined;
  const close = () => walk.close(backing);
  try {
    backing = await walk.down();
    const below = backing === undefined ? [] : [backing];
    for (let left = walk.layers.length - 1; left > 0; left--) {
      const image = await openLayer(walk.layers[left]!, backing, {
        ...options.below,
        readOnly: left !== writableDepth,
      });
      below.unshift(image);
      backing = left % imagesPerLanding === 0 ? new Landing(image) : image;
    }
    return { backing, dataFile: walk.layers[0]!.dataFile, below, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function openLayer(
  { file, dataFile }: Layer,
  backing: BlockDevice | undefined,
  options: OpenOptions,
): Promise<BlockDevice> {
  const data = dataFile === undefined ? {} : { dataFile };
  try {
    const secret = file.encryption === undefined ? {} : { encryption: file.encryption };
    const opening = { ...options, ...secret, backing: backing ?? ('none' as const), ...data };
    const image = await openImage(file.device, opening);
    // Its bytes would be asked for when it is too late to say why they are not there.
    if (image.isLocked) throw needsSecret();
    return image;
  } catch (error) {
    throw file.explain === undefined ? error : file.explain(error);
  }
}

class ChainWalk {
  /** From the top down. */
  readonly layers: Layer[];
  readonly #resolve: FileResolver;
  readonly #ids: Set<string>;
  /** What the resolver gave so far. */
  readonly #found: BlockDevice[] = [];

  readonly #writableDepth: number | undefined;

  constructor(resolve: FileResolver, top: FoundFile, writableDepth: number | undefined) {
    this.#resolve = resolve;
    this.#writableDepth = writableDepth;
    this.layers = [{ file: top, dataFile: undefined }];
    this.#ids = new Set([top.id]);
  }

  /** Ask for every name, from the top down. Returns the raw file at the bottom, if that is what is there. */
  async down(): Promise<BlockDevice | undefined> {
    for (;;) {
      const layer = this.layers.at(-1)!;
      const header = await this.#headerOf(layer.file);
      const data = dataReference(header);
      if (data !== undefined) layer.dataFile = (await this.#ask(data))?.device;
      const reference = backingReference(header);
      const found = reference === undefined ? undefined : await this.#ask(reference);
      if (found === undefined) return undefined;
      if (found.format === 'raw') {
        return this.layers.length === this.#writableDepth ? found.device : new ReadOnlyDevice(found.device);
      }
      this.layers.push({ file: found, dataFile: undefined });
    }
  }

  /** `opened` closes what is below it; a device may be closed twice. */
  async close(opened: BlockDevice | undefined): Promise<void> {
    await opened?.close();
    for (const device of this.#found) await device.close();
  }

  async #headerOf(file: FoundFile): Promise<Qcow2Header> {
    try {
      return (await readImageHeader(file.device)).header;
    } catch (error) {
      throw file.explain === undefined ? error : file.explain(error);
    }
  }

  async #ask(what: Pick<FileReference, 'role' | 'name' | 'format'>): Promise<FoundFile | undefined> {
    const namedBy = this.layers.at(-1)!.file.id;
    const found = await this.#resolve({ ...what, namedBy, depth: this.layers.length });
    if (found === 'none') return undefined;
    this.#found.push(found.device);
    if (!this.#ids.has(found.id)) {
      this.#ids.add(found.id);
      return found;
    }
    const message = `a file that is in the chain already is named as ${what.role === 'data' ? 'the data file' : 'the backing file'}`;
    throw new FormatError('CHAIN_LOOP', message, { path: what.name, value: found.id, clause: 'BAK-002' });
  }
}

function backingReference(header: Qcow2Header): Pick<FileReference, 'role' | 'name' | 'format'> | undefined {
  const { backingFileName: name, extensions } = header;
  if (name === undefined || name === '') return undefined;
  const format = findHeaderExtension(extensions, headerExtensionTypes.backingFormat);
  return { role: 'backing', name, format: format === undefined ? undefined : decodeBackingFormat(format) };
}

function dataReference(header: Qcow2Header): Pick<FileReference, 'role' | 'name' | 'format'> | undefined {
  if ((header.incompatibleFeatures & incompatibleFeatures.externalDataFile) === 0n) return undefined;
  const name = findHeaderExtension(header.extensions, headerExtensionTypes.externalDataFile);
  return { role: 'data', name: name === undefined ? '' : decodeExternalDataFile(name), format: 'raw' };
}

/**
 * Where a read through many images goes on in a fresh stack: a call that goes down through every image of a deep chain
 * would need a frame for each. From here on it is a promise, and who is above waits.
 */
class Landing extends ReadOnlyDevice {
  override async read(offset: number, into: Uint8Array, options?: ReadOptions): Promise<void> {
    await freshStack();
    await super.read(offset, into, options);
  }

  override async close(): Promise<void> {
    await freshStack();
    await super.close();
  }
}

function freshStack(): Promise<void> {
  return Promise.resolve();
}
