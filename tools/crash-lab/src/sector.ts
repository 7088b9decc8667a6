/**
 * The content of one 512-byte sector, the unit that storage writes whole or not at all.
 *
 * Invariants: a Sector's bytes never change once it exists, so images share them freely; a sector of zeros
 * is the one object `zeroSector`; two sectors are the same content exactly when `sameContent` says so (it
 * compares bytes, hashes only decide quickly that they differ).
 */
export const sectorBytes = 512;

export class Sector {
  /** 512 bytes, never written again. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  #hashed = false;
  #low = 0;
  #high = 0;

  /** Takes the buffer over: 512 bytes that nobody else writes to. */
  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
  }

  /** Low half of a 64-bit content hash; both halves are 0 for zeros. Computed when first asked for. */
  get low(): number {
    if (!this.#hashed) this.#hash();
    return this.#low;
  }

  get high(): number {
    if (!this.#hashed) this.#hash();
    return this.#high;
  }

  /** This sector with some bytes replaced from `start` on. */
  patched(start: number, bytes: Uint8Array): Sector {
    const copy = this.bytes.slice();
    copy.set(bytes, start);
    return sectorOf(copy);
  }

  sameContent(other: Sector): boolean {
    if (this === other) return true;
    if (this.low !== other.low || this.high !== other.high) return false;
    for (let index = 0; index < sectorBytes; index++) {
      if (this.bytes[index] !== other.bytes[index]) return false;
    }
    return true;
  }

  #hash(): void {
    const words = new Uint32Array(this.bytes.buffer, this.bytes.byteOffset, sectorBytes / 4);
    let low = 0x2545f491;
    let high = 0x6c62272e;
    let any = 0;
    for (let index = 0; index < words.length; index++) {
      const word = words[index]!;
      any |= word;
      low = Math.imul(low ^ word, 0x9e3779b1);
      low ^= low >>> 15;
      high = (Math.imul(high, 0x85ebca6b) + word) | 0;
      high = (high << 13) | (high >>> 19);
    }
    this.#hashed = true;
    if (any === 0) return;
    this.#low = finish(low);
    this.#high = finish(high ^ low);
  }
}

export const zeroSector = new Sector(new Uint8Array(sectorBytes));

/** A sector with these 512 bytes, which it takes over; zeros give `zeroSector`. */
export function sectorOf(bytes: Uint8Array<ArrayBuffer>): Sector {
  // Part of a write that began anywhere, as compressed data does.
  const own = bytes.byteOffset % 4 === 0 ? bytes : new Uint8Array(bytes);
  const words = new Uint32Array(own.buffer, own.byteOffset, sectorBytes / 4);
  for (let index = 0; index < words.length; index++) if (words[index] !== 0) return new Sector(own);
  return zeroSector;
}

/** Murmur3's finaliser. */
export function finish(hash: number): number {
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
