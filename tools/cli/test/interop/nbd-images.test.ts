/** Disks and images on NBD servers are written to and read; and which names in an image lead there. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, scratchFolder, startServer } from '../support/command.ts';
import { isListening } from '../support/listening.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd'], 'images on NBD servers', () => {
  const scratch = scratchFolder();
  const folder = { cwd: scratch.path };
  const ends: (() => Promise<void>)[] = [];

  /** @returns a URI */
  async function serve(name: string, ...args: string[]): Promise<string> {
    const socket = join(scratch.path, `${name}.sock`);
    const child = spawn('qemu-nbd', ['-t', '-e', '10', '-f', 'raw', '-k', socket, ...args, name], {
      ...folder,
      stdio: 'ignore',
    });
    const ended = once(child, 'close');
    ends.push(async () => {
      child.kill('SIGTERM');
      await ended;
    });
    while (!isListening(socket)) {
      expect(child.exitCode).toBe(null);
      await sleep(5);
    }
    return `nbd+unix:///?socket=${socket}`;
  }

  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'raw', 'source.raw', '8M'], folder);
    must(
      'qemu-io',
      ['-f', 'raw', '-c', 'write -P 7 1M 1M', '-c', 'write -P 8 5000k 3333', 'source.raw'],
      folder,
    );
    for (const name of ['plain', 'image', 'base', 'dry'])
      must('qemu-img', ['create', '-q', '-f', 'raw', name, '32M'], folder);
  }, hookLimitMs);
  afterAll(async () => {
    for (const end of ends) await end();
    scratch.remove();
  }, hookLimitMs);

  it('a raw disk is made there, in part and whole, and compares', async () => {
    const uri = await serve('plain', '--discard=unmap');
    must(launcher, ['convert', '-O', 'raw', 'source.raw', uri], folder);
    must('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', 'source.raw', uri], folder);
    must(launcher, ['compare', '-f', 'raw', '-F', 'raw', 'source.raw', uri], folder);
    must(launcher, ['bench', '-f', 'raw', '-w', '--pattern=33', '-s', '4k', '-c', '16', uri], folder);
    must('qemu-io', ['-f', 'raw', '-c', 'read -P 33 0 64k', uri], folder);
    must(
      launcher,
      ['dd', '-f', 'raw', '-O', 'raw', 'bs=64k', 'count=32', `if=${uri}`, 'of=part.raw'],
      folder,
    );
    must('qemu-io', ['-f', 'raw', '-c', 'read -P 33 0 64k', '-c', 'read -P 7 1M 1M', 'part.raw'], folder);
  });

  it('an image is made there, with a journal too, and served, checked, changed and read', async () => {
    const uri = await serve('image');
    for (const journal of ['off', 'on']) {
      must(launcher, ['create', '-q', '-f', 'qcow2', '-o', `journal=${journal}`, uri, '16M'], folder);
      must(launcher, ['convert', '-n', '-O', 'qcow2', 'source.raw', uri], folder);
      must(launcher, ['snapshot', '-c', 'first', uri], folder);
      const socket = join(scratch.path, 'ours.sock');
      const server = await startServer(['-t', '-f', 'qcow2', '-k', socket, uri], [], folder);
      must(
        'qemu-io',
        ['-f', 'raw', '-c', 'write -P 5 2M 70k', '-c', 'flush', `nbd+unix:///?socket=${socket}`],
        folder,
      );
      expect(await server.end('SIGTERM')).toBe(0);
      must('qemu-img', ['check', '-f', 'qcow2', uri], folder);
      must('qemu-io', ['-f', 'qcow2', '-c', 'read -P 5 2M 70k', '-c', 'read -P 7 1M 1M', uri], folder);
      must(launcher, ['snapshot', '-a', 'first', uri], folder);
      must(launcher, ['check', '-f', 'qcow2', uri], folder);
      must('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', uri, 'back.raw'], folder);
      must('qemu-img', ['compare', 'source.raw', 'back.raw'], folder);
    }
  });

  it('a dry run leaves the server alone', async () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'small.qcow2', '4M'], folder);
    must('dd', ['if=small.qcow2', 'of=dry', 'conv=notrunc', 'status=none'], folder);
    must('cp', ['dry', 'before'], folder);
    const uri = await serve('dry');
    must(launcher, ['resize', '--dry-run', '-f', 'qcow2', uri, '16M'], folder);
    must('cmp', ['dry', 'before'], folder);
  });

  it('a name in an image leads there with --allow-remote only; a relative one beside an export leads nowhere', async () => {
    const uri = await serve('base');
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 6 0 64k', uri], folder);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', uri, '-F', 'raw', 'over.qcow2'], folder);
    for (const words of [['map'], ['info', '--backing-chain'], ['map', '--allow-remote', '--confine', '.']]) {
      const { status, stderr } = qcow2([...words, 'over.qcow2'], folder);
      expect([status, stderr]).toEqual([1, expect.stringContaining('is not followed')]);
    }
    must(launcher, ['convert', '--allow-remote', '-O', 'raw', 'over.qcow2', 'flat.raw'], folder);
    must('qemu-io', ['-f', 'raw', '-c', 'read -P 6 0 64k', 'flat.raw'], folder);
    must(
      'qemu-img',
      [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-u',
        '-b',
        'json:{"driver":"nbd","path":"x"}',
        '-F',
        'raw',
        'hidden.qcow2',
        '1M',
      ],
      folder,
    );
    expect(qcow2(['map', '--allow-remote', 'hidden.qcow2'], folder).stderr).toContain('is not followed');
    must(
      'qemu-img',
      ['create', '-q', '-f', 'qcow2', '-b', 'source.raw', '-F', 'raw', 'beside.qcow2'],
      folder,
    );
    must('dd', ['if=beside.qcow2', 'of=base', 'conv=notrunc', 'status=none'], folder);
    expect(qcow2(['map', '-f', 'qcow2', uri], folder).stderr).toContain(
      'Cannot generate a base directory for NBD nodes',
    );
  });

  it('a server that goes away in the middle of a copy: one line, and the target is said to be incomplete', async () => {
    const socket = join(scratch.path, 'gone.sock');
    // The 30th request is answered by silence and the end.
    const child = spawn(
      process.execPath,
      [join(import.meta.dirname, '../support/leaving-server.ts'), socket],
      { stdio: 'ignore' },
    );
    const ended = once(child, 'close');
    while (!isListening(socket)) await sleep(5);
    const { status, stderr } = qcow2(
      ['convert', '-f', 'raw', '-O', 'raw', `nbd+unix:///?socket=${socket}`, 'torn.raw'],
      folder,
    );
    expect(status).toBe(1);
    expect(stderr).toContain('the connection to the NBD server is lost');
    expect(stderr).toContain("'torn.raw' is incomplete");
    await ended;
  });
});
