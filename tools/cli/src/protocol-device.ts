/** Opening what is named and is no file; what goes wrong is said in QEMU's words. */
import { readFileSync } from 'node:fs';
import type { ConnectionOptions } from 'node:tls';
import type { BlockDevice } from '@qcow2/block-device';
import { StateError, StorageError } from '@qcow2/spec';
import { BlkdebugDevice } from './blkdebug-device.ts';
import { rulesOfConfig } from './blkdebug-rules.ts';
import { CommandFailure, describeError } from './failures.ts';
import { NullDevice } from './null-device.ts';
import {
  type BlkdebugNode,
  isProtocolName,
  type NbdNode,
  type ProtocolNode,
  protocolNode,
  shownProtocolName,
} from './protocol-name.ts';
import { Secrets } from './secrets.ts';

export interface ProtocolDevice {
  readonly device: BlockDevice;
  /** As reports show it; the same for two names of one thing. */
  readonly shown: string;
  /** What it takes of this machine's disks; undefined where nobody knows. */
  readonly diskBytes: number | undefined;
}

/** @throws CommandFailure */
export async function openProtocol(
  node: ProtocolNode,
  readOnly: boolean,
  secrets: Secrets = new Secrets([]),
): Promise<ProtocolDevice> {
  const shown = shownProtocolName(node);
  switch (node.driver) {
    case 'nbd':
      return { device: await connect(node, readOnly, secrets), shown, diskBytes: undefined };
    case 'blkdebug':
      // What is below is opened by who opens files.
      throw new CommandFailure(`'${shown}' can not be opened here`);
    default:
      return { device: new NullDevice(node.sizeBytes, node.readZeroes, readOnly), shown, diskBytes: 0 };
  }
}

/** A device whose requests fail as its rules say, those of its file first. @throws CommandFailure */
export function debugged(below: BlockDevice, { config, rules }: BlkdebugNode, isRaw: boolean): BlockDevice {
  const ofFile = config === undefined ? undefined : rulesOfConfig(configText(config));
  const all = {
    inject: [...(ofFile?.inject ?? []), ...rules.inject],
    states: [...(ofFile?.states ?? []), ...rules.states],
  };
  return new BlkdebugDevice(below, all, isRaw);
}

function configText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    const reason = systemReasons[code] ?? code;
    throw new CommandFailure(`Could not read blkdebug config file: ${reason}`, { cause: error });
  }
}

async function connect(node: NbdNode, readOnly: boolean, secrets: Secrets): Promise<BlockDevice> {
  const tls =
    node.tlsCredentials === undefined ? undefined : await clientTls(node, node.tlsCredentials, secrets);
  const { connectNbd } = await import('@qcow2/nbd');
  let device: BlockDevice;
  try {
    const { openTimeoutMs = 0, reconnectDelayMs = 0, statusContext } = node;
    device = await connectNbd(node, {
      ...{ readOnly, openTimeoutMs, reconnectDelayMs },
      ...(statusContext === undefined ? {} : { statusContext }),
      ...(tls === undefined ? {} : { tls }),
    });
  } catch (error) {
    if (error instanceof StateError && error.context.field === 'statusContext') {
      const reason = `the server does not offer the metadata context '${node.statusContext}'`;
      throw new CommandFailure(`Could not open image: Invalid argument: ${reason}`, { cause: error });
    }
    if (!(error instanceof StorageError)) throw error;
    throw new CommandFailure(connectReason(node, error), { cause: error });
  }
  if (readOnly || device.capabilities.write) return device;
  await device.close();
  throw new CommandFailure('Could not open image: Permission denied');
}

/** Shared keys, and nothing that does without; `node:tls` has no certificate to look at then. */
const pskCiphers = 'HIGH+kECDHEPSK:HIGH+kDHEPSK:HIGH+kPSK:!CAMELLIA:!ARIA:!CCM8';

async function clientTls(
  { address, tlsHostname }: NbdNode,
  id: string,
  secrets: Secrets,
): Promise<ConnectionOptions> {
  const [{ checkServerIdentity }, { tlsCredentials }] = await Promise.all([
    import('node:tls'),
    import('./tls-credentials.ts'),
  ]);
  const credentials = tlsCredentials(id, 'client', secrets);
  if (credentials.kind === 'psk') {
    const psk = credentials.keys.get(credentials.username)!;
    return {
      minVersion: 'TLSv1.2',
      ciphers: pskCiphers,
      pskCallback: () => ({ psk, identity: credentials.username }),
      checkServerIdentity: () => undefined,
    };
  }
  const { authorities, revoked, own, passphrase, verifyPeer } = credentials;
  const host = tlsHostname ?? ('path' in address ? undefined : address.host);
  return {
    minVersion: 'TLSv1.2',
    ca: authorities,
    rejectUnauthorized: verifyPeer,
    ...(revoked === undefined ? {} : { crl: revoked }),
    ...(own === undefined ? {} : { cert: own.certificate, key: own.key }),
    ...(passphrase === undefined ? {} : { passphrase }),
    // A socket of this machine has no name that a certificate could be for.
    checkServerIdentity: (_, certificate) =>
      host === undefined ? undefined : checkServerIdentity(host, certificate),
  };
}

/** The C library's words for what Node calls by its name. */
const systemReasons: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'Connection refused',
  ENOENT: 'No such file or directory',
  EACCES: 'Permission denied',
  EPERM: 'Operation not permitted',
  ETIMEDOUT: 'Connection timed out',
  EHOSTUNREACH: 'No route to host',
  ENETUNREACH: 'Network is unreachable',
};

function connectReason({ server }: NbdNode, error: StorageError): string {
  const { cause, code, context } = error;
  if (code === 'NOT_FOUND') {
    const said = context.value === undefined ? '' : `\nserver reported: ${context.value}`;
    return `Requested export not available${said}`;
  }
  const errno = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  if (errno === 'ENOTFOUND' || errno.startsWith('EAI_')) {
    return `address resolution failed for ${server}: Name or service not known`;
  }
  const reason = systemReasons[errno];
  return reason === undefined ? describeError(error) : `Failed to connect to '${server}': ${reason}`;
}

/**
 * Whether what a name means has the size that it has, and that is the one that is wanted.
 * @throws CommandFailure, in QEMU's words, where it is another
 */
export async function hasFixedSize(
  name: string,
  presentBytes: number,
  wantedBytes: number,
): Promise<boolean> {
  const driver = isProtocolName(name) ? (await protocolNode(name)).driver : 'file';
  if (driver.startsWith('null')) throw new CommandFailure('Image format driver does not support resize');
  if (driver !== 'nbd') return false;
  if (presentBytes !== wantedBytes) throw new CommandFailure('Cannot resize NBD nodes');
  return true;
}
