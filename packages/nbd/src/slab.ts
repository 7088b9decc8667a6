/**
 * Memory for replies and large payloads, taken and given back instead of allocated: a read's data goes from the device into
 * a slab, right behind its header, and from there to the socket. Replies of a batch lie one after the
 * other in one slab, so that a batch usually leaves in one write of one piece.
 *
 * A slab's `users` counts replies that are reserved and not yet sent and writes that the socket has not
 * finished. Only at zero may its bytes be used again: that is the whole safety argument, and
 * `ReplyQueue` is the only one who counts. A slab under a payload has no count: it belongs to one request.
 */

export interface Slab {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;
  /** where the next reply goes */
  tail: number;
  users: number;
}

/** Capacities are multiples of this, so that a slab fits many requests. */
const stepBytes = 64 * 1024;
/** The pool keeps at most this much for later; what is above it goes to the garbage collector. */
const keptBytesLimit = 64 * 1024 * 1024;

/** Slabs by capacity, shared by all connections of a server. */
export class SlabPool {
  readonly #free = new Map<number, Slab[]>();
  #keptBytes = 0;

  /** Bytes held for later. */
  get keptBytes(): number {
    return this.#keptBytes;
  }

  /** An empty slab of at least `bytes`. Its content is whatever an earlier reply left there. */
  take(bytes: number): Slab {
    const capacity = Math.max(1, Math.ceil(bytes / stepBytes)) * stepBytes;
    const kept = this.#free.get(capacity)?.pop();
    if (kept !== undefined) {
      this.#keptBytes -= capacity;
      return kept;
    }
    const buffer = Buffer.allocUnsafeSlow(capacity).buffer;
    return { bytes: new Uint8Array(buffer), view: new DataView(buffer), tail: 0, users: 0 };
  }

  /** Take back a slab without users. */
  give(slab: Slab): void {
    const capacity = slab.bytes.length;
    if (this.#keptBytes + capacity > keptBytesLimit) return;
    slab.tail = 0;
    this.#keptBytes += capacity;
    const list = this.#free.get(capacity);
    if (list === undefined) this.#free.set(capacity, [slab]);
    else list.push(slab);
  }
}
