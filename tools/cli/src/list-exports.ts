/** `serve --list`: what another NBD server offers, in qemu-nbd's form. */
import type { ConnectionOptions } from 'node:tls';
import { type ExportDetails, type ListedExport, listNbdExports } from '@qcow2/nbd';
import { Qcow2Error } from '@qcow2/spec';
import type { ParsedArguments } from './arguments.ts';
import { CommandFailure } from './failures.ts';
import { Secrets } from './secrets.ts';
import type { ServePlan } from './serve-options.ts';
import { systemReason } from './system-reason.ts';
import { type PskFile, tlsCredentials, type X509Files } from './tls-credentials.ts';

/** What has a meaning for a disk, and none for a list. */
const ofDisks = [
  ...['export-name', 'description', 'offset', 'allocation-depth', 'bitmap', 'load-snapshot', 'format'],
  ...['nocache', 'cache', 'aio', 'discard', 'connect', 'disconnect'],
];

/** @returns the text to print. @throws CommandFailure in qemu-nbd's words where it has some */
export async function listOfExports(args: ParsedArguments, address: ServePlan['address']): Promise<string> {
  if (args.operands.length > 0) throw new CommandFailure('List mode is incompatible with a file name');
  if (ofDisks.some((name) => args.has(name))) {
    throw new CommandFailure('List mode is incompatible with per-device settings');
  }
  if (args.has('fork')) throw new CommandFailure('List mode is incompatible with forking');
  if (args.has('tls-authz')) throw new CommandFailure('TLS authorization is incompatible with export list');
  const id = args.value('tls-creds');
  const host = args.value('tls-hostname') ?? ('path' in address ? undefined : address.host);
  const tls =
    id === undefined
      ? {}
      : { tls: clientTls(tlsCredentials(id, 'client', new Secrets(args.values('object'))), host) };
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`;
  try {
    return listText(await listNbdExports({ address }, { ...tls, details: true }));
  } catch (error) {
    const cause = error instanceof Qcow2Error && error.code === 'CONNECT_FAILED' ? error.cause : undefined;
    const isOfTheSystem = cause instanceof Error && 'code' in cause && /^E[A-Z]+$/.test(String(cause.code));
    if (!isOfTheSystem) throw error;
    throw new CommandFailure(`Failed to connect to '${where}': ${systemReason(error)}`, { cause: error });
  }
}

function clientTls(credentials: X509Files | PskFile, host: string | undefined): ConnectionOptions {
  const common = { minVersion: 'TLSv1.2', ...(host === undefined ? {} : { servername: host }) } as const;
  if (credentials.kind === 'psk') {
    const { username: identity, keys } = credentials;
    const psk = keys.get(identity) ?? new Uint8Array(0);
    return {
      ...common,
      ciphers: 'HIGH+kECDHEPSK:HIGH+kDHEPSK:HIGH+kPSK',
      pskCallback: () => ({ identity, psk }),
      // The key is who the server is.
      checkServerIdentity: () => undefined,
    };
  }
  const { authorities: ca, revoked, own, passphrase, verifyPeer } = credentials;
  return {
    ...common,
    ca,
    rejectUnauthorized: verifyPeer,
    ...(revoked === undefined ? {} : { crl: revoked }),
    ...(own === undefined ? {} : { cert: own.certificate, key: own.key }),
    ...(passphrase === undefined ? {} : { passphrase }),
  };
}

/** Bits of the protocol's transmission flags, by the words that lists have for them. */
const flagNames: readonly (readonly [number, string])[] = [
  [1, 'readonly'],
  [2, 'flush'],
  [3, 'fua'],
  [4, 'rotational'],
  [5, 'trim'],
  [6, 'zeroes'],
  [7, 'df'],
  [8, 'multi'],
  [9, 'resize'],
  [10, 'cache'],
  [11, 'fast-zero'],
];

function listText(exports: readonly ListedExport[]): string {
  const lines = [`exports available: ${exports.length}`];
  for (const { name, description, details } of exports) {
    lines.push(` export: '${name}'`);
    if (description !== '') lines.push(`  description: ${description}`);
    if (details !== undefined) lines.push(...detailLines(details));
  }
  return `${lines.join('\n')}\n`;
}

function detailLines({ sizeBytes, flags, blockSizes, contexts }: ExportDetails): readonly string[] {
  const words = flagNames.filter(([bit]) => (flags & (1 << bit)) !== 0).map(([, word]) => word);
  const sizes =
    blockSizes === undefined
      ? []
      : [
          `  min block: ${blockSizes.minimum}`,
          `  opt block: ${blockSizes.preferred}`,
          `  max block: ${blockSizes.maximum}`,
        ];
  return [
    `  size:  ${sizeBytes}`,
    `  flags: 0x${flags.toString(16)} ( ${words.join(' ')} )`,
    ...sizes,
    ...(contexts.length === 0 ? [] : [`  available meta contexts: ${contexts.length}`]),
    ...contexts.map((context) => `   ${context}`),
  ];
}
