/** Names of exports for a human to copy, and to be given, after the protocol's URI document (doc/uri.md). */
import { StateError } from '@qcow2/spec';
import { limits, nbdDefaultPort } from './protocol.ts';

/** Where a server listens. */
export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/**
 * The URI of an export: `nbd://host:port/name` or `nbd+unix:///name?socket=path`; with TLS `nbds` for `nbd`.
 * A slash in a name stands for itself; everything else that a URI would misread is percent-encoded.
 */
export function nbdUri(address: NbdAddress, exportName = '', tls = false): string {
  const scheme = tls ? 'nbds' : 'nbd';
  const name = encodeURIComponent(exportName).replaceAll('%2F', '/');
  if ('path' in address) {
    return `${scheme}+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  }
  const host = address.host.includes(':') ? `[${address.host.replace('%', '%25')}]` : address.host;
  const port = address.port === nbdDefaultPort ? '' : `:${address.port}`;
  return name === '' ? `${scheme}://${host}${port}` : `${scheme}://${host}${port}/${name}`;
}

/** An export as a URI names it. */
export interface NamedExport {
  readonly address: NbdAddress;
  readonly exportName: string;
  /** `nbds:` and `nbds+unix:`: over TLS and not otherwise. */
  readonly tls: boolean;
}

const uriShape = /^nbd(s?)(\+tcp|\+unix)?:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/;
const hostShape = /^(?:\[([^\]]+)\]|([^:[\]@]+))(?::(\d{1,5}))?$/;

/**
 * `nbd://host:port/name`, `nbd+unix:///name?socket=path`, and both with `nbds`.
 * @throws INVALID_ARGUMENT for another URI, and one that does not name a server
 */
export function parseNbdUri(uri: string): NamedExport {
  const [, secure, transport, authority = '', path = '', query] = uriShape.exec(uri) ?? refuse(uri);
  const exportName = decoded(path.replace(/^\//, ''), uri);
  if (Buffer.byteLength(exportName) > limits.stringBytes) refuse(uri);
  const address =
    transport === '+unix' ? socketAddress(authority, query, uri) : hostAddress(authority, query, uri);
  return { address, exportName, tls: secure === 's' };
}

function socketAddress(authority: string, query: string | undefined, uri: string): NbdAddress {
  const [name, value] = query === undefined ? [] : query.split(/=(.*)/s);
  if (authority !== '' || name !== 'socket' || value === undefined || value === '') return refuse(uri);
  return { path: decoded(value, uri) };
}

function hostAddress(authority: string, query: string | undefined, uri: string): NbdAddress {
  const [, bracketed, plain, port] = hostShape.exec(authority) ?? refuse(uri);
  if (query !== undefined) refuse(uri);
  return {
    host: decoded(bracketed ?? plain ?? '', uri),
    port: port === undefined ? nbdDefaultPort : Number(port),
  };
}

function decoded(text: string, uri: string): string {
  try {
    const plain = decodeURIComponent(text);
    return plain.includes('\0') ? refuse(uri) : plain;
  } catch {
    return refuse(uri);
  }
}

function refuse(uri: string): never {
  throw new StateError('INVALID_ARGUMENT', 'not the URI of an NBD export', { field: 'uri', value: uri });
}
