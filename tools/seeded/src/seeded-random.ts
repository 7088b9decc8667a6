/**
 * Seeded random numbers: everything that a campaign draws comes from here, so that a seed, or an id, brings back the same run on any
 * machine.
 */

/** sfc32, after Chris Doty-Humphrey's PractRand: small, fast, and good enough to draw tests from. */
export class SeededRandom {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** Any list of numbers is a seed; only their low 32 bits count. */
  constructor(...seed: readonly number[]) {
    this.#a = 0x9e3779b9;
    this.#b = 0x243f6a88;
    this.#c = 0xb7e15162;
    for (const part of seed) {
      this.#a = (this.#a ^ part) | 0;
      for (let round = 0; round < 8; round++) this.next();
    }
    for (let round = 0; round < 8; round++) this.next();
  }

  /** An unsigned 32-bit number. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor((this.next() / 0x1_0000_0000) * limit);
  }

  /** True once in `oneIn` times. */
  chance(oneIn: number): boolean {
    return this.below(oneIn) === 0;
  }

  /** One of a list that is not empty. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** One of a list that is not empty, each as often as its weight says. */
  weighted<T extends { readonly weight: number }>(list: readonly T[]): T {
    let left = this.below(list.reduce((sum, { weight }) => sum + weight, 0));
    for (const one of list) {
      left -= one.weight;
      if (left < 0) return one;
    }
    return list.at(-1) as T;
  }

  /** A whole number in [0, limit), for limits beyond 2^32. */
  belowBig(limit: bigint): bigint {
    let value = 0n;
    for (let span = 1n; span < limit << 32n; span <<= 32n) value = (value << 32n) | BigInt(this.next());
    return value % limit;
  }

  /** Fill a buffer: the shape of `random` in the options of `openImage` and `createImage`. */
  fill(into: Uint8Array): void {
    for (let index = 0; index < into.length; index++) into[index] = this.next() >>> 24;
  }
}

/** 32-bit number from a text, to seed with (FNV-1a). */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}
