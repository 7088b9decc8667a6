/**
 * The transmission phase of one connection: requests in, device calls, replies out.
 *
 * A batch is what one readiness of the socket brought. Its requests are served in order, each device call
 * made at its place; what the device answers at once is replied to within the batch, and the batch leaves
 * in one write. What the device answers later is replied to when it does, in the order of the answers, one
 * write per turn of the event loop.
 *
 * Durability: a FLUSH calls `device.flush()` at its place. Every write that was answered before, on this or
 * any other connection to the export, was done when the flush was called, and so is covered. Writes still in
 * flight are not, and need not be: the client has no reply for them. FUA is the device's own.
 *
 * Buffers: a payload belongs to the device from the call until it settles; only then may its memory serve
 * again. A read goes straight into the reply; the reply's room is kept until the device has settled.
 *
 * Back-pressure: with `limits.requestsInFlight` requests waiting for the device, or `limits.heldBytes` of
 * payloads and unsent replies, no further request is taken and the socket is not read, until it is less.
 */
import {
  type BlockDevice,
  type Extent,
  isPromise,
  run,
  type Task,
  type WriteOptions,
  wait,
} from '@qcow2/block-device';
import { FormatError } from '@qcow2/spec';
import { statusDescriptors } from './block-status.ts';
import type { Tally } from './counters.ts';
import type { ServedExport } from './export.ts';
import type { NbdSession } from './handshake.ts';
import { contextDescriptors, type NumberedContext } from './metadata-context.ts';
import { allocationContext, command, commandFlag, limits, wireBytes } from './protocol.ts';
import { errnoOf, refusalOf } from './refusal.ts';
import {
  blockStatusChunk,
  encodeDataChunkHead,
  encodeNoneChunk,
  encodeSimpleReply,
  errorChunk,
  readReplyHeadBytes,
} from './reply.ts';
import type { ReplyQueue, Reservation } from './reply-queue.ts';
import { type NbdRequest, RequestParser } from './request-parser.ts';
import type { SlabPool } from './slab.ts';

/** What the transmission phase asks of its connection. */
export interface TransmissionHost {
  /** Read the socket, or stop reading it. Called with changes only. */
  readSocket(wanted: boolean): void;
  /** The client is done and every reply was handed to the socket. Called once. */
  finished(): void;
  /** The client's bytes are no requests; nothing more is taken from it. */
  violated(error: FormatError): void;
  /** The device failed a request; the client was told. */
  requestFailed(request: NbdRequest, error: unknown): void;
}

const fua: WriteOptions = { fua: true };
const cachePieceBytes = 256 * 1024;

export class Transmission {
  readonly #served: ServedExport;
  readonly #device: BlockDevice;
  readonly #structured: boolean;
  readonly #contexts: readonly NumberedContext[];
  readonly #readHeadBytes: number;
  readonly #parser: RequestParser;
  readonly #queue: ReplyQueue;
  readonly #pool: SlabPool;
  readonly #tally: Tally;
  readonly #host: TransmissionHost;
  #inFlight = 0;
  #payloadBytes = 0;
  #reading = true;
  /** no bytes will come any more; what came is still served */
  #inputEnded = false;
  /** no request is taken any more */
  #stopped = false;
  #finished = false;
  #pumping = false;
  #wakeUp = false;
  /** when the request that is being served was taken, by the clock of `performance.now`; where latency is measured */
  #takenAt = 0;

  constructor(session: NbdSession, queue: ReplyQueue, pool: SlabPool, tally: Tally, host: TransmissionHost) {
    this.#pool = pool;
    this.#served = session.served;
    this.#device = session.served.device;
    this.#structured = session.structured;
    this.#contexts = session.contexts;
    this.#readHeadBytes = readReplyHeadBytes(session.structured);
    this.#parser = new RequestParser(pool, session.served.maximumPayloadBytes);
    this.#queue = queue;
    this.#tally = tally;
    this.#host = host;
  }

  /** Requests that wait for the device. Their buffers are in use until it is 0. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Bytes from the client; the transmission phase owns them from now on. */
  receive(piece: Uint8Array): void {
    if (this.#stopped) return;
    this.#parser.push(piece);
    this.pump();
  }

  /** The client sends no more: serve what came, then finish. */
  endInput(): void {
    this.#inputEnded = true;
    this.pump();
  }

  /** Take no further request; finish when those in flight are answered. */
  stop(): void {
    this.#stopped = true;
    this.pump();
  }

  /** Serve what can be served, and send what was replied. */
  pump(): void {
    if (this.#pumping || this.#finished) return;
    this.#pumping = true;
    let drained = false;
    while (!this.#stopped && !this.#full()) {
      const request = this.#take();
      if (request === undefined) {
        drained = true;
        break;
      }
      this.#serve(request);
    }
    this.#queue.flush();
    this.#pumping = false;
    this.#readSocket(!this.#stopped && !this.#full());
    if (this.#inFlight === 0 && (this.#stopped || (this.#inputEnded && drained))) {
      this.#finished = true;
      this.#host.finished();
    }
  }

  #take(): NbdRequest | undefined {
    try {
      return this.#parser.next();
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#stopped = true;
      this.#host.violated(error);
      return undefined;
    }
  }

  #full(): boolean {
    return (
      this.#inFlight >= limits.requestsInFlight ||
      this.#payloadBytes + this.#queue.heldBytes >= limits.heldBytes
    );
  }

  #readSocket(wanted: boolean): void {
    if (wanted === this.#reading) return;
    this.#reading = wanted;
    this.#host.readSocket(wanted);
  }

  #serve(request: NbdRequest): void {
    this.#tally.request(request.type);
    const { latency } = this.#tally;
    if (latency === undefined) {
      this.#answer(request);
      return;
    }
    const waiting = this.#inFlight;
    this.#takenAt = performance.now();
    this.#answer(request);
    if (this.#inFlight === waiting) latency.add(request.type, performance.now() - this.#takenAt);
  }

  #answer(request: NbdRequest): void {
    if (request.type === command.DISC) {
      this.#stopped = true;
      return;
    }
    const refusal = refusalOf(request, this.#served, this.#structured, this.#contexts.length > 0);
    if (refusal !== undefined) {
      this.#freePayload(request);
      this.#sendError(request, refusal.errno, refusal.message);
    } else if (request.type === command.READ) this.#read(request);
    else if (request.type === command.BLOCK_STATUS) this.#blockStatus(request);
    else this.#act(request);
  }

  #act(request: NbdRequest): void {
    let pending: void | Promise<void>;
    try {
      pending = this.#perform(request);
    } catch (error) {
      this.#freePayload(request);
      this.#fail(request, error);
      return;
    }
    if (isPromise(pending)) {
      this.#await(request, pending, () => this.#sendSimple(request, 0));
      return;
    }
    this.#freePayload(request);
    this.#sendSimple(request, 0);
  }

  /** The device is done with the payload: its memory may serve again. */
  #freePayload(request: NbdRequest): void {
    if (request.slab !== undefined) this.#pool.give(request.slab);
  }

  /** The commands whose reply is only that they are done. */
  #perform(request: NbdRequest): void | Promise<void> {
    const { type, flags, offset, lengthBytes, payload } = request;
    const forced = (flags & commandFlag.FUA) !== 0;
    if (type === command.WRITE && payload !== undefined) {
      this.#tally.bytesWritten += lengthBytes;
      if (lengthBytes === 0) return undefined;
      return forced ? this.#device.write(offset, payload, fua) : this.#device.write(offset, payload);
    }
    if (type === command.FLUSH) return this.#device.flush();
    if (lengthBytes === 0) return undefined;
    if (type === command.TRIM) return this.#device.discard(offset, lengthBytes, forced ? fua : {});
    if (type === command.WRITE_ZEROES) {
      const mayUnmap = (flags & commandFlag.NO_HOLE) === 0;
      return this.#device.writeZeroes(offset, lengthBytes, { fua: forced, mayUnmap });
    }
    return run(readAhead(this.#device, offset, lengthBytes)); // CACHE, the one that is left
  }

  #read(request: NbdRequest): void {
    if (request.lengthBytes === 0) {
      this.#sendEmptyRead(request);
      return;
    }
    const room = this.#queue.reserve(this.#readHeadBytes + request.lengthBytes);
    const into = room.slab.bytes.subarray(room.start + this.#readHeadBytes, room.end);
    const undo = (): void => this.#queue.drop(room);
    let pending: void | Promise<void>;
    try {
      pending = this.#device.read(request.offset, into);
    } catch (error) {
      undo();
      this.#fail(request, error);
      return;
    }
    if (isPromise(pending)) this.#await(request, pending, () => this.#sendRead(request, room), undo);
    else this.#sendRead(request, room);
  }

  #blockStatus(request: NbdRequest): void {
    if (this.#contexts.some(({ source }) => source !== undefined)) {
      this.#await(request, this.#statusOfAll(request), (bytes) => this.#queue.sendBytes(bytes));
      return;
    }
    let extents: readonly Extent[] | Promise<readonly Extent[]>;
    try {
      extents = this.#device.extents(request.offset, request.lengthBytes);
    } catch (error) {
      this.#fail(request, error);
      return;
    }
    if (isPromise(extents)) this.#await(request, extents, (known) => this.#sendStatus(request, known));
    else this.#sendStatus(request, extents);
  }

  /** The device needs time: count the request as in flight until it settles. */
  #await<T>(request: NbdRequest, pending: Promise<T>, done: (value: T) => void, undo?: () => void): void {
    const payloadBytes = request.payload?.length ?? 0;
    const takenAt = this.#takenAt;
    this.#inFlight += 1;
    this.#payloadBytes += payloadBytes;
    const settled = (): void => {
      this.#freePayload(request);
      this.#inFlight -= 1;
      this.#payloadBytes -= payloadBytes;
      this.#tally.latency?.add(request.type, performance.now() - takenAt);
      this.#wake();
    };
    pending.then(
      (value) => {
        done(value);
        settled();
      },
      (error: unknown) => {
        undo?.();
        this.#fail(request, error);
        settled();
      },
    );
  }

  /** Pump once, after everything that settles in this turn of the event loop. */
  #wake(): void {
    if (this.#wakeUp) return;
    this.#wakeUp = true;
    setImmediate(() => {
      this.#wakeUp = false;
      this.pump();
    });
  }

  #fail(request: NbdRequest, error: unknown): void {
    this.#sendError(request, errnoOf(error), error instanceof Error ? error.message : String(error));
    this.#host.requestFailed(request, error);
  }

  #sendSimple(request: NbdRequest, errno: number): void {
    const room = this.#queue.reserve(wireBytes.simpleReply);
    encodeSimpleReply(room.slab.view, room.start, request, errno);
    this.#queue.send(room);
  }

  #sendError(request: NbdRequest, errno: number, message: string): void {
    this.#tally.failures += 1;
    if (this.#structured) this.#queue.sendBytes(errorChunk(request, errno, message));
    else this.#sendSimple(request, errno);
  }

  #sendEmptyRead(request: NbdRequest): void {
    if (!this.#structured) {
      this.#sendSimple(request, 0);
      return;
    }
    const room = this.#queue.reserve(wireBytes.chunkHeader);
    encodeNoneChunk(room.slab.view, room.start, request);
    this.#queue.send(room);
  }

  #sendRead(request: NbdRequest, room: Reservation): void {
    const { offset, lengthBytes } = request;
    this.#tally.bytesRead += lengthBytes;
    if (this.#structured) encodeDataChunkHead(room.slab.view, room.start, request, offset, lengthBytes);
    else encodeSimpleReply(room.slab.view, room.start, request, 0);
    this.#queue.send(room);
  }

  #sendStatus(request: NbdRequest, extents: readonly Extent[]): void {
    const { offset, lengthBytes } = request;
    const descriptors = statusDescriptors(
      this.#served,
      extents,
      offset,
      lengthBytes,
      mostDescriptors(request),
    );
    this.#queue.sendBytes(blockStatusChunk(request, allocationContext.id, descriptors));
  }

  /** A chunk for each context that the client chose; the last one ends the reply. */
  async #statusOfAll(request: NbdRequest): Promise<Uint8Array<ArrayBuffer>> {
    const { offset, lengthBytes } = request;
    const count = mostDescriptors(request);
    const chunks: Uint8Array[] = [];
    for (const [index, { id, source }] of this.#contexts.entries()) {
      const descriptors =
        source === undefined
          ? statusDescriptors(
              this.#served,
              await this.#device.extents(offset, lengthBytes),
              offset,
              lengthBytes,
              count,
            )
          : contextDescriptors(await source.status(offset, lengthBytes, count), lengthBytes, count);
      chunks.push(blockStatusChunk(request, id, descriptors, index === this.#contexts.length - 1));
    }
    const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return bytes;
  }
}

function mostDescriptors({ flags }: NbdRequest): number {
  return (flags & commandFlag.REQ_ONE) !== 0 ? 1 : limits.blockStatusDescriptors;
}

/** CACHE: read the range and throw it away, so that the caches below hold it. */
function* readAhead(device: BlockDevice, offset: number, lengthBytes: number): Task<void> {
  const scratch = new Uint8Array(Math.min(cachePieceBytes, lengthBytes));
  for (let done = 0; done < lengthBytes; done += scratch.length) {
    yield* wait(device.read(offset + done, scratch.subarray(0, lengthBytes - done)));
  }
}
