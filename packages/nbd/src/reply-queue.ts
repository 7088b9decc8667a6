/**
 * The way of replies to one socket. A reply reserves room, is filled (at once, or when the device has
 * answered), and is sent; what was sent since the last flush goes to the socket in one write.
 *
 * Invariants: a reservation is sent or dropped exactly once; its bytes do not move; replies go out in
 * the order of `send`; a slab is used again only when no reservation and no unfinished write of the
 * socket refers to it.
 */
import type { Slab, SlabPool } from './slab.ts';

/** The part of a socket that the queue needs. */
export interface ReplySink {
  readonly writable: boolean;
  cork(): void;
  uncork(): void;
  write(bytes: Uint8Array, done: () => void): boolean;
}

/** Room for a reply: `[start, end)` of the slab. */
export interface Reservation {
  readonly slab: Slab;
  readonly start: number;
  readonly end: number;
}

interface Segment {
  readonly bytes: Uint8Array;
  /** undefined for bytes that belong to no slab */
  readonly slab: Slab | undefined;
  start: number;
  end: number;
}

/** A slab for small replies: room for a batch of replies to 32 reads of 4 KiB and some. */
const replySlabBytes = 256 * 1024;

export class ReplyQueue {
  readonly #sink: ReplySink;
  readonly #pool: SlabPool;
  /** called when the socket has taken bytes, so that a stalled reader may go on */
  readonly #drained: () => void;
  #slab: Slab | undefined;
  #segments: Segment[] = [];
  #heldBytes = 0;

  constructor(sink: ReplySink, pool: SlabPool, drained: () => void) {
    this.#sink = sink;
    this.#pool = pool;
    this.#drained = drained;
  }

  /** Bytes reserved or sent that the socket has not finished with. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Room for a reply of up to `lengthBytes`, to be given to `send` or `drop`. */
  reserve(lengthBytes: number): Reservation {
    let slab = this.#slab;
    if (slab === undefined || slab.bytes.length - slab.tail < lengthBytes) {
      slab = this.#pool.take(Math.max(replySlabBytes, lengthBytes));
      this.#slab = slab;
    }
    const start = slab.tail;
    slab.tail = start + lengthBytes;
    slab.users += 1;
    this.#heldBytes += lengthBytes;
    return { slab, start, end: slab.tail };
  }

  /** The first `usedBytes` of the reservation are the reply. */
  send(room: Reservation, usedBytes: number = room.end - room.start): void {
    const end = room.start + usedBytes;
    this.#heldBytes -= room.end - end;
    if (room.slab.tail === room.end) room.slab.tail = end;
    const last = this.#segments.at(-1);
    if (last !== undefined && last.slab === room.slab && last.end === room.start) {
      last.end = end;
      room.slab.users -= 1; // the segment counts as one user
    } else {
      this.#segments.push({ bytes: room.slab.bytes, slab: room.slab, start: room.start, end });
    }
  }

  /** The reservation is not needed after all. */
  drop(room: Reservation): void {
    this.#heldBytes -= room.end - room.start;
    if (room.slab.tail === room.end) room.slab.tail = room.start;
    this.#release(room.slab);
  }

  /** Send bytes that lie in no slab; the queue owns them from now on. */
  sendBytes(bytes: Uint8Array): void {
    this.#heldBytes += bytes.length;
    this.#segments.push({ bytes, slab: undefined, start: 0, end: bytes.length });
  }

  /** Give to the socket what was sent since the last flush. */
  flush(): void {
    const segments = this.#segments;
    if (segments.length === 0) return;
    this.#segments = [];
    if (!this.#sink.writable) {
      this.#written(segments);
      return;
    }
    const done = () => this.#written(segments);
    const final = segments.length - 1;
    if (final > 0) this.#sink.cork();
    for (let index = 0; index <= final; index++) {
      const { bytes, start, end } = segments[index] as Segment;
      // Writes of a stream finish in order: the last one's end is the end of all.
      this.#sink.write(bytes.subarray(start, end), index === final ? done : nothing);
    }
    if (final > 0) this.#sink.uncork();
  }

  #written(segments: readonly Segment[]): void {
    for (const segment of segments) {
      this.#heldBytes -= segment.end - segment.start;
      if (segment.slab !== undefined) this.#release(segment.slab);
    }
    this.#drained();
  }

  #release(slab: Slab): void {
    slab.users -= 1;
    if (slab.users > 0) return;
    if (slab === this.#slab) this.#slab = undefined;
    this.#pool.give(slab);
  }
}

function nothing(): void {}
