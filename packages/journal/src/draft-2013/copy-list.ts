/**
 * Copies within the image that have been decided and not made: target ranges, each with the place its bytes come
 * from. What the draft calls journalled copy on write.
 *
 * Invariant: the target ranges are in order and none overlaps another.
 */

export interface PendingCopy {
  readonly targetHostOffset: number;
  readonly sourceHostOffset: number;
  readonly lengthBytes: number;
}

export class CopyList {
  #copies: PendingCopy[] = [];

  get isEmpty(): boolean {
    return this.#copies.length === 0;
  }

  get count(): number {
    return this.#copies.length;
  }

  all(): readonly PendingCopy[] {
    return this.#copies;
  }

  /** A later copy to a place replaces an earlier one. */
  add(copy: PendingCopy): void {
    if (copy.lengthBytes === 0) return;
    this.delete(copy.targetHostOffset, copy.lengthBytes);
    this.#copies.splice(this.#firstEndingBehind(copy.targetHostOffset), 0, copy);
  }

  merge(newer: CopyList): void {
    for (const copy of newer.#copies) this.add(copy);
  }

  /** Nothing is to be copied to this range any more. */
  delete(targetHostOffset: number, lengthBytes: number): void {
    const end = targetHostOffset + lengthBytes;
    const first = this.#firstEndingBehind(targetHostOffset);
    let last = first;
    const kept: PendingCopy[] = [];
    for (; last < this.#copies.length; last++) {
      const copy = this.#copies[last]!;
      if (copy.targetHostOffset >= end) break;
      const before = part(copy, copy.targetHostOffset, targetHostOffset);
      const behind = part(copy, end, copy.targetHostOffset + copy.lengthBytes);
      if (before !== undefined) kept.push(before);
      if (behind !== undefined) kept.push(behind);
    }
    if (last > first) this.#copies.splice(first, last - first, ...kept);
  }

  /** What is to be copied to places within the range, cut to it, in order. */
  within(hostOffset: number, lengthBytes: number): PendingCopy[] {
    const end = hostOffset + lengthBytes;
    const found: PendingCopy[] = [];
    for (let i = this.#firstEndingBehind(hostOffset); i < this.#copies.length; i++) {
      const copy = this.#copies[i]!;
      if (copy.targetHostOffset >= end) break;
      const from = Math.max(hostOffset, copy.targetHostOffset);
      const piece = part(copy, from, Math.min(end, copy.targetHostOffset + copy.lengthBytes));
      if (piece !== undefined) found.push(piece);
    }
    return found;
  }

  #firstEndingBehind(hostOffset: number): number {
    let low = 0;
    let high = this.#copies.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const copy = this.#copies[middle]!;
      if (copy.targetHostOffset + copy.lengthBytes > hostOffset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** The part of a copy whose target is [from, to); undefined where nothing is left. */
function part(copy: PendingCopy, from: number, to: number): PendingCopy | undefined {
  const start = Math.max(from, copy.targetHostOffset);
  const end = Math.min(to, copy.targetHostOffset + copy.lengthBytes);
  if (start >= end) return undefined;
  return {
    targetHostOffset: start,
    sourceHostOffset: copy.sourceHostOffset + (start - copy.targetHostOffset),
    lengthBytes: end - start,
  };
}
