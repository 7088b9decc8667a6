/** Replies in pieces of any size, and replies with any bytes changed: the same comes of it, or a FormatError. */
import { FormatError } from '@qcow2/spec';
import { expect, test } from 'vitest';
import { AwaitedReply, ReplyParser, type ReplyParserHost } from '../../src/reply-parser.ts';
import { u16, u32 } from '../support/client.ts';
import { chunk, dataChunk, simpleReply, u64 } from '../support/played-server.ts';

const seed = Number(process.env.NBD_FUZZ_SEED ?? 1);
const rounds = Number(process.env.NBD_FUZZ_ROUNDS ?? 20_000);

/** Numbers from 0 to below `limit`, the same again for a seed. */
function drawing(from: number): (limit: number) => number {
  let state = (from * 2654435761 + 12345) >>> 0;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}

class Host implements ReplyParserHost {
  readonly structured = true;
  readonly allocationId = 77;
  readonly requests = new Map<number, AwaitedReply>([
    [1, new AwaitedReply(0, 4096, 1000, new Uint8Array(1000))],
    [2, new AwaitedReply(1, 0, 512)],
    [3, new AwaitedReply(7, 0, 65536)],
    [4, new AwaitedReply(0, 0, 300, new Uint8Array(300))],
    [5, new AwaitedReply(3, 0, 0)],
  ]);
  readonly ended: number[] = [];

  awaited(cookie: number): AwaitedReply | undefined {
    return this.ended.includes(cookie) ? undefined : this.requests.get(cookie);
  }

  done(cookie: number): void {
    this.ended.push(cookie);
  }

  get result(): unknown {
    return [...this.requests.values()].map(({ errno, message, descriptors, into }) => [
      errno,
      message,
      descriptors,
      into === undefined ? undefined : [...into],
    ]);
  }
}

const stream = Buffer.concat([
  dataChunk(1n, 4096 + 600, Buffer.alloc(400, 4), false),
  simpleReply(2n),
  dataChunk(1n, 4096, Buffer.alloc(500, 3), false),
  chunk(3n, 5, Buffer.concat([u32(77), u32(4096), u32(3), u32(61440), u32(0)])),
  chunk(1n, 2, Buffer.concat([u64(4096 + 500), u32(100)])),
  chunk(4n, 0x8001, Buffer.concat([u32(5), u16(3), Buffer.from('bad')])),
  simpleReply(5n, 28),
]);

function parse(bytes: Uint8Array, cut: (left: number) => number): Host {
  const host = new Host();
  const parser = new ReplyParser(host);
  for (let at = 0; at < bytes.length; ) {
    const length = cut(bytes.length - at);
    parser.push(Uint8Array.prototype.slice.call(bytes, at, at + length));
    at += length;
  }
  return host;
}

test('cut at every place, byte by byte, and at random', () => {
  const expected = parse(stream, (left) => left);
  expect(expected.ended).toEqual([2, 3, 1, 4, 5]);
  for (let cut = 1; cut < stream.length; cut++) {
    expect(
      parse(stream, (left) => (left > stream.length - cut ? left - (stream.length - cut) : left)).result,
    ).toEqual(expected.result);
  }
  const draw = drawing(seed);
  for (let round = 0; round < 50; round++) {
    expect(parse(stream, (left) => Math.min(left, 1 + draw(70))).result).toEqual(expected.result);
  }
});

test(`changed bytes, seed ${seed}: an answer or a FormatError, and no write beyond what was lent`, () => {
  const draw = drawing(seed);
  let refused = 0;
  for (let round = 0; round < rounds; round++) {
    const bytes = Buffer.from(stream);
    for (let change = 1 + draw(4); change > 0; change--) {
      const at = draw(bytes.length);
      bytes[at] = draw(3) === 0 ? [0, 0xff, 0x80, 1][draw(4)]! : draw(256);
    }
    try {
      parse(bytes, (left) => Math.min(left, 1 + draw(400)));
    } catch (error) {
      expect(error, `round ${round}`).toBeInstanceOf(FormatError);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(rounds / 10);
});
