/**
 * A device with the face of a FileHandle of `node:fs/promises`: code that was written for a file takes an image.
 *
 * What is a file's way and not a device's:
 *  - a position, which reads and writes without one of their own move on, at the moment when they are called: of several
 *    at once each has its own part;
 *  - a read beyond the end brings less, and nothing at the end; a write that a device of fixed size has no room for
 *    writes less, and at the end fails with NO_SPACE;
 *  - closing waits for what is under way.
 *
 * There is no `fd`, and nothing about owners, modes and times. Errors are those of the device, with its codes.
 */
import type { Readable, Writable } from 'node:stream';
import type { ReadableStream, WritableStream } from 'node:stream/web';
import type { BlockDevice } from '@qcow2/block-device';
import { StateError, StorageError } from '@qcow2/spec';
import {
  type HandlePosition,
  parseRead,
  parseWrite,
  type ReadArguments,
  type ReadForm,
  type WriteForm,
} from './internal/handle-arguments.ts';
import {
  type ReadStreamOptions,
  readStream,
  readWebStream,
  type WebStreamOptions,
  type WriteStreamOptions,
  writeStream,
  writeWebStream,
} from './internal/handle-streams.ts';
import { InFlight } from './internal/in-flight.ts';

export interface ImageHandleOptions {
  /** Whether closing the handle closes the device; true if not given. */
  readonly closeDevice?: boolean;
}

export interface AbortOptions {
  /** Ends the operation between two pieces of it, with ABORTED. */
  readonly signal?: AbortSignal | undefined;
}

/** As much of a file's `Stats` as a device has. */
export interface ImageStats {
  readonly size: number;
  /** What requests are best multiples of. */
  readonly blksize: number;
  isFile(): boolean;
  isDirectory(): boolean;
  isBlockDevice(): boolean;
  isCharacterDevice(): boolean;
  isSymbolicLink(): boolean;
  isFIFO(): boolean;
  isSocket(): boolean;
}

/** Whole files go in pieces of this size, and a signal is looked at between them. */
const pieceBytes = 1024 * 1024;
/** Node's own limit for a file that is read at once. */
const readFileLimitBytes = 2 ** 31 - 1;

export type FileData =
  | string
  | NodeJS.ArrayBufferView
  | Iterable<string | NodeJS.ArrayBufferView>
  | AsyncIterable<string | NodeJS.ArrayBufferView>;

export class ImageHandle {
  readonly #device: BlockDevice;
  readonly #closesDevice: boolean;
  readonly #inFlight = new InFlight();
  #position = 0;
  #closing: Promise<void> | undefined;

  constructor(device: BlockDevice, options: ImageHandleOptions = {}) {
    this.#device = device;
    this.#closesDevice = options.closeDevice ?? true;
  }

  /**
   * Read into a part of `buffer`, which is the caller's again when the promise settles.
   * @returns how many bytes there were: fewer than asked for where the device ends, 0 at its end
   * @throws INVALID_ARGUMENT, READ_FAILED, CLOSED
   */
  read<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    offset?: number | null,
    length?: number | null,
    position?: HandlePosition,
  ): Promise<{ bytesRead: number; buffer: T }>;
  read<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    options?: ReadArguments,
  ): Promise<{ bytesRead: number; buffer: T }>;
  read<T extends NodeJS.ArrayBufferView = Buffer<ArrayBuffer>>(
    options?: ReadArguments & { readonly buffer?: T },
  ): Promise<{ bytesRead: number; buffer: T }>;
  async read(...form: ReadForm): Promise<{ bytesRead: number; buffer: NodeJS.ArrayBufferView }> {
    this.#checkOpen();
    const { buffer, bytes, position } = parseRead(form);
    const at = position ?? this.#position;
    const count = Math.max(0, Math.min(bytes.length, this.#device.sizeBytes - at));
    if (position === undefined) this.#position += count;
    await this.#during(() => this.#device.read(count === 0 ? 0 : at, bytes.subarray(0, count)));
    return { bytesRead: count, buffer };
  }

  /**
   * Write a part of `buffer`, or a string. What is written is durable after `sync`.
   * @returns how many bytes there was room for
   * @throws NO_SPACE where there was room for none; INVALID_ARGUMENT, WRITE_FAILED, READ_ONLY, CLOSED
   */
  write<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    offset?: number | null,
    length?: number | null,
    position?: HandlePosition,
  ): Promise<{ bytesWritten: number; buffer: T }>;
  write<T extends NodeJS.ArrayBufferView>(
    buffer: T,
    options?: ReadArguments,
  ): Promise<{ bytesWritten: number; buffer: T }>;
  write(
    text: string,
    position?: HandlePosition,
    encoding?: BufferEncoding | null,
  ): Promise<{ bytesWritten: number; buffer: string }>;
  async write(
    ...form: WriteForm
  ): Promise<{ bytesWritten: number; buffer: NodeJS.ArrayBufferView | string }> {
    this.#checkOpen();
    const { buffer, bytes, position } = parseWrite(form);
    const at = position ?? this.#position;
    const room = this.#device.capabilities.growable
      ? bytes.length
      : Math.max(0, Math.min(bytes.length, this.#device.sizeBytes - at));
    if (room === 0 && bytes.length > 0) {
      throw new StorageError('NO_SPACE', 'the device ends here and does not grow', { hostOffset: at });
    }
    if (position === undefined) this.#position += room;
    if (room > 0) await this.#during(() => this.#device.write(at, bytes.subarray(0, room)));
    return { bytesWritten: room, buffer };
  }

  /** Fill one buffer after the other. */
  async readv<T extends readonly NodeJS.ArrayBufferView[]>(
    buffers: T,
    position?: HandlePosition,
  ): Promise<{ bytesRead: number; buffers: T }> {
    let bytesRead = 0;
    for (const buffer of buffers) {
      const at = typeof position === 'number' && position >= 0 ? position + bytesRead : null;
      const { bytesRead: count } = await this.read(buffer, { position: at });
      bytesRead += count;
      if (count < buffer.byteLength) break;
    }
    return { bytesRead, buffers };
  }

  /** Write one buffer after the other. */
  async writev<T extends readonly NodeJS.ArrayBufferView[]>(
    buffers: T,
    position?: HandlePosition,
  ): Promise<{ bytesWritten: number; buffers: T }> {
    let bytesWritten = 0;
    for (const buffer of buffers) {
      const at = typeof position === 'number' && position >= 0 ? position + bytesWritten : null;
      const { bytesWritten: count } = await this.write(buffer, { position: at });
      bytesWritten += count;
      if (count < buffer.byteLength) break;
    }
    return { bytesWritten, buffers };
  }

  async stat(): Promise<ImageStats> {
    this.#checkOpen();
    const no = (): boolean => false;
    return {
      size: this.#device.sizeBytes,
      blksize: this.#device.capabilities.preferredBlockBytes,
      isFile: () => true,
      isDirectory: no,
      isBlockDevice: no,
      isCharacterDevice: no,
      isSymbolicLink: no,
      isFIFO: no,
      isSocket: no,
    };
  }

  /** Make durable all that was written. @throws FLUSH_FAILED, FAILED_EARLIER, CLOSED */
  async sync(): Promise<void> {
    this.#checkOpen();
    await this.#during(() => this.#device.flush());
  }

  /** The same as `sync`: a device has no other metadata. */
  datasync(): Promise<void> {
    return this.sync();
  }

  /** @throws UNSUPPORTED_OPERATION where the device has a fixed size; READ_ONLY, NO_SPACE, WRITE_FAILED, CLOSED */
  async truncate(length = 0): Promise<void> {
    this.#checkOpen();
    await this.#during(() => this.#device.resize(length));
  }

  /**
   * The bytes from the position on, to the end.
   * @throws INVALID_ARGUMENT for more than Node reads at once (2 GiB); ABORTED; as `read`
   */
  readFile(options?: (AbortOptions & { readonly encoding?: null }) | null): Promise<Buffer<ArrayBuffer>>;
  readFile(options: (AbortOptions & { readonly encoding: BufferEncoding }) | BufferEncoding): Promise<string>;
  async readFile(
    options?: (AbortOptions & { readonly encoding?: BufferEncoding | null }) | BufferEncoding | null,
  ): Promise<Buffer | string> {
    this.#checkOpen();
    const { signal, encoding } = typeof options === 'string' ? { encoding: options } : (options ?? {});
    const lengthBytes = Math.max(0, this.#device.sizeBytes - this.#position);
    if (lengthBytes > readFileLimitBytes) {
      const message = `${lengthBytes} bytes are too many to be read at once; use a stream`;
      throw new StateError('INVALID_ARGUMENT', message, { lengthBytes });
    }
    const all = Buffer.alloc(lengthBytes);
    let filled = 0;
    while (filled < lengthBytes) {
      checkWanted(signal);
      const { bytesRead } = await this.read(all, filled, Math.min(pieceBytes, lengthBytes - filled));
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    const bytes = all.subarray(0, filled);
    return encoding ? bytes.toString(encoding) : bytes;
  }

  /**
   * Write all of `data` from the position on; what stands behind it stays.
   * @throws NO_SPACE when the device ends before the data does: a part of it is written then; ABORTED; as `write`
   */
  async writeFile(
    data: FileData,
    options?: (AbortOptions & { readonly encoding?: BufferEncoding | null }) | BufferEncoding | null,
  ): Promise<void> {
    const { signal, encoding } = typeof options === 'string' ? { encoding: options } : (options ?? {});
    const parts = typeof data === 'string' || ArrayBuffer.isView(data) ? [data] : data;
    for await (const part of parts) {
      const { bytes } = parseWrite(typeof part === 'string' ? [part, null, encoding] : [part]);
      for (let done = 0; done < bytes.length; ) {
        checkWanted(signal);
        const lengthBytes = Math.min(pieceBytes, bytes.length - done);
        done += (await this.write(bytes, done, lengthBytes)).bytesWritten;
      }
    }
  }

  /** A stream of Node's. `end` is the last byte's place, as for files; closes the handle unless `autoClose` is false. */
  createReadStream(options: ReadStreamOptions = {}): Readable {
    this.#checkOpen();
    return readStream(this, options);
  }

  /** A stream of Node's. With `flush` its end is durable; closes the handle unless `autoClose` is false. */
  createWriteStream(options: WriteStreamOptions = {}): Writable {
    this.#checkOpen();
    return writeStream(this, options);
  }

  /** The bytes from the position on, or from `start`; the handle stays open unless `autoClose` is true. */
  readableWebStream(options: WebStreamOptions = {}): ReadableStream {
    this.#checkOpen();
    return readWebStream(this, options);
  }

  /** Writes from the position on, or from `start`; the handle stays open unless `autoClose` is true. */
  writableWebStream(options: WebStreamOptions = {}): WritableStream {
    this.#checkOpen();
    return writeWebStream(this, options);
  }

  /** Wait for what is under way, then close; an image is then closed cleanly. Calling it again does nothing more. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    while (this.#inFlight.busy) await this.#inFlight.idle();
    if (this.#closesDevice) await this.#device.close();
  }

  async #during(action: () => void | Promise<void>): Promise<void> {
    this.#inFlight.enter();
    try {
      await action();
    } finally {
      this.#inFlight.leave();
    }
  }

  #checkOpen(): void {
    if (this.#closing !== undefined) throw new StateError('CLOSED', 'the handle is closed');
  }
}

function checkWanted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new StateError('ABORTED', 'the operation was aborted', {}, signal.reason);
}
