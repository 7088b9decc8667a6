/**
 * Images on an HTTP server: named by an argument they are read; named by an image only where --allow-remote says so. The server notes
 * what it is asked for.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, scratchFolder, startServer } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'images on an HTTP server', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  let child: ChildProcess;
  let asked = '';
  let url = '';

  beforeAll(async () => {
    const create = (...words: string[]) =>
      must('qemu-img', ['create', '-q', '-f', 'qcow2', ...words], folder);
    create('base.qcow2', '1M');
    must('qemu-io', ['-c', 'write -P 0x11 0 512k', 'base.qcow2'], folder);
    create('-b', 'base.qcow2', '-F', 'qcow2', 'beside.qcow2', '1M');
    must('qemu-io', ['-c', 'write -P 0x22 64k 64k', 'beside.qcow2'], folder);
    must('cp', ['base.qcow2', 'disk.raw'], folder);
    child = spawn(process.execPath, [join(import.meta.dirname, '../support/range-server.ts'), scratch.path], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      asked += text;
    });
    while (!asked.includes('\n')) await once(child.stdout!, 'data');
    url = `http://127.0.0.1:${/port (\d+)/.exec(asked)?.[1]}`;
    create('-u', '-b', `${url}/base.qcow2`, '-F', 'qcow2', 'over.qcow2', '1M');
  }, hookLimitMs);
  afterAll(() => {
    child.stdin?.end();
    scratch.remove();
  });

  let marks = 0;
  /** Where the server's notes are now: it runs in a process of its own, so its word is waited for. */
  async function marked(): Promise<number> {
    const mark = `/mark-${marks++}\n`;
    await fetch(`${url}${mark.trim()}`);
    while (!asked.includes(mark)) await once(child.stdout!, 'data');
    return asked.length;
  }

  /** Whether the server was asked for a file while something ran. */
  async function asksFor(file: string, action: () => void): Promise<boolean> {
    const before = await marked();
    action();
    const after = await marked();
    return asked.slice(before, after).includes(`/${file}\n`);
  }

  it('info, check and map read what an argument names, and show it as a local file', () => {
    const unplaced = (text: string) =>
      text.replaceAll(`${url}/`, '').replaceAll(/disk size: .*|"actual-size": \d+,\s+/g, '');
    for (const words of [
      ['info'],
      ['info', '--output=json'],
      ['check'],
      ['check', '--output=json'],
      ['map', '--output=json'],
    ]) {
      const remote = qcow2([...words, `${url}/base.qcow2`], folder);
      const local = qcow2([...words, 'base.qcow2'], folder);
      expect(remote.stderr, words.join(' ')).toBe('');
      expect(unplaced(remote.stdout), words.join(' ')).toBe(unplaced(local.stdout));
    }
    expect(qcow2(['info', `${url}/base.qcow2`]).stdout).toContain('disk size: unavailable');
    const list = `driver=qcow2,file.driver=http,file.url=${url}/base.qcow2`;
    expect(qcow2(['check', '--image-opts', list]).stdout).toContain('No errors');
    expect(qcow2(['info', '-f', 'raw', `${url}/disk.raw`]).stdout).toContain('file format: raw');
  });

  it('nothing is written there, and what is not there is said', () => {
    for (const words of [
      ['resize', `${url}/base.qcow2`, '2M'],
      ['snapshot', '-c', 'x', `${url}/base.qcow2`],
      ['check', '-r', 'all', `${url}/base.qcow2`],
      ['serve', '-k', join(scratch.path, 'sock'), `${url}/base.qcow2`],
    ]) {
      const { status, stderr } = qcow2(words, folder);
      expect(status, words.join(' ')).toBe(1);
      expect(stderr).toContain('curl driver does not support writes');
    }
    expect(qcow2(['info', `${url}/none.qcow2`]).stderr).toContain('No such file or directory');
    expect(qcow2(['info', 'ftp://127.0.0.1/x']).stderr).toContain("Protocol 'ftp' is not supported");
    expect(
      qcow2(['check', '--image-opts', 'driver=qcow2,file.driver=https,file.url=http://x/y']).stderr,
    ).toContain("does not start with 'https://'");
  });

  it('a name in an image leads there with --allow-remote only, and not from a directory that confines it', async () => {
    for (const words of [
      ['check', '-r', 'all', 'over.qcow2'],
      ['check', '-r', 'all', '--untrusted', '--allow-remote', 'over.qcow2'],
      ['check', '-r', 'all', '--confine', '.', '--allow-remote', 'over.qcow2'],
      ['info', '--backing-chain', 'over.qcow2'],
      ['snapshot', '-c', 'x', 'over.qcow2'],
      ['resize', 'over.qcow2', '2M'],
      ['serve', '-k', 'sock', 'over.qcow2'],
      // Beside an image on the server is on the server.
      ['info', '--backing-chain', `${url}/beside.qcow2`],
    ]) {
      const asks = await asksFor('base.qcow2', () => {
        const { status, stderr } = qcow2(words, folder);
        expect(status, words.join(' ')).toBe(1);
        expect(stderr, words.join(' ')).toContain('is not followed');
      });
      expect(asks, words.join(' ')).toBe(false);
    }
    const follows = await asksFor('base.qcow2', () => {
      const chain = qcow2(['info', '--backing-chain', '--allow-remote', `${url}/beside.qcow2`], folder);
      expect(chain.stdout).toContain(`image: ${url}/base.qcow2`);
    });
    expect(follows).toBe(true);
  });

  it('reads, and copies around writes, what stands below on a server', async () => {
    const socket = join(scratch.path, 'sock');
    const server = await startServer(['-t', '-k', socket, '--allow-remote', 'over.qcow2'], [], folder);
    const list = [
      'read -P 0x11 0 512k',
      'read -P 0 512k 512k',
      'write -P 0x33 100000 1000',
      'read -P 0x11 99000 1000',
    ];
    const nbd = `nbd+unix:///?socket=${socket}`;
    const done = must('qemu-io', ['-f', 'raw', ...list.flatMap((one) => ['-c', one]), nbd]);
    expect(done).not.toContain('Pattern verification failed');
    expect(await server.end('SIGTERM')).toBe(0);
    must('qemu-img', ['rebase', '-u', '-b', 'base.qcow2', '-F', 'qcow2', 'over.qcow2'], folder);
    const read = must(
      'qemu-io',
      [
        '-c',
        'read -P 0x11 65536 34464',
        '-c',
        'read -P 0x33 100000 1000',
        '-c',
        'read -P 0x11 101000 30000',
        'over.qcow2',
      ],
      folder,
    );
    expect(read).not.toContain('Pattern verification failed');
    const readOnly = await startServer(
      ['-t', '-r', '-k', socket, '--allow-remote', `${url}/beside.qcow2`],
      [],
      folder,
    );
    const seen = must('qemu-io', [
      '-r',
      '-f',
      'raw',
      '-c',
      'read -P 0x11 0 64k',
      '-c',
      'read -P 0x22 64k 64k',
      nbd,
    ]);
    expect(seen).not.toContain('Pattern verification failed');
    expect(await readOnly.end('SIGTERM')).toBe(0);
  });
});
