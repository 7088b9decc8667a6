/**
 * A client's connection behind the handshake: requests go out, replies come back in any order, and each finds who waits for it by its cookie.
 *
 * Back-pressure: `clientLimits.requestsInFlight` requests and `heldBytes` of payload are under way at most, and none is
 * sent while the socket has not taken what was. What is more waits in line.
 *
 * Buffers: a request is settled when its reply is whole and the socket has let go of its payload; where the connection breaks, when the
 * socket is closed. So a buffer that was lent is never looked at after that, whatever the server sends, and when.
 *
 * A server that breaks the protocol is left at once; every request that waits fails, and every later one.
 */
import type { Socket } from 'node:net';
import { FormatError, type Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import { clientLimits, command, magic, wireBytes } from './protocol.ts';
import { setUint64 } from './reply.ts';
import { AwaitedReply, ReplyParser, type ReplyParserHost } from './reply-parser.ts';

export interface ClientRequest {
  readonly type: number;
  readonly flags?: number;
  readonly offset: number;
  readonly lengthBytes: number;
  /** Of a READ. At least one byte. */
  readonly into?: Uint8Array;
  /** Of a WRITE. */
  readonly payload?: Uint8Array;
}

export interface ClientConnectionOptions {
  readonly structured: boolean;
  readonly allocationId: number | undefined;
  /** No byte for so long while a request waits: the connection is given up. Undefined: never. */
  readonly answerTimeoutMs: number | undefined;
  /** How long `close` waits for the server. */
  readonly graceMs: number;
}

interface Entry {
  readonly request: ClientRequest;
  readonly reply: AwaitedReply;
  readonly settle: (failure: Qcow2Error | undefined) => void;
  /** The socket has let go of the payload. */
  written: boolean;
  replied: boolean;
}

export class ClientConnection implements ReplyParserHost {
  readonly structured: boolean;
  readonly allocationId: number | undefined;
  readonly #socket: Socket;
  readonly #parser = new ReplyParser(this);
  readonly #graceMs: number;
  readonly #waiting: Entry[] = [];
  readonly #sent = new Map<number, Entry>();
  /** Sent, and not settled: a reply may be here while the payload is not gone. */
  readonly #unsettled = new Set<Entry>();
  #heldBytes = 0;
  #nextCookie = 1;
  #isFull = false;
  #isCorked = false;
  #failure: Qcow2Error | undefined;
  #closing: Promise<void> | undefined;
  #whenIdle: () => void = () => undefined;
  readonly #closed = Promise.withResolvers<void>();

  /** @param socket paused, with what came behind the handshake still in it */
  constructor(socket: Socket, options: ClientConnectionOptions) {
    this.structured = options.structured;
    this.allocationId = options.allocationId;
    this.#graceMs = options.graceMs;
    this.#socket = socket;
    socket.on('error', (error) => this.#break(lost(error.message, error)));
    socket.on('end', () => this.#ended());
    socket.on('close', () => this.#gone());
    socket.on('drain', () => {
      this.#isFull = false;
      this.#pump();
    });
    if (options.answerTimeoutMs !== undefined) {
      socket.setTimeout(options.answerTimeoutMs, () => {
        if (this.#unsettled.size > 0) this.#break(lost(`no answer for ${options.answerTimeoutMs} ms`));
      });
    }
    socket.on('data', (piece: Buffer) => this.#receive(piece));
    socket.resume();
    // It may have ended while nobody listened.
    if (socket.destroyed || socket.readableEnded) this.#break(lost('the server ended it'));
    if (socket.closed) this.#gone();
  }

  /**
   * Send a request. A reply that says that it failed is a reply.
   * @throws CONNECTION_LOST: whether the server did it is not known; ABORTED
   */
  send(request: ClientRequest): Promise<AwaitedReply> {
    const { type, offset, lengthBytes, into } = request;
    const reply = new AwaitedReply(type, offset, lengthBytes, into);
    return new Promise((resolve, reject) => {
      const settle = (failure: Qcow2Error | undefined): void => {
        if (failure === undefined) resolve(reply);
        else reject(failure);
      };
      if (this.#failure !== undefined) settle(this.#failure);
      else {
        this.#waiting.push({ request, reply, settle, written: true, replied: false });
        this.#pump();
      }
    });
  }

  /** Resolves when the socket is closed. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /** Let go of the server at once: every request fails so. */
  abort(failure: Qcow2Error): void {
    this.#break(failure);
  }

  /** Say goodbye when everything that was asked is answered, and end. Waits no longer than the grace time. */
  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  awaited(cookie: number): AwaitedReply | undefined {
    return this.#sent.get(cookie)?.reply;
  }

  done(cookie: number): void {
    const entry = this.#sent.get(cookie);
    if (entry === undefined) return;
    this.#sent.delete(cookie);
    entry.replied = true;
    this.#settleWhole(entry);
  }

  #pump(): void {
    while (
      this.#failure === undefined &&
      !this.#isFull &&
      this.#unsettled.size < clientLimits.requestsInFlight
    ) {
      const entry = this.#waiting[0];
      if (entry === undefined) return;
      const held = payloadBytes(entry);
      if (this.#unsettled.size > 0 && this.#heldBytes + held > clientLimits.heldBytes) return;
      this.#waiting.shift();
      this.#unsettled.add(entry);
      this.#heldBytes += held;
      this.#write(entry);
    }
  }

  #write(entry: Entry): void {
    const { type, flags = 0, offset, lengthBytes, payload } = entry.request;
    const cookie = this.#nextCookie++;
    this.#sent.set(cookie, entry);
    const header = new Uint8Array(wireBytes.requestHeader);
    const view = new DataView(header.buffer);
    view.setUint32(0, magic.request);
    view.setUint16(4, flags);
    view.setUint16(6, type);
    setUint64(view, 8, cookie);
    setUint64(view, 16, offset);
    view.setUint32(24, lengthBytes);
    this.#cork();
    let room = this.#socket.write(header);
    if (payload !== undefined) {
      entry.written = false;
      room = this.#socket.write(payload, () => {
        entry.written = true;
        this.#settleWhole(entry);
      });
    }
    this.#isFull = !room;
  }

  /** What is sent in one turn leaves together. */
  #cork(): void {
    if (this.#isCorked) return;
    this.#isCorked = true;
    this.#socket.cork();
    process.nextTick(() => {
      this.#isCorked = false;
      this.#socket.uncork();
    });
  }

  #receive(piece: Buffer): void {
    if (this.#failure !== undefined) return;
    try {
      this.#parser.push(piece);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#break(lost(`the server broke the protocol: ${error.message}`, error));
      return;
    }
    this.#pump();
  }

  #settleWhole(entry: Entry): void {
    if (!entry.replied || !entry.written || this.#failure !== undefined) return;
    this.#unsettled.delete(entry);
    this.#heldBytes -= payloadBytes(entry);
    entry.settle(undefined);
    if (this.#unsettled.size === 0 && this.#waiting.length === 0) this.#whenIdle();
    this.#pump();
  }

  #ended(): void {
    if (this.#closing === undefined || this.#unsettled.size > 0) this.#break(lost('the server ended it'));
  }

  /** The first reason counts. What waits is told when the socket is closed. */
  #break(failure: Qcow2Error): void {
    this.#failure ??= failure;
    this.#socket.destroy();
  }

  #gone(): void {
    this.#failure ??= lost('it is closed');
    const all = [...this.#unsettled, ...this.#waiting.splice(0)];
    this.#sent.clear();
    this.#unsettled.clear();
    for (const { settle } of all) settle(this.#failure);
    this.#whenIdle();
    this.#closed.resolve();
  }

  async #end(): Promise<void> {
    const timer = setTimeout(() => this.#break(lost('the server did not answer in time')), this.#graceMs);
    if (this.#unsettled.size + this.#waiting.length > 0 && this.#failure === undefined) {
      await new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
    }
    if (this.#failure === undefined) {
      const header = new Uint8Array(wireBytes.requestHeader);
      const view = new DataView(header.buffer);
      view.setUint32(0, magic.request);
      view.setUint16(6, command.DISC);
      // The server ends the connection, and replies nothing.
      this.#socket.end(header);
    }
    await this.#closed.promise;
    clearTimeout(timer);
  }
}

function payloadBytes({ request: { into, payload } }: Entry): number {
  return into?.length ?? payload?.length ?? 0;
}

function lost(why: string, cause?: unknown): StorageError {
  return new StorageError('CONNECTION_LOST', `the connection to the NBD server is lost: ${why}`, {}, cause);
}

/** What the caller's signal says. */
export function aborted(signal: AbortSignal): StateError {
  return new StateError('ABORTED', 'the caller gave the NBD server up', {}, signal.reason);
}
