/** The client and servers that others wrote. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { DeviceCapabilities } from '@qcow2/block-device';
import { blockDeviceContract } from '@qcow2/block-device/contract';
import { afterAll, assert, describe, expect, it, onTestFinished, test } from 'vitest';
import { connectNbd, listNbdExports, type NbdAddress } from '../../src/index.ts';
import { patterned } from '../support/fixture.ts';
import { isListening } from '../support/listening.ts';
import { withPeers } from '../support/peers.ts';

const running: ChildProcess[] = [];
const folders: string[] = [];
afterAll(() => {
  for (const child of running) child.kill();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A server on a socket of its own; `args` says where its socket goes. */
async function start(command: string, args: (socket: string) => readonly string[]): Promise<NbdAddress> {
  const folder = mkdtempSync(join(tmpdir(), 'nbd-client-'));
  folders.push(folder);
  const path = join(folder, 'socket');
  const child = spawn(command, args(path), { stdio: ['ignore', 'ignore', 'pipe'] });
  running.push(child);
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  while (!isListening(path)) {
    expect(child.exitCode, said).toBe(null);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return { path };
}

const nbdkit = (...args: string[]): Promise<NbdAddress> =>
  start('nbdkit', (socket) => ['-f', '--exit-with-parent', '-U', socket, ...args]);

const everything: DeviceCapabilities = {
  write: true,
  growable: false,
  resize: false,
  discard: true,
  writeZeroes: true,
  fua: true,
  extents: true,
  preferredBlockBytes: 4096,
};

withPeers('nbdkit', ['nbdkit'], () => {
  /** One server for each size: a device is fresh when it was written over with zeros. */
  const strict = new Map<number, Promise<NbdAddress>>();

  function strictServer(sizeBytes: number): Promise<NbdAddress> {
    const policy = ['minimum=512', 'preferred=4096', 'maximum=8k', 'error-policy=error'];
    const args = policy.map((each) => `blocksize-${each}`);
    const address =
      strict.get(sizeBytes) ?? nbdkit('--filter=blocksize-policy', 'memory', `size=${sizeBytes}`, ...args);
    strict.set(sizeBytes, address);
    return address;
  }

  blockDeviceContract(
    { describe, it, assert },
    {
      sizeBytes: 128 * 1024,
      operations: 60,
      seeds: [1],
      name: 'NbdDevice, blocks of 512 to 8192 and nothing else',
      create: async (sizeBytes) => {
        const device = await connectNbd({ address: await strictServer(sizeBytes) });
        await device.discard(0, sizeBytes);
        await device.writeZeroes(0, sizeBytes, { mayUnmap: true });
        return device;
      },
      capabilities: everything,
      sizeMultipleBytes: 512,
    },
  );

  test.each([
    ['without fixed options', ['--mask-handshake=0', 'memory']],
    ['without NO_ZEROES', ['--mask-handshake=1', 'memory']],
    ['without structured replies', ['--no-sr', 'memory']],
    [
      'without zeros, FUA and block status',
      ['--filter=nozero', '--filter=fua', '--filter=noextents', 'memory', 'fuamode=discard', 'zeromode=none'],
    ],
  ])('a server %s', async (_, args) => {
    const device = await connectNbd({ address: await nbdkit(...args, 'size=1M') });
    const bytes = patterned(300_000, 1);
    await device.write(1000, bytes, { fua: true });
    await device.writeZeroes(2000, 5000, { fua: true });
    await device.discard(500_000, 1000);
    await device.flush();
    const back = new Uint8Array(bytes.length);
    await device.read(1000, back);
    expect(Buffer.from(back).equals(Buffer.from(bytes).fill(0, 1000, 6000))).toBe(true);
    expect(await device.extents(0, 1000)).toEqual([{ offset: 0, lengthBytes: 1000, kind: 'data' }]);
    await device.close();
  });

  test('a server of the old style', async () => {
    const device = await connectNbd({ address: await nbdkit('-o', 'pattern', 'size=1M') });
    const into = new Uint8Array(8);
    await device.read(65536, into);
    expect([...into]).toEqual([0, 0, 0, 0, 0, 1, 0, 0]);
    await device.close();
  });

  test('errors come with their number and their text, and the connection goes on', async () => {
    const address = await nbdkit(
      '--filter=error',
      'memory',
      'size=1M',
      'error-pread=EIO',
      'error-pwrite=ENOSPC',
      'error-pread-rate=100%',
      'error-pwrite-rate=100%',
      'error-extents=EPERM',
      'error-extents-rate=100%',
    );
    const device = await connectNbd({ address });
    const into = new Uint8Array(512);
    await expect(device.read(0, into)).rejects.toMatchObject({
      code: 'READ_FAILED',
      message: /Input\/output error/,
    });
    await expect(device.write(0, into)).rejects.toMatchObject({ code: 'NO_SPACE' });
    await expect(device.extents(0, 512)).rejects.toMatchObject({
      code: 'READ_FAILED',
      message: /not permitted/,
    });
    await device.flush();
    await device.close();
  });

  test('answers that come late and in another order find who asked', async () => {
    const address = await nbdkit('--filter=delay', '-t', '16', 'pattern', 'size=1M', 'rdelay=20ms');
    const device = await connectNbd({ address });
    const reads = Array.from({ length: 60 }, (_, index) => ({
      at: index * 16384,
      into: new Uint8Array(16384),
    }));
    await Promise.all(reads.map(({ at, into }) => device.read(at, into)));
    // The pattern plugin: every eight bytes are their own offset.
    for (const { at, into } of reads) {
      const view = new DataView(into.buffer);
      expect([view.getBigUint64(0), view.getBigUint64(16376)]).toEqual([BigInt(at), BigInt(at + 16376)]);
    }
    await device.close();
  });

  test('names and descriptions of its exports', async () => {
    const address = await nbdkit(
      '--filter=exportname',
      'null',
      'exportname=one',
      'exportname=two',
      'exportname-list=explicit',
    );
    expect(await listNbdExports({ address })).toMatchObject([{ name: 'one' }, { name: 'two' }]);
  });
});

withPeers('qemu-nbd', ['qemu-nbd'], () => {
  async function served(...args: string[]) {
    const folder = mkdtempSync(join(tmpdir(), 'nbd-file-'));
    folders.push(folder);
    const file = join(folder, 'disk');
    writeFileSync(file, patterned(65536, 5));
    truncateSync(file, 4 * 1024 * 1024);
    const address = await start('qemu-nbd', (socket) => ['-t', '-f', 'raw', '-k', socket, ...args, file]);
    return { address, file };
  }

  test('reads, writes, zeros, discards and block status', async () => {
    const { address, file } = await served('-x', 'größe', '-D', 'a disk', '--discard=unmap');
    expect(await listNbdExports({ address })).toEqual([{ name: 'größe', description: 'a disk' }]);
    await expect(connectNbd({ address })).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: /not present/,
    });
    const device = await connectNbd({ address, exportName: 'größe' });
    expect(device).toMatchObject({
      sizeBytes: 4 * 1024 * 1024,
      capabilities: { discard: true, extents: true },
    });
    expect(await device.extents(0, device.sizeBytes)).toMatchObject([
      { lengthBytes: 65536, kind: 'data' },
      { lengthBytes: 4 * 1024 * 1024 - 65536, kind: 'hole' },
    ]);
    const bytes = patterned(200_000, 9);
    await device.write(1_000_001, bytes);
    await device.writeZeroes(1_000_001, 7777, { fua: true });
    await device.flush();
    await device.close();
    const expected = Buffer.alloc(4 * 1024 * 1024);
    patterned(65536, 5).copy(expected);
    bytes.copy(expected, 1_000_001);
    expected.fill(0, 1_000_001, 1_007_778);
    expect(readFileSync(file).equals(expected)).toBe(true);
  });

  test('what is only read is refused before it is sent', async () => {
    const { address } = await served('-r');
    const device = await connectNbd({ address });
    expect(device.capabilities.write).toBe(false);
    expect(() => device.write(0, new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'READ_ONLY' }));
    await device.close();
  });

  test('a server that is killed while it is asked', async () => {
    const { address } = await served();
    const device = await connectNbd({ address });
    const server = running.at(-1)!;
    onTestFinished(() => void server.kill());
    const reads = Array.from({ length: 200 }, (_, index) => device.read(index * 4096, new Uint8Array(4096)));
    const ends = Promise.allSettled(reads);
    server.kill('SIGKILL');
    await ends;
    await expect(device.read(0, new Uint8Array(512))).rejects.toMatchObject({
      cause: { code: 'CONNECTION_LOST' },
    });
    await device.close();
  });
});
