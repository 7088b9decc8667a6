/** Connections to NBD servers: a socket, the handshake with its time limit, and an export as a device, or the list of exports. */
import { connect as connectSocket, isIP } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import { FormatError, StateError, StorageError } from '@qcow2/spec';
import { aborted, ClientConnection } from './client-connection.ts';
import {
  type ListedExport,
  type NegotiatedExport,
  negotiateExport,
  negotiateList,
} from './client-handshake.ts';
import { ClientStream } from './client-stream.ts';
import { LastingConnection, untilConnected } from './lasting-connection.ts';
import { NbdDevice } from './nbd-device.ts';
import { allocationContext, limits } from './protocol.ts';
import { type NamedExport, nbdUri, parseNbdUri } from './uri.ts';

export interface NbdConnectOptions {
  /** Only read, whatever the server allows. */
  readonly readOnly?: boolean;
  /** From the first packet to the end of the handshake; 30 s if not given. */
  readonly connectTimeoutMs?: number;
  /** Try again for so long where it fails; 0, which is once, if not given. */
  readonly openTimeoutMs?: number;
  /**
   * A connection that is lost is made again. Requests wait for that no longer than this, are sent again where they have no answer, and fail
   * after it, until the server is there. 0 if not given: it is not made again. What was answered and not flushed is the server's to keep.
   */
  readonly reconnectDelayMs?: number;
  /** `extents` marks what this metadata context sets bit 0 for, in place of telling by base:allocation what is data. */
  readonly statusContext?: string;
  /** The server is given up when not a byte came for so long while it is asked something; never if not given. */
  readonly answerTimeoutMs?: number;
  /** How long `close` waits for the server; 5 s if not given. */
  readonly graceMs?: number;
  /** Ends the connection, at any time: what waits fails with ABORTED. */
  readonly signal?: AbortSignal;
  /** Encrypted, and not otherwise: how (`node:tls`). `nbds` URIs are so without it, too. */
  readonly tls?: ConnectionOptions;
}

/** An export by its URI, or by its parts. */
export type NbdTarget = string | (Pick<NamedExport, 'address'> & Partial<NamedExport>);

/**
 * Connect to an export. The device's `close` ends the connection.
 * @throws CONNECT_FAILED: nobody there, not in time, or not a server of this protocol; NOT_FOUND: no such export; ACCESS_DENIED:
 *   TLS is wanted, or not had; ABORTED; INVALID_ARGUMENT for another URI
 */
export async function connectNbd(target: NbdTarget, options: NbdConnectOptions = {}): Promise<NbdDevice> {
  const named = namedExport(target);
  const { exportName, address } = named;
  const { readOnly = false, signal, statusContext = allocationContext.name } = options;
  const { openTimeoutMs = 0, reconnectDelayMs = 0 } = options;
  if (statusContext.length === 0 || Buffer.byteLength(statusContext) > limits.stringBytes) {
    throw new StateError('INVALID_ARGUMENT', 'no name of a metadata context', { field: 'statusContext' });
  }
  const connect = () => established(named, options, statusContext);
  const { connection, negotiated } = await untilConnected(connect, openTimeoutMs, signal);
  const again = async (): Promise<ClientConnection> => {
    const next = await connect();
    if (isSameExport(negotiated, next.negotiated)) return next.connection;
    await next.connection.close();
    throw new StateError('INVALID_ARGUMENT', 'the server came back with another export');
  };
  const path = reconnectDelayMs > 0 ? new LastingConnection(connection, again, reconnectDelayMs) : connection;
  const marks = statusContext !== allocationContext.name;
  return new NbdDevice(path, negotiated, { name: nbdUri(address, exportName), readOnly, marks });
}

async function established(
  named: NamedExport,
  options: NbdConnectOptions,
  statusContext: string,
): Promise<{ readonly connection: ClientConnection; readonly negotiated: NegotiatedExport }> {
  const { answerTimeoutMs, graceMs = 5000, signal } = options;
  return await shakeHands(named, options, async (stream) => {
    const negotiated = await negotiateExport(stream, named.exportName, statusContext);
    const { structured, allocationId } = negotiated;
    if (statusContext !== allocationContext.name && allocationId === undefined) {
      const message = `the server does not offer the metadata context '${statusContext}'`;
      throw new StateError('INVALID_ARGUMENT', message, { field: 'statusContext' });
    }
    const settings = { structured, allocationId, answerTimeoutMs, graceMs };
    const connection = new ClientConnection(stream.release(), settings);
    if (signal !== undefined) {
      const give = (): void => connection.abort(aborted(signal));
      signal.addEventListener('abort', give, { once: true });
      connection.closed.then(() => signal.removeEventListener('abort', give));
    }
    return { connection, negotiated };
  });
}

/** What the device made of it the first time still holds. */
function isSameExport(one: NegotiatedExport, other: NegotiatedExport): boolean {
  const facts = ({ sizeBytes, flags, blockSizes, allocationId }: NegotiatedExport): string =>
    JSON.stringify([
      ...[sizeBytes, flags, allocationId !== undefined],
      ...[blockSizes?.minimum, blockSizes?.preferred, blockSizes?.maximum],
    ]);
  return facts(one) === facts(other);
}

/** What a server offers, in its order. @throws as `connectNbd`; the export's name does not matter */
export async function listNbdExports(
  target: NbdTarget,
  options: Pick<NbdConnectOptions, 'connectTimeoutMs' | 'signal' | 'tls' | 'graceMs'> & {
    /** Ask for size, flags, block sizes and metadata contexts of each as well. */
    readonly details?: boolean;
  } = {},
): Promise<ListedExport[]> {
  return await shakeHands(namedExport(target), options, async (stream) => {
    const list = await negotiateList(stream, options.details);
    stream
      .release()
      .on('error', () => undefined)
      .destroySoon();
    return list;
  });
}

function namedExport(target: NbdTarget): NamedExport {
  const named = typeof target === 'string' ? parseNbdUri(target) : { exportName: '', tls: false, ...target };
  if (Buffer.byteLength(named.exportName) <= limits.stringBytes) return named;
  throw new StateError('INVALID_ARGUMENT', 'the name of an export is too long', { field: 'exportName' });
}

async function shakeHands<T>(
  { address, tls: encrypted }: NamedExport,
  { connectTimeoutMs = 30_000, signal, tls }: NbdConnectOptions,
  action: (stream: ClientStream) => Promise<T>,
): Promise<T> {
  if (signal?.aborted === true) throw aborted(signal);
  const socket = connectSocket('path' in address ? { path: address.path } : { ...address });
  const stream = new ClientStream(
    socket,
    encrypted || tls !== undefined ? { ...namedServer(address), ...tls } : undefined,
  );
  const timer = setTimeout(() => {
    stream.fail(new StorageError('CONNECT_FAILED', `no answer within ${connectTimeoutMs} ms`));
  }, connectTimeoutMs);
  const give = (): void => stream.fail(aborted(signal!));
  signal?.addEventListener('abort', give, { once: true });
  try {
    socket.setNoDelay(true);
    socket.setKeepAlive(true);
    return await action(stream);
  } catch (error) {
    stream
      .release()
      .on('error', () => undefined)
      .destroy();
    throw connectFailure(error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', give);
  }
}

/** Who the server's certificate has to be for, where the caller does not say: the host that was named. */
function namedServer(address: NamedExport['address']): ConnectionOptions {
  if ('path' in address) return {};
  return isIP(address.host) === 0 ? { servername: address.host } : { host: address.host };
}

function connectFailure(error: unknown): unknown {
  if (error instanceof StorageError || error instanceof StateError) return error;
  if (error instanceof FormatError) {
    return new StorageError('CONNECT_FAILED', `the server broke the protocol: ${error.message}`, {}, error);
  }
  const message = error instanceof Error && error.message !== '' ? error.message : 'not reached';
  return new StorageError('CONNECT_FAILED', message, {}, error);
}
