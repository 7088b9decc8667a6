/**
 * One socket, from the greeting to the last byte: handshake with its time limit, transmission, and the end.
 *
 * A soft end (the client disconnected, or the server closes) sends what was replied, says FIN, and reads on
 * without looking until the client's FIN, for at most the grace time: a socket that is destroyed with unread
 * bytes resets, and could take replies with it. A violation of the protocol ends the socket at once.
 *
 * A connection is gone when its socket is closed and no device call of its requests is running any more.
 */
import type { Socket } from 'node:net';
import { FormatError, Qcow2Error } from '@qcow2/spec';
import type { Tally } from './counters.ts';
import type { ServedExport } from './export.ts';
import { Handshake, type HandshakeOutcome, type NbdSession } from './handshake.ts';
import { ReplyQueue } from './reply-queue.ts';
import type { NbdRequest } from './request-parser.ts';
import type { NbdServerTls } from './server-tls.ts';
import type { SlabPool } from './slab.ts';
import { Transmission, type TransmissionHost } from './transmission.ts';

/** What all connections of a server share. */
export interface ConnectionContext {
  readonly exports: ReadonlyMap<string, ServedExport>;
  readonly pool: SlabPool;
  readonly tally: Tally;
  readonly handshakeTimeoutMs: number;
  readonly graceMs: number;
  /** Nothing is served in the clear where there is one. */
  readonly tls: NbdServerTls | undefined;
  /** The handshake led to an export. */
  negotiated(connection: Connection): void;
  gone(connection: Connection): void;
  /** The client broke the protocol; its connection ends. */
  violated(connection: Connection, reason: string): void;
  requestFailed(connection: Connection, request: NbdRequest, error: unknown): void;
}

export class Connection implements TransmissionHost {
  readonly id: number;
  /** The encrypted one, once TLS has begun. */
  #socket: Socket;
  readonly #context: ConnectionContext;
  readonly #handshake: Handshake;
  readonly #listeners = {
    data: (piece: Buffer): void => this.#receive(piece),
    end: (): void => this.#inputEnded(),
    drain: (): void => {
      if (this.#transmission === undefined) this.#socket.resume();
    },
    close: (): void => this.#closed(),
  };
  #session: NbdSession | undefined;
  #transmission: Transmission | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** TLS begins: the socket is its alone. */
  #securing = false;
  #ending = false;
  #socketClosed = false;
  #gone = false;

  constructor(id: number, socket: Socket, context: ConnectionContext) {
    this.id = id;
    this.#socket = socket;
    this.#context = context;
    this.#handshake = new Handshake(context.exports, context.tls !== undefined);
  }

  /** The name of the export that the handshake led to. */
  get exportName(): string | undefined {
    return this.#session?.served.name;
  }

  /** Greet the client. The socket was paused until now. */
  start(): void {
    const socket = this.#socket;
    socket.setNoDelay(true);
    socket.setKeepAlive(true); // a peer that vanished without a word gives its place back some time
    this.#listen();
    this.#timer = setTimeout(() => {
      this.#violate('the handshake took too long');
    }, this.#context.handshakeTimeoutMs);
    this.#sendHandshake();
    socket.resume();
  }

  #listen(): void {
    const socket = this.#socket;
    for (const [event, listener] of Object.entries(this.#listeners)) socket.on(event, listener);
    socket.on('error', () => {}); // a peer that went away; `close` follows
  }

  /** Take no further request, answer those in flight, and end. */
  stop(): void {
    if (this.#transmission === undefined) this.#end();
    else {
      this.#transmission.stop();
      if (!this.#socketClosed) this.#setTimer(this.#context.graceMs); // also for a client that reads no replies
    }
  }

  readSocket(wanted: boolean): void {
    if (this.#ending) return;
    if (wanted) this.#socket.resume();
    else this.#socket.pause();
  }

  finished(): void {
    if (this.#socketClosed) this.#leave();
    else this.#end();
  }

  violated(error: FormatError): void {
    this.#violate(error.message);
  }

  requestFailed(request: NbdRequest, error: unknown): void {
    this.#context.requestFailed(this, request, error);
  }

  #receive(piece: Buffer): void {
    if (this.#ending) return;
    if (this.#transmission === undefined) this.#negotiate(piece);
    else this.#transmission.receive(piece);
  }

  #negotiate(piece: Buffer): void {
    let outcome: HandshakeOutcome;
    try {
      outcome = this.#handshake.advance(piece);
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      this.#violate(error.message);
      return;
    }
    this.#sendHandshake();
    if (outcome.kind === 'session') this.#transmit(outcome.session);
    else if (outcome.kind === 'tls') void this.#secure();
    else if (outcome.kind === 'end') {
      if (outcome.reason !== undefined) this.#context.violated(this, outcome.reason);
      this.#end();
    }
  }

  /**
   * TLS over the socket, once it has taken the answer. The limit of time goes on. What comes from now on is for TLS, and is not
   * looked at before that has begun; should it fail, the socket is closed, and nothing of it was.
   */
  async #secure(): Promise<void> {
    const plain = this.#socket;
    this.#securing = true;
    plain.pause();
    const { close, ...reading } = this.#listeners;
    for (const [event, listener] of Object.entries(reading)) plain.off(event, listener);
    await new Promise<void>((resolve) => plain.write('', () => resolve()));
    try {
      if (this.#ending || this.#context.tls === undefined) return;
      this.#socket = await this.#context.tls.secure(plain);
    } catch (error) {
      if (!this.#ending) this.#violate(error instanceof Qcow2Error ? error.message : String(error));
      return;
    }
    this.#securing = false;
    if (this.#ending) {
      this.#socket.destroy();
      return;
    }
    plain.off('close', close);
    this.#handshake.secured();
    this.#listen();
    this.#socket.resume();
  }

  #sendHandshake(): void {
    let room = true;
    for (const bytes of this.#handshake.takeOutput()) room = this.#socket.write(bytes);
    if (!room) this.#socket.pause(); // until `drain`
  }

  #transmit(session: NbdSession): void {
    clearTimeout(this.#timer);
    this.#socket.resume(); // the handshake's output may have paused it, and `drain` is no longer asked
    this.#session = session;
    const { pool, tally } = this.#context;
    const queue = new ReplyQueue(this.#socket, pool, () => this.#transmission?.pump());
    this.#transmission = new Transmission(session, queue, pool, tally, this);
    this.#context.negotiated(this);
    this.#transmission.receive(session.rest);
  }

  #inputEnded(): void {
    if (this.#transmission === undefined) this.#end();
    else this.#transmission.endInput();
  }

  #violate(reason: string): void {
    this.#context.violated(this, reason);
    this.#ending = true;
    this.#socket.destroy();
  }

  #end(): void {
    if (this.#ending) return;
    this.#ending = true;
    if (this.#securing) {
      this.#socket.destroy();
      return;
    }
    this.#setTimer(this.#context.graceMs);
    this.#socket.end();
    this.#socket.resume();
  }

  /** Destroy the socket after a while, whatever it is waiting for then. */
  #setTimer(milliseconds: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#socket.destroy(), milliseconds);
  }

  #closed(): void {
    clearTimeout(this.#timer);
    this.#socketClosed = true;
    this.#ending = true;
    if (this.#transmission === undefined) this.#leave();
    else {
      this.#transmission.stop();
      // Where the transmission had finished before the socket closed, nobody else says so.
      if (this.#transmission.inFlight === 0) this.#leave();
    }
  }

  #leave(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#context.gone(this);
  }
}
