/** Disks on NBD servers over TLS: qemu-nbd's, which is GnuTLS, and ours. Who is not who the certificate is for is not spoken to. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type CertificateFolders, makeCertificates, makeKeys } from '../support/certificates.ts';
import { hookLimitMs, launcher, must, type Outcome, qcow2, scratchFolder } from '../support/command.ts';
import { isListening } from '../support/listening.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd', 'openssl'], 'the client over TLS', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  const children: ChildProcess[] = [];
  let folders: CertificateFolders;
  let keys: string;

  async function serve(name: string, credentials: string): Promise<string> {
    const socket = join(scratch.path, name);
    const tls = ['--object', `${credentials},id=tls,endpoint=server`, '--tls-creds', 'tls'];
    const child = spawn('qemu-nbd', ['-t', '-e', '10', '-f', 'raw', '-k', socket, ...tls, `${name}.raw`], {
      ...folder,
      stdio: 'ignore',
    });
    children.push(child);
    while (!isListening(socket)) {
      expect(child.exitCode).toBe(null);
      await sleep(5);
    }
    return socket;
  }

  beforeAll(() => {
    folders = makeCertificates(scratch.path);
    keys = makeKeys(join(scratch.path, 'keys'), { qemu: '00112233445566778899aabbccddeeff' });
    for (const name of ['x509', 'psk']) {
      must('qemu-img', ['create', '-q', '-f', 'raw', `${name}.raw`, '4M'], folder);
      must('qemu-io', ['-f', 'raw', '-c', 'write -P 9 1M 1M', `${name}.raw`], folder);
    }
    must('qemu-img', ['create', '-q', '-f', 'raw', 'source.raw', '4M'], folder);
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 3 2M 1M', 'source.raw'], folder);
  }, hookLimitMs);
  afterAll(async () => {
    for (const child of children) {
      const ended = once(child, 'close');
      child.kill('SIGTERM');
      await ended;
    }
    scratch.remove();
  }, hookLimitMs);

  const clientOf = (credentials: string): string[] => ['--object', `${credentials},id=c,endpoint=client`];
  const info = (socket: string, credentials: string, more = ''): Outcome =>
    qcow2(
      ['info', ...clientOf(credentials), '--image-opts', `driver=nbd,path=${socket},tls-creds=c${more}`],
      folder,
    );

  it('with certificates: reads and writes, and only with who they are for', async () => {
    const socket = await serve('x509', `tls-creds-x509,dir=${folders.server}`);
    const own = `tls-creds-x509,dir=${folders.client}`;
    expect(info(socket, own, ',tls-hostname=localhost').stdout).toContain('virtual size: 4 MiB');
    const list = `driver=raw,file.driver=nbd,file.path=${socket},file.tls-creds=c,file.tls-hostname=localhost`;
    must(launcher, ['convert', ...clientOf(own), '-O', 'raw', '--image-opts', list, 'back.raw'], folder);
    must('qemu-io', ['-f', 'raw', '-c', 'read -P 9 1M 1M', '-c', 'read -P 0 2M 2M', 'back.raw'], folder);
    const target = ['convert', ...clientOf(own), '-n', '--target-image-opts', 'source.raw', list];
    must(launcher, target, folder);
    must(launcher, ['convert', ...clientOf(own), '-O', 'raw', '--image-opts', list, 'back.raw'], folder);
    must('cmp', ['source.raw', 'back.raw'], folder);
    for (const refused of [
      info(socket, own, ',tls-hostname=example.com'),
      info(socket, `tls-creds-x509,dir=${folders.stranger}`, ',tls-hostname=localhost'),
      qcow2(['info', `nbd+unix:///?socket=${socket}`], folder),
      // Nobody of the system's believes this certificate.
      qcow2(['info', `nbds+unix:///?socket=${socket}`], folder),
    ]) {
      expect(refused).toMatchObject({ status: 1, stdout: '' });
      // Whom the server does not believe, it may leave without a word.
      expect(refused.stderr).toMatch(/TLS|ECONNRESET|ended/);
    }
    expect(qcow2(['info', '--image-opts', `driver=nbd,path=${socket},tls-creds=c`], folder).stderr).toContain(
      "No TLS credentials with id 'c'",
    );
  });

  it('with shared keys', async () => {
    const socket = await serve('psk', `tls-creds-psk,dir=${keys}`);
    expect(info(socket, `tls-creds-psk,dir=${keys}`).stdout).toContain('virtual size: 4 MiB');
    const wrong = makeKeys(join(scratch.path, 'wrong'), { qemu: 'ff'.repeat(16) });
    expect(info(socket, `tls-creds-psk,dir=${wrong}`)).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('TLS'),
    });
  });
});
