/** `serve --tls-creds` and `--tls-authz`: with credentials, no client is served without TLS. */
import { loadServerTls, type NbdServerTls } from '@qcow2/nbd';
import type { ParsedArguments } from './arguments.ts';
import { CommandFailure, describeError } from './failures.ts';
import { Secrets } from './secrets.ts';
import { tlsAuthorization } from './tls-authorization.ts';
import { tlsCredentials } from './tls-credentials.ts';

/** @throws CommandFailure */
export async function serverTls(args: ParsedArguments, id: string): Promise<NbdServerTls> {
  const secrets = new Secrets(args.values('object'));
  const credentials = tlsCredentials(id, 'server', secrets);
  const rules = args.value('tls-authz');
  const authorize = rules === undefined ? undefined : tlsAuthorization(rules, secrets);
  if (authorize !== undefined && (credentials.kind === 'psk' || !credentials.verifyPeer)) {
    throw new CommandFailure(
      '--tls-authz needs clients that show a certificate: tls-creds-x509 with verify-peer=on',
    );
  }
  if (credentials.kind === 'psk') {
    return await load({ keyOf: (identity) => credentials.keys.get(identity) });
  }
  const { authorities, revoked, own, passphrase, verifyPeer } = credentials;
  if (own === undefined) throw new CommandFailure('a server needs a certificate');
  return await load({
    ...own,
    authorities,
    verifyClients: verifyPeer,
    ...(revoked === undefined ? {} : { revoked }),
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(authorize === undefined ? {} : { authorize }),
  });
}

async function load(credentials: Parameters<typeof loadServerTls>[0]): Promise<NbdServerTls> {
  try {
    return await loadServerTls(credentials);
  } catch (cause) {
    throw new CommandFailure(`Unable to use ${describeError(cause)}`, { cause });
  }
}
