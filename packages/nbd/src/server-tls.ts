/**
 * TLS for a server: what it shows of itself, and whom it lets in. The encryption is `node:tls`, laid over a socket that was accepted
 * and has spoken already; it is loaded when credentials are, so that a server without TLS does not pay for it.
 *
 * Whether a client is let in is decided here, after the handshake and before a byte of it is read: `node:tls` is told to let
 * everybody through the handshake, so that a refusal has a reason that can be said.
 */
import type { Socket } from 'node:net';
import type { TLSSocket, TlsOptions } from 'node:tls';
import { StateError, StorageError } from '@qcow2/spec';

/** Certificates. Text is PEM. */
export interface NbdX509Credentials {
  readonly certificate: string;
  readonly key: string;
  /** What the key is encrypted with, if it is. */
  readonly passphrase?: string;
  /** Who signs clients' certificates. */
  readonly authorities: string;
  /** Which of them are no longer believed: lists of revoked certificates. */
  readonly revoked?: string;
  /** False: clients need no certificate, and whoever reaches the server is let in. True by default. */
  readonly verifyClients?: boolean;
  /**
   * Whether a client with a good certificate is let in, by the certificate's distinguished name, its parts in the order of the
   * certificate, as QEMU writes it (`C=XX,O=Example,CN=client`). Everybody, if not given.
   */
  readonly authorize?: (distinguishedName: string) => boolean;
}

/** Keys that were shared beforehand. */
export interface NbdPskCredentials {
  /** The key of a client, by the name that it gives; undefined for a name that is not known. */
  readonly keyOf: (identity: string) => Uint8Array | undefined;
}

/** Made by `loadServerTls`, for `createNbdServer`. */
export interface NbdServerTls {
  /**
   * Make a socket that was accepted, and that nobody reads, into an encrypted one. It has no limit of time: who destroys the
   * socket ends it.
   * @throws StorageError ACCESS_DENIED: the handshake failed, or the client is not let in; the socket is destroyed then
   */
  secure(socket: Socket): Promise<TLSSocket>;
}

/**
 * Load credentials, once for all clients.
 * @throws StateError INVALID_ARGUMENT: certificates or keys that can not be used
 */
export async function loadServerTls(
  credentials: NbdX509Credentials | NbdPskCredentials,
): Promise<NbdServerTls> {
  const { createSecureContext, createServer } = await import('node:tls');
  const isPsk = 'keyOf' in credentials;
  const options = isPsk ? pskOptions(credentials) : x509Options(credentials);
  try {
    createSecureContext(options);
  } catch (error) {
    throw new StateError('INVALID_ARGUMENT', `TLS credentials: ${messageOf(error)}`, {}, error);
  }
  const check = isPsk ? () => undefined : (client: TLSSocket) => refusal(client, credentials);
  return {
    secure: (socket) => {
      // A server of its own, which listens nowhere: what it says is then about this socket.
      const server = createServer(options);
      return new Promise((resolve, reject) => {
        const refuse = (reason: string, cause?: unknown): void => {
          socket.destroy();
          reject(new StorageError('ACCESS_DENIED', `TLS: ${reason}`, {}, cause));
        };
        server.once('tlsClientError', (error) => refuse(messageOf(error), error));
        server.once('secureConnection', (client) => {
          const reason = check(client);
          if (reason !== undefined) {
            client.destroy();
            refuse(reason);
            return;
          }
          client.allowHalfOpen = true; // a client that has said all still gets its replies
          resolve(client);
        });
        server.emit('connection', socket);
      });
    },
  };
}

/** The connection has a time limit for all of its handshake, which is shorter. */
const noLimitMs = 2 ** 31 - 1;
const common = { minVersion: 'TLSv1.2', handshakeTimeout: noLimitMs } as const;

function x509Options(credentials: NbdX509Credentials): TlsOptions {
  const { certificate: cert, key, passphrase, authorities: ca, revoked } = credentials;
  return {
    ...common,
    cert,
    key,
    ca,
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(revoked === undefined ? {} : { crl: revoked }),
    requestCert: credentials.verifyClients !== false,
    rejectUnauthorized: false,
  };
}

function pskOptions({ keyOf }: NbdPskCredentials): TlsOptions {
  return {
    ...common,
    // Those with keys that last no longer than the connection first.
    ciphers: 'HIGH+kECDHEPSK:HIGH+kDHEPSK:HIGH+kPSK:!CAMELLIA:!ARIA:!CCM8',
    dhparam: 'auto',
    pskCallback: (_socket, identity) => keyOf(identity) ?? null,
  };
}

/** Why a client is not let in. */
function refusal(client: TLSSocket, credentials: NbdX509Credentials): string | undefined {
  if (credentials.verifyClients === false) return undefined;
  const certificate = client.getPeerX509Certificate();
  if (certificate === undefined) return 'the client has no certificate';
  if (!client.authorized)
    return `the client's certificate is not believed: ${String(client.authorizationError)}`;
  const name = distinguishedName(certificate.subject);
  return credentials.authorize?.(name) === false ? `'${name}' is not authorized` : undefined;
}

/** In one line, as QEMU has it; Node has a line for each part. */
function distinguishedName(subject: string): string {
  return subject.split('\n').join(',').replaceAll(' + ', '+');
}

/** OpenSSL's errors have their words for a reader apart from where in OpenSSL they come from. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'reason' in error && typeof error.reason === 'string' ? error.reason : error.message;
}
