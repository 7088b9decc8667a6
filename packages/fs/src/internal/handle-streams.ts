/** Streams over a handle: Node's and the web's. Each keeps to its own place once it has one, or goes where the handle stands. */
import { Readable, Writable } from 'node:stream';
import { ReadableStream, WritableStream } from 'node:stream/web';
import { StateError } from '@qcow2/spec';

/** What streams need of a handle. */
export interface StreamedHandle {
  read(
    buffer: Uint8Array,
    options: { readonly position: number | null },
  ): Promise<{ readonly bytesRead: number }>;
  write(
    buffer: Uint8Array,
    options: { readonly position: number | null },
  ): Promise<{ readonly bytesWritten: number }>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface ReadStreamOptions {
  /** The first byte; where the handle stands if not given. */
  readonly start?: number | undefined;
  /** The last byte, which is read as well; the device's last if not given. */
  readonly end?: number | undefined;
  /** Bytes per piece; 64 KiB if not given. */
  readonly highWaterMark?: number | undefined;
  readonly encoding?: BufferEncoding | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly autoClose?: boolean | undefined;
}

export interface WriteStreamOptions extends Omit<ReadStreamOptions, 'end'> {
  /** Make everything durable before the stream has finished. */
  readonly flush?: boolean | undefined;
}

export interface WebStreamOptions {
  readonly start?: number | undefined;
  readonly autoClose?: boolean | undefined;
}

const defaultPieceBytes = 64 * 1024;

export function readStream(handle: StreamedHandle, options: ReadStreamOptions): Readable {
  const { start, end, highWaterMark = defaultPieceBytes, encoding, signal, autoClose = true } = options;
  checkPlace('start', start);
  checkPlace('end', end);
  const place = new Place(start);
  // Without a start, `end` is counted from where the handle stands, as for files.
  let left = end === undefined ? Number.POSITIVE_INFINITY : Math.max(0, end + 1 - (start ?? 0));
  return new Readable({
    highWaterMark,
    ...(encoding === undefined ? {} : { encoding }),
    ...(signal === undefined ? {} : { signal }),
    read(size) {
      const buffer = Buffer.alloc(Math.min(size, left));
      handle.read(buffer, { position: place.at }).then(
        ({ bytesRead }) => {
          place.advance(bytesRead);
          left -= bytesRead;
          this.push(bytesRead === 0 ? null : buffer.subarray(0, bytesRead));
        },
        (error) => this.destroy(error),
      );
    },
    destroy: closing(handle, autoClose),
  });
}

export function writeStream(handle: StreamedHandle, options: WriteStreamOptions): Writable {
  const { start, highWaterMark = defaultPieceBytes, signal, autoClose = true, flush = false } = options;
  checkPlace('start', start);
  const place = new Place(start);
  return new Writable({
    highWaterMark,
    ...(signal === undefined ? {} : { signal }),
    defaultEncoding: options.encoding ?? 'utf8',
    write(chunk: Buffer, _encoding, done) {
      writeAll(handle, place, chunk).then(() => done(), done);
    },
    final(done) {
      const flushed = flush ? handle.sync() : Promise.resolve();
      flushed.then(() => done(), done);
    },
    destroy: closing(handle, autoClose),
  });
}

export function readWebStream(handle: StreamedHandle, options: WebStreamOptions): ReadableStream {
  checkPlace('start', options.start);
  const place = new Place(options.start);
  const end = async (): Promise<void> => {
    if (options.autoClose === true) await handle.close();
  };
  return new ReadableStream({
    type: 'bytes',
    autoAllocateChunkSize: defaultPieceBytes,
    async pull(controller) {
      // With chunks allocated for it, a byte stream always asks with a view.
      const request = controller.byobRequest;
      const view = request?.view;
      if (request === null || !view) return;
      const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
      const { bytesRead } = await handle.read(bytes, { position: place.at });
      place.advance(bytesRead);
      if (bytesRead === 0) {
        controller.close();
        await end();
      }
      request.respond(bytesRead);
    },
    cancel: end,
  });
}

export function writeWebStream(handle: StreamedHandle, options: WebStreamOptions): WritableStream {
  checkPlace('start', options.start);
  const place = new Place(options.start);
  const end = async (): Promise<void> => {
    if (options.autoClose === true) await handle.close();
  };
  return new WritableStream({
    write: (chunk: unknown) => {
      if (typeof chunk === 'string') return writeAll(handle, place, Buffer.from(chunk));
      if (chunk instanceof ArrayBuffer) return writeAll(handle, place, new Uint8Array(chunk));
      if (!ArrayBuffer.isView(chunk)) {
        throw new StateError('INVALID_ARGUMENT', `${typeof chunk} can not be written`, { field: 'chunk' });
      }
      return writeAll(handle, place, new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.byteLength));
    },
    close: end,
    abort: end,
  });
}

/** Where a stream is; null where it goes with the handle. */
class Place {
  at: number | null;

  constructor(start: number | undefined) {
    this.at = start ?? null;
  }

  advance(bytes: number): void {
    if (this.at !== null) this.at += bytes;
  }
}

async function writeAll(handle: StreamedHandle, place: Place, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes.subarray(done), { position: place.at });
    place.advance(bytesWritten);
    done += bytesWritten;
  }
}

function closing(handle: StreamedHandle, autoClose: boolean) {
  return (error: Error | null, done: (error?: Error | null) => void): void => {
    const ended = autoClose ? handle.close() : Promise.resolve();
    ended.then(
      () => done(error),
      (failure) => done(error ?? failure),
    );
  };
}

function checkPlace(field: string, value: number | undefined): void {
  if (value === undefined || (Number.isSafeInteger(value) && value >= 0)) return;
  throw new StateError('INVALID_ARGUMENT', `${value} is no place of a byte`, { field, value });
}
