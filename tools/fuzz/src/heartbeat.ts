/**
 * A page of memory that two threads share: how many inputs were begun, and the id of the last. The thread that runs
 * them beats; the other looks, and knows a thread that does not get on by its count.
 */
const textAt = 8;
const textBytes = 248;

export class Heartbeat {
  readonly #count: Int32Array;
  readonly #text: Uint8Array;

  static memory(): SharedArrayBuffer {
    return new SharedArrayBuffer(textAt + textBytes);
  }

  constructor(memory: SharedArrayBuffer) {
    this.#count = new Int32Array(memory, 0, 2);
    this.#text = new Uint8Array(memory, textAt, textBytes);
  }

  beat(id: string): void {
    const length = Math.min(id.length, textBytes);
    for (let index = 0; index < length; index++) this.#text[index] = id.charCodeAt(index);
    Atomics.store(this.#count, 1, length);
    Atomics.add(this.#count, 0, 1);
  }

  /** Inputs begun, modulo 2^32. */
  get count(): number {
    return Atomics.load(this.#count, 0);
  }

  get id(): string {
    return String.fromCharCode(...this.#text.subarray(0, Atomics.load(this.#count, 1)));
  }
}
