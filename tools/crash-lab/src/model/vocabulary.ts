/** Records and slots of the model, each content known by a number: two that are equal in every field are the same bytes. */

export interface ModelRecord {
  readonly sequence: number;
  readonly salt: number;
  readonly life: boolean;
  /** Block of the ring in which it begins, and how many it takes. */
  readonly position: number;
  readonly blocks: number;
  /** Number of the record before: its checksum. */
  readonly chain: number;
  readonly durableThrough: number;
  /** What it does: a cell of the image gets a value. */
  readonly cell: number;
  readonly value: number;
}

export interface ModelSlot {
  readonly generation: number;
  readonly tailPosition: number;
  readonly tailSequence: number;
  readonly tailSalt: number;
  readonly tailChain: number;
  readonly durableSequence: number;
}

/** Blocks that a record takes at most. */
export const mostBlocks = 4;

export class Vocabulary {
  readonly #records: ModelRecord[] = [];
  readonly #recordNumbers = new Map<string, number>();
  readonly #slots: ModelSlot[] = [];
  readonly #slotNumbers = new Map<string, number>();

  /** The record's number, from 1 on. */
  record(record: ModelRecord): number {
    const { sequence, salt, life, position, blocks, chain, durableThrough, cell, value } = record;
    const key = [sequence, salt, life, position, blocks, chain, durableThrough, cell, value].join();
    const known = this.#recordNumbers.get(key);
    if (known !== undefined) return known;
    const number = this.#records.push(record);
    this.#recordNumbers.set(key, number);
    return number;
  }

  recordOf(number: number): ModelRecord {
    return this.#records[number - 1]!;
  }

  slot(slot: ModelSlot): number {
    const key = Object.values(slot).join();
    const known = this.#slotNumbers.get(key);
    if (known !== undefined) return known;
    const number = this.#slots.push(slot);
    this.#slotNumbers.set(key, number);
    return number;
  }

  slotOf(number: number): ModelSlot {
    return this.#slots[number - 1]!;
  }
}

/** What a ring block holds: a record's block, or 0 where nothing was ever written. */
export function blockContent(record: number, block: number): number {
  return record * mostBlocks + block;
}

export function recordInBlock(
  content: number,
): { readonly record: number; readonly block: number } | undefined {
  return content < mostBlocks
    ? undefined
    : { record: Math.floor(content / mostBlocks), block: content % mostBlocks };
}
