import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, onTestFinished, test } from 'vitest';
import { createNbdServer, type NbdClient } from '../../src/index.ts';
import { CMD, infoData, OPT, optionBytes, requestBytes, TestClient } from '../support/client.ts';
import { patterned, serve } from '../support/fixture.ts';
import { StagedDevice } from '../support/staged-device.ts';

const sizeBytes = 1024 * 1024;
const memory = (): MemoryDevice => new MemoryDevice({ sizeBytes, capabilities: { growable: false } });

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(1);
}

function isSettled(promise: Promise<unknown>): Promise<boolean> {
  return Promise.race([promise.then(() => true), delay(20).then(() => false)]);
}

describe('exports', () => {
  test('each name leads to its own device', async () => {
    const [one, two] = [memory(), memory()];
    const { address } = await serve({
      exports: [
        { name: '', device: one },
        { name: 'two', device: two },
      ],
    });
    const data = patterned(512, 1);
    const client = await TestClient.open(address, 'two');
    await client.call({ type: CMD.WRITE, data });
    expect(one.allocatedBytes).toBe(0);
    expect(two.allocatedBytes).toBeGreaterThan(0);
    const other = await TestClient.open(address, 'two');
    expect((await other.readAt(0, 512)).equals(data)).toBe(true);
  });

  test.each([
    ['none', []],
    ['two of one name', ['x', 'x']],
    ['a name with NUL', ['a\0b']],
    ['a name beyond 4096 bytes', ['ä'.repeat(2049)]],
  ])('what can not be served is refused at once: %s', (_, names) => {
    const exports = names.map((name) => ({ name, device: memory() }));
    expect(() => createNbdServer({ exports })).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  test.each([0, 3, 131072, -1, 0.5])('so is a minimum block size of %d', (minimumBlockBytes) => {
    const exports = [{ name: '', device: memory(), minimumBlockBytes }];
    expect(() => createNbdServer({ exports })).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  test('and a size that is no multiple of it', () => {
    const exports = [{ name: '', device: new MemoryDevice({ sizeBytes: 1000 }), minimumBlockBytes: 512 }];
    expect(() => createNbdServer({ exports })).toThrowError(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});

describe('many connections to one export', () => {
  test('a flush on one covers the writes that were answered on all', async () => {
    const device = new StagedDevice(sizeBytes);
    const { address } = await serve({ exports: [{ name: '', device }] });
    const writers = await Promise.all(Array.from({ length: 5 }, () => TestClient.open(address)));
    for (const [index, writer] of writers.entries()) {
      writer.request({ type: CMD.WRITE, offset: index * 512, data: patterned(512, index) });
    }
    // Three of the five writes are done and answered; two are still with the device.
    await device.waiting(5);
    const answered = device.calls.slice(0, 3);
    const answeredBy = answered.map((call) => writers[call.offset / 512] as TestClient);
    for (const call of answered) call.finish();
    for (const writer of answeredBy) expect((await writer.simpleReply()).errno).toBe(0);
    const flusher = await TestClient.open(address);
    flusher.request({ type: CMD.FLUSH });
    await device.waiting(3);
    // The one device saw the writes before the flush: what it promises for a flush, every connection gets.
    expect(device.history).toEqual(['write', 'write', 'write', 'write', 'write', 'flush']);
    expect(flusher.unread).toBe(0);
    device.calls[2]?.finish();
    expect((await flusher.simpleReply()).errno).toBe(0);
    for (const call of [...device.calls]) call.finish();
  });

  test('what one wrote, another reads at once', async () => {
    const { address } = await serve({ exports: [{ name: '', device: memory() }] });
    const [one, two] = await Promise.all([TestClient.open(address), TestClient.open(address)]);
    for (let round = 0; round < 20; round++) {
      const data = patterned(700, round);
      await one.call({ type: CMD.WRITE, offset: round, data });
      expect((await two.readAt(round, 700)).equals(data)).toBe(true);
    }
  });
});

describe('the client limit', () => {
  test('holds further clients back until there is a place, in their order', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }], maxClients: 1 });
    const first = await TestClient.open(address);
    const second = await TestClient.connect(address);
    await until(() => server.counters().connectionsWaiting === 1);
    const third = await TestClient.connect(address);
    await until(() => server.counters().connectionsWaiting === 2);
    expect(second.unread).toBe(0);
    await first.leave();
    await second.greet();
    expect(third.unread).toBe(0);
    expect(server.counters()).toMatchObject({ connections: 2, connectionsOpen: 1, connectionsWaiting: 1 });
    second.socket.destroy();
    await third.greet();
  });

  test('a waiting client that left does no harm', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }], maxClients: 1 });
    const first = await TestClient.open(address);
    const second = await TestClient.connect(address);
    await until(() => server.counters().connectionsWaiting === 1);
    second.socket.destroy();
    const third = await TestClient.connect(address);
    await until(() => server.counters().connectionsWaiting === 2);
    await first.leave();
    await third.greet();
  });

  test('is at least one', () => {
    const exports = [{ name: '', device: memory() }];
    for (const maxClients of [0, -1, Number.NaN]) {
      expect(() => createNbdServer({ exports, maxClients })).toThrowError(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      );
    }
  });
});

describe('a server that is not persistent', () => {
  test('closes after the last client that chose an export', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }], persistent: false });
    const looker = await TestClient.connect(address);
    await looker.greet();
    await looker.option(OPT.LIST);
    await looker.option(OPT.ABORT);
    await looker.ended;
    expect(await isSettled(server.closed)).toBe(false);
    const [one, two] = await Promise.all([TestClient.open(address), TestClient.open(address)]);
    await one.leave();
    expect(await isSettled(server.closed)).toBe(false);
    await two.leave();
    await server.closed;
    await expect(TestClient.connect(address)).rejects.toThrow();
  });
});

describe('close', () => {
  test('answers what is in flight, takes nothing more, and waits for the device', async () => {
    const device = new StagedDevice(sizeBytes);
    const { address, server } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    const idle = await TestClient.open(address);
    const cookie = client.request({ type: CMD.WRITE, data: patterned(512, 1) });
    await device.waiting(1);
    const closing = server.close();
    await idle.ended;
    client.request({ type: CMD.FLUSH });
    expect(await isSettled(closing)).toBe(false);
    device.calls[0]?.finish();
    expect(await client.simpleReply()).toMatchObject({ errno: 0, cookie });
    await client.ended;
    client.socket.destroy();
    await closing;
    expect(device.history).toEqual(['write']);
    await expect(server.listen(address)).rejects.toMatchObject({ code: 'CLOSED' });
  });

  test('cuts off a client that takes no replies, but waits for the device', async () => {
    const device = new StagedDevice(64 * 1024 * 1024);
    const { address, server } = await serve({ exports: [{ name: '', device }], graceMs: 50 });
    const client = await TestClient.open(address);
    client.socket.pause();
    for (let index = 0; index < 2; index++) client.request({ type: CMD.READ, length: 32 * 1024 * 1024 });
    await device.waiting(2);
    device.calls[0]?.finish();
    const closing = server.close();
    await delay(100);
    expect(await isSettled(closing)).toBe(false);
    device.calls[0]?.finish();
    await closing;
  });

  test('ends handshakes and waiting clients', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }], maxClients: 1 });
    const shaking = await TestClient.connect(address);
    await shaking.greet();
    const waiting = await TestClient.connect(address);
    await until(() => server.counters().connectionsWaiting === 1);
    await Promise.all([server.close(), shaking.ended, waiting.ended]);
    await server.close();
  });
});

test('callbacks tell who came, who went, and who broke the protocol', async () => {
  const events: string[] = [];
  const show = (client: NbdClient): string => `${client.id} ${client.exportName}`;
  const { address, server } = await serve({
    exports: [{ name: 'x', device: memory() }],
    onClient: (client) => events.push(`came ${show(client)}`),
    onClientGone: (client, remaining) => events.push(`went ${show(client)}, ${remaining} remain`),
    onViolation: (client, reason) => events.push(`broke ${show(client)}: ${reason}`),
  });
  const one = await TestClient.open(address, 'x');
  const two = await TestClient.connect(address);
  await two.greet();
  two.send(optionBytes(OPT.EXPORT_NAME, Buffer.from('y')));
  await two.ended;
  two.socket.destroy();
  await until(() => server.counters().connectionsOpen === 1);
  one.send(requestBytes({ type: CMD.READ, magic: 1 }));
  await one.ended;
  await until(() => server.counters().connectionsOpen === 0);
  expect(events).toEqual([
    'came 1 x',
    'broke 2 undefined: no such export',
    'went 2 undefined, 1 remain',
    expect.stringMatching(/^broke 1 x: not an NBD request/),
    'went 1 x, 0 remain',
  ]);
});

test('counters count', async () => {
  const { address, server } = await serve({ exports: [{ name: '', device: memory() }] });
  const client = await TestClient.open(address);
  await client.call({ type: CMD.WRITE, data: Buffer.alloc(1000) });
  await client.readAt(0, 300);
  await client.readAt(0, 300);
  await client.call({ type: CMD.FLUSH });
  await client.call({ type: 77 });
  await client.leave();
  await until(() => server.counters().connectionsOpen === 0);
  expect(server.counters()).toEqual({
    connections: 1,
    connectionsOpen: 0,
    connectionsWaiting: 0,
    requests: {
      READ: 2,
      WRITE: 1,
      DISC: 1,
      FLUSH: 1,
      TRIM: 0,
      CACHE: 0,
      WRITE_ZEROES: 0,
      BLOCK_STATUS: 0,
      unknown: 1,
    },
    failures: 1,
    bytesRead: 600,
    bytesWritten: 1000,
  });
});

describe('listening', () => {
  test('on TCP, at a port of the system choosing, and on a unix socket too', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }] });
    const bound = await server.listen({ host: '127.0.0.1', port: 0 });
    expect(bound).toMatchObject({ host: '127.0.0.1', port: expect.any(Number) });
    const [unix, tcp] = [await TestClient.open(address), await TestClient.open(bound)];
    await tcp.call({ type: CMD.WRITE, data: patterned(512, 8) });
    expect((await unix.readAt(0, 512)).equals(patterned(512, 8))).toBe(true);
    await expect(server.listen(bound)).rejects.toMatchObject({ code: 'IN_USE' });
  });

  test('replaces a socket file that nobody serves, and removes its own at the end', async () => {
    const { folder, server } = await serve({ exports: [{ name: '', device: memory() }] });
    const path = join(folder, 'stale');
    await leaveSocketFile(path);
    expect(statSync(path).isSocket()).toBe(true);
    await server.listen({ path });
    await TestClient.open({ path });
    await server.close();
    expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
  });

  test('never replaces a socket that is served, or something that is no socket', async () => {
    const { folder, address } = await serve({ exports: [{ name: '', device: memory() }] });
    const other = createNbdServer({ exports: [{ name: '', device: memory() }] });
    await expect(other.listen(address)).rejects.toMatchObject({ code: 'IN_USE' });
    await TestClient.open(address);
    writeFileSync(join(folder, 'file'), 'precious');
    await expect(other.listen({ path: join(folder, 'file') })).rejects.toMatchObject({ code: 'IN_USE' });
    expect(statSync(join(folder, 'file')).size).toBe(8);
    await other.close();
  });

  test('says what is wrong with a path', async () => {
    const { folder, server } = await serve({ exports: [{ name: '', device: memory() }] });
    const path = join(folder, 'missing', 'socket');
    await expect(server.listen({ path })).rejects.toMatchObject({ code: 'NOT_FOUND', context: { path } });
    const long = join(folder, 'x'.repeat(200));
    await expect(server.listen({ path: long })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(server.listen({ host: '127.0.0.1', port: 70_000 })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    mkdirSync(join(folder, 'missing'));
    await server.listen({ path });
  });
});

test('a handshake that takes too long is ended, a transmission is not', async () => {
  const { address } = await serve({ exports: [{ name: '', device: memory() }], handshakeTimeoutMs: 50 });
  const served = await TestClient.open(address);
  const silent = await TestClient.connect(address);
  const slow = await TestClient.connect(address);
  await slow.greet();
  const dripping = setInterval(() => slow.send(Buffer.from([0])), 5);
  onTestFinished(() => clearInterval(dripping));
  await Promise.all([silent.ended, slow.ended]);
  clearInterval(dripping);
  await delay(60);
  expect(await served.call({ type: CMD.FLUSH })).toBe(0);
});

describe('back-pressure', () => {
  test('a client that reads no replies makes the server hold a bounded amount', async () => {
    const lengthBytes = 8 * 1024 * 1024;
    const device = new MemoryDevice({ sizeBytes: lengthBytes, capabilities: { growable: false } });
    const { address, server } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    client.socket.pause();
    client.send(
      ...Array.from({ length: 30 }, (_, index) =>
        requestBytes({ type: CMD.READ, length: lengthBytes, cookie: BigInt(index) }),
      ),
    );
    await until(() => server.counters().requests.READ >= 8);
    await delay(50);
    expect(server.counters().requests.READ).toBeLessThan(20);
    client.socket.resume();
    for (let index = 0; index < 30; index++) {
      expect(await client.simpleReply(lengthBytes)).toMatchObject({ errno: 0, cookie: BigInt(index) });
    }
  });

  test('a slow device gets a bounded number of requests at a time', async () => {
    const device = new StagedDevice(sizeBytes);
    const { address, server } = await serve({ exports: [{ name: '', device }] });
    const client = await TestClient.open(address);
    const count = 1000;
    client.send(
      ...Array.from({ length: count }, (_, index) =>
        requestBytes({ type: CMD.FLUSH, cookie: BigInt(index) }),
      ),
    );
    await device.waiting(256);
    await delay(20);
    expect(device.calls.length).toBe(256);
    expect(server.counters().requests.FLUSH).toBe(256);
    let replies = 0;
    while (replies < count) {
      for (const call of [...device.calls]) call.finish();
      await client.simpleReply();
      replies += 1;
    }
    expect(device.history.length).toBe(count);
  });
});

/** A socket file as a killed server leaves it. */
async function leaveSocketFile(path: string): Promise<void> {
  const { linkSync, renameSync } = await import('node:fs');
  const listener = createServer();
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  linkSync(path, `${path}.kept`);
  await new Promise<void>((resolve) => {
    listener.close(() => resolve());
  });
  renameSync(`${path}.kept`, path);
}

test('GO, requests and the end in one packet', async () => {
  const { address } = await serve({ exports: [{ name: '', device: memory() }] });
  const client = await TestClient.connect(address);
  await client.read(18);
  client.send(
    Buffer.from([0, 0, 0, 3]),
    optionBytes(OPT.STRUCTURED),
    optionBytes(OPT.GO, infoData('')),
    requestBytes({ type: CMD.READ, length: 16, cookie: 1n }),
    requestBytes({ type: CMD.DISC }),
  );
  expect((await client.optionReply()).option).toBe(OPT.STRUCTURED);
  for (let reply = await client.optionReply(); reply.type !== 1; ) reply = await client.optionReply();
  expect(await client.chunk()).toMatchObject({ done: true, type: 1, cookie: 1n });
  await client.ended;
});
