import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, test } from 'vitest';
import type { NbdExport } from '../../src/index.ts';
import { type Chunk, CMD, E, FLAG, requestBytes, TestClient } from '../support/client.ts';
import { patterned, serve } from '../support/fixture.ts';

const sizeBytes = 64 * 1024 * 1024;
const MIB = 1024 * 1024;
const memory = (capabilities = {}): MemoryDevice =>
  new MemoryDevice({ sizeBytes, capabilities: { growable: false, ...capabilities } });

async function opened(
  device = memory(),
  modes: { structured?: boolean; allocation?: boolean } & Partial<NbdExport> = {},
): Promise<TestClient> {
  const { structured, allocation, ...rest } = modes;
  const { address } = await serve({ exports: [{ name: '', device, ...rest }] });
  return TestClient.open(address, '', structured, allocation);
}

function errorOf(chunk: Chunk): { errno: number; message: string } {
  expect(chunk.type).toBe(0x8001);
  const messageBytes = chunk.payload.readUInt16BE(4);
  expect(chunk.payload.length).toBe(6 + messageBytes);
  return { errno: chunk.payload.readUInt32BE(0), message: chunk.payload.toString('utf8', 6) };
}

describe('simple replies', () => {
  test('what is written is read, and lies in the device', async () => {
    const device = memory();
    const client = await opened(device);
    const data = patterned(10_000, 1);
    expect(await client.call({ type: CMD.WRITE, offset: 12_345, data })).toBe(0);
    expect((await client.readAt(12_345, 10_000)).equals(data)).toBe(true);
    const held = new Uint8Array(10_000);
    device.read(12_345, held);
    expect(data.equals(held)).toBe(true);
    await client.leave();
  });

  test('a batch of many requests gets its replies in order', async () => {
    const client = await opened();
    const parts: Buffer[] = [];
    for (let index = 0; index < 500; index++) {
      parts.push(
        requestBytes({
          type: CMD.WRITE,
          offset: index * 512,
          data: patterned(512, index),
          cookie: BigInt(index),
        }),
      );
      parts.push(
        requestBytes({ type: CMD.READ, offset: index * 512, length: 512, cookie: BigInt(index + 1000) }),
      );
    }
    client.send(...parts);
    for (let index = 0; index < 500; index++) {
      expect(await client.simpleReply()).toMatchObject({ errno: 0, cookie: BigInt(index) });
      const { cookie, data } = await client.simpleReply(512);
      expect(cookie).toBe(BigInt(index + 1000));
      expect(data.equals(patterned(512, index))).toBe(true);
    }
  });

  test.each([4096, 256 * 1024, MIB + 1, 32 * MIB])('a payload of %i bytes', async (lengthBytes) => {
    const client = await opened();
    const data = patterned(lengthBytes, 3);
    expect(await client.call({ type: CMD.WRITE, offset: 512, data })).toBe(0);
    expect((await client.readAt(512, lengthBytes)).equals(data)).toBe(true);
  });

  test('requests of no bytes succeed and do nothing', async () => {
    const client = await opened();
    for (const type of [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
      expect(await client.call({ type, offset: sizeBytes })).toBe(0);
    }
  });

  test('trim, zeroes and cache', async () => {
    const client = await opened();
    const data = patterned(8192, 4);
    await client.call({ type: CMD.WRITE, data });
    expect(await client.call({ type: CMD.WRITE_ZEROES, offset: 4096, length: 100 })).toBe(0);
    expect(
      await client.call({ type: CMD.WRITE_ZEROES, offset: 5096, length: 100, flags: FLAG.NO_HOLE }),
    ).toBe(0);
    expect(await client.call({ type: CMD.CACHE, length: MIB })).toBe(0);
    data.fill(0, 4096, 4196).fill(0, 5096, 5196);
    expect((await client.readAt(0, 8192)).equals(data)).toBe(true);
    expect(await client.call({ type: CMD.TRIM, length: 8192 })).toBe(0);
    expect((await client.readAt(0, 8192)).every((byte) => byte === 0)).toBe(true);
  });

  test('an error carries no data, and the next reply follows', async () => {
    const client = await opened();
    client.request({ type: CMD.READ, offset: sizeBytes, length: 512 });
    expect((await client.simpleReply(512)).errno).toBe(E.INVAL);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
    expect(client.unread).toBe(0);
  });
});

describe('requests that are refused', () => {
  const beyond = 0xffff_ffff_ffff_f000n;
  test.each([
    ['read across the end', { type: CMD.READ, offset: sizeBytes - 1, length: 2 }, E.INVAL],
    ['read beyond 2^63', { type: CMD.READ, offset: beyond, length: 512 }, E.INVAL],
    ['read that wraps around', { type: CMD.READ, offset: beyond, length: 0x1000 }, E.INVAL],
    ['write across the end', { type: CMD.WRITE, offset: sizeBytes - 1, data: Buffer.alloc(2) }, E.NOSPC],
    ['write beyond 2^63', { type: CMD.WRITE, offset: beyond, data: Buffer.alloc(2) }, E.NOSPC],
    ['zeroes across the end', { type: CMD.WRITE_ZEROES, offset: sizeBytes - 1, length: 2 }, E.NOSPC],
    ['trim across the end', { type: CMD.TRIM, offset: sizeBytes - 1, length: 2 }, E.INVAL],
    ['trim of nearly 4 GiB', { type: CMD.TRIM, offset: 0, length: 0xffffffff }, E.INVAL],
    ['cache across the end', { type: CMD.CACHE, offset: sizeBytes - 1, length: 2 }, E.INVAL],
    ['flush with a length', { type: CMD.FLUSH, length: 1 }, E.INVAL],
    ['flush with an offset', { type: CMD.FLUSH, offset: 1 }, E.INVAL],
    ['unknown command', { type: 8 }, E.INVAL],
    ['unknown command with a length', { type: 0xffff, length: 0xffffffff }, E.INVAL],
    ['unknown flag', { type: CMD.READ, length: 1, flags: 0x8000 }, E.INVAL],
    ['flag of another command', { type: CMD.WRITE, flags: FLAG.NO_HOLE, data: Buffer.alloc(1) }, E.INVAL],
    ['DF without structured replies', { type: CMD.READ, length: 1, flags: FLAG.DF }, E.INVAL],
    ['block status without a context', { type: CMD.BLOCK_STATUS, length: 1 }, E.INVAL],
    ['read above the maximum', { type: CMD.READ, length: 32 * MIB + 1 }, E.INVAL],
  ])('%s', async (_, fields, errno) => {
    const client = await opened();
    expect(await client.call(fields)).toBe(errno);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
  });

  test('a write above the maximum is drained and refused', async () => {
    const device = memory();
    const client = await opened(device);
    expect(await client.call({ type: CMD.WRITE, data: Buffer.alloc(32 * MIB + 1, 1) })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
    expect(device.allocatedBytes).toBe(0);
  });

  test('everything that writes, on a read-only export', async () => {
    const client = await opened(memory(), { readOnly: true });
    for (const type of [CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES]) {
      expect(await client.call({ type, data: type === CMD.WRITE ? Buffer.alloc(1) : Buffer.alloc(0) })).toBe(
        E.PERM,
      );
    }
    expect((await client.readAt(0, 1)).length).toBe(1);
  });

  test('a trim where it was not offered', async () => {
    const client = await opened(memory({ discard: false }));
    expect(await client.call({ type: CMD.TRIM, length: 512 })).toBe(E.INVAL);
  });

  test('what is not aligned to the minimum block size', async () => {
    const client = await opened(memory(), { minimumBlockBytes: 512 });
    expect(await client.call({ type: CMD.WRITE, offset: 512, data: Buffer.alloc(512) })).toBe(0);
    expect(await client.call({ type: CMD.WRITE, offset: 1, data: Buffer.alloc(512) })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.WRITE, offset: 512, data: Buffer.alloc(511) })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.READ, offset: 100, length: 512 })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.TRIM, offset: 0, length: 100 })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.WRITE_ZEROES, offset: 100, length: 1024 })).toBe(E.INVAL);
    expect(await client.call({ type: CMD.FLUSH })).toBe(0);
  });

  test('FAST_ZERO is answered with ENOTSUP where zeroing is not fast', async () => {
    const fast = { type: CMD.WRITE_ZEROES, flags: FLAG.FAST_ZERO };
    const slow = await opened(memory({ writeZeroes: false }));
    expect(await slow.call({ ...fast, length: 65536 })).toBe(E.NOTSUP);
    const client = await opened(memory({ preferredBlockBytes: 65536 }));
    expect(await client.call({ ...fast, length: 65536 })).toBe(0);
    expect(await client.call({ ...fast, length: sizeBytes })).toBe(0);
    expect(await client.call({ ...fast, offset: 512, length: 65536 })).toBe(E.NOTSUP);
    expect(await client.call({ ...fast, length: 512 })).toBe(E.NOTSUP);
    expect(await client.call({ type: CMD.WRITE_ZEROES, length: 512 })).toBe(0);
  });

  test('a wrong magic number ends the connection', async () => {
    const client = await opened();
    client.send(requestBytes({ type: CMD.READ, length: 1, magic: 0x25609512 }));
    await client.ended;
    expect(client.unread).toBe(0);
  });
});

describe('structured replies', () => {
  test('a read is one chunk with its offset, with and without DF', async () => {
    const client = await opened(memory(), { structured: true });
    const data = patterned(5000, 5);
    expect(await client.call({ type: CMD.WRITE, offset: 2 ** 25 + 3, data })).toBe(0);
    for (const flags of [0, FLAG.DF]) {
      const cookie = client.request({ type: CMD.READ, offset: 2 ** 25 + 3, length: 5000, flags });
      const chunk = await client.chunk();
      expect(chunk).toMatchObject({ done: true, type: 1, cookie });
      expect(chunk.payload.readBigUInt64BE(0)).toBe(BigInt(2 ** 25 + 3));
      expect(chunk.payload.subarray(8).equals(data)).toBe(true);
    }
  });

  test('a read of no bytes is a chunk of type NONE', async () => {
    const client = await opened(memory(), { structured: true });
    const cookie = client.request({ type: CMD.READ });
    expect(await client.chunk()).toEqual({ done: true, type: 0, cookie, payload: Buffer.alloc(0) });
  });

  test('errors are chunks with a message', async () => {
    const client = await opened(memory(), { structured: true });
    client.request({ type: CMD.READ, offset: sizeBytes, length: 1 });
    const { errno, message } = errorOf(await client.chunk());
    expect(errno).toBe(E.INVAL);
    expect(message).toContain('beyond the end');
    client.request({ type: CMD.READ, length: 32 * MIB + 1, flags: FLAG.DF });
    expect(errorOf(await client.chunk()).errno).toBe(E.OVERFLOW);
    client.request({ type: CMD.WRITE, offset: sizeBytes, data: Buffer.alloc(1) });
    expect(errorOf(await client.chunk()).errno).toBe(E.NOSPC);
  });
});

describe('BLOCK_STATUS', () => {
  function extentsOf(chunk: Chunk): [number, number][] {
    expect(chunk).toMatchObject({ done: true, type: 5 });
    expect(chunk.payload.readUInt32BE(0)).toBe(1);
    const extents: [number, number][] = [];
    for (let at = 4; at < chunk.payload.length; at += 8) {
      extents.push([chunk.payload.readUInt32BE(at), chunk.payload.readUInt32BE(at + 4)]);
    }
    return extents;
  }

  const modes = { structured: true, allocation: true, holesReadAsZeros: true };

  test('holes and data, and only the first with REQ_ONE', async () => {
    const device = memory();
    device.write(8192, patterned(4096, 6));
    const client = await opened(device, modes);
    client.request({ type: CMD.BLOCK_STATUS, length: 65536 });
    expect(extentsOf(await client.chunk())).toEqual([
      [8192, 3],
      [4096, 0],
      [53248, 3],
    ]);
    client.request({ type: CMD.BLOCK_STATUS, offset: 4096, length: 65536, flags: FLAG.REQ_ONE });
    expect(extentsOf(await client.chunk())).toEqual([[4096, 3]]);
  });

  test('holes are data unless the export says that they read as zeros', async () => {
    const client = await opened(memory(), { structured: true, allocation: true });
    client.request({ type: CMD.BLOCK_STATUS, length: 65536 });
    expect(extentsOf(await client.chunk())).toEqual([[65536, 0]]);
  });

  test('no bytes and beyond the end are EINVAL', async () => {
    const client = await opened(memory(), modes);
    client.request({ type: CMD.BLOCK_STATUS });
    expect(errorOf(await client.chunk()).errno).toBe(E.INVAL);
    client.request({ type: CMD.BLOCK_STATUS, offset: sizeBytes - 1, length: 2 });
    expect(errorOf(await client.chunk()).errno).toBe(E.INVAL);
  });
});

test('the end of the input without DISC is answered to the last request', async () => {
  const client = await opened();
  client.socket.end(requestBytes({ type: CMD.WRITE, data: patterned(512, 1), cookie: 1n }));
  expect(await client.simpleReply()).toMatchObject({ errno: 0, cookie: 1n });
  await client.ended;
});

test('nothing after DISC is served', async () => {
  const device = memory();
  const client = await opened(device);
  client.send(requestBytes({ type: CMD.DISC }), requestBytes({ type: CMD.WRITE, data: patterned(512, 1) }));
  await client.ended;
  expect(client.unread).toBe(0);
  expect(device.allocatedBytes).toBe(0);
});
