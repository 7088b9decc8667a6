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

/** Read from a ring through a window, so that a log is read in large sequential pieces. */
export class RingReader {
  readonly #device: BlockDevice;
  readonly #ring: RingGeometry;
  readonly #window: Uint8Array;
  #windowStart = 0;
  #windowLength = 0;

  constructor(device: BlockDevice, ring: RingGeometry, windowBytes = 1 << 20) {
    this.#device = device;
    this.#ring = ring;
    this.#window = new Uint8Array(Math.min(windowBytes, ring.lengthBytes));
  }

  /** `lengthBytes` from a ring position on, wrapped. The result is the reader's own until the next call. */
  *read(position: number, lengthBytes: number): Task<Uint8Array> {
    const start = position % this.#ring.lengthBytes;
    if (start >= this.#windowStart && start + lengthBytes <= this.#windowStart + this.#windowLength) {
      return this.#window.subarray(start - this.#windowStart, start - this.#windowStart + lengthBytes);
    }
    if (start + lengthBytes <= this.#ring.lengthBytes && lengthBytes <= this.#window.length) {
      yield* this.#fill(start);
      return this.#window.subarray(0, lengthBytes);
    }
    const bytes = new Uint8Array(lengthBytes);
    const first = Math.min(lengthBytes, this.#ring.lengthBytes - start);
    yield* this.#direct(start, bytes.subarray(0, first));
    if (first < lengthBytes) yield* this.#direct(0, bytes.subarray(first));
    return bytes;
  }

  *#fill(start: number): Task<void> {
    this.#windowLength = 0;
    const length = Math.min(this.#window.length, this.#ring.lengthBytes - start);
    yield* this.#direct(start, this.#window.subarray(0, length));
    this.#windowStart = start;
    this.#windowLength = length;
  }

  *#direct(start: number, into: Uint8Array): Task<void> {
    const done = this.#device.read(this.#ring.hostOffset + start, into, { event: 'journal_replay_read' });
    if (isPromise(done)) yield done;
  }
}
