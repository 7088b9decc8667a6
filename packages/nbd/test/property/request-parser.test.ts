import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type NbdRequest, RequestParser } from '../../src/request-parser.ts';
import { SlabPool } from '../../src/slab.ts';
import { type RequestFields, requestBytes } from '../support/client.ts';

const maximumPayloadBytes = 40_000;

const request = fc.oneof(
  fc.record({
    type: fc.constantFrom(0, 2, 3, 4, 5, 6, 7, 8, 0xffff),
    flags: fc.nat(0xffff),
    cookie: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
    offset: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
    length: fc.nat(0xffffffff),
  }),
  fc.record({
    type: fc.constant(1),
    flags: fc.nat(0xffff),
    cookie: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
    offset: fc.bigInt(0n, 0xffff_ffff_ffff_ffffn),
    data: fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      fc
        .uint8Array({ minLength: 1, maxLength: 50 })
        .map((seed) => new Uint8Array(seed.length * 1000).fill(seed[0] ?? 0)),
    ),
  }),
);

function expected(fields: RequestFields): Partial<NbdRequest> {
  const cookie = BigInt.asUintN(64, fields.cookie ?? 0n);
  const payload =
    fields.data !== undefined && fields.data.length <= maximumPayloadBytes ? fields.data : undefined;
  return {
    type: fields.type,
    flags: fields.flags ?? 0,
    cookieHigh: Number(cookie >> 32n),
    cookieLow: Number(cookie & 0xffffffffn),
    offset: Number(fields.offset),
    lengthBytes: fields.length ?? fields.data?.length ?? 0,
    payload: payload === undefined ? undefined : new Uint8Array(payload),
  };
}

test('any requests, cut anyhow and pulled at any time, come out whole and in order', () => {
  fc.assert(
    fc.property(
      fc.array(request, { maxLength: 8 }),
      fc.array(
        fc.record({
          pieceBytes: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 30_000 })),
          pull: fc.nat(3),
        }),
      ),
      (requests, cuts) => {
        const stream = Buffer.concat(requests.map((each) => requestBytes(each)));
        const pool = new SlabPool();
        const parser = new RequestParser(pool, maximumPayloadBytes);
        const parsed: NbdRequest[] = [];
        const pull = (count: number): void => {
          for (let left = count; left > 0; left--) {
            const next = parser.next();
            if (next === undefined) return;
            parsed.push(next);
          }
        };
        let at = 0;
        for (const { pieceBytes, pull: count } of [
          ...cuts,
          { pieceBytes: stream.length, pull: Number.POSITIVE_INFINITY },
        ]) {
          parser.push(new Uint8Array(stream.subarray(at, at + pieceBytes)));
          at += pieceBytes;
          pull(count);
        }
        expect(parsed.map(({ slab, ...rest }) => rest)).toEqual(requests.map(expected));
      },
    ),
    { numRuns: 500 },
  );
});

test('any bytes end in requests, in a wish for more, or in BAD_MAGIC', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 100 })), (pieces) => {
      const parser = new RequestParser(new SlabPool());
      try {
        for (const piece of pieces) {
          parser.push(piece);
          while (parser.next() !== undefined);
        }
      } catch (error) {
        expect(error).toMatchObject({ code: 'BAD_MAGIC' });
      }
    }),
    { numRuns: 500 },
  );
});
