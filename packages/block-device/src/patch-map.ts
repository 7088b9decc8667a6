/**
 * Bytes laid over ranges of a device: what has been changed there but does not stand there yet.
 *
 * A patch map holds single bytes by host offset, the newest value of each, in 512-byte pieces with a mask
 * of which bytes are set. Metadata changes are tiny (an 8-byte L2 entry) and cluster in few sectors, so a
 * piece costs little and every operation is local. Later bytes replace earlier ones; `runs` gives what is
 * set as maximal runs in offset order, merged across pieces.
 *
 * Invariant: a piece is in the map only while at least one of its bytes is set.
 */

const pieceBytes = 512;

interface Piece {
  readonly bytes: Uint8Array;
  /** One entry per byte: 1 where it is set. */
  readonly mask: Uint8Array;
  set: number;
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
      piece.bytes.set(bytes.subarray(done, done + length), start);
      for (let i = start; i < start + length; i++) {
        if (piece.mask[i] === 0) {
          piece.mask[i] = 1;
          piece.set++;
          this.#setBytes++;
        }
      }
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
    if (this.#setBytes === 0) return;
    for (let done = 0; done < into.length; ) {
      const at = offset + done;
      const start = at % pieceBytes;
      const length = Math.min(into.length - done, pieceBytes - start);
      const piece = this.#pieces.get((at - start) / pieceBytes);
      if (piece !== undefined) {
        for (let i = 0; i < length; i++) {
          if (piece.mask[start + i] === 1) into[done + i] = piece.bytes[start + i]!;
        }
      }
      done += length;
    }
  }

  /** Lay everything of `newer` over this map. */
  merge(newer: PatchMap): void {
    for (const { offset, bytes } of newer.runs()) this.set(offset, bytes);
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
    const order = [...this.#pieces.keys()].sort((a, b) => a - b);
    let offset = 0;
    let parts: Uint8Array[] = [];
    let length = 0;
    for (const index of order) {
      const piece = this.#pieces.get(index);
      if (piece === undefined) continue;
      for (let i = 0; i < pieceBytes; ) {
        if (piece.mask[i] === 0) {
          i++;
          continue;
        }
        let end = i + 1;
        while (end < pieceBytes && piece.mask[end] === 1) end++;
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
      piece = { bytes: new Uint8Array(pieceBytes), mask: new Uint8Array(pieceBytes), set: 0 };
      this.#pieces.set(index, piece);
    }
    return piece;
  }

  #deleteIn(index: number, offset: number, end: number): void {
    const piece = this.#pieces.get(index);
    if (piece === undefined) return;
    const from = Math.max(0, offset - index * pieceBytes);
    const to = Math.min(pieceBytes, end - index * pieceBytes);
    for (let i = from; i < to; i++) {
      if (piece.mask[i] === 1) {
        piece.mask[i] = 0;
        piece.set--;
        this.#setBytes--;
      }
    }
    if (piece.set === 0) this.#pieces.delete(index);
  }
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
