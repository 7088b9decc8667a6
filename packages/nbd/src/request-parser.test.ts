import { describe, expect, test } from 'vitest';
import { CMD, requestBytes } from '../test/support/client.ts';
import { patterned } from '../test/support/fixture.ts';
import { type NbdRequest, RequestParser } from './request-parser.ts';
import { SlabPool } from './slab.ts';

const small = patterned(100, 1);
const large = patterned(50_000, 2);
const stream = Buffer.concat([
  requestBytes({ type: CMD.READ, offset: 4096, length: 512, cookie: 0x0102030405060708n }),
  requestBytes({ type: CMD.WRITE, flags: 1, offset: 2 ** 40 + 3, data: small, cookie: 0xffffffffffffffffn }),
  requestBytes({ type: CMD.WRITE, offset: 0, data: new Uint8Array(0), cookie: 3n }),
  requestBytes({ type: CMD.WRITE, offset: 7, data: large, cookie: 4n }),
  requestBytes({ type: 999, offset: 0xffffffffffffffffn, length: 0xffffffff, cookie: 5n }),
  requestBytes({ type: CMD.DISC, cookie: 6n }),
]);

function parse(pieces: Iterable<Uint8Array>, maximumPayloadBytes?: number): NbdRequest[] {
  const parser = new RequestParser(new SlabPool(), maximumPayloadBytes);
  const requests: NbdRequest[] = [];
  for (const piece of pieces) {
    parser.push(piece);
    for (let next = parser.next(); next !== undefined; next = parser.next()) requests.push(next);
  }
  return requests;
}

function cut(bytes: Uint8Array, pieceBytes: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) pieces.push(bytes.slice(at, at + pieceBytes));
  return pieces;
}

function expectTheSix(requests: NbdRequest[]): void {
  expect(requests.map((each) => each.type)).toEqual([
    CMD.READ,
    CMD.WRITE,
    CMD.WRITE,
    CMD.WRITE,
    999,
    CMD.DISC,
  ]);
  const [read, write, empty, big, unknown] = requests as [
    NbdRequest,
    NbdRequest,
    NbdRequest,
    NbdRequest,
    NbdRequest,
  ];
  expect(read).toMatchObject({ flags: 0, offset: 4096, lengthBytes: 512, payload: undefined });
  expect([read.cookieHigh, read.cookieLow]).toEqual([0x01020304, 0x05060708]);
  expect(write).toMatchObject({
    flags: 1,
    offset: 2 ** 40 + 3,
    cookieHigh: 0xffffffff,
    cookieLow: 0xffffffff,
  });
  expect(Buffer.from(write.payload ?? []).equals(small)).toBe(true);
  expect(empty.payload).toEqual(new Uint8Array(0));
  expect(Buffer.from(big.payload ?? []).equals(large)).toBe(true);
  expect(unknown.lengthBytes).toBe(0xffffffff);
  expect(unknown.offset).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
}

describe('requests come out the same however the bytes are cut', () => {
  test.each([1, 2, 3, 7, 27, 28, 29, 127, 128, 1000, 49_999, stream.length])(
    'pieces of %i bytes',
    (pieceBytes) => {
      expectTheSix(parse(cut(stream, pieceBytes)));
    },
  );

  test('two pieces, cut at every place of the first three requests', () => {
    for (let at = 0; at < 28 + 128 + 28 + 30; at++) {
      expectTheSix(parse([stream.subarray(0, at), stream.subarray(at)]));
    }
  });

  test('all pieces pushed before the first pull', () => {
    const parser = new RequestParser(new SlabPool());
    for (const piece of cut(stream, 11)) parser.push(piece);
    const requests: NbdRequest[] = [];
    for (let next = parser.next(); next !== undefined; next = parser.next()) requests.push(next);
    expectTheSix(requests);
  });

  test('a piece pushed when the last one is used up, but others wait', () => {
    const one = requestBytes({ type: CMD.READ, cookie: 1n });
    const two = requestBytes({ type: CMD.READ, cookie: 2n });
    const three = requestBytes({ type: CMD.READ, cookie: 3n });
    const parser = new RequestParser(new SlabPool());
    parser.push(one);
    parser.push(two);
    expect(parser.next()?.cookieLow).toBe(1);
    parser.push(three);
    expect(parser.next()?.cookieLow).toBe(2);
    expect(parser.next()?.cookieLow).toBe(3);
    expect(parser.next()).toBeUndefined();
  });
});

test('a payload in one piece is handed out without a copy', () => {
  const bytes = requestBytes({ type: CMD.WRITE, data: small });
  const [request] = parse([bytes]);
  expect(request?.payload?.buffer).toBe(bytes.buffer);
  expect(request?.slab).toBeUndefined();
});

test('a large payload across pieces lies in memory that can be given back', () => {
  const [request] = parse(cut(requestBytes({ type: CMD.WRITE, data: large }), 4096));
  expect(request?.slab).toBeDefined();
  expect(request?.payload?.buffer).toBe(request?.slab?.bytes.buffer);
});

test('a payload above the limit is skipped, not stored, and the next request is found behind it', () => {
  const bytes = Buffer.concat([
    requestBytes({ type: CMD.WRITE, data: large, cookie: 1n }),
    requestBytes({ type: CMD.READ, length: 5, cookie: 2n }),
  ]);
  for (const pieceBytes of [1, 28, 29, 5000, bytes.length]) {
    const [write, read] = parse(cut(bytes, pieceBytes), large.length - 1);
    expect(write).toMatchObject({
      type: CMD.WRITE,
      lengthBytes: large.length,
      payload: undefined,
      cookieLow: 1,
    });
    expect(read).toMatchObject({ type: CMD.READ, lengthBytes: 5, cookieLow: 2 });
  }
});

test('a payload of exactly the limit is taken', () => {
  const [write] = parse([requestBytes({ type: CMD.WRITE, data: large })], large.length);
  expect(write?.payload?.length).toBe(large.length);
});

test('a length that the client made up costs no memory before its bytes come', () => {
  const pool = new SlabPool();
  const parser = new RequestParser(pool);
  parser.push(requestBytes({ type: CMD.WRITE, length: 0xffffffff }));
  expect(parser.next()?.payload).toBeUndefined();
  expect(parser.next()).toBeUndefined();
});

test('a wrong magic number is BAD_MAGIC, also when it comes byte by byte', () => {
  const bytes = requestBytes({ type: CMD.READ, magic: 0x25609514 });
  expect(() => parse([bytes])).toThrowError(expect.objectContaining({ code: 'BAD_MAGIC' }));
  expect(() => parse(cut(bytes, 1))).toThrowError(expect.objectContaining({ code: 'BAD_MAGIC' }));
});
