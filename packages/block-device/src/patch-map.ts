/**
 * Bytes laid over ranges of a device: what has been changed there but does not stand there yet.
 *
 * A patch map holds single bytes by host offset, the newest value of each, in pieces of 32 bytes with one
 * bit for each byte that is set. Metadata changes are tiny (an 8-byte L2 entry) and a few come with every
 * flush; a typed array of up to 64 bytes lives in the runtime's own heap, so a piece is cheap to make and to look
 * through. Later bytes replace earlier ones; `runs` gives what is set as maximal runs in offset order,
 * merged across pieces.
 *
 * Invariant: a piece is in the map only while at least one of its bytes is set.
 */

const pieceBytes = 32;

interface Piece {
  readonly bytes: Uint8Array;
  /** Bit n: byte n is set. */
  mask: number;
}

export interface PatchRun {
  readonly offset: number;
  /** A copy, or a view of the map's own bytes that is valid until the map changes. */
  readonly bytes: Uint8Array;
}

export class PatchMap {
  readonly #pieces = new Map<number, Piece>();
  #setBytes = 0;

  /** How many bytes are set. */
  get setBytes(): number {
    return this.#setBytes;
  }

  /** Pieces with a byte set: at least as many as runs that are far from one another. */
  get pieceCount(): number {
    return this.#pieces.size;
  }

  get isEmpty(): boolean {
    return this.#setBytes === 0;
  }

  /** Lay `bytes` over what stands at `offset`. The bytes are copied. */
  set(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      const start = at % pieceBytes;
      const length = Math.min(bytes.length - done, pieceBytes - start);
      const piece = this.#piece((at - start) / pieceBytes);
      for (let i = 0; i < length; i++) piece.bytes[start + i] = bytes[done + i]!;
      const added = bits(start, length) & ~piece.mask;
      piece.mask |= added;
      this.#setBytes += bitCount(added);
      done += length;
    }
  }

  /** Forget what is set in the range. */
  delete(offset: number, lengthBytes: number): void {
    const end = offset + lengthBytes;
    const last = Math.floor((end - 1) / pieceBytes);
    const first = Math.floor(offset / pieceBytes);
    // A revoked range may be far larger than the map: walk whichever is shorter.
    if (last - first > this.#pieces.size) {
      for (const index of [...this.#pieces.keys()]) {
        if (index >= first && index <= last) this.#deleteIn(index, offset, end);
      }
    } else {
      for (let index = first; index <= last; index++) this.#deleteIn(index, offset, end);
    }
  }

  /** Put what is set in the range `[offset, offset + into.length)` over the bytes of `into`. */
  apply(offset: number, into: Uint8Array): void {
    if (this.#setBytes === 0 || into.length === 0) return;
    const first = Math.floor(offset / pieceBytes);
    const last = Math.floor((offset + into.length - 1) / pieceBytes);
    // A table has far more places than changes wait for it: walk whichever is shorter.
    if (last - first > this.#pieces.size) {
      for (const [index, piece] of this.#pieces) {
        if (index >= first && index <= last) applyPiece(piece, index * pieceBytes, offset, into);
      }
    } else {
      for (let index = first; index <= last; index++) {
        const piece = this.#pieces.get(index);
        if (piece !== undefined) applyPiece(piece, index * pieceBytes, offset, into);
      }
    }
  }

  /** Lay everything of `newer` over this map. */
  merge(newer: PatchMap): void {
    for (const [index, { bytes, mask }] of newer.#pieces) {
      const piece = this.#piece(index);
      for (let i = 0; i < pieceBytes; i++) if ((mask & (1 << i)) !== 0) piece.bytes[i] = bytes[i]!;
      this.#setBytes += bitCount(mask & ~piece.mask);
      piece.mask |= mask;
    }
  }

  clear(): void {
    this.#pieces.clear();
    this.#setBytes = 0;
  }

  /**
   * The set bytes as maximal runs in offset order, none longer than `maxBytes`. The map may change between two
   * runs: what is deleted meanwhile is not given, what is added in a new place may not be.
   */
  *runs(maxBytes = 65536): Generator<PatchRun, void, undefined> {
    yield* this.#runsOf([...this.#pieces.keys()].sort(ascending), 0, Number.POSITIVE_INFINITY, maxBytes);
  }

  /** The same for what is set within a range, cut to it. Takes as long as the range, or the map, whichever is shorter. */
  *runsWithin(offset: number, lengthBytes: number, maxBytes = 65536): Generator<PatchRun, void, undefined> {
    if (this.#setBytes === 0 || lengthBytes === 0) return;
    const end = offset + lengthBytes;
    const first = Math.floor(offset / pieceBytes);
    const last = Math.floor((end - 1) / pieceBytes);
    const order: number[] = [];
    if (last - first > this.#pieces.size) {
      for (const index of this.#pieces.keys()) if (index >= first && index <= last) order.push(index);
      order.sort(ascending);
    } else {
      for (let index = first; index <= last; index++) if (this.#pieces.has(index)) order.push(index);
    }
    yield* this.#runsOf(order, offset, end, maxBytes);
  }

  /** Runs of the pieces with these indices, which ascend, cut to [from, to). */
  *#runsOf(
    order: readonly number[],
    from: number,
    to: number,
    maxBytes: number,
  ): Generator<PatchRun, void, undefined> {
    let offset = 0;
    let parts: Uint8Array[] = [];
    let length = 0;
    for (const index of order) {
      const piece = this.#pieces.get(index);
      if (piece === undefined) continue;
      const within = bitsWithin(index * pieceBytes, from, to);
      for (let i = 0; i < pieceBytes; ) {
        const rest = (piece.mask & within) >>> i;
        if (rest === 0) break;
        const unset = lowestBit(rest);
        if (unset > 0) {
          i += unset;
          continue;
        }
        const end = i + lowestBit(~rest);
        const at = index * pieceBytes + i;
        if (length > 0 && (offset + length !== at || length + end - i > maxBytes)) {
          const run = { offset, bytes: joined(parts, length) };
          parts = [];
          length = 0;
          yield run;
          // Whoever took the run may have changed the map: what is set here is looked for again.
          continue;
        }
        if (length === 0) offset = at;
        parts.push(piece.bytes.subarray(i, end));
        length += end - i;
        i = end;
      }
    }
    if (length > 0) yield { offset, bytes: joined(parts, length) };
  }

  #piece(index: number): Piece {
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = { bytes: new Uint8Array(pieceBytes), mask: 0 };
      this.#pieces.set(index, piece);
    }
    return piece;
  }

  #deleteIn(index: number, offset: number, end: number): void {
    const piece = this.#pieces.get(index);
    if (piece === undefined) return;
    const from = Math.max(0, offset - index * pieceBytes);
    const to = Math.min(pieceBytes, end - index * pieceBytes);
    const removed = bits(from, to - from) & piece.mask;
    piece.mask &= ~removed;
    this.#setBytes -= bitCount(removed);
    if (piece.mask === 0) this.#pieces.delete(index);
  }
}

/** Lay a piece that stands at `at` over `into`, which stands at `offset`. */
function applyPiece(piece: Piece, at: number, offset: number, into: Uint8Array): void {
  const from = Math.max(0, offset - at);
  const to = Math.min(pieceBytes, offset + into.length - at);
  for (let i = from; i < to; i++) {
    if ((piece.mask & (1 << i)) !== 0) into[at + i - offset] = piece.bytes[i]!;
  }
}

/** `count` bits (at least one) from bit `start` on. */
function bits(start: number, count: number): number {
  return (-1 >>> (pieceBytes - count)) << start;
}

/** The bits of the bytes of a piece, which stands at `at`, that lie in [from, to), which it touches. */
function bitsWithin(at: number, from: number, to: number): number {
  const start = Math.max(0, from - at);
  return bits(start, Math.min(pieceBytes, to - at) - start);
}

function ascending(a: number, b: number): number {
  return a - b;
}

/** The place of the lowest bit that is set; 32 where none is. */
function lowestBit(mask: number): number {
  return mask === 0 ? 32 : 31 - Math.clz32(mask & -mask);
}

function bitCount(mask: number): number {
  const pairs = mask - ((mask >>> 1) & 0x55555555);
  const fours = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return Math.imul((fours + (fours >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

function joined(parts: readonly Uint8Array[], length: number): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
