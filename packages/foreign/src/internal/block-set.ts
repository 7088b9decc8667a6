/**
 * Which blocks of a file are taken, one bit for each: a table in which two entries lead to one block was not written by anybody who
 * meant it. Memory is one bit for each block up to the highest that was found in the file, in pages that are there when they are needed.
 */
import { FormatError } from '@qcow2/spec';
import type { StructureShape } from './structure.ts';
import type { TableWindow } from './table-window.ts';

const blocksPerPage = 2 ** 18;

export class BlockSet {
  readonly #pages = new Map<number, Uint8Array>();
  readonly #table: TableWindow;
  readonly #shape: StructureShape;

  /** @param table whose entries the blocks come from, for messages */
  constructor(table: TableWindow, shape: StructureShape) {
    this.#table = table;
    this.#shape = shape;
  }

  /** @throws OVERLAP where it is there already */
  add(block: number, index: number): void {
    const number = Math.floor(block / blocksPerPage);
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = new Uint8Array(blocksPerPage / 8);
      this.#pages.set(number, page);
    }
    const at = block % blocksPerPage;
    const bit = 1 << (at & 7);
    if ((page[at >>> 3]! & bit) !== 0) {
      throw new FormatError('OVERLAP', `${this.#shape.name}: two entries lead to one block`, {
        field: `entry ${index}`,
        value: block,
        hostOffset: this.#table.hostOffsetOf(index),
        clause: this.#shape.document,
      });
    }
    page[at >>> 3]! |= bit;
  }
}
