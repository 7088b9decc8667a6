/** Servers that break the protocol, end, or say nothing: an error with a code comes of it, and no hang. */
import { describe, expect, test } from 'vitest';
import { connectNbd, listNbdExports } from '../../src/index.ts';
import { u16, u32 } from '../support/client.ts';
import {
  chunk,
  dataChunk,
  greeting,
  optionReply,
  type PlayedConnection,
  playServer,
  type ReceivedRequest,
  simpleReply,
  u64,
} from '../support/played-server.ts';

describe('while connecting', () => {
  const afterGreeting =
    (...parts: Buffer[]) =>
    async (connection: PlayedConnection): Promise<void> => {
      connection.send(greeting());
      await connection.take(4);
      await connection.option();
      connection.send(...parts);
      await connection.take(1 << 20);
    };
  const atGo =
    (...parts: Buffer[]) =>
    async (connection: PlayedConnection): Promise<void> => {
      connection.send(greeting());
      await connection.take(4);
      for (let option = await connection.option(); option !== undefined; option = await connection.option()) {
        if (option.type === 7) connection.send(...parts);
        else connection.send(optionReply(option.type, 0x80000001));
      }
    };
  const info = (kind: number, ...fields: Buffer[]): Buffer =>
    optionReply(7, 3, Buffer.concat([u16(kind), ...fields]));

  test.each<[string, (connection: PlayedConnection) => Promise<void>, string, RegExp]>([
    ['ends at once', async ({ socket }) => void socket.end(), 'CONNECT_FAILED', /ended/],
    [
      'is no NBD server',
      async (c) => c.send(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')),
      'CONNECT_FAILED',
      /not an NBD server/,
    ],
    [
      'has another second magic',
      async (c) => c.send(Buffer.from('NBDMAGICIHAVEOTP'), u16(3)),
      'CONNECT_FAILED',
      /greeting/,
    ],
    ['ends within the greeting', async (c) => void c.socket.end('NBDMAGI'), 'CONNECT_FAILED', /ended/],
    ['replies with another magic', afterGreeting(Buffer.alloc(20, 1)), 'CONNECT_FAILED', /not a reply/],
    ['replies to another option', afterGreeting(optionReply(99, 1)), 'CONNECT_FAILED', /not sent/],
    [
      'replies at a length of 4 GiB',
      afterGreeting(optionReply(8, 3, Buffer.alloc(0), 0xffffffff)),
      'CONNECT_FAILED',
      /too long/,
    ],
    ['says nothing of the export', atGo(optionReply(7, 1)), 'CONNECT_FAILED', /nothing of the export/],
    [
      'has an export of 2^63 bytes',
      atGo(info(0, u64(2n ** 63n), u16(1)), optionReply(7, 1)),
      'CONNECT_FAILED',
      /8 PiB/,
    ],
    [
      'has block sizes of 3',
      atGo(info(0, u64(512), u16(1)), info(3, u32(3), u32(3), u32(3)), optionReply(7, 1)),
      'CONNECT_FAILED',
      /block sizes/,
    ],
    [
      'has a minimum above the maximum',
      atGo(info(0, u64(512), u16(1)), info(3, u32(512), u32(512), u32(256)), optionReply(7, 1)),
      'CONNECT_FAILED',
      /block sizes/,
    ],
    ['has short information', atGo(info(0, u32(1)), optionReply(7, 1)), 'CONNECT_FAILED', /wrong length/],
    [
      'refuses with an overlong text',
      atGo(optionReply(7, 0x80000006, Buffer.alloc(4097, 65))),
      'CONNECT_FAILED',
      /too long/,
    ],
    [
      'does not have the export',
      atGo(optionReply(7, 0x80000006, Buffer.from('no such'))),
      'NOT_FOUND',
      /no such/,
    ],
    ['wants TLS', atGo(optionReply(7, 0x80000005)), 'ACCESS_DENIED', /TLS/],
    ['forbids it', atGo(optionReply(7, 0x80000002)), 'ACCESS_DENIED', /allow/],
    ['is shutting down', atGo(optionReply(7, 0x80000007)), 'CONNECT_FAILED', /shutting down/],
  ])('a server that %s', async (_, play, code, message) => {
    const address = await playServer(play);
    await expect(connectNbd({ address, exportName: 'x' })).rejects.toMatchObject({
      name: 'StorageError',
      code,
      message: expect.stringMatching(message),
    });
  });

  test('one that does not encrypt, and one whose words before that come from whoever', async () => {
    const refusing = await playServer(afterGreeting(optionReply(5, 0x80000001)));
    const target = { exportName: '', tls: true };
    await expect(connectNbd({ ...target, address: refusing })).rejects.toMatchObject({
      code: 'ACCESS_DENIED',
    });
    const injecting = await playServer(afterGreeting(optionReply(5, 1), optionReply(8, 1)));
    await expect(connectNbd({ ...target, address: injecting })).rejects.toMatchObject({
      code: 'CONNECT_FAILED',
      message: expect.stringMatching(/before it began with TLS/),
    });
  });

  test('one that never answers, or only a byte now and then, is given up', async () => {
    const address = await playServer(async ({ socket }) => {
      const timer = setInterval(() => socket.write('N'), 10);
      socket.on('close', () => clearInterval(timer));
    });
    const connecting = connectNbd({ address }, { connectTimeoutMs: 50 });
    await expect(connecting).rejects.toMatchObject({ code: 'CONNECT_FAILED', message: /within 50 ms/ });
    const silent = await playServer(async () => undefined);
    await expect(connectNbd({ address: silent }, { connectTimeoutMs: 50 })).rejects.toMatchObject({
      code: 'CONNECT_FAILED',
    });
  });

  test('one that lists without end is left', async () => {
    const address = await playServer(async (connection) => {
      connection.send(greeting());
      await connection.take(4);
      await connection.option();
      const name = Buffer.concat([u32(1), Buffer.from('x')]);
      const many = Buffer.concat(Array.from({ length: 1000 }, () => optionReply(3, 2, name)));
      while (!connection.socket.destroyed) {
        if (!connection.socket.write(many)) await new Promise((resolve) => setImmediate(resolve));
      }
    });
    await expect(listNbdExports({ address })).rejects.toMatchObject({ code: 'CONNECT_FAILED' });
  });

  test('one from before GO is asked with EXPORT_NAME, and one from before the options is heard', async () => {
    const old = await playServer(async (connection) => {
      connection.send(greeting());
      await connection.take(4);
      for (let option = await connection.option(); option !== undefined; option = await connection.option()) {
        if (option.type !== 1) connection.send(optionReply(option.type, 0x80000001));
        else {
          connection.send(u64(option.data.toString() === 'x' ? 4096 : 0), u16(1));
          return;
        }
      }
    });
    const device = await connectNbd({ address: old, exportName: 'x' }, { graceMs: 20 });
    expect(device.sizeBytes).toBe(4096);
    await device.close();
    const older = await playServer(async (connection) => {
      connection.send(Buffer.from('NBDMAGIC'), u64(0x00420281861253n), u64(8192), u32(3), Buffer.alloc(124));
    });
    const readOnly = await connectNbd({ address: older }, { graceMs: 20 });
    expect(readOnly).toMatchObject({ sizeBytes: 8192, capabilities: { write: false } });
    await readOnly.close();
    await expect(connectNbd({ address: older, exportName: 'x' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });
});

const read = (cookie: bigint) => dataChunk(cookie, 0, Buffer.alloc(512, 7));

describe('in transmission', () => {
  /** What a READ of 512 bytes at 0 is answered with. */
  const answers: [string, (request: ReceivedRequest) => Buffer, RegExp][] = [
    ['another magic', () => Buffer.alloc(16, 9), /not a reply/],
    ['an unknown cookie', ({ cookie }) => read(cookie + 1000n), /nothing that was asked/],
    ['a cookie above 2^53', ({ cookie }) => read(cookie + 2n ** 63n), /nothing that was asked/],
    [
      'a simple reply',
      ({ cookie }) => Buffer.concat([simpleReply(cookie), Buffer.alloc(512)]),
      /simple reply/,
    ],
    ['more bytes than asked for', ({ cookie }) => dataChunk(cookie, 0, Buffer.alloc(513)), /does not fit/],
    ['4 GiB', ({ cookie }) => chunk(cookie, 1, Buffer.alloc(8), { length: 0xffffffff }), /does not fit/],
    ['bytes of another place', ({ cookie }) => dataChunk(cookie, 512, Buffer.alloc(512)), /not asked for/],
    [
      'bytes of a place beyond 2^63',
      ({ cookie }) => dataChunk(cookie, 2n ** 63n, Buffer.alloc(512)),
      /not asked for/,
    ],
    [
      'bytes twice',
      ({ cookie }) =>
        Buffer.concat([
          dataChunk(cookie, 0, Buffer.alloc(300), false),
          dataChunk(cookie, 200, Buffer.alloc(300)),
        ]),
      /twice/,
    ],
    ['a part of it', ({ cookie }) => dataChunk(cookie, 0, Buffer.alloc(511)), /before it is whole/],
    ['nothing', ({ cookie }) => chunk(cookie, 0), /before it is whole/],
    [
      'nothing, and not at last',
      ({ cookie }) => chunk(cookie, 0, Buffer.alloc(0), { done: false }),
      /does not fit/,
    ],
    [
      'a hole of no length',
      ({ cookie }) => chunk(cookie, 2, Buffer.concat([u64(0), u32(0)])),
      /not asked for/,
    ],
    [
      'a hole that is too long',
      ({ cookie }) => chunk(cookie, 2, Buffer.concat([u64(0), u32(0xffffffff)])),
      /not asked for/,
    ],
    [
      'a status',
      ({ cookie }) => chunk(cookie, 5, Buffer.concat([u32(77), u32(512), u32(0)])),
      /does not fit/,
    ],
    ['an unknown chunk', ({ cookie }) => chunk(cookie, 99), /unknown reply/],
    ['error 0', ({ cookie }) => chunk(cookie, 0x8001, Buffer.alloc(6)), /does not fit/],
    [
      'an error whose text is longer than it',
      ({ cookie }) => chunk(cookie, 0x8001, Buffer.concat([u32(5), u16(9)])),
      /does not fit/,
    ],
    [
      'an error with an overlong text',
      ({ cookie }) => chunk(cookie, 0x8001, Buffer.concat([u32(5), u16(4097), Buffer.alloc(4097)])),
      /does not fit/,
    ],
    [
      'an error of 4 GiB',
      ({ cookie }) => chunk(cookie, 0x9999, Buffer.alloc(8), { length: 0xffffffff }),
      /does not fit/,
    ],
  ];

  test.each(answers)('a READ answered with %s', async (_, answer, message) => {
    const address = await playServer(async (connection) => {
      await connection.offer(65536);
      const request = await connection.request();
      connection.send(answer(request!));
      await connection.take(1 << 20);
    });
    const device = await connectNbd({ address });
    const others = [device.read(0, new Uint8Array(512)), device.read(512, new Uint8Array(512))];
    for (const end of await Promise.allSettled(others)) {
      expect(end).toMatchObject({
        status: 'rejected',
        reason: { code: 'READ_FAILED', cause: { code: 'CONNECTION_LOST' } },
      });
      expect(String((end as PromiseRejectedResult).reason)).toMatch(message);
    }
    await expect(device.write(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(device.flush()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
    await device.close();
  });

  test.each<[string, (request: ReceivedRequest) => Buffer, RegExp]>([
    [
      'another context',
      ({ cookie }) => chunk(cookie, 5, Buffer.concat([u32(1), u32(512), u32(0)])),
      /not asked for/,
    ],
    [
      'a range of no length',
      ({ cookie }) => chunk(cookie, 5, Buffer.concat([u32(77), u32(0), u32(0)])),
      /does not fit/,
    ],
    [
      'half a descriptor',
      ({ cookie }) => chunk(cookie, 5, Buffer.concat([u32(77), u32(512)])),
      /does not fit/,
    ],
    ['none', ({ cookie }) => chunk(cookie, 0), /before it is whole/],
    ['success in a simple reply', ({ cookie }) => simpleReply(cookie), /simple reply/],
  ])('a BLOCK_STATUS answered with %s', async (_, answer, message) => {
    const address = await playServer(async (connection) => {
      await connection.offer(65536);
      connection.send(answer((await connection.request())!));
    });
    const device = await connectNbd({ address });
    await expect(device.extents(0, 512)).rejects.toMatchObject({ code: 'READ_FAILED', message });
    await device.close();
  });

  test('parts in any order, holes, later kinds of errors, and an answer about more than was asked', async () => {
    const address = await playServer(async (connection) => {
      await connection.offer(65536);
      const first = (await connection.request())!.cookie;
      const hole = chunk(first, 2, Buffer.concat([u64(100), u32(100)]), { done: false });
      connection.send(
        dataChunk(first, 200, Buffer.alloc(312, 2), false),
        hole,
        dataChunk(first, 0, Buffer.alloc(100, 1), false),
        chunk(first, 0),
      );
      const second = (await connection.request())!.cookie;
      connection.send(chunk(second, 0x9000, Buffer.alloc(33)));
      const third = (await connection.request())!.cookie;
      connection.send(chunk(third, 5, Buffer.concat([u32(77), u32(100), u32(3), u32(0xfffffff0), u32(2)])));
      const fourth = (await connection.request())!.cookie;
      connection.send(chunk(fourth, 0x8002, Buffer.concat([u32(28), u16(4), Buffer.from('full'), u64(0)])));
      await connection.request();
      connection.socket.end();
    });
    const device = await connectNbd({ address });
    const into = new Uint8Array(512).fill(9);
    await device.read(0, into);
    expect([into[0], into[99], into[100], into[199], into[200], into[511]]).toEqual([1, 1, 0, 0, 2, 2]);
    await expect(device.read(0, into)).rejects.toMatchObject({
      code: 'READ_FAILED',
      message: /Input\/output error/,
    });
    expect(await device.extents(0, 512)).toEqual([
      { offset: 0, lengthBytes: 100, kind: 'hole' },
      { offset: 100, lengthBytes: 412, kind: 'zero' },
    ]);
    await expect(device.write(0, into)).rejects.toMatchObject({ code: 'NO_SPACE', message: /full/ });
    await device.close();
  });

  test('one that ends while it is asked', async () => {
    const address = await playServer(async (connection) => {
      await connection.offer(65536);
      const { cookie } = (await connection.request())!;
      connection.socket.end(read(cookie).subarray(0, 100));
    });
    const device = await connectNbd({ address });
    await expect(device.read(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'READ_FAILED',
      cause: { code: 'CONNECTION_LOST' },
    });
    await device.close();
  });

  test('one that never answers: given up when asked to be, and closed all the same', async () => {
    const address = await playServer(async (connection) => {
      await connection.offer(65536);
    });
    const patient = await connectNbd({ address }, { graceMs: 30 });
    const reading = patient.read(0, new Uint8Array(512));
    const closing = patient.close();
    await expect(reading).rejects.toMatchObject({ code: 'READ_FAILED' });
    await closing;
    const hasty = await connectNbd({ address }, { answerTimeoutMs: 30 });
    await expect(hasty.read(0, new Uint8Array(512))).rejects.toMatchObject({
      message: /no answer for 30 ms/,
    });
    await hasty.close();
  });

  test('a payload is let go of before its request is settled, also where the reply comes too early', async () => {
    const { promise: replied, resolve: hasReplied } = Promise.withResolvers<void>();
    const { promise: wanted, resolve: want } = Promise.withResolvers<void>();
    const address = await playServer(async (connection) => {
      await connection.offer(64 * 1024 * 1024);
      const { socket } = connection;
      const head = (await connection.take(28))!;
      socket.pause();
      connection.send(simpleReply(head.readBigUInt64BE(8)));
      await new Promise((resolve) => setTimeout(resolve, 20));
      hasReplied();
      await wanted;
      socket.removeAllListeners('data').resume();
    });
    const device = await connectNbd({ address }, { graceMs: 50 });
    let settled = false;
    const writing = device.write(0, new Uint8Array(16 * 1024 * 1024)).then(() => {
      settled = true;
    });
    await replied;
    expect(settled).toBe(false);
    want();
    await writing;
    await device.close();
  });
});
