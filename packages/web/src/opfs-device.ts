/**
 * A file of the origin private file system as a BlockDevice. All calls are synchronous, so an image over it is.
 *
 * Invariants:
 *  - `sizeBytes` is the file's size: nobody else has it open, and it is asked for again after a failure.
 *  - Bytes between the old end of the file and a write beyond it read as zeros: the platform fills them in.
 *  - Once a flush has failed, writes and flushes are refused: what it was to make durable may be lost, and a second
 *    one would not say so. Reads still work.
 *
 * What `flush` makes durable is the browser's word; it asks the system, and the profile's disk is the system's.
 */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  type WriteOptions,
} from '@qcow2/block-device';
import { StateError, StorageError } from '@qcow2/spec';
import type { SyncAccess } from './open-opfs.ts';

/** Zeros are written in pieces of this size. */
const zeroes = new Uint8Array(256 * 1024);

export class OpfsDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly name: string;
  readonly #access: SyncAccess;
  #sizeBytes: number;
  #failure: { readonly cause: unknown } | undefined;
  #closed = false;

  /** Takes ownership of the access. Made by `openOpfs`. */
  constructor(name: string, access: SyncAccess, readOnly: boolean) {
    this.name = name;
    this.#access = access;
    this.#sizeBytes = access.getSize();
    this.capabilities = {
      write: !readOnly,
      growable: !readOnly,
      resize: !readOnly,
      discard: false,
      writeZeroes: false,
      fua: false,
      extents: false,
      preferredBlockBytes: 4096,
    };
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  read(offset: number, into: Uint8Array): void {
    this.#checkOpen();
    checkRange(offset, into.length, this.#sizeBytes);
    for (let done = 0; done < into.length; ) {
      const part = ofBuffer(into.subarray(done));
      const count = this.#attempt('READ_FAILED', offset + done, part.length, () =>
        this.#access.read(part, { at: offset + done }),
      );
      if (count === 0) {
        const context = { path: this.name, hostOffset: offset + done };
        throw new StorageError('SHORT_READ', `${this.name} ends before ${this.#sizeBytes} bytes`, context);
      }
      done += count;
    }
  }

  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void {
    this.#admitWrite(offset, bytes.length);
    this.#write(offset, bytes);
    if (options?.fua === true) this.flush();
  }

  flush(): void {
    this.#checkOpen();
    if (!this.capabilities.write) return;
    this.#checkHealthy();
    try {
      this.#access.flush();
    } catch (error) {
      this.#failure = { cause: error };
      throw this.#error('FLUSH_FAILED', error);
    }
  }

  /** Nothing: files here have no holes. */
  discard(offset: number, lengthBytes: number): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, this.#sizeBytes);
  }

  writeZeroes(offset: number, lengthBytes: number, options?: WriteOptions): void {
    this.#admitWrite(offset, lengthBytes);
    const end = offset + lengthBytes;
    const writtenEnd = Math.min(end, this.#sizeBytes);
    for (let at = offset; at < writtenEnd; at += zeroes.length) {
      this.#write(at, zeroes.subarray(0, Math.min(zeroes.length, writtenEnd - at)));
    }
    if (lengthBytes > 0 && end > this.#sizeBytes) this.#truncate(end);
    if (options?.fua === true) this.flush();
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.#sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(sizeBytes: number): void {
    this.#checkWritable();
    checkSize(sizeBytes);
    this.#truncate(sizeBytes);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#access.close();
  }

  #write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const part = ofBuffer(bytes.subarray(done));
      const at = offset + done;
      const count = this.#attempt('WRITE_FAILED', at, part.length, () => this.#access.write(part, { at }));
      if (count === 0) {
        throw new StorageError('WRITE_FAILED', `${this.name}: no byte was written`, {
          path: this.name,
          hostOffset: at,
        });
      }
      this.#sizeBytes = Math.max(this.#sizeBytes, at + count);
      done += count;
    }
  }

  #truncate(sizeBytes: number): void {
    this.#attempt('WRITE_FAILED', sizeBytes, 0, () => this.#access.truncate(sizeBytes));
    this.#sizeBytes = sizeBytes;
  }

  #attempt<T>(
    code: 'READ_FAILED' | 'WRITE_FAILED',
    hostOffset: number,
    lengthBytes: number,
    call: () => T,
  ): T {
    try {
      return call();
    } catch (error) {
      // What was done of a failed write, nobody says.
      if (code === 'WRITE_FAILED') this.#sizeBytes = this.#access.getSize();
      throw this.#error(code, error, { hostOffset, lengthBytes });
    }
  }

  #error(code: 'READ_FAILED' | 'WRITE_FAILED' | 'FLUSH_FAILED', error: unknown, place = {}): StorageError {
    const full = code === 'WRITE_FAILED' && error instanceof Error && error.name === 'QuotaExceededError';
    const message = `${this.name}: ${error instanceof Error ? error.message : String(error)}`;
    return new StorageError(full ? 'NO_SPACE' : code, message, { path: this.name, ...place }, error);
  }

  #admitWrite(offset: number, lengthBytes: number): void {
    this.#checkWritable();
    checkRange(offset, lengthBytes, Number.MAX_SAFE_INTEGER);
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', `${this.name} is closed`);
  }

  #checkWritable(): void {
    this.#checkOpen();
    if (!this.capabilities.write) throw new StateError('READ_ONLY', `${this.name} was opened read-only`);
    this.#checkHealthy();
  }

  #checkHealthy(): void {
    if (this.#failure === undefined) return;
    const { cause } = this.#failure;
    throw new StateError(
      'FAILED_EARLIER',
      `${this.name}: an earlier flush failed`,
      { path: this.name },
      cause,
    );
  }
}

/** The platform takes no bytes of shared memory. */
function ofBuffer(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  if (bytes.buffer instanceof ArrayBuffer) return bytes as Uint8Array<ArrayBuffer>;
  throw new StateError('INVALID_ARGUMENT', 'bytes of shared memory can not be read into or written');
}
