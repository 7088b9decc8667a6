/**
 * A table of a file, looked at in pieces: a table may be hundreds of megabytes, and is never in memory as a whole.
 *
 * Invariants: what is held is at most `heldPieces` pieces; every piece lies within the table, and the table within the file, which is checked
 * before anything is allocated.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { FormatError } from '@qcow2/spec';
import type { StructureShape } from './structure.ts';

const pieceBytes = 64 * 1024;
const heldPieces = 16;

export interface TablePlace {
  readonly hostOffset: number;
  readonly entryCount: number;
  readonly entryBytes: 4 | 8;
}

export class TableWindow {
  readonly place: TablePlace;
  readonly #file: BlockDevice;
  readonly #shape: StructureShape;
  readonly #entriesPerPiece: number;
  /** Least recently used first. */
  readonly #pieces = new Map<number, TablePiece>();
  #last: TablePiece | undefined;

  /** @throws TRUNCATED where the table does not lie in the file */
  constructor(file: BlockDevice, place: TablePlace, shape: StructureShape) {
    const lengthBytes = place.entryCount * place.entryBytes;
    if (lengthBytes > file.sizeBytes - place.hostOffset) {
      throw new FormatError('TRUNCATED', `${shape.name}: the file ends before the table does`, {
        hostOffset: place.hostOffset,
        lengthBytes,
        clause: shape.document,
      });
    }
    this.#file = file;
    this.place = place;
    this.#shape = shape;
    this.#entriesPerPiece = pieceBytes / place.entryBytes;
  }

  /** Where an entry stands. */
  hostOffsetOf(index: number): number {
    return this.place.hostOffset + index * this.place.entryBytes;
  }

  /** The part of the table that has an entry, for who looks at many. */
  *pieceAt(index: number): Task<TablePiece> {
    const last = this.#last;
    if (last !== undefined && index >= last.first && index < last.end) return last;
    const piece = yield* this.#piece(Math.floor(index / this.#entriesPerPiece));
    this.#last = piece;
    return piece;
  }

  *#piece(number: number): Task<TablePiece> {
    const held = this.#pieces.get(number);
    if (held !== undefined) {
      this.#pieces.delete(number);
      this.#pieces.set(number, held);
      return held;
    }
    const first = number * this.#entriesPerPiece;
    const count = Math.min(this.#entriesPerPiece, this.place.entryCount - first);
    const bytes = new Uint8Array(count * this.place.entryBytes);
    yield* wait(this.#file.read(this.hostOffsetOf(first), bytes));
    const piece = new TablePiece(bytes, first, first + count, this.#shape.littleEndian);
    this.#pieces.set(number, piece);
    if (this.#pieces.size > heldPieces) this.#pieces.delete(this.#pieces.keys().next().value!);
    return piece;
  }
}

/** Entries that stand side by side. */
export class TablePiece {
  /** The index of the first, and of what follows the last. */
  readonly first: number;
  readonly end: number;
  readonly #view: DataView;
  readonly #littleEndian: boolean;

  constructor(bytes: Uint8Array, first: number, end: number, littleEndian: boolean) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.first = first;
    this.end = end;
    this.#littleEndian = littleEndian;
  }

  /** An entry of 4 bytes. */
  entry(index: number): number {
    return this.#view.getUint32((index - this.first) * 4, this.#littleEndian);
  }

  /** The lower half of an entry of 8 bytes, little-endian. */
  low(index: number): number {
    return this.#view.getUint32((index - this.first) * 8, true);
  }

  /** The upper half. */
  high(index: number): number {
    return this.#view.getUint32((index - this.first) * 8 + 4, true);
  }

  /** How many entries from `index` on, up to the piece's end or `most`, the test holds for. */
  countWhile(index: number, most: number, test: (entry: number) => boolean): number {
    const end = Math.min(this.end, index + most);
    let at = index;
    while (at < end && test(this.entry(at))) at++;
    return at - index;
  }
}
