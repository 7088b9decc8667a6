/** `serve` over TLS, with the clients of libnbd and of QEMU: who is let in, and who is not. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type CertificateFolders, makeCertificates, makeKeys, passphrase } from '../support/certificates.ts';
import {
  hookLimitMs,
  must,
  type Outcome,
  qcow2,
  run,
  scratchFolder,
  startServer,
} from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd', 'nbdinfo', 'nbdcopy', 'openssl'], 'serve over TLS', () => {
  const scratch = scratchFolder();
  const inScratch = (name: string): string => join(scratch.path, name);
  const image = inScratch('disk.qcow2');
  const socket = inScratch('sock');
  let folders: CertificateFolders;
  let keys: string;
  beforeAll(() => {
    folders = makeCertificates(scratch.path);
    keys = makeKeys(inScratch('keys'), { qemu: '00112233445566778899aabbccddeeff', alice: 'ab'.repeat(32) });
    must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '16M']);
    must('qemu-io', ['-c', 'write -P 9 1M 3M', image]);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const withCertificates = (folder: string, ...more: string[]): string[] => [
    ...[
      '--object',
      `tls-creds-x509,id=tls,dir=${folder},endpoint=server${more.join('')}`,
      '--tls-creds',
      'tls',
    ],
  ];
  /** @returns what the server said until its end */
  async function served(options: readonly string[], action: () => void): Promise<string> {
    const server = await startServer(['-t', '-e', '0', '-k', socket, ...options, image]);
    try {
      action();
    } finally {
      await server.end('SIGTERM');
    }
    expect(await server.ended).toBe(0);
    return server.stderr();
  }
  const uri = (folder: string, scheme = 'nbds'): string =>
    `${scheme}+unix://localhost/?socket=${socket}&tls-certificates=${folder}`;
  const size = (of: string): Outcome => run('nbdinfo', ['--size', of]);
  const isLetIn = (of: string): boolean => size(of).status === 0;
  const byQemu = (folder: string): Outcome =>
    run('qemu-img', [
      ...['info', '--object', `tls-creds-x509,id=tls,dir=${folder},endpoint=client`],
      ...['--image-opts', `driver=nbd,path=${socket},tls-creds=tls,tls-hostname=localhost`],
    ]);

  it('lets in who shows a certificate that is believed, and nobody else', async () => {
    const said = await served(withCertificates(folders.server), () => {
      expect(size(uri(folders.client)).stdout).toBe(`${16 * 2 ** 20}\n`);
      expect(byQemu(folders.client).stdout).toContain('virtual size: 16 MiB');
      const info = JSON.parse(must('nbdinfo', ['--json', uri(folders.client)]));
      expect(info).toMatchObject({ protocol: 'newstyle-fixed', TLS: true });
      expect(isLetIn(uri(folders.stranger))).toBe(false);
      expect(isLetIn(uri(folders.nobody))).toBe(false);
      expect(byQemu(folders.nobody).status).toBe(1);
      // Without TLS nothing at all, and the client is told why.
      expect(size(`nbd+unix:///?socket=${socket}`).stderr).toContain('TLS');
      const plain = run('qemu-img', ['info', `nbd+unix:///?socket=${socket}`]);
      expect(plain.stderr).toContain('TLS negotiation required before option');
    });
    expect(said).toContain(`at nbds+unix:///?socket=${socket}`);
    expect(said).toMatch(/client \d+: TLS: the client's certificate is not believed: /);
    expect(said).toMatch(/client \d+: TLS: the client has no certificate/);
  });

  it('copies the disk out and in again, on TCP too', async () => {
    const server = await startServer([
      '-t',
      '-e',
      '0',
      '-p',
      '0',
      ...withCertificates(folders.server),
      image,
    ]);
    const [, address = ''] = /at (nbds:\S+)/.exec(server.stderr()) ?? [];
    const tcp = `${address.replace('127.0.0.1', 'localhost')}/?tls-certificates=${folders.client}`;
    const copy = inScratch('copy.raw');
    must('nbdcopy', [tcp, copy]);
    const bytes = readFileSync(copy);
    expect(bytes.length).toBe(16 * 2 ** 20);
    expect(bytes.subarray(2 ** 20, 4 * 2 ** 20).every((byte) => byte === 9)).toBe(true);
    writeFileSync(copy, bytes.fill(7, 0, 4096));
    must('nbdcopy', [copy, tcp]);
    expect(await server.end('SIGTERM')).toBe(0);
    must('qemu-io', ['-r', '-c', 'read -P 7 0 4k', '-c', 'read -P 9 1M 3M', image]);
    expect(run('qemu-img', ['check', '-q', image]).status).toBe(0);
  });

  it('verify-peer=off: encrypted, and without a certificate of the client', async () => {
    await served(withCertificates(folders.server, ',verify-peer=off'), () => {
      expect(isLetIn(uri(folders.nobody))).toBe(true);
      expect(isLetIn(`nbd+unix:///?socket=${socket}`)).toBe(false);
    });
  });

  it('a certificate that is on the list of revoked ones is not believed', async () => {
    const said = await served(withCertificates(folders.revoking), () => {
      expect(isLetIn(uri(folders.client))).toBe(false);
    });
    expect(said).toContain('CERT_REVOKED');
  });

  it('a key that is encrypted is opened by a secret', async () => {
    const secret = ['--object', `secret,id=pass,data=${passphrase}`];
    await served([...secret, ...withCertificates(folders.locked, ',passwordid=pass')], () => {
      expect(isLetIn(uri(folders.client))).toBe(true);
    });
    const closed = qcow2(['serve', '-k', socket, ...withCertificates(folders.locked), image]);
    expect(closed.status).toBe(1);
    expect(closed.stderr).toMatch(/^qcow2: Unable to use TLS credentials: .*\n$/);
  });

  const name = 'C=XX,,O=Example,,CN=client';
  it.each([
    [`authz-simple,id=who,identity=${name}`, true],
    ['authz-list,id=who,rules.0.match=*CN=other,rules.0.policy=allow,rules.0.format=glob', false],
  ])('--tls-authz %s lets the client in: %s', async (rules, letIn) => {
    const options = [...withCertificates(folders.server), '--object', rules, '--tls-authz', 'who'];
    const said = await served(options, () => {
      expect(isLetIn(uri(folders.client))).toBe(letIn);
    });
    expect(said.includes("TLS: 'C=XX,O=Example,CN=client' is not authorized")).toBe(!letIn);
  });

  it('[deviation: authz-without-certificates] keys that were shared beforehand', async () => {
    const object = `tls-creds-psk,id=tls,dir=${keys},endpoint=server`;
    await served(['--object', object, '--tls-creds', 'tls'], () => {
      const wrong = makeKeys(inScratch('wrong'), { alice: 'cd'.repeat(32), bob: 'ab'.repeat(32) });
      const as = (user: string, folder: string): string =>
        `nbds+unix://${user}@/?socket=${socket}&tls-psk-file=${join(folder, 'keys.psk')}`;
      expect(isLetIn(as('alice', keys))).toBe(true);
      expect(isLetIn(as('alice', wrong))).toBe(false);
      expect(isLetIn(as('bob', wrong))).toBe(false);
      expect(isLetIn(uri(folders.client))).toBe(false);
      const qemu = run('qemu-img', [
        ...['info', '--object', `tls-creds-psk,id=tls,dir=${keys},endpoint=client`],
        ...['--image-opts', `driver=nbd,path=${socket},tls-creds=tls`],
      ]);
      expect(qemu.stdout).toContain('virtual size: 16 MiB');
    });
    const rules = ['--object', 'authz-list,id=who', '--tls-authz', 'who'];
    const refused = qcow2(['serve', '-k', socket, '--object', object, '--tls-creds', 'tls', ...rules, image]);
    expect(refused).toMatchObject({ status: 1, stdout: '' });
    expect(refused.stderr).toContain('--tls-authz needs clients that show a certificate');
  });

  it('-L lists what a server offers, over TLS and without, in the words of qemu-nbd', async () => {
    const shown = ['-x', 'disk', '-D', 'a disk', '-A'];
    const both = (options: readonly string[]): [Outcome, Outcome] => [
      qcow2(['serve', '-L', '-k', socket, ...options]),
      run('qemu-nbd', ['-L', '-k', socket, ...options]),
    ];
    await served(shown, () => {
      const [ours, theirs] = both([]);
      expect(ours).toEqual(theirs);
      expect(ours.stdout).toContain(" export: 'disk'\n  description: a disk\n  size:  16777216\n");
      expect(ours.stdout).toContain('   qemu:allocation-depth\n');
    });
    const object = `tls-creds-x509,id=tls,dir=${folders.client},endpoint=client`;
    const asClient = ['--object', object, '--tls-creds', 'tls', '--tls-hostname'];
    await served([...shown, '-r', ...withCertificates(folders.server)], () => {
      const [ours, theirs] = both([...asClient, 'localhost']);
      expect(ours).toEqual(theirs);
      expect(ours.stdout).toContain('( readonly ');
      for (const refused of [both([...asClient, 'elsewhere']), both([])].flat()) {
        expect(refused).toMatchObject({ status: 1, stdout: '' });
      }
    });
    const keyed = (side: string): string => `tls-creds-psk,id=tls,dir=${keys},endpoint=${side}`;
    await served(['--object', keyed('server'), '--tls-creds', 'tls'], () => {
      const [ours, theirs] = both(['--object', keyed('client'), '--tls-creds', 'tls']);
      expect(ours).toEqual(theirs);
      expect(ours.stdout).toContain('exports available: 1\n');
    });
  });
});
