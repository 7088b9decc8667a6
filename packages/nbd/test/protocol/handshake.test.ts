import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, test } from 'vitest';
import {
  CMD,
  infoData,
  metaData,
  OPT,
  optionBytes,
  REP,
  requestBytes,
  TestClient,
  u32,
} from '../support/client.ts';
import { serve } from '../support/fixture.ts';

const sizeBytes = 1024 * 1024;
const memory = (): MemoryDevice =>
  new MemoryDevice({ sizeBytes, capabilities: { growable: false, preferredBlockBytes: 65536 } });

const HAS_FLAGS = 1;
const READ_ONLY = 2;
const SEND_DF = 128;
/** flush, FUA, trim, write zeroes, multi-conn, cache, fast zero */
const WRITABLE = 4 | 8 | 32 | 64 | 256 | 1024 | 2048;

async function connected(
  exports: Parameters<typeof serve>[0]['exports'],
  clientFlags = 3,
): Promise<TestClient> {
  const { address } = await serve({ exports });
  const client = await TestClient.connect(address);
  await client.greet(clientFlags);
  return client;
}

/** The payloads of INFO replies by their type. */
function infos(replies: { type: number; data: Buffer }[]): Map<number, Buffer> {
  return new Map(
    replies
      .filter((each) => each.type === REP.INFO)
      .map((each) => [each.data.readUInt16BE(0), each.data.subarray(2)]),
  );
}

test('the greeting offers fixed newstyle and no zeroes', async () => {
  const { address } = await serve({ exports: [{ name: '', device: memory() }] });
  const client = await TestClient.connect(address);
  expect(await client.greet()).toBe(3);
});

test('unknown client flags end the connection', async () => {
  const client = await connected([{ name: '', device: memory() }], 3 | 4);
  await client.ended;
});

describe('GO and INFO', () => {
  test('GO tells size, flags and block sizes, and begins the transmission', async () => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    const replies = await client.option(OPT.GO, infoData('disk', [3]));
    expect(replies.at(-1)).toMatchObject({ option: OPT.GO, type: REP.ACK });
    const told = infos(replies);
    expect(told.get(0)?.readBigUInt64BE(0)).toBe(BigInt(sizeBytes));
    expect(told.get(0)?.readUInt16BE(8)).toBe(HAS_FLAGS | WRITABLE);
    expect([0, 4, 8].map((at) => told.get(3)?.readUInt32BE(at))).toEqual([1, 65536, 32 * 1024 * 1024]);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
  });

  test('INFO says the same and leaves the handshake open', async () => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    const first = await client.option(OPT.INFO, infoData('disk', [3]));
    const second = await client.option(OPT.GO, infoData('disk', [3]));
    expect(second.map((each) => each.data)).toEqual(first.map((each) => each.data));
  });

  test('name and description are told when asked for', async () => {
    const client = await connected([{ name: 'dïsk', device: memory(), description: 'a descriptiön' }]);
    const told = infos(await client.option(OPT.INFO, infoData('dïsk', [1, 2, 77])));
    expect(told.get(1)?.toString()).toBe('dïsk');
    expect(told.get(2)?.toString()).toBe('a descriptiön');
    const untold = infos(await client.option(OPT.INFO, infoData('dïsk')));
    expect([...untold.keys()].sort()).toEqual([0, 3]);
  });

  test('an unknown export is ERR_UNKNOWN, and the client may go on', async () => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    expect(await client.option(OPT.GO, infoData('desk'))).toMatchObject([{ type: REP.UNKNOWN }]);
    expect((await client.option(OPT.GO, infoData('disk'))).at(-1)?.type).toBe(REP.ACK);
  });

  test.each([
    ['too short', Buffer.alloc(5)],
    ['name longer than the data', Buffer.concat([u32(100), Buffer.alloc(10)])],
    ['name length that wraps around', Buffer.concat([u32(0xfffffffe), Buffer.alloc(10)])],
    ['fewer types than counted', infoData('disk', [3]).subarray(0, -1)],
    ['bytes behind the last type', Buffer.concat([infoData('disk', [3]), Buffer.alloc(1)])],
    ['name that is no UTF-8', Buffer.concat([u32(1), Buffer.from([0xff]), Buffer.alloc(2)])],
    ['name with NUL', infoData('di\0sk')],
    ['name beyond 4096 bytes', infoData('x'.repeat(4097))],
  ])('malformed data is ERR_INVALID: %s', async (_, data) => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    expect(await client.option(OPT.GO, data)).toMatchObject([{ type: REP.INVALID }]);
    expect((await client.option(OPT.GO, infoData('disk'))).at(-1)?.type).toBe(REP.ACK);
  });

  test('a minimum block size lets in only clients that asked for block sizes', async () => {
    const exports = [{ name: '', device: memory(), minimumBlockBytes: 512 }];
    const client = await connected(exports);
    const refused = await client.option(OPT.GO, infoData(''));
    expect(refused.at(-1)?.type).toBe(REP.BLOCK_SIZE_REQD);
    expect(infos(refused).get(3)?.readUInt32BE(0)).toBe(512);
    expect((await client.option(OPT.GO, infoData('', [3]))).at(-1)?.type).toBe(REP.ACK);
    const old = await connected(exports);
    old.send(optionBytes(OPT.EXPORT_NAME));
    await old.ended;
  });
});

describe('transmission flags', () => {
  async function flagsOf(
    each: { device: MemoryDevice; readOnly?: boolean },
    structured = false,
  ): Promise<number> {
    const client = await connected([{ name: '', ...each }]);
    if (structured) await client.option(OPT.STRUCTURED);
    const told = infos(await client.option(OPT.INFO, infoData('')));
    return told.get(0)?.readUInt16BE(8) ?? 0;
  }

  test('DF only with structured replies', async () => {
    expect(await flagsOf({ device: memory() }, true)).toBe(HAS_FLAGS | WRITABLE | SEND_DF);
  });

  test('read-only by the export or by the device: nothing that writes', async () => {
    const readOnly = HAS_FLAGS | READ_ONLY | 256 | 1024;
    expect(await flagsOf({ device: memory(), readOnly: true })).toBe(readOnly);
    expect(await flagsOf({ device: new MemoryDevice({ sizeBytes, capabilities: { write: false } }) })).toBe(
      readOnly,
    );
  });

  test('no TRIM where the device does not discard', async () => {
    expect(await flagsOf({ device: new MemoryDevice({ sizeBytes, capabilities: { discard: false } }) })).toBe(
      (HAS_FLAGS | WRITABLE) & ~32,
    );
  });
});

describe('EXPORT_NAME', () => {
  test('with NO_ZEROES: size and flags', async () => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    client.send(optionBytes(OPT.EXPORT_NAME, Buffer.from('disk')));
    const reply = await client.read(10);
    expect(reply.readBigUInt64BE(0)).toBe(BigInt(sizeBytes));
    expect(reply.readUInt16BE(8)).toBe(HAS_FLAGS | WRITABLE);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
    expect(client.unread).toBe(0);
  });

  test('without NO_ZEROES: 124 zeros more, also from a client that is not fixed newstyle', async () => {
    const client = await connected([{ name: '', device: memory() }], 0);
    client.send(optionBytes(OPT.EXPORT_NAME));
    const reply = await client.read(134);
    expect(reply.subarray(10).every((byte) => byte === 0)).toBe(true);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
  });

  test('an unknown name ends the connection, as the option knows no errors', async () => {
    const client = await connected([{ name: 'disk', device: memory() }]);
    client.send(optionBytes(OPT.EXPORT_NAME, Buffer.from('desk')));
    await client.ended;
    expect(client.unread).toBe(0);
  });

  test('a client that is not fixed newstyle has no other option', async () => {
    const client = await connected([{ name: '', device: memory() }], 2);
    client.send(optionBytes(OPT.LIST));
    await client.ended;
    expect(client.unread).toBe(0);
  });
});

test('LIST names every export with its description', async () => {
  const device = memory();
  const client = await connected([
    { name: '', device },
    { name: 'größe', device, description: 'zweite' },
  ]);
  const replies = await client.option(OPT.LIST);
  expect(replies.map((each) => each.type)).toEqual([REP.SERVER, REP.SERVER, REP.ACK]);
  expect(replies[0]?.data).toEqual(u32(0));
  const nameBytes = Buffer.byteLength('größe');
  expect(replies[1]?.data.readUInt32BE(0)).toBe(nameBytes);
  expect(replies[1]?.data.toString('utf8', 4, 4 + nameBytes)).toBe('größe');
  expect(replies[1]?.data.toString('utf8', 4 + nameBytes)).toBe('zweite');
});

test('LIST and STRUCTURED_REPLY with data are ERR_INVALID', async () => {
  const client = await connected([{ name: '', device: memory() }]);
  expect(await client.option(OPT.LIST, Buffer.from('x'))).toMatchObject([{ type: REP.INVALID }]);
  expect(await client.option(OPT.STRUCTURED, Buffer.from('x'))).toMatchObject([{ type: REP.INVALID }]);
});

test('ABORT is acknowledged, then the server ends', async () => {
  const client = await connected([{ name: '', device: memory() }]);
  expect(await client.option(OPT.ABORT)).toMatchObject([{ type: REP.ACK }]);
  await client.ended;
});

test.each([OPT.STARTTLS, 4, 11, 12345, 0, 0xffffffff])(
  'option %i is ERR_UNSUP, and the client may go on',
  async (type) => {
    const client = await connected([{ name: '', device: memory() }]);
    expect(await client.option(type, Buffer.alloc(100))).toMatchObject([{ option: type, type: REP.UNSUP }]);
    expect((await client.option(OPT.GO, infoData(''))).at(-1)?.type).toBe(REP.ACK);
  },
);

test('an option beyond the limit is skipped and ERR_TOO_BIG', async () => {
  const client = await connected([{ name: '', device: memory() }]);
  expect(await client.option(OPT.GO, Buffer.alloc(70_000))).toMatchObject([{ type: REP.TOO_BIG }]);
  expect((await client.option(OPT.GO, infoData(''))).at(-1)?.type).toBe(REP.ACK);
});

test('something that is no option ends the connection', async () => {
  const client = await connected([{ name: '', device: memory() }]);
  client.send(Buffer.from('GET / HTTP/1.1\r\n\r\n'));
  await client.ended;
});

test('a client that asks and asks without reading is ended, not buffered for', async () => {
  const device = memory();
  const exports = Array.from({ length: 500 }, (_, index) => ({
    name: `${index}`.padStart(200, 'x'),
    device,
  }));
  const { address } = await serve({ exports });
  const client = await TestClient.connect(address);
  await client.greet();
  client.send(...Array.from({ length: 2000 }, () => optionBytes(OPT.LIST)));
  await client.ended;
});

test('a request may come in the same packet as GO', async () => {
  const client = await connected([{ name: '', device: memory() }]);
  client.send(optionBytes(OPT.GO, infoData('', [])), requestBytes({ type: CMD.FLUSH, cookie: 9n }));
  for (let reply = await client.optionReply(); reply.type !== REP.ACK; ) reply = await client.optionReply();
  expect(await client.simpleReply()).toMatchObject({ errno: 0, cookie: 9n });
});

describe('metadata contexts', () => {
  test('need structured replies', async () => {
    const client = await connected([{ name: '', device: memory() }]);
    expect(await client.option(OPT.SET_META, metaData('', ['base:allocation']))).toMatchObject([
      { type: REP.INVALID },
    ]);
    expect(await client.option(OPT.LIST_META, metaData('', []))).toMatchObject([{ type: REP.INVALID }]);
  });

  test.each([
    ['no query', [], true],
    ['the name', ['base:allocation'], true],
    ['the wildcard', ['base:'], true],
    ['among others', ['qemu:dirty-bitmap:x', 'base:allocation'], true],
    ['an unknown leaf', ['base:unknown'], false],
    ['an unknown namespace', ['x-mine:y'], false],
  ])('LIST_META_CONTEXT: %s', async (_, queries, found) => {
    const client = await connected([{ name: '', device: memory() }]);
    await client.option(OPT.STRUCTURED);
    const replies = await client.option(OPT.LIST_META, metaData('', queries));
    expect(replies.map((each) => each.type)).toEqual(found ? [REP.META, REP.ACK] : [REP.ACK]);
    if (found) expect(replies[0]?.data).toEqual(Buffer.concat([u32(0), Buffer.from('base:allocation')]));
  });

  test.each([
    ['no query', [], false],
    ['the name', ['base:allocation'], true],
    ['the wildcard, which selects nothing', ['base:'], false],
    ['the name twice', ['base:allocation', 'base:allocation'], true],
  ])('SET_META_CONTEXT: %s', async (_, queries, found) => {
    const client = await connected([{ name: '', device: memory() }]);
    await client.option(OPT.STRUCTURED);
    const replies = await client.option(OPT.SET_META, metaData('', queries));
    expect(replies.map((each) => each.type)).toEqual(found ? [REP.META, REP.ACK] : [REP.ACK]);
  });

  test('a selection for another export, or one that a later SET undid, does not count', async () => {
    const device = memory();
    const exports = [
      { name: 'a', device },
      { name: 'b', device },
    ];
    for (const later of [
      metaData('b', ['base:allocation']),
      metaData('a', []),
      metaData('gone', ['base:allocation']),
    ]) {
      const client = await connected(exports);
      await client.option(OPT.STRUCTURED);
      await client.option(OPT.SET_META, metaData('a', ['base:allocation']));
      await client.option(OPT.SET_META, later);
      await client.option(OPT.GO, infoData('a', [3]));
      client.request({ type: CMD.BLOCK_STATUS, length: 512 });
      expect(await client.chunk()).toMatchObject({ type: 0x8001, done: true });
    }
  });

  test.each([
    ['too short for a name', Buffer.alloc(3)],
    ['no count', metaData('', []).subarray(0, 4)],
    ['a count without queries', Buffer.concat([u32(0), u32(1)])],
    ['a huge count', Buffer.concat([u32(0), u32(0xffffffff)])],
    ['a query longer than the data', Buffer.concat([u32(0), u32(1), u32(0xffffffff), Buffer.from('x')])],
    ['bytes behind the last query', Buffer.concat([metaData('', ['base:']), Buffer.from('x')])],
  ])('malformed queries are ERR_INVALID: %s', async (_, data) => {
    const client = await connected([{ name: '', device: memory() }]);
    await client.option(OPT.STRUCTURED);
    expect(await client.option(OPT.SET_META, data)).toMatchObject([{ type: REP.INVALID }]);
  });

  test('an unknown export is ERR_UNKNOWN', async () => {
    const client = await connected([{ name: '', device: memory() }]);
    await client.option(OPT.STRUCTURED);
    expect(await client.option(OPT.SET_META, metaData('x', ['base:allocation']))).toMatchObject([
      { type: REP.UNKNOWN },
    ]);
  });
});
