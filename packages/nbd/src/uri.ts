/** Names of exports for a human to copy, after the protocol's URI document (doc/uri.md). */
import { nbdDefaultPort } from './protocol.ts';

/** Where a server listens. */
export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/**
 * The URI of an export: `nbd://host:port/name` or `nbd+unix:///name?socket=path`.
 * A slash in a name stands for itself; everything else that a URI would misread is percent-encoded.
 */
export function nbdUri(address: NbdAddress, exportName = ''): string {
  const name = encodeURIComponent(exportName).replaceAll('%2F', '/');
  if ('path' in address) {
    return `nbd+unix:///${name}?socket=${encodeURIComponent(address.path).replaceAll('%2F', '/')}`;
  }
  const host = address.host.includes(':') ? `[${address.host.replace('%', '%25')}]` : address.host;
  const port = address.port === nbdDefaultPort ? '' : `:${address.port}`;
  return name === '' ? `nbd://${host}${port}` : `nbd://${host}${port}/${name}`;
}
