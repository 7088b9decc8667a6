/**
 * A Blob as a BlockDevice that is only read: a file that somebody chose or dropped, or bytes in memory. Nothing is
 * copied but what is read.
 *
 * A File is a promise of what was on the disk when it was chosen. Where it has changed since, the browser refuses to
 * read it; that is SOURCE_CHANGED.
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  readOnlyCapabilities,
  UnwritableDevice,
} from '@qcow2/block-device';
import { StateError, StorageError } from '@qcow2/spec';

export class BlobDevice extends UnwritableDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities = {
    ...readOnlyCapabilities,
    extents: false,
    preferredBlockBytes: 4096,
  };
  readonly sizeBytes: number;
  /** The file's name, where it has one; for messages. */
  readonly name: string;
  readonly #blob: Blob;
  #closed = false;

  constructor(blob: Blob) {
    super();
    this.#blob = blob;
    this.sizeBytes = blob.size;
    this.name = 'name' in blob && typeof blob.name === 'string' ? blob.name : 'blob';
  }

  /** @throws SOURCE_CHANGED where the browser no longer gives the file; else as the contract */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    this.checkOpen();
    checkRange(offset, into.length, this.sizeBytes);
    if (into.length > 0) return this.#read(offset, into);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  close(): void {
    this.#closed = true;
  }

  async #read(offset: number, into: Uint8Array): Promise<void> {
    const context = { path: this.name, hostOffset: offset, lengthBytes: into.length };
    let bytes: ArrayBuffer;
    try {
      bytes = await this.#blob.slice(offset, offset + into.length).arrayBuffer();
    } catch (error) {
      const gone =
        error instanceof DOMException && ['NotReadableError', 'NotFoundError'].includes(error.name);
      const message = `${this.name} can not be read: ${error instanceof Error ? error.message : String(error)}`;
      throw new StorageError(gone ? 'SOURCE_CHANGED' : 'READ_FAILED', message, context, error);
    }
    if (bytes.byteLength !== into.length) {
      throw new StorageError('SHORT_READ', `${this.name}: ${bytes.byteLength} bytes came`, context);
    }
    into.set(new Uint8Array(bytes));
  }

  protected override get readOnlyMessage(): string {
    return `${this.name} can only be read`;
  }

  protected override checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', `${this.name} is closed`);
  }
}
