/** Who may use an image beside whom: our programs and QEMU's, each way round, with native calls and without. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it, onTestFinished } from 'vitest';
import {
  hookLimitMs,
  must,
  qcow2,
  type RunOptions,
  run,
  scratchFolder,
  startServer,
} from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io', 'qemu-nbd'], 'locks on images', () => {
  const scratch = scratchFolder();
  const folder: RunOptions = { cwd: scratch.path };
  const plain: RunOptions = { ...folder, env: { QCOW2_NATIVE: 'off' } };
  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '16M'], folder);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', 'disk.qcow2', '-F', 'qcow2', 'top.qcow2'], folder);
    must(
      'qemu-img',
      ['create', '-q', '-f', 'qcow2', '-o', 'data_file=data.raw', 'beside.qcow2', '1M'],
      folder,
    );
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  /** The end of a server, which can be waited for. One that a failed test leaves would stand in the next one's way. */
  type Stop = () => Promise<unknown>;
  const serve = async (options: RunOptions, ...args: string[]) => {
    const server = await startServer(['-t', '-k', 'our.sock', ...args], [], options);
    onTestFinished(async () => void (await server.end('SIGKILL')));
    return server;
  };
  const ours = async (...args: string[]): Promise<Stop> => {
    const server = await serve(folder, ...args);
    return () => server.end('SIGTERM');
  };
  let sockets = 0;
  const theirs = async (...args: string[]): Promise<Stop> => {
    const socket = join(scratch.path, `their-${sockets++}.sock`);
    const child = spawn('qemu-nbd', ['-t', '-k', socket, ...args], {
      cwd: scratch.path,
      stdio: 'ignore',
    });
    const ended = once(child, 'close');
    onTestFinished(async () => {
      child.kill('SIGKILL');
      await ended;
    });
    while (!(await greets(socket)) && child.exitCode === null) await sleep(5);
    return async () => {
      child.kill('SIGTERM');
      await ended;
    };
  };

  /** Before it greets, qemu-nbd may not have opened the image, and may lose a signal. */
  async function greets(socket: string): Promise<boolean> {
    const client = connect(socket);
    try {
      await once(client, 'data');
      return true;
    } catch {
      return false;
    } finally {
      client.destroy();
    }
  }

  /** The bytes of a file that anybody has locked: type, first, last. */
  function lockedBytes(name: string): string[] {
    const { ino } = statSync(join(scratch.path, name));
    return readFileSync('/proc/locks', 'utf8')
      .split('\n')
      .filter((line) => line.includes(`OFDLCK`) && line.includes(`:${ino} `))
      .map((line) => line.replace(/^\d+: OFDLCK +ADVISORY +/, '').replace(/ -1 \S+ /, ' '))
      .sort();
  }

  it.each([
    ['an image', ['disk.qcow2']],
    ['an image that is only read', ['-r', 'disk.qcow2']],
    ['an image over another', ['top.qcow2']],
    ['an image with a data file', ['beside.qcow2']],
    ['an image with a data file, only read', ['-r', 'beside.qcow2']],
    ['a raw disk', ['-f', 'raw', 'disk.qcow2']],
    ['a raw disk that is only read', ['-r', '-f', 'raw', 'disk.qcow2']],
  ])('are byte for byte those of qemu-nbd: %s', async (_, args) => {
    const files = ['disk.qcow2', 'top.qcow2', 'beside.qcow2', 'data.raw'];
    const found: string[][][] = [];
    for (const start of [theirs, ours]) {
      const stop = await start(...args);
      found.push(files.map(lockedBytes));
      await stop();
      expect(files.flatMap(lockedBytes)).toEqual([]);
    }
    expect(found[0]?.flat()).not.toEqual([]);
    expect(found[1]).toEqual(found[0]);
  });

  const holder = /\nIt is in use by \S+, process \d+\.\n$/;
  const refusedBesideWriter = [
    ['serve', '-k', 'other.sock', 'disk.qcow2'],
    ['serve', '-r', '-k', 'other.sock', 'disk.qcow2'],
    ['serve', '-r', '-k', 'other.sock', 'top.qcow2'],
    ['journal', 'enable', 'disk.qcow2'],
    ['info', 'disk.qcow2'],
    ['check', 'disk.qcow2'],
    ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '1M'],
  ];

  it.each([
    ['ours', ours],
    ['qemu-nbd', theirs],
  ])('keep everybody from an image that a server writes to: %s', async (_, start) => {
    const stop = await start('disk.qcow2');
    const bytes = readFileSync(join(scratch.path, 'disk.qcow2'));
    for (const args of refusedBesideWriter) {
      const { status, stderr } = qcow2(args, folder);
      expect(status, args.join(' ')).toBe(1);
      expect(stderr, args.join(' ')).toMatch(
        /Failed to get (shared )?"write" lock\nIs another process using the image \[disk\.qcow2\]\?\n/,
      );
      expect(stderr).toMatch(holder);
    }
    for (const args of [
      ['info', 'disk.qcow2'],
      ['check', 'disk.qcow2'],
      ['resize', 'disk.qcow2', '17M'],
      ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '1M'],
      ['check', 'top.qcow2'],
    ]) {
      const { status, stderr } = run('qemu-img', args, folder);
      expect(status, args.join(' ')).toBe(1);
      expect(stderr).toMatch(/Failed to get (shared )?"write" lock/);
    }
    expect(readFileSync(join(scratch.path, 'disk.qcow2'))).toEqual(bytes);
    expect(qcow2(['info', '-U', 'disk.qcow2'], folder).status).toBe(0);
    expect(run('qemu-img', ['info', '-U', 'disk.qcow2'], folder).status).toBe(0);
    await stop();
    expect(qcow2(['check', '-q', 'disk.qcow2'], folder).status).toBe(0);
  });

  it.each([
    ['ours', ours],
    ['qemu-nbd', theirs],
  ])('keep writers from an image that a server reads, and no reader: %s', async (_, start) => {
    const stop = await start('-r', 'disk.qcow2');
    for (const program of ['qemu-img', 'qcow2']) {
      const command = (args: string[]) =>
        program === 'qcow2' ? qcow2(args, folder) : run(program, args, folder);
      expect(command(['info', 'disk.qcow2']).status).toBe(0);
      expect(command(['check', 'disk.qcow2']).status).toBe(0);
      const made = command(['create', '-q', '-f', 'qcow2', 'disk.qcow2', '1M']);
      expect(made.stderr).toContain('disk.qcow2: Failed to get "write" lock\nIs another process');
    }
    expect(run('qemu-io', ['-c', 'write 0 512', 'disk.qcow2'], folder).stderr).toContain('"write" lock');
    expect(qcow2(['journal', 'enable', 'disk.qcow2'], folder).stderr).toMatch(holder);
    await stop();
  });

  it('end with a server that is killed', async () => {
    const server = await serve(folder, 'disk.qcow2');
    await server.end('SIGKILL');
    expect(lockedBytes('disk.qcow2')).toEqual([]);
    expect(run('qemu-img', ['check', '-q', 'disk.qcow2'], folder).status).toBe(0);
  });

  it('say what both sides say, up to the name of who is there', async () => {
    const stop = await theirs('disk.qcow2');
    const subcommands = [['check'], ['info'], ['create', '-q', '-f', 'qcow2']];
    for (const [subcommand = '', ...rest] of subcommands) {
      const args = [subcommand, ...rest, 'disk.qcow2', ...(subcommand === 'create' ? ['1M'] : [])];
      const our = qcow2(args, { ...folder, programName: 'qemu-img' }).stderr;
      expect(our.replace(holder, '\n')).toBe(run('qemu-img', args, folder).stderr);
      expect(our).toContain('It is in use by qemu-nbd, process ');
    }
    await stop();
  });

  it('are seen without native calls, and among us hold off writers still', async () => {
    const inUse = /Failed to get .*"write" lock\nIs another process using the image \[disk\.qcow2\]\?\n$/;
    const server = await serve(plain, 'disk.qcow2');
    expect(lockedBytes('disk.qcow2')).toEqual([]);
    for (const args of refusedBesideWriter) expect(qcow2(args, plain).stderr, args.join(' ')).toMatch(inUse);
    expect(qcow2(['info', '-U', 'disk.qcow2'], plain).status).toBe(0);
    await server.end('SIGKILL');
    const stop = await theirs('disk.qcow2');
    for (const args of refusedBesideWriter) expect(qcow2(args, plain).stderr, args.join(' ')).toMatch(inUse);
    expect(qcow2(['info', '-U', 'disk.qcow2'], plain).status).toBe(0);
    await stop();
    expect(qcow2(['check', '-q', 'disk.qcow2'], plain).status).toBe(0);
  });
});
