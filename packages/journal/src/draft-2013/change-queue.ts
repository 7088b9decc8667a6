/**
 * What was submitted and is in no transaction yet, in order, and what it takes of the ring at most: by that a commit is cut into
 * batches, and a client is told to commit before it submits more.
 */
import type { Microtransaction } from '../microtransaction.ts';
import { blocksBound, dataBlocksBound, descriptorBytesBound } from './batch.ts';

export class DraftQueue {
  readonly #blockBytes: number;
  #changes: Microtransaction[] = [];
  #dataBlocks = 0;
  #descriptorBytes = 0;
  #bytes = 0;

  constructor(blockBytes: number) {
    this.#blockBytes = blockBytes;
  }

  get length(): number {
    return this.#changes.length;
  }

  get isEmpty(): boolean {
    return this.#changes.length === 0;
  }

  /** Something of it must be committed for a guest's flush. */
  get hasRequired(): boolean {
    return this.#changes.some(({ required }) => required);
  }

  /** Bytes of host writes. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Blocks that it takes of the ring, at most. */
  get blocks(): number {
    if (this.#changes.length === 0) return 0;
    return blocksBound(this.#dataBlocks, this.#descriptorBytes, this.#blockBytes);
  }

  add(change: Microtransaction): void {
    this.#changes.push(change);
    this.#count(change, 1);
  }

  /** From the head as many of the first `limit` as take `maxBlocks`; at least one where there is one. They stay. */
  first(limit: number, maxBlocks: number): Microtransaction[] {
    let dataBlocks = 0;
    let descriptorBytes = 0;
    let count = 0;
    for (; count < limit; count++) {
      const change = this.#changes[count]!;
      dataBlocks += dataBlocksBound(change, this.#blockBytes);
      descriptorBytes += descriptorBytesBound(change);
      if (count > 0 && blocksBound(dataBlocks, descriptorBytes, this.#blockBytes) > maxBlocks) break;
    }
    return this.#changes.slice(0, count);
  }

  /** The first `count` are in a transaction now. */
  dropFirst(count: number): void {
    for (const change of this.#changes.slice(0, count)) this.#count(change, -1);
    this.#changes = this.#changes.slice(count);
  }

  /** Lay its host writes over `into`. */
  patch(hostOffset: number, into: Uint8Array): void {
    for (const { hostWrites } of this.#changes) {
      for (const write of hostWrites ?? []) overlap(write.hostOffset, write.bytes, hostOffset, into);
    }
  }

  #count(change: Microtransaction, sign: 1 | -1): void {
    this.#dataBlocks += sign * dataBlocksBound(change, this.#blockBytes);
    this.#descriptorBytes += sign * descriptorBytesBound(change);
    for (const { bytes } of change.hostWrites ?? []) this.#bytes += sign * bytes.length;
  }
}

/** Copy the part of `bytes` (standing at `at`) that overlaps `into` (standing at `start`). */
function overlap(at: number, bytes: Uint8Array, start: number, into: Uint8Array): void {
  const from = Math.max(at, start);
  const to = Math.min(at + bytes.length, start + into.length);
  if (from < to) into.set(bytes.subarray(from - at, to - at), from - start);
}
