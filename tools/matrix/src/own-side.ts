/** What the library does with the image of a combination. */
import { type BlockDevice, type DeviceCapabilities, ReadOnlyDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { legacyAes, luksPassphrase, newLuks } from '@qcow2/crypto';
import {
  type CheckReport,
  checkImage,
  createImage,
  openImage,
  type PlacedExtent,
  Qcow2Image,
} from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { type Combination, refcountBitsOf } from './dimensions.ts';
import { contentOf, type Step } from './disk-model.ts';
import { dataName, imageName, passphrase, type Scene } from './scene.ts';
import { type Shape, shapeOf } from './workload.ts';

const compression = nodeCompression();
const phrase = new TextEncoder().encode(passphrase);

/** An image that is open, and what it stands on. Closing the image closes that. */
export interface OpenedImage {
  readonly image: Qcow2Image;
  readonly backing: BlockDevice | undefined;
  /** Let go of the image as a crash would, and of the files. */
  abandon(): Promise<void>;
}

export class OwnSide {
  readonly #scene: Scene;
  readonly #combination: Combination;
  readonly #shape: Shape;

  constructor(scene: Scene, combination: Combination) {
    this.#scene = scene;
    this.#combination = combination;
    this.#shape = shapeOf(combination);
  }

  async create(): Promise<void> {
    const one = this.#combination;
    const { clusterBytes, sizeBytes } = this.#shape;
    const base = one.backing === 'alone' ? undefined : this.#base(one.backing);
    const device = openFile(this.#scene.path(imageName), { create: 'truncate' });
    const dataDevice =
      one.data === 'inside' ? undefined : openFile(this.#scene.path(dataName), { create: 'truncate' });
    try {
      await createImage(device, {
        sizeBytes,
        version: one.version === 'v2' ? 2 : 3,
        clusterBytes,
        refcountBits: refcountBitsOf(one),
        extendedL2: one.entries === 'extended',
        ...(one.compression === 'zstd' ? { compressionType: 'zstd' as const } : {}),
        ...(base === undefined ? {} : { backingFile: base.name, backingFormat: base.format }),
        ...(dataDevice === undefined
          ? {}
          : { dataFile: { device: dataDevice, name: dataName, raw: one.data === 'rawfile' } }),
        ...(one.encryption === 'luks'
          ? { encryption: newLuks({ passphrase: phrase, iterations: 1000 }) }
          : {}),
        ...(one.maker === 'journal' ? { journal: this.#journal } : {}),
      });
    } finally {
      device.close();
      dataDevice?.close();
    }
  }

  get #journal() {
    return { sizeBytes: Math.max(2 ** 18, 4 * this.#shape.clusterBytes) };
  }

  /** For an image that another made: its combination has a journal. */
  async enableJournal({ image }: OpenedImage): Promise<void> {
    if (image.journalStatus() === undefined) await image.enableJournal(this.#journal);
  }

  async open(readOnly: boolean): Promise<OpenedImage> {
    const one = this.#combination;
    const backing = one.backing === 'alone' ? undefined : await this.#openBase(one.backing);
    const dataFile = one.data === 'inside' ? undefined : this.#openData(readOnly);
    const device = openFile(this.#scene.path(imageName), { readOnly });
    const encryption =
      one.encryption === 'clear'
        ? undefined
        : one.encryption === 'aes'
          ? legacyAes(phrase)
          : luksPassphrase(phrase);
    const letGo = async () => {
      for (const opened of [backing, dataFile, device]) await opened?.close();
    };
    try {
      const image = await openImage(device, {
        readOnly,
        backing: backing ?? 'none',
        compression,
        discard: 'unmap',
        ...(dataFile === undefined ? {} : { dataFile }),
        ...(encryption === undefined ? {} : { encryption }),
      });
      const abandon = async () => {
        image.abandon();
        await letGo();
      };
      return { image, backing, abandon };
    } catch (error) {
      await letGo();
      throw error;
    }
  }

  #openData(readOnly: boolean): BlockDevice {
    const device = openFile(this.#scene.path(dataName), { readOnly });
    return readOnly ? new Opaque(device) : device;
  }

  #base(backing: 'onraw' | 'onqcow2') {
    return this.#scene.base(backing === 'onraw' ? 'raw' : 'qcow2', this.#shape);
  }

  async #openBase(backing: 'onraw' | 'onqcow2'): Promise<BlockDevice> {
    const { name, format } = this.#base(backing);
    const device = openFile(this.#scene.path(name), { readOnly: true });
    return format === 'raw' ? device : await openImage(device, { readOnly: true, compression });
  }

  async apply({ image }: OpenedImage, step: Step): Promise<void> {
    const { kind, offset, lengthBytes } = step;
    if (kind === 'discard') await image.discard(offset, lengthBytes);
    else if (kind === 'zero' || kind === 'unmap') {
      await image.writeZeroes(offset, lengthBytes, { mayUnmap: kind === 'unmap' });
    } else {
      const content = contentOf(step, this.#scene.fills);
      await (kind === 'write' ? image.write(offset, content) : image.writeCompressed(offset, content));
    }
  }

  async check(): Promise<CheckReport> {
    const device = openFile(this.#scene.path(imageName), { readOnly: true });
    try {
      return await checkImage(device);
    } finally {
      device.close();
    }
  }
}

/** A file that does not tell of its holes: what an image says of its clusters is to be seen, and not what the host says. */
class Opaque extends ReadOnlyDevice {
  override readonly capabilities: DeviceCapabilities;

  constructor(device: BlockDevice) {
    super(device);
    this.capabilities = { ...device.capabilities, write: false, extents: false };
  }
}

export async function readAll(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

/** All that a device is made of, with places: of an image its own, of a file each byte's. */
export async function allExtents(device: BlockDevice): Promise<readonly PlacedExtent[]> {
  const found: PlacedExtent[] = [];
  for (let at = 0; at < device.sizeBytes; ) {
    const left = device.sizeBytes - at;
    const some =
      device instanceof Qcow2Image
        ? await device.placedExtents(at, left)
        : (await device.extents(at, left)).map((extent) => ({ ...extent, hostOffset: extent.offset }));
    found.push(...some);
    const last = some.at(-1)!;
    at = last.offset + last.lengthBytes;
  }
  return found;
}
