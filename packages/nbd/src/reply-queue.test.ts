import { beforeEach, expect, test } from 'vitest';
import { ReplyQueue, type ReplySink, type Reservation } from './reply-queue.ts';
import { SlabPool } from './slab.ts';

/** A socket that takes its time: writes are finished when the test says so. */
class Sink implements ReplySink {
  writable = true;
  readonly writes: Buffer[] = [];
  corked = 0;
  uncorked = 0;
  #unfinished: (() => void)[] = [];
  cork(): void {
    this.corked += 1;
  }
  uncork(): void {
    this.uncorked += 1;
  }
  write(bytes: Uint8Array, done: () => void): boolean {
    this.writes.push(Buffer.from(bytes));
    this.#unfinished.push(done);
    return true;
  }
  finish(): void {
    for (const done of this.#unfinished.splice(0)) done();
  }
}

let sink: Sink;
let pool: SlabPool;
let queue: ReplyQueue;
let drained: number;

beforeEach(() => {
  sink = new Sink();
  pool = new SlabPool();
  drained = 0;
  queue = new ReplyQueue(sink, pool, () => {
    drained += 1;
  });
});

function reserved(text: string, spare = 0): Reservation {
  const room = queue.reserve(text.length + spare);
  room.slab.bytes.set(Buffer.from(text), room.start);
  return room;
}

test('replies of a batch leave in one piece', () => {
  for (const text of ['one ', 'two ', 'three']) queue.send(reserved(text));
  expect(sink.writes).toEqual([]);
  queue.flush();
  expect(sink.writes.map(String)).toEqual(['one two three']);
  expect(sink.corked).toBe(0);
});

test('room that is not used goes to the next reply', () => {
  queue.send(reserved('one ', 1000), 4);
  queue.drop(reserved('dropped'));
  queue.send(reserved('two'));
  queue.flush();
  expect(sink.writes.map(String)).toEqual(['one two']);
});

test('replies out of order are corked, in the order of their sending', () => {
  const late = reserved('late ');
  queue.send(reserved('early '));
  queue.sendBytes(Buffer.from('apart '));
  queue.send(late);
  queue.flush();
  expect(Buffer.concat(sink.writes).toString()).toBe('early apart late ');
  expect([sink.corked, sink.uncorked]).toEqual([1, 1]);
});

test('a slab serves again only when no reply and no write needs it', () => {
  const late = reserved('late');
  queue.send(reserved('early'));
  queue.flush();
  expect(pool.keptBytes).toBe(0);
  sink.finish();
  expect(pool.keptBytes).toBe(0); // the reservation holds it
  queue.send(late);
  queue.flush();
  expect(pool.keptBytes).toBe(0); // the write holds it
  sink.finish();
  expect(pool.keptBytes).toBe(late.slab.bytes.length);
  expect(queue.reserve(10).slab).toBe(late.slab);
});

test('held bytes are what is reserved, sent, and not finished', () => {
  const room = reserved('12345', 95);
  expect(queue.heldBytes).toBe(100);
  queue.send(room, 5);
  expect(queue.heldBytes).toBe(5);
  queue.sendBytes(Buffer.alloc(20));
  queue.flush();
  expect([queue.heldBytes, drained]).toEqual([25, 0]);
  sink.finish();
  expect([queue.heldBytes, drained]).toEqual([0, 1]);
  queue.drop(queue.reserve(7));
  expect(queue.heldBytes).toBe(0);
});

test('a reply larger than a slab has one of its own', () => {
  const small = reserved('small');
  const large = queue.reserve(3_000_000);
  expect(large.slab).not.toBe(small.slab);
  expect(large.end - large.start).toBe(3_000_000);
  queue.send(small);
  queue.send(large);
  queue.flush();
  expect(sink.writes.map((bytes) => bytes.length)).toEqual([5, 3_000_000]);
});

test('replies to a socket that is gone are let go', () => {
  queue.send(reserved('nobody reads this'));
  sink.writable = false;
  queue.flush();
  expect(sink.writes).toEqual([]);
  expect(queue.heldBytes).toBe(0);
  expect(pool.keptBytes).toBeGreaterThan(0);
});

test('the pool keeps a bounded amount', () => {
  const slabs = Array.from({ length: 20 }, () => pool.take(8 * 1024 * 1024));
  for (const slab of slabs) pool.give(slab);
  expect(pool.keptBytes).toBe(64 * 1024 * 1024);
});
