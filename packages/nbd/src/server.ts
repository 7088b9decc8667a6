/**
 * The NBD server: exports, listeners, the limit of clients, the end.
 *
 * Connections beyond the limit are accepted and wait, unread and ungreeted, for a place, in the order in
 * which they came; to the client this looks like a listen queue. Those beyond the waiting room are dropped.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { StateError } from '@qcow2/spec';
import { Connection, type ConnectionContext } from './connection.ts';
import { type NbdServerCounters, Tally } from './counters.ts';
import { type NbdExport, type ServedExport, servedExport } from './export.ts';
import { listenOn } from './listener.ts';
import { type CommandName, command } from './protocol.ts';
import type { NbdRequest } from './request-parser.ts';
import type { NbdServerTls } from './server-tls.ts';
import { SlabPool } from './slab.ts';
import type { NbdAddress } from './uri.ts';

/** A client, as callbacks are told about it. */
export interface NbdClient {
  /** counts up from 1 over the life of the server */
  readonly id: number;
  /** undefined where the handshake led to none */
  readonly exportName: string | undefined;
}

/** A request that the device failed. */
export interface NbdRequestFailure {
  readonly client: NbdClient;
  readonly command: CommandName;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly error: unknown;
}

export interface NbdServerOptions {
  /** At least one; names are unique. */
  readonly exports: Iterable<NbdExport>;
  /** Clients served at one time; others wait. No limit by default. */
  readonly maxClients?: number;
  /** False: close when the last client that had chosen an export is gone and none waits. True by default. */
  readonly persistent?: boolean;
  /** Made by `loadServerTls`: every client has to begin with TLS; without it none may. */
  readonly tls?: NbdServerTls;
  /** Time for a handshake as a whole, that of TLS within it, 10 seconds by default. */
  readonly handshakeTimeoutMs?: number;
  /** Look at the clock twice for each request, for `counters().latencies`. False by default. */
  readonly measureLatency?: boolean;
  /** Time that an ending connection has to take its last replies, 5 seconds by default. */
  readonly graceMs?: number;
  /** A client chose an export. */
  readonly onClient?: (client: NbdClient) => void;
  /** A client is gone, none of its requests runs any more; `remaining` others are connected. */
  readonly onClientGone?: (client: NbdClient, remaining: number) => void;
  readonly onRequestFailed?: (failure: NbdRequestFailure) => void;
  /** A client broke the protocol or asked for an export that is not there, and was disconnected. */
  readonly onViolation?: (client: NbdClient, reason: string) => void;
}

export interface NbdServer {
  /**
   * Listen on one more address; resolves to it, with the port that was bound where 0 was asked for.
   * A unix socket file that no server answers on is replaced.
   * @throws StorageError IN_USE, ACCESS_DENIED, NOT_FOUND; StateError CLOSED, INVALID_ARGUMENT
   */
  listen(address: NbdAddress): Promise<NbdAddress>;
  /**
   * Stop listening, answer the requests in flight, end the connections. Resolves when no device call runs
   * any more, so that the devices can be flushed and closed; it does neither itself. A client that takes no
   * replies is cut off after the grace time. Again: the same promise.
   */
  close(): Promise<void>;
  /** Resolves when the server has closed, by `close` or because it was not persistent. */
  readonly closed: Promise<void>;
  counters(): NbdServerCounters;
}

const waitingRoom = 128;
const handshakeTimeoutMsDefault = 10_000;
const graceMsDefault = 5_000;
const commandNames = new Map<number, CommandName>(
  Object.entries(command).map(([name, type]) => [type, name as CommandName]),
);

/**
 * A server for the given devices, listening nowhere yet.
 * @throws StateError INVALID_ARGUMENT: an export or a limit that can not be
 */
export function createNbdServer(options: NbdServerOptions): NbdServer {
  return new Service(options);
}

class Service implements NbdServer, ConnectionContext {
  readonly exports: ReadonlyMap<string, ServedExport>;
  readonly pool = new SlabPool();
  readonly tally: Tally;
  readonly handshakeTimeoutMs: number;
  readonly graceMs: number;
  readonly tls: NbdServerTls | undefined;
  readonly closed: Promise<void>;
  readonly #options: NbdServerOptions;
  readonly #maxClients: number;
  readonly #listeners = new Set<Server>();
  readonly #connections = new Set<Connection>();
  readonly #waiting: Socket[] = [];
  readonly #resolveClosed: () => void;
  #nextId = 1;
  #closing = false;

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.exports = exportsByName(options.exports);
    this.#maxClients = options.maxClients ?? Number.POSITIVE_INFINITY;
    if (!(this.#maxClients >= 1)) {
      throw new StateError('INVALID_ARGUMENT', 'a server has at least one client', { field: 'maxClients' });
    }
    this.handshakeTimeoutMs = options.handshakeTimeoutMs ?? handshakeTimeoutMsDefault;
    this.graceMs = options.graceMs ?? graceMsDefault;
    this.tls = options.tls;
    this.tally = new Tally(options.measureLatency);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    this.#resolveClosed = resolve;
  }

  async listen(address: NbdAddress): Promise<NbdAddress> {
    if (this.#closing) throw new StateError('CLOSED', 'the server is closed');
    const listener = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#accept(socket),
    );
    const bound = await listenOn(listener, address);
    this.#listeners.add(listener);
    listener.once('close', () => {
      this.#listeners.delete(listener);
      this.#settleClose();
    });
    if (this.#closing) listener.close();
    return bound;
  }

  close(): Promise<void> {
    if (this.#closing) return this.closed;
    this.#closing = true;
    for (const listener of this.#listeners) listener.close();
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    for (const connection of [...this.#connections]) connection.stop();
    this.#settleClose();
    return this.closed;
  }

  counters(): NbdServerCounters {
    return this.tally.snapshot(this.#connections.size, this.#waiting.length);
  }

  negotiated(connection: Connection): void {
    this.#options.onClient?.(clientOf(connection));
  }

  gone(connection: Connection): void {
    this.#connections.delete(connection);
    this.#options.onClientGone?.(clientOf(connection), this.#connections.size);
    const served = connection.exportName !== undefined;
    const last = served && this.#waiting.length === 0 && !this.#someoneServed();
    if (last && this.#options.persistent === false) void this.close();
    const next = this.#closing ? undefined : this.#waiting.shift();
    if (next !== undefined) this.#admit(next);
    this.#settleClose();
  }

  violated(connection: Connection, reason: string): void {
    this.#options.onViolation?.(clientOf(connection), reason);
  }

  requestFailed(connection: Connection, request: NbdRequest, error: unknown): void {
    const name = commandNames.get(request.type);
    if (name === undefined) return; // unknown commands never reach a device
    const { offset, lengthBytes } = request;
    this.#options.onRequestFailed?.({
      client: clientOf(connection),
      command: name,
      offset,
      lengthBytes,
      error,
    });
  }

  #accept(socket: Socket): void {
    if (this.#closing) socket.destroy();
    else if (this.#connections.size < this.#maxClients) this.#admit(socket);
    else if (this.#waiting.length >= waitingRoom) socket.destroy();
    else {
      socket.on('error', () => {}); // seen again when its turn comes
      this.#waiting.push(socket);
    }
  }

  #admit(socket: Socket): void {
    this.tally.connections += 1;
    const connection = new Connection(this.#nextId++, socket, this);
    this.#connections.add(connection);
    connection.start();
  }

  #someoneServed(): boolean {
    for (const connection of this.#connections) if (connection.exportName !== undefined) return true;
    return false;
  }

  #settleClose(): void {
    if (this.#closing && this.#listeners.size === 0 && this.#connections.size === 0) this.#resolveClosed();
  }
}

function clientOf(connection: Connection): NbdClient {
  return { id: connection.id, exportName: connection.exportName };
}

function exportsByName(wanted: Iterable<NbdExport>): ReadonlyMap<string, ServedExport> {
  const exports = new Map<string, ServedExport>();
  for (const each of wanted) {
    if (exports.has(each.name)) {
      throw new StateError('INVALID_ARGUMENT', 'two exports of one name', {
        field: 'name',
        value: each.name,
      });
    }
    exports.set(each.name, servedExport(each));
  }
  if (exports.size === 0) throw new StateError('INVALID_ARGUMENT', 'a server has at least one export');
  return exports;
}
