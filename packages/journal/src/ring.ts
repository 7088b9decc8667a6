/**
 * Places in the ring. A log offset counts bytes since the engine started and never wraps; its place in the
 * ring is the remainder by the ring's length. Log offsets keep "how much is in use" a subtraction.
 *
 * Invariants: freed <= tail <= head; head - freed <= ring length. `tail` is where replay could start after
 * the next slot; `freed` is where it would start from the newest durable slot, so nothing at or above it
 * may be overwritten.
 */
import { type BlockDevice, type IoEvent, isPromise, type Task } from '@qcow2/block-device';

export interface RingGeometry {
  /** Host offset of the first ring block. */
  readonly hostOffset: number;
  /** A multiple of `blockBytes`. */
  readonly lengthBytes: number;
  readonly blockBytes: number;
}

/** Write `bytes` at a log offset, in two pieces where the ring wraps. */
export function* writeRing(
  device: BlockDevice,
  ring: RingGeometry,
  logOffset: number,
  bytes: Uint8Array,
  event: IoEvent,
): Task<void> {
  const position = logOffset % ring.lengthBytes;
  const first = Math.min(bytes.length, ring.lengthBytes - position);
  const head = device.write(ring.hostOffset + position, bytes.subarray(0, first), { event });
  if (isPromise(head)) yield head;
  if (first < bytes.length) {
    const rest = device.write(ring.hostOffset, bytes.subarray(first), { event });
    if (isPromise(rest)) yield rest;
  }
}

/**
 * Read from a ring through a window, so that a log is read once, in large sequential pieces: a request that
 * goes on where the window ends keeps what it has of it and reads the rest.
 */
export class RingReader {
  readonly #device: BlockDevice;
  readonly #ring: RingGeometry;
  #window: Uint8Array;
  #windowStart = 0;
  #windowLength = 0;

  constructor(device: BlockDevice, ring: RingGeometry, windowBytes = 1 << 20) {
    this.#device = device;
    this.#ring = ring;
    this.#window = new Uint8Array(Math.min(windowBytes, ring.lengthBytes));
  }

  /**
   * `lengthBytes` from a ring position on, wrapped; at most the ring's length. The result is the reader's own
   * until the next call.
   */
  *read(position: number, lengthBytes: number): Task<Uint8Array> {
    const ringBytes = this.#ring.lengthBytes;
    const start = position % ringBytes;
    const behind = (start - this.#windowStart + ringBytes) % ringBytes;
    if (behind + lengthBytes > this.#windowLength) yield* this.#move(start, behind, lengthBytes);
    else return this.#window.subarray(behind, behind + lengthBytes);
    return this.#window.subarray(0, lengthBytes);
  }

  /** Let the window begin at `start`, which stands `behind` bytes after its start, and hold so much at least. */
  *#move(start: number, behind: number, lengthBytes: number): Task<void> {
    const kept = this.#window.subarray(Math.min(behind, this.#windowLength), this.#windowLength);
    const keptBytes = kept.length;
    if (lengthBytes > this.#window.length) {
      const larger = new Uint8Array(lengthBytes);
      larger.set(kept);
      this.#window = larger;
    } else {
      this.#window.set(kept);
    }
    this.#windowStart = start;
    // Nothing counts as read until all of it is: a read may fail.
    this.#windowLength = 0;
    const ringBytes = this.#ring.lengthBytes;
    for (let at = keptBytes; at < this.#window.length; ) {
      const position = (start + at) % ringBytes;
      const length = Math.min(this.#window.length - at, ringBytes - position);
      const into = this.#window.subarray(at, at + length);
      const done = this.#device.read(this.#ring.hostOffset + position, into, {
        event: 'journal_replay_read',
      });
      if (isPromise(done)) yield done;
      at += length;
    }
    this.#windowLength = this.#window.length;
  }
}
