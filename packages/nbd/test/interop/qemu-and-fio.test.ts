import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import { nbdUri } from '../../src/index.ts';
import { patterned, serve } from '../support/fixture.ts';
import { runPeer, withPeers } from '../support/peers.ts';

const sizeBytes = 16 * 1024 * 1024;
const memory = (): MemoryDevice => new MemoryDevice({ sizeBytes, capabilities: { growable: false } });

withPeers('qemu-img', ['qemu-img'], () => {
  const content = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 5 * 1024 * 1024) patterned(300_000, at).copy(content, at + 777);

  test('info and map', async () => {
    const device = memory();
    device.write(65536, patterned(65536, 1));
    const { address } = await serve({ exports: [{ name: 'x', device, holesReadAsZeros: true }] });
    const uri = nbdUri(address, 'x');
    const info = JSON.parse(await runPeer('qemu-img', ['info', '--output=json', uri]));
    expect(info).toMatchObject({ 'virtual-size': sizeBytes, format: 'raw' });
    const map: { start: number; length: number; zero: boolean }[] = JSON.parse(
      await runPeer('qemu-img', ['map', '--output=json', uri]),
    );
    expect(map.map(({ start, length, zero }) => [start, length, zero])).toEqual([
      [0, 65536, true],
      [65536, 65536, false],
      [131072, sizeBytes - 131072, true],
    ]);
  });

  test.each([true, false])('convert out, holes said to be zeros: %s', async (holesReadAsZeros) => {
    const device = memory();
    for (let at = 0; at < sizeBytes; at += 4096) {
      const part = content.subarray(at, at + 4096);
      if (part.some((byte) => byte !== 0)) device.write(at, part);
    }
    const { address, folder } = await serve({ exports: [{ name: '', device, holesReadAsZeros }] });
    const out = join(folder, 'out');
    await runPeer('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', nbdUri(address), out]);
    expect(readFileSync(out).equals(content)).toBe(true);
    await runPeer('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', nbdUri(address), out]);
  });

  test('convert in, over what was there', async () => {
    const device = memory();
    device.write(0, Buffer.alloc(sizeBytes, 0xaa));
    const { address, folder, server } = await serve({ exports: [{ name: '', device }] });
    writeFileSync(join(folder, 'in'), content);
    await runPeer('qemu-img', [
      'convert',
      '-n',
      '-f',
      'raw',
      '-O',
      'raw',
      join(folder, 'in'),
      nbdUri(address),
    ]);
    const held = new Uint8Array(sizeBytes);
    device.read(0, held);
    expect(content.equals(held)).toBe(true);
    expect(server.counters().requests.FLUSH).toBeGreaterThan(0);
  });

  test('an image of its own lives on an export', async () => {
    const device = memory();
    const { address } = await serve({ exports: [{ name: '', device }] });
    await runPeer('qemu-img', ['create', '-f', 'qcow2', nbdUri(address), '8M']);
    await runPeer('qemu-img', ['check', '-f', 'qcow2', nbdUri(address)]);
  });
});

withPeers('fio', ['fio'], () => {
  test.each([
    ['4k', 16],
    ['13k', 4],
    ['1m', 8],
  ])('writes and verifies, blocks of %s, depth %i', async (block, depth) => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }] });
    const output = await runPeer('fio', [
      '--name=verify',
      '--ioengine=nbd',
      `--uri=${nbdUri(address)}`,
      '--rw=randwrite',
      `--bs=${block}`,
      `--iodepth=${depth}`,
      '--size=8m',
      '--verify=crc32c',
      '--do_verify=1',
      '--verify_state_save=0',
      '--fsync=50',
      '--randseed=7',
    ]);
    expect(output).toContain('err= 0');
    expect(server.counters()).toMatchObject({ failures: 0 });
    expect(server.counters().bytesRead).toBeGreaterThanOrEqual(8 * 1024 * 1024 - 16 * 1024);
  });
});
