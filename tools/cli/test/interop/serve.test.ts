/** `serve`, `start` and `journal` as processes: who may connect, what is said, how it ends, what stays behind. */
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

const clean = { status: 0, stdout: '', stderr: '' };

/** A client in libnbd's shell language; `h` is the handle, not connected. */
function client(script: string): string {
  return must(python, ['-c', `import nbd\nh = nbd.NBD()\n${script}`]).trim();
}

describeWith(['qemu-img', 'qemu-io', 'nbdinfo', 'python3-libnbd'], 'serve', () => {
  const scratch = scratchFolder();
  const inScratch = (name: string): string => join(scratch.path, name);
  const image = inScratch('disk.qcow2');
  const socket = inScratch('sock');
  const uri = `nbd+unix:///?socket=${socket}`;
  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', image, '16M']);
    must('qemu-io', ['-c', 'write -P 9 1M 64k', image]);
    writeFileSync(inScratch('guessed.raw'), new Uint8Array(2 ** 16));
    nameBacking('orphan.qcow2', 'gone', 'raw');
    nameBacking('remote.qcow2', 'nbd:x', 'raw');
    nameBacking('loop.qcow2', 'noose.qcow2', 'qcow2');
    nameBacking('noose.qcow2', 'loop.qcow2', 'qcow2');
  }, hookLimitMs);
  function nameBacking(name: string, backing: string, format: string): void {
    const words = ['create', '-q', '-f', 'qcow2', '-u', '-b', backing, '-F', format, name, '1M'];
    must('qemu-img', words, { cwd: scratch.path });
  }
  afterAll(() => scratch.remove());

  it('serves on a unix socket, says so only with -v, ends on SIGTERM with 0 and takes its socket away', async () => {
    const server = await startServer(['-t', '-k', socket, image]);
    expect(server.stderr()).toContain(`serving ${image} at ${uri}`);
    const info = JSON.parse(must('nbdinfo', ['--json', uri]));
    expect(info.exports[0]['export-size']).toBe(16 * 2 ** 20);
    expect(client(`h.connect_unix("${socket}"); print(h.pread(4, 1 << 20)[0])`)).toBe('9');
    expect(await server.end('SIGTERM')).toBe(0);
    expect(existsSync(socket)).toBe(false);
  });

  it('ends after the last client without -t', async () => {
    const server = await startServer(['-k', socket, image]);
    client(`h.connect_unix("${socket}"); h.pwrite(b"x" * 512, 0); h.shutdown()`);
    expect(await server.ended).toBe(0);
    expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    must('qemu-io', ['-r', '-c', 'read -P 0x78 0 512', image]);
  });

  it('ends cleanly on SIGINT with a client connected that has not flushed', async () => {
    expect(qcow2(['journal', 'enable', '-q', image])).toEqual(clean);
    const server = await startServer(['-t', '-k', socket, image]);
    const writing = spawn(python, [
      '-c',
      `import nbd, sys, time\nh = nbd.NBD()\nh.connect_unix("${socket}")\nh.pwrite(b"y" * 4096, 8192)\nprint("written", flush=True)\ntime.sleep(60)`,
    ]);
    await new Promise((resolve) => writing.stdout.once('data', resolve));
    expect(await server.end('SIGINT')).toBe(0);
    writing.kill('SIGKILL');
    expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    must('qemu-io', ['-r', '-c', 'read -P 0x79 8192 4096', image]);
    expect(qcow2(['journal', 'disable', '-q', image])).toEqual(clean);
  });

  it('names its export with -x, describes it with -D, refuses other names', async () => {
    const server = await startServer(['-t', '-e', '0', '-k', socket, '-x', 'disk', '-D', 'a disk', image]);
    const listed = must('nbdinfo', ['--list', '--json', uri]);
    expect(JSON.parse(listed).exports[0]).toMatchObject({ 'export-name': 'disk', description: 'a disk' });
    expect(run('nbdinfo', [uri]).status).not.toBe(0);
    expect(run('nbdinfo', [`nbd+unix:///disk?socket=${socket}`]).status).toBe(0);
    await server.end('SIGTERM');
  });

  it('with -r refuses writes and leaves the file alone', async () => {
    const before = readFileSync(image);
    const server = await startServer(['-t', '-r', '-k', socket, image]);
    expect(client(`h.connect_unix("${socket}"); print(h.is_read_only())`)).toBe('True');
    expect(await server.end('SIGTERM')).toBe(0);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it('lets -e clients in at a time, the next one when one has gone', async () => {
    const server = await startServer(['-t', '-e', '2', '-k', socket, image]);
    const handles = `a, b, c = nbd.NBD(), nbd.NBD(), nbd.NBD()\na.connect_unix("${socket}"); b.connect_unix("${socket}")`;
    const third = `c.aio_connect_unix("${socket}")\nwhile c.aio_is_connecting() and c.poll(200): pass`;
    const waiting = client(
      `${handles}\n${third}\nprint(c.aio_is_ready())\na.shutdown()\nwhile c.aio_is_connecting(): c.poll(-1)\nprint(c.aio_is_ready())`,
    );
    expect(waiting.split('\n')).toEqual(['False', 'True']);
    await server.end('SIGTERM');
  });

  it('[deviation: bind-local] listens on 127.0.0.1 on a TCP port', async () => {
    const server = await startServer(['-t', '-p', '0', image]);
    const [, address] = /at (nbd:\S+)/.exec(server.stderr()) ?? [];
    expect(address).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+$/);
    expect(must('nbdinfo', ['--size', address ?? ''])).toBe(`${16 * 2 ** 20}\n`);
    await server.end('SIGTERM');
  });

  it('replaces the socket of a server that was killed, and leaves that of a live one', async () => {
    const killed = await startServer(['-t', '-k', socket, image]);
    await killed.end('SIGKILL');
    expect(existsSync(socket)).toBe(true);
    const server = await startServer(['-t', '-k', socket, image]);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', inScratch('second.qcow2'), '1M']);
    const second = qcow2(['serve', '-t', '-k', socket, inScratch('second.qcow2')]);
    expect(second.status).toBe(1);
    expect(second.stderr).toMatch(/^qcow2: .*can not listen on .*\[IN_USE\]\n$/);
    expect(existsSync(socket)).toBe(true);
    expect(run('nbdinfo', [uri]).status).toBe(0);
    expect(await server.end('SIGTERM')).toBe(0);
  });

  it('makes a journal with --journal on, keeps it with auto, takes it away with off', async () => {
    const states: (string | undefined)[] = [];
    for (const mode of ['on', 'auto', 'on', 'off', 'auto']) {
      const server = await startServer(['-t', '-k', socket, '--journal', mode, image]);
      await server.end('SIGTERM');
      const report = JSON.parse(qcow2(['info', '--output=json', image]).stdout);
      states.push(report['format-specific'].data.journal?.state);
      expect(run('qemu-img', ['check', '-q', image])).toEqual(clean);
    }
    expect(states).toEqual(['clean', 'clean', 'clean', undefined, undefined]);
  });

  it('shows the backing file beside the image where the image has nothing', async () => {
    must('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      'disk.qcow2',
      '-F',
      'qcow2',
      inScratch('middle.qcow2'),
      '24M',
    ]);
    must('qemu-io', ['-c', 'write -P 5 2M 64k', inScratch('middle.qcow2')]);
    must('qemu-img', [
      'create',
      '-q',
      '-f',
      'qcow2',
      '-b',
      'middle.qcow2',
      '-F',
      'qcow2',
      inScratch('top.qcow2'),
      '32M',
    ]);
    const server = await startServer(['-t', '-k', socket, inScratch('top.qcow2')]);
    expect(
      run('qemu-img', ['compare', '-U', '-f', 'raw', '-F', 'qcow2', uri, inScratch('top.qcow2')]).stdout,
    ).toBe('Images are identical.\n');
    client(`h.connect_unix("${socket}"); h.pwrite(b"z" * 1000, 1 << 20); h.shutdown()`);
    expect(await server.end('SIGTERM')).toBe(0);
    expect(run('qemu-img', ['check', '-q', inScratch('top.qcow2')])).toEqual(clean);
    must('qemu-io', [
      '-r',
      '-c',
      'read -P 0x7a 1M 1000',
      '-c',
      'read -P 9 1049576 64536',
      inScratch('top.qcow2'),
    ]);
  });

  it('serves a raw file when told that it is one', async () => {
    const raw = inScratch('disk.raw');
    writeFileSync(raw, new Uint8Array(2 ** 20));
    const server = await startServer(['-t', '-f', 'raw', '-k', socket, raw]);
    client(`h.connect_unix("${socket}"); h.pwrite(b"r" * 512, 512); h.flush(); h.shutdown()`);
    expect(await server.end('SIGTERM')).toBe(0);
    expect(readFileSync(raw).subarray(512, 1024).toString()).toBe('r'.repeat(512));
  });

  it.each([
    [['serve'], 'Invalid number of arguments'],
    [
      ['serve', 'missing.qcow2'],
      "Failed to blk_new_open 'missing.qcow2': Could not open 'missing.qcow2': No such file",
    ],
    [['serve', '-k', 'x', '-p', '1', 'disk.qcow2'], 'mutually exclusive'],
    [['serve', '-p', '70000', 'disk.qcow2'], "Invalid port '70000'"],
    [['serve', '-e', 'x', 'disk.qcow2'], "Invalid shared device number 'x'"],
    [['serve', '--journal', 'maybe', 'disk.qcow2'], '--journal must be on, off or auto'],
    [['serve', '-r', '--journal', 'on', 'disk.qcow2'], '--read-only forbids'],
    [['serve', '-c', 'no-device', 'disk.qcow2'], 'Failed to open no-device: No such file or directory'],
    [['serve', '--selinux-label', 'x', 'disk.qcow2'], "option '--selinux-label' is not supported"],
    [['serve', 'guessed.raw'], 'say so with -f raw'],
    [['serve', 'orphan.qcow2'], "Could not open backing file: Could not open 'gone': No such file"],
    [['serve', 'remote.qcow2'], 'not followed to the network without --allow-remote'],
    [['serve', 'loop.qcow2'], 'twice'],
    [
      ['serve', '-f', 'qcow2', 'guessed.raw'],
      "Failed to blk_new_open 'guessed.raw': Image is not in qcow2 format",
    ],
    [['journal'], 'Expecting journal info, dump, enable, convert, disable, resize or replay'],
    [['journal', 'burn', 'disk.qcow2'], "not 'burn'"],
    [['journal', 'info', 'disk.qcow2'], "'disk.qcow2' has no journal"],
    [['journal', 'disable', 'disk.qcow2'], "'disk.qcow2' has no journal"],
    [['journal', 'enable', '--size', 'x', 'disk.qcow2'], "--size: 'x' is not a size"],
    [['journal', 'info', '--size', '1M', 'disk.qcow2'], '--size does not belong to journal info'],
    [['journal', 'resize', '--size', '1M', 'disk.qcow2'], "'disk.qcow2' has no journal"],
    [['journal', 'resize', 'disk.qcow2'], '--size, --block-size or both'],
    [['journal', 'enable', 'guessed.raw'], 'is a raw file'],
  ])('%j is refused in one line, with exit code 1', (args, message) => {
    const folder = { cwd: scratch.path };
    const outcome = qcow2(args, folder);
    expect(outcome.status).toBe(1);
    expect(outcome.stdout).toBe('');
    expect(outcome.stderr).toContain(message);
    expect(outcome.stderr.split('\n').length).toBeLessThanOrEqual(3);
  });

  it('tells about the journal in both formats, and enables it with the sizes asked for', () => {
    const journalled = inScratch('journalled.qcow2');
    must('qemu-img', ['create', '-q', '-f', 'qcow2', journalled, '16M']);
    const enabled = qcow2(['journal', 'enable', '--size', '1M', '--block-size', '512', journalled]);
    expect(enabled).toMatchObject({ status: 0, stderr: '' });
    expect(enabled.stdout).toMatch(/^Journal of 1048576 bytes at offset \d+ in /);
    const json = JSON.parse(qcow2(['journal', 'info', '--output=json', journalled]).stdout);
    expect(json).toMatchObject({
      filename: journalled,
      version: 1,
      state: 'clean',
      size: 2 ** 20,
      'block-size': 512,
    });
    expect(qcow2(['journal', 'info', journalled]).stdout).toContain('\nblock size: 512\n');
    expect(qcow2(['journal', 'enable', journalled]).stderr).toContain('has a journal already');
    expect(qcow2(['journal', 'replay', journalled]).stdout).toContain('Nothing to replay');
    expect(qcow2(['journal', 'disable', journalled])).toMatchObject({ status: 0, stderr: '' });
    expect(run('qemu-img', ['check', '-q', journalled])).toEqual(clean);
  });

  it('shows the stack with QCOW2_DEBUG=1 only', () => {
    const env = { QCOW2_DEBUG: '1' };
    const plain = qcow2(['info', 'missing'], { cwd: scratch.path });
    const debugged = run('env', [`QCOW2_DEBUG=${env.QCOW2_DEBUG}`, launcher, 'info', 'missing'], {
      cwd: scratch.path,
    });
    expect(plain.stderr).not.toContain('    at ');
    expect(debugged.stderr).toContain('    at ');
    expect(debugged.stderr).toContain('caused by: ');
  });

  it('start makes a journalled image, takes the next free port, and says how to connect', async () => {
    const busy = await occupyPort(10809);
    const child = spawn(launcher, ['start', '--size', '64M'], {
      cwd: scratch.path,
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    while (!said.includes('nbdcopy') && child.exitCode === null) await sleep(5);
    const [, address = ''] = /at (nbd:\S+) until/.exec(said) ?? [];
    expect(said).toContain('Made ./qcow2.img: qcow2 with a journal');
    expect(address).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+$/);
    expect(must('nbdinfo', ['--size', address])).toBe(`${64 * 2 ** 20}\n`);
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGINT');
    expect(await ended).toBe(0);
    busy?.close();
    expect(said).toContain('Closed ./qcow2.img');
    expect(run('qemu-img', ['check', '-q', inScratch('qcow2.img')])).toEqual(clean);
  });
});

/** Listen on the port, unless somebody does already: either way it is taken. */
function occupyPort(port: number): Promise<Server | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(undefined));
    server.listen({ host: '127.0.0.1', port }, () => resolve(server));
  });
}
