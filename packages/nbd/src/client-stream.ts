/**
 * A socket while the handshake lasts: exact numbers of bytes are taken from it, one after the other. What nobody has taken stays in
 * the socket, for who reads on.
 */
import type { Socket } from 'node:net';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { FormatError, StorageError } from '@qcow2/spec';
import type { HandshakeStream } from './client-handshake.ts';

export class ClientStream implements HandshakeStream {
  #socket: Socket;
  readonly #tls: ConnectionOptions | undefined;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;
  readonly #changed = (): void => this.#wake();
  readonly #failed = (error: Error): void => {
    this.#failure ??= error;
    this.#wake();
  };
  readonly #ended = (): void => this.#failed(ended());

  constructor(socket: Socket, tls: ConnectionOptions | undefined) {
    this.#socket = socket;
    this.#tls = tls;
    this.#listen();
  }

  get socket(): Socket {
    return this.#socket;
  }

  get startTls(): (() => Promise<void>) | undefined {
    return this.#tls === undefined ? undefined : () => this.#encrypt();
  }

  /** Give up: whoever waits is told why. */
  fail(error: Error): void {
    this.#failed(error);
    this.#socket.destroy();
  }

  /** The socket is somebody else's from now on. */
  release(): Socket {
    const socket = this.#socket;
    socket.off('readable', this.#changed);
    socket.off('end', this.#ended);
    socket.off('close', this.#ended);
    socket.off('error', this.#failed);
    return socket;
  }

  async take(lengthBytes: number): Promise<Uint8Array> {
    if (lengthBytes === 0) return new Uint8Array(0);
    for (;;) {
      const bytes: Buffer | null = this.#socket.read(lengthBytes);
      if (bytes !== null && bytes.length === lengthBytes) return bytes;
      // At its end a socket gives what is left.
      if (bytes !== null) throw this.#failure ?? ended();
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  send(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  #listen(): void {
    this.#socket.on('readable', this.#changed);
    this.#socket.on('end', this.#ended);
    this.#socket.on('close', this.#ended);
    this.#socket.on('error', this.#failed);
  }

  async #encrypt(): Promise<void> {
    const { connect } = await import('node:tls');
    // What came before the first encrypted byte was not said by who has the key.
    if (this.#socket.readableLength > 0) {
      throw new FormatError('BAD_FIELD', 'the server sent more before it began with TLS');
    }
    const plain = this.release();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const secure: TLSSocket = connect({ ...this.#tls, socket: plain });
    secure.once('secureConnect', resolve);
    secure.once('error', reject);
    secure.once('close', () => reject(ended()));
    this.#socket = secure;
    try {
      await promise;
    } catch (error) {
      throw this.#failure ?? new StorageError('ACCESS_DENIED', `TLS: ${(error as Error).message}`, {}, error);
    }
    this.#listen();
  }
}

function ended(): StorageError {
  return new StorageError('CONNECT_FAILED', 'the server ended the connection');
}
