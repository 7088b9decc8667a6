/**
 * Seeded random numbers: everything that a run draws comes from here. Each operation has a generator of its own, seeded by the
 * run and its number, so that an operation draws the same whatever stands before it, or has been left out.
 */

/** sfc32, after Chris Doty-Humphrey's PractRand: small, fast, and good enough to draw tests from. */
export class Random {
  #a = 0x9e3779b9;
  #b = 0x243f6a88;
  #c = 0xb7e15162;
  #counter = 1;

  /** Any list of numbers is a seed; only their low 32 bits count. */
  constructor(...seed: readonly number[]) {
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

  /** One of a list, each as often as its weight says. */
  weighted<T extends { readonly weight: number }>(list: readonly T[]): T {
    let left = this.below(list.reduce((sum, { weight }) => sum + weight, 0));
    for (const one of list) {
      left -= one.weight;
      if (left < 0) return one;
    }
    return list.at(-1) as T;
  }

  /** The shape of `random` in the options of `openImage` and `createImage`. */
  fill(into: Uint8Array): void {
    for (let at = 0; at < into.length; ) {
      let word = this.next();
      for (const end = Math.min(into.length, at + 4); at < end; word >>>= 8) into[at++] = word;
    }
  }

  /** Noise, and behind it one byte over and over, so that what it compresses to has any length. */
  content(lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(lengthBytes).fill(this.below(256));
    this.fill(bytes.subarray(0, Math.floor(lengthBytes * this.pick([0, 0, 0.1, 0.3, 0.6, 1]))));
    return bytes;
  }
}

/** A 32-bit number from a text (FNV-1a). */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193);
  }
  return hash >>> 0;
}
