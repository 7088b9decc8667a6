/** Certificates for tests of TLS, made by openssl when the test runs: an authority, a server, clients; and keys that are shared beforehand. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { must } from './command.ts';

/** Which files a folder of credentials has, after QEMU's names. */
export interface CertificateFolders {
  /** of the server, with `localhost` and 127.0.0.1 */
  readonly server: string;
  /** of a client, `C=XX, O=Example, CN=client` */
  readonly client: string;
  /** of a client whose certificate another authority signed */
  readonly stranger: string;
  /** of a client that has no certificate */
  readonly nobody: string;
  /** the server again, with a list on which the client's certificate is revoked */
  readonly revoking: string;
  /** the server again, with its key encrypted by `passphrase` */
  readonly locked: string;
}

export const passphrase = 'for tests only';

/** Fill the folder. */
export function makeCertificates(folder: string): CertificateFolders {
  const at = (name: string): string => join(folder, name);
  const ours = authority(at('authority'));
  const other = authority(at('other'));
  const folders = {
    server: at('server'),
    client: at('client'),
    stranger: at('stranger'),
    nobody: at('nobody'),
    revoking: at('revoking'),
    locked: at('locked'),
  };
  for (const each of Object.values(folders)) {
    mkdirSync(each);
    must('cp', [join(ours, 'cert.pem'), join(each, 'ca-cert.pem')]);
  }
  sign(
    ours,
    folders.server,
    'server',
    '/O=Example/CN=localhost',
    'subjectAltName=DNS:localhost,IP:127.0.0.1',
  );
  sign(ours, folders.client, 'client', '/C=XX/O=Example/CN=client', 'extendedKeyUsage=clientAuth');
  sign(other, folders.stranger, 'client', '/C=XX/O=Example/CN=client', 'extendedKeyUsage=clientAuth');
  for (const each of [folders.revoking, folders.locked]) {
    for (const file of ['server-cert.pem', 'server-key.pem']) {
      must('cp', [join(folders.server, file), join(each, file)]);
    }
  }
  revoke(ours, join(folders.client, 'client-cert.pem'), join(folders.revoking, 'ca-crl.pem'));
  const key = join(folders.locked, 'server-key.pem');
  must('openssl', ['ec', '-aes256', '-passout', `pass:${passphrase}`, '-in', key, '-out', `${key}.new`]);
  must('mv', [`${key}.new`, key]);
  return folders;
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

function authority(folder: string): string {
  mkdirSync(folder);
  const files = ['-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')];
  const usage = ['-addext', 'keyUsage=critical,keyCertSign,cRLSign'];
  must('openssl', ['req', '-x509', ...newKey, '-days', '2', '-subj', '/CN=an authority', ...usage, ...files]);
  return folder;
}

function sign(
  authorityFolder: string,
  folder: string,
  role: string,
  subject: string,
  extension: string,
): void {
  const [key, certificate, request, extensions] = ['key', 'cert', 'request', 'extensions'].map((name) =>
    join(folder, `${role}-${name}.pem`),
  ) as [string, string, string, string];
  writeFileSync(extensions, `keyUsage=digitalSignature\n${extension}\n`);
  must('openssl', ['req', '-new', ...newKey, '-subj', subject, '-keyout', key, '-out', request]);
  const by = ['-CA', join(authorityFolder, 'cert.pem'), '-CAkey', join(authorityFolder, 'key.pem')];
  const files = ['-in', request, '-out', certificate, '-extfile', extensions];
  must('openssl', ['x509', '-req', '-days', '2', '-CAcreateserial', ...by, ...files]);
}

function revoke(authorityFolder: string, certificate: string, list: string): void {
  const configuration = join(authorityFolder, 'ca.conf');
  writeFileSync(join(authorityFolder, 'index.txt'), '');
  writeFileSync(
    configuration,
    `[ca]\ndefault_ca=here\n[here]\ndatabase=${join(authorityFolder, 'index.txt')}\ndefault_md=sha256\ndefault_crl_days=2\n`,
  );
  const by = ['-config', configuration, '-cert', join(authorityFolder, 'cert.pem')];
  const keyed = [...by, '-keyfile', join(authorityFolder, 'key.pem')];
  must('openssl', ['ca', ...keyed, '-revoke', certificate]);
  must('openssl', ['ca', ...keyed, '-gencrl', '-out', list]);
}

/** A folder with `keys.psk`, of which each line is a name and a key. */
export function makeKeys(folder: string, keys: Readonly<Record<string, string>>): string {
  mkdirSync(folder);
  const lines = Object.entries(keys).map(([name, key]) => `${name}:${key}\n`);
  writeFileSync(join(folder, 'keys.psk'), lines.join(''));
  return folder;
}
