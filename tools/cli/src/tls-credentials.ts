/**
 * `--object tls-creds-x509`, `tls-creds-psk`, `authz-simple` and `authz-list`: what TLS is done with, for servers and clients. QEMU's
 * folders, with QEMU's names of files in them; PEM, and for shared keys lines of `name:key` in hexadecimal digits.
 *
 * Nothing here is encrypted or compared with a peer: that is `node:tls`, in `@qcow2/nbd`.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CommandFailure } from './failures.ts';
import type { NamedObject } from './object-list.ts';
import type { Secrets } from './secrets.ts';
import { systemReason } from './system-reason.ts';

/** Which side the credentials are for. */
export type TlsEndpoint = 'server' | 'client';

/** Certificates as files hold them, PEM. */
export interface X509Files {
  readonly kind: 'x509';
  readonly authorities: string;
  /** Lists of revoked certificates. */
  readonly revoked: string | undefined;
  /** One's own certificate and its key. A client may do without. */
  readonly own: { readonly certificate: string; readonly key: string } | undefined;
  /** What the key is encrypted with. */
  readonly passphrase: string | undefined;
  /** Whether the peer has to show a certificate that is believed. */
  readonly verifyPeer: boolean;
}

/** Keys that were shared beforehand, by name. */
export interface PskFile {
  readonly kind: 'psk';
  readonly keys: ReadonlyMap<string, Uint8Array>;
  /** The name that a client gives. */
  readonly username: string;
}

/**
 * The credentials that an option names.
 * @param secrets the `--object`s of the call
 * @throws CommandFailure in QEMU's words
 */
export function tlsCredentials(id: string, endpoint: TlsEndpoint, secrets: Secrets): X509Files | PskFile {
  const object = secrets.others.find((one) => one.id === id);
  if (object?.type.startsWith('tls-creds-') !== true) {
    const problem =
      object === undefined && !secrets.has(id)
        ? `No TLS credentials with id '${id}'`
        : `Object with id '${id}' is not TLS credentials`;
    throw new CommandFailure(`Failed to get TLS creds: ${problem}`);
  }
  const { properties } = object;
  const side = properties.get('endpoint') ?? 'client';
  if (side !== 'server' && side !== 'client') {
    throw new CommandFailure(`Parameter 'endpoint' does not accept value '${side}'`);
  }
  const verifyPeer = onOrOff(object, 'verify-peer');
  onOrOff(object, 'sanity-check');
  const folder = properties.get('dir');
  if (folder === undefined) throw new CommandFailure("Missing 'dir' property value");
  const credentials =
    object.type === 'tls-creds-psk'
      ? pskFile(folder, side, properties.get('username') ?? 'qemu')
      : x509Files(folder, side, verifyPeer, passphrase(properties.get('passwordid'), secrets));
  if (side !== endpoint) {
    throw new CommandFailure(`Failed to get TLS creds: Expected TLS credentials for a ${endpoint} endpoint`);
  }
  return credentials;
}

function onOrOff({ properties }: NamedObject, name: string): boolean {
  const text = properties.get(name) ?? 'on';
  if (['on', 'yes', 'true', 'y'].includes(text)) return true;
  if (['off', 'no', 'false', 'n'].includes(text)) return false;
  throw new CommandFailure(`Parameter '${name}' expects 'on' or 'off'`);
}

function passphrase(id: string | undefined, secrets: Secrets): string | undefined {
  return id === undefined ? undefined : Buffer.from(secrets.bytes(id)).toString('utf8');
}

function x509Files(
  folder: string,
  side: TlsEndpoint,
  verifyPeer: boolean,
  keyPassphrase: string | undefined,
): X509Files {
  const isServer = side === 'server';
  const authorities = fileText(join(folder, 'ca-cert.pem'));
  const revoked = fileTextIfThere(join(folder, 'ca-crl.pem'));
  const paths = [join(folder, `${side}-cert.pem`), join(folder, `${side}-key.pem`)] as const;
  const certificate = isServer ? fileText(paths[0]) : fileTextIfThere(paths[0]);
  const key = certificate === undefined ? undefined : fileText(paths[1]);
  return {
    kind: 'x509',
    authorities,
    revoked,
    own: certificate === undefined || key === undefined ? undefined : { certificate, key },
    passphrase: keyPassphrase,
    verifyPeer,
  };
}

const pskLine = /^([^:#][^:]*):([0-9a-fA-F]+)$/;

function pskFile(folder: string, side: TlsEndpoint, username: string): PskFile {
  const path = join(folder, 'keys.psk');
  const keys = new Map<string, Uint8Array>();
  for (const line of fileText(path).split('\n')) {
    const [, name, digits = ''] = pskLine.exec(line.trim()) ?? [];
    if (name !== undefined && digits.length % 2 === 0) keys.set(name, Buffer.from(digits, 'hex'));
  }
  if (side === 'client' && !keys.has(username)) {
    throw new CommandFailure(`Username ${username} not found in PSK file ${path}`);
  }
  return { kind: 'psk', keys, username };
}

function fileText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new CommandFailure(`Unable to access credentials ${path}: ${systemReason(cause)}`, { cause });
  }
}

function fileTextIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return undefined;
    throw new CommandFailure(`Unable to access credentials ${path}: ${systemReason(cause)}`, { cause });
  }
}
