/**
 * A BlockDevice over a SectorImage: the disk of the lab. Everything is synchronous and nothing is lost: what
 * a crash would lose is worked out afterwards from the log that a RecordingDevice above it keeps.
 *
 * A discarded range reads as zeros at once, which is the least friendly thing that the contract allows.
 */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  type FlushOptions,
  type ReadOptions,
  type WriteOptions,
  type WriteZeroesOptions,
} from '@qcow2/block-device';
import type { SectorImage } from './sector-image.ts';

const capabilities: DeviceCapabilities = {
  write: true,
  growable: true,
  resize: true,
  discard: true,
  writeZeroes: true,
  fua: true,
  extents: false,
  preferredBlockBytes: 1,
};

export class SectorDevice implements BlockDevice {
  readonly capabilities = capabilities;
  /** The image as it is now; live. */
  readonly image: SectorImage;
  /** Writes of any kind so far: a read-only open must leave this at 0. */
  changes = 0;

  /** Works on `image` itself; pass a clone to keep the original. */
  constructor(image: SectorImage) {
    this.image = image;
  }

  get sizeBytes(): number {
    return this.image.sizeBytes;
  }

  read(offset: number, into: Uint8Array, _options?: ReadOptions): void {
    checkRange(offset, into.length, this.image.sizeBytes);
    this.image.read(offset, into);
  }

  write(offset: number, bytes: Uint8Array, _options?: WriteOptions): void {
    checkRange(offset, bytes.length, Number.MAX_SAFE_INTEGER);
    this.changes++;
    this.image.write(offset, bytes);
  }

  flush(_options?: FlushOptions): void {}

  discard(offset: number, lengthBytes: number, _options?: WriteOptions): void {
    checkRange(offset, lengthBytes, this.image.sizeBytes);
    this.changes++;
    this.image.write(offset, new Uint8Array(lengthBytes));
  }

  writeZeroes(offset: number, lengthBytes: number, _options?: WriteZeroesOptions): void {
    checkRange(offset, lengthBytes, Number.MAX_SAFE_INTEGER);
    this.changes++;
    this.image.write(offset, new Uint8Array(lengthBytes));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    checkRange(offset, lengthBytes, this.image.sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(sizeBytes: number): void {
    checkSize(sizeBytes);
    this.changes++;
    this.image.resize(sizeBytes);
  }

  /** Does nothing: the disk outlives whoever used it, and is opened again. */
  close(): void {}
}
