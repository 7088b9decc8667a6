/** Small deterministic pseudo-random numbers (mulberry32): the same seed gives the same test, everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  /** True once in `times`, on average. */
  oneIn(times: number): boolean {
    return this.below(times) === 0;
  }

  /** Random bytes, none of them zero, so that a byte that was never written can not pass for one that was. */
  bytes(lengthBytes: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(lengthBytes).map(() => 1 + this.below(255));
  }
}
