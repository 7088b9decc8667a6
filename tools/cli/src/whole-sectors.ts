/** A raw file as a disk of whole sectors, which is how QEMU sees it: what its last sector lacks reads as zeros. */
import {
  type BlockDevice,
  type ByteOrigin,
  type Extent,
  pushExtent,
  ReadOnlyDevice,
  readPadded,
} from '@qcow2/block-device';

const sectorBytes = 512;

class WholeSectors extends ReadOnlyDevice {
  readonly #file: BlockDevice;

  constructor(file: BlockDevice) {
    super(file);
    this.#file = file;
  }

  override get sizeBytes(): number {
    return Math.ceil(this.#file.sizeBytes / sectorBytes) * sectorBytes;
  }

  override read(offset: number, into: Uint8Array): void | Promise<void> {
    return readPadded(this.#file, offset, into);
  }

  override origin(offset: number, lengthBytes: number): ByteOrigin | undefined {
    const inFile = Math.min(lengthBytes, this.#file.sizeBytes - offset);
    return inFile > 0 ? super.origin(offset, inFile) : undefined;
  }

  override async extents(offset: number, lengthBytes: number): Promise<readonly Extent[]> {
    const inFile = Math.max(0, Math.min(lengthBytes, this.#file.sizeBytes - offset));
    const extents: Extent[] = inFile > 0 ? [...(await this.#file.extents(offset, inFile))] : [];
    const last = extents.at(-1);
    const known = last === undefined ? offset : last.offset + last.lengthBytes;
    if (known >= this.#file.sizeBytes) {
      pushExtent(extents, { offset: known, lengthBytes: offset + lengthBytes - known, kind: 'hole' });
    }
    return extents;
  }
}

/** For reading; closing it closes the file. The file itself where it has whole sectors. */
export function wholeSectors(file: BlockDevice): BlockDevice {
  return file.sizeBytes % sectorBytes === 0 ? file : new WholeSectors(file);
}
