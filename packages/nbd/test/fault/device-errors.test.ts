import { setTimeout as delay } from 'node:timers/promises';
import { type BlockDevice, MemoryDevice, type WriteZeroesOptions } from '@qcow2/block-device';
import { type ErrorCode, errorCodes, nbdErrno, Qcow2Error, StorageError } from '@qcow2/spec';
import { describe, expect, test } from 'vitest';
import type { NbdRequestFailure } from '../../src/index.ts';
import { CMD, E, FLAG, TestClient } from '../support/client.ts';
import { patterned, serve } from '../support/fixture.ts';
import { StagedDevice } from '../support/staged-device.ts';

const sizeBytes = 8 * 1024 * 1024;

/** A device of which every call fails with what `error` says, at once or later. */
function failing(error: () => unknown, later: boolean): BlockDevice {
  const device = new MemoryDevice({ sizeBytes, capabilities: { growable: false } });
  const fail = (): Promise<never> => {
    if (later) return Promise.reject(error());
    throw error();
  };
  return new Proxy<BlockDevice>(device, {
    get(target, key) {
      if (key === 'capabilities') return target.capabilities;
      if (key === 'sizeBytes') return target.sizeBytes;
      return fail;
    },
  });
}

const requests = [
  { type: CMD.READ, length: 4096 },
  { type: CMD.WRITE, data: Buffer.alloc(4096) },
  { type: CMD.FLUSH },
  { type: CMD.TRIM, length: 4096 },
  { type: CMD.CACHE, length: 4096 },
  { type: CMD.WRITE_ZEROES, length: 4096 },
];

describe.each([
  ['at once', false],
  ['later', true],
])('a device that fails %s', (_, later) => {
  test('makes every command fail, and the connection goes on', async () => {
    const failures: NbdRequestFailure[] = [];
    const device = failing(() => new StorageError('WRITE_FAILED', 'the disk is on fire'), later);
    const { address, server } = await serve({
      exports: [{ name: '', device }],
      onRequestFailed: (failure) => failures.push(failure),
    });
    const client = await TestClient.open(address);
    for (const request of requests) expect(await client.call(request)).toBe(E.IO);
    expect(client.unread).toBe(0);
    expect(failures.map((each) => each.command)).toEqual([
      'READ',
      'WRITE',
      'FLUSH',
      'TRIM',
      'CACHE',
      'WRITE_ZEROES',
    ]);
    expect(failures[1]).toMatchObject({
      offset: 0,
      lengthBytes: 4096,
      client: { id: 1 },
      error: { code: 'WRITE_FAILED' },
    });
    expect(server.counters().failures).toBe(6);
  });

  test('tells structured clients why', async () => {
    const device = failing(
      () => new StorageError('READ_FAILED', 'the disk is on fire', { hostOffset: 0x4000 }),
      later,
    );
    const { address } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address, '', true, true);
    for (const request of [...requests, { type: CMD.BLOCK_STATUS, length: 512 }]) {
      client.request(request);
      const chunk = await client.chunk();
      expect(chunk).toMatchObject({ type: 0x8001, done: true });
      expect(chunk.payload.readUInt32BE(0)).toBe(E.IO);
      expect(chunk.payload.toString('utf8', 6)).toBe('the disk is on fire (host offset 0x4000)');
    }
  });

  test.each(Object.keys(errorCodes) as ErrorCode[])('%s has its NBD number', async (code) => {
    const device = failing(() => new Qcow2Error(code, 'no'), later);
    const { address } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    // The protocol keeps ENOTSUP for FAST_ZERO alone.
    const number = nbdErrno[errorCodes[code].nbd];
    expect(await client.call({ type: CMD.READ, length: 1 })).toBe(number === E.NOTSUP ? E.INVAL : number);
  });

  test('gives the room of its failed reads back: they never fill what a connection may hold', async () => {
    const { address } = await serve({
      exports: [{ name: '', device: failing(() => new Qcow2Error('READ_FAILED', 'no'), later) }],
    });
    const client = await TestClient.open(address);
    for (let round = 0; round < 20; round++) {
      for (let index = 0; index < 8; index++) client.request({ type: CMD.READ, length: sizeBytes });
      for (let index = 0; index < 8; index++) expect((await client.simpleReply(sizeBytes)).errno).toBe(E.IO);
    }
  });

  test('that is no error of ours is EIO', async () => {
    const { address } = await serve({ exports: [{ name: '', device: failing(() => 'a string', later) }] });
    const client = await TestClient.open(address, '', true);
    client.request({ type: CMD.READ, length: 1 });
    const { payload } = await client.chunk();
    expect([payload.readUInt32BE(0), payload.toString('utf8', 6)]).toEqual([E.IO, 'a string']);
  });
});

test('a long message is cut between characters', async () => {
  const device = failing(() => new StorageError('READ_FAILED', 'ä'.repeat(5000)), false);
  const { address } = await serve({ exports: [{ name: '', device }] });
  const client = await TestClient.open(address, '', true);
  client.request({ type: CMD.READ, length: 1 });
  const { payload } = await client.chunk();
  expect(payload.toString('utf8', 6)).toBe('ä'.repeat(512));
});

describe('a device that takes its time', () => {
  test('gets replies out in the order of its answers', async () => {
    const device = new StagedDevice(sizeBytes);
    device.inner.write(0, patterned(8192, 1));
    const { address } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    const cookies = [0, 1, 2, 3].map((index) =>
      client.request({ type: CMD.READ, offset: index * 2048, length: 2048 }),
    );
    await device.waiting(4);
    const calls = [...device.calls];
    for (const index of [2, 0, 3, 1]) {
      calls[index]?.finish();
      const { cookie, data } = await client.simpleReply(2048);
      expect(cookie).toBe(cookies[index]);
      expect(data.equals(patterned(8192, 1).subarray(index * 2048, index * 2048 + 2048))).toBe(true);
    }
  });

  test('is passed by requests that are answered at once', async () => {
    const device = new StagedDevice(sizeBytes);
    const { address } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    const slow = client.request({ type: CMD.FLUSH });
    expect(await client.call({ type: CMD.READ, length: 0 })).toBe(0);
    await device.finishNext();
    expect(await client.simpleReply()).toMatchObject({ errno: 0, cookie: slow });
  });

  test('does not see its payloads change under it, however much comes after', async () => {
    const device = new StagedDevice(sizeBytes);
    const { address } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    // Payloads within a packet, across packets, and large ones in memory that serves again.
    const lengths = [100, 5000, 40_000, 40_000, 200_000, 200_000, 1_000_000, 1_000_000];
    for (let round = 0; round < 3; round++) {
      for (const [index, lengthBytes] of lengths.entries()) {
        client.request({ type: CMD.WRITE, data: patterned(lengthBytes, index + round * 10) });
      }
      const calls = [...(await device.waiting(lengths.length))];
      for (const [index, lengthBytes] of lengths.entries()) {
        expect(
          Buffer.from(calls[index]?.bytes ?? []).equals(patterned(lengthBytes, index + round * 10)),
        ).toBe(true);
      }
      for (const call of calls.reverse()) call.finish();
      for (const _ of lengths) expect((await client.simpleReply()).errno).toBe(0);
    }
  });

  test('does not have the room of its reads given to others', async () => {
    const device = new StagedDevice(sizeBytes);
    const content = patterned(400_000, 2);
    device.inner.write(0, content);
    const { address } = await serve({ exports: [{ name: '', device }] });
    const [one, two] = [await TestClient.open(address), await TestClient.open(address)];
    one.request({ type: CMD.READ, offset: 0, length: 70_000 });
    one.request({ type: CMD.READ, offset: 100_000, length: 3000 });
    const held = [...(await device.waiting(2))];
    for (let round = 0; round < 50; round++) {
      for (const client of [one, two]) {
        client.request({ type: CMD.READ, offset: 200_000 + round * 1000, length: 10_000 });
        await device.waiting(3);
        device.calls[2]?.finish();
        const { data } = await client.simpleReply(10_000);
        expect(data.equals(content.subarray(200_000 + round * 1000, 210_000 + round * 1000))).toBe(true);
      }
    }
    for (const call of held) call.finish();
    expect((await one.simpleReply(70_000)).data.equals(content.subarray(0, 70_000))).toBe(true);
    expect((await one.simpleReply(3000)).data.equals(content.subarray(100_000, 103_000))).toBe(true);
  });

  test('answers after its client went away; the client counts as gone only then', async () => {
    const device = new StagedDevice(sizeBytes);
    const gone: number[] = [];
    const { address, server } = await serve({
      exports: [{ name: '', device }],
      onClientGone: (client) => gone.push(client.id),
    });
    const client = await TestClient.open(address);
    const data = patterned(300_000, 3);
    client.request({ type: CMD.WRITE, data });
    client.request({ type: CMD.READ, length: 4096 });
    client.request({ type: CMD.FLUSH });
    await device.waiting(3);
    client.socket.destroy();
    await delay(20);
    expect(gone).toEqual([]);
    expect(server.counters().connectionsOpen).toBe(1);
    expect(Buffer.from(device.calls[0]?.bytes ?? []).equals(data)).toBe(true);
    device.calls[1]?.finish();
    device.calls[1]?.fail(new StorageError('FLUSH_FAILED', 'no'));
    await delay(5);
    expect(gone).toEqual([]);
    device.calls[0]?.finish();
    await delay(5);
    expect(gone).toEqual([1]);
    const next = await TestClient.open(address);
    next.request({ type: CMD.READ, length: 300_000 });
    await device.finishNext();
    expect((await next.simpleReply(300_000)).data.equals(data)).toBe(true);
  });
});

test('FUA and NO_HOLE reach the device', async () => {
  const seen: unknown[] = [];
  const device = new MemoryDevice({ sizeBytes });
  const spy = new Proxy<BlockDevice>(device, {
    get(target, key) {
      if (key === 'write')
        return (_offset: number, _bytes: Uint8Array, options?: unknown) => void seen.push(options);
      if (key === 'discard')
        return (_offset: number, _length: number, options?: unknown) => void seen.push(options);
      if (key === 'writeZeroes') {
        return (_offset: number, _length: number, options: WriteZeroesOptions) => void seen.push(options);
      }
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  const { address } = await serve({ exports: [{ name: '', device: spy }] });
  const client = await TestClient.open(address);
  for (const flags of [0, FLAG.FUA]) {
    expect(await client.call({ type: CMD.WRITE, data: Buffer.alloc(1), flags })).toBe(0);
    expect(await client.call({ type: CMD.TRIM, length: 1, flags })).toBe(0);
    expect(await client.call({ type: CMD.WRITE_ZEROES, length: 1, flags })).toBe(0);
    expect(await client.call({ type: CMD.WRITE_ZEROES, length: 1, flags: flags | FLAG.NO_HOLE })).toBe(0);
  }
  expect(seen).toEqual([
    undefined,
    {},
    { fua: false, mayUnmap: true },
    { fua: false, mayUnmap: false },
    { fua: true },
    { fua: true },
    { fua: true, mayUnmap: true },
    { fua: true, mayUnmap: false },
  ]);
  for (const type of [CMD.READ, CMD.FLUSH, CMD.CACHE])
    expect(await client.call({ type, flags: FLAG.FUA })).toBe(0);
});
