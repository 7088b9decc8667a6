/** A disk of a size that holds nothing: what is written is gone, and what is read is zeros. For measuring the other side of a copy. */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
} from '@qcow2/block-device';
import { StateError, UnsupportedFeatureError } from '@qcow2/spec';

export class NullDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly sizeBytes: number;
  readonly #readZeroes: boolean;
  #isClosed = false;

  /** @param readZeroes that it reads as zeros is told by `extents`; otherwise everything is data */
  constructor(sizeBytes: number, readZeroes: boolean, readOnly: boolean) {
    this.sizeBytes = sizeBytes;
    this.#readZeroes = readZeroes;
    this.capabilities = {
      write: !readOnly,
      growable: false,
      resize: false,
      discard: false,
      writeZeroes: !readOnly,
      fua: !readOnly,
      extents: readZeroes,
      preferredBlockBytes: 1,
    };
  }

  read(offset: number, into: Uint8Array): void {
    this.#check(offset, into.length);
    into.fill(0);
  }

  write(offset: number, bytes: Uint8Array): void {
    this.#checkWrite(offset, bytes.length);
  }

  writeZeroes(offset: number, lengthBytes: number): void {
    this.#checkWrite(offset, lengthBytes);
  }

  discard(offset: number, lengthBytes: number): void {
    this.#checkWrite(offset, lengthBytes);
  }

  flush(): void {
    this.#checkOpen();
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#check(offset, lengthBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: this.#readZeroes ? 'zero' : 'data' }];
  }

  resize(sizeBytes: number): never {
    this.#checkOpen();
    checkSize(sizeBytes);
    throw new UnsupportedFeatureError(
      'UNSUPPORTED_OPERATION',
      'a disk that holds nothing has the size that it has',
    );
  }

  close(): void {
    this.#isClosed = true;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new StateError('CLOSED', 'the disk is closed');
  }

  #check(offset: number, lengthBytes: number): void {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
  }

  #checkWrite(offset: number, lengthBytes: number): void {
    this.#checkOpen();
    if (!this.capabilities.write) throw new StateError('READ_ONLY', 'the disk was opened for reading');
    checkRange(offset, lengthBytes, this.sizeBytes);
  }
}
