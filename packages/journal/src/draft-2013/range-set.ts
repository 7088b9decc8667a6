/**
 * Bytes of a device that something is known of, as ranges. They only ever come in.
 *
 * Invariant: the ranges are in order, and no two touch. Asking takes the logarithm of their number.
 */
export class RangeSet {
  readonly #ranges: { start: number; end: number }[] = [];

  add(offset: number, lengthBytes: number): void {
    if (lengthBytes === 0) return;
    let start = offset;
    let end = offset + lengthBytes;
    const first = this.#firstEndingAtOrBehind(start);
    let last = first;
    for (; last < this.#ranges.length && this.#ranges[last]!.start <= end; last++) {
      start = Math.min(start, this.#ranges[last]!.start);
      end = Math.max(end, this.#ranges[last]!.end);
    }
    this.#ranges.splice(first, last - first, { start, end });
  }

  /** Whether a byte of the range is in it. */
  touches(offset: number, lengthBytes: number): boolean {
    const found = this.#ranges[this.#firstEndingAtOrBehind(offset + 1)];
    return found !== undefined && lengthBytes > 0 && found.start < offset + lengthBytes;
  }

  #firstEndingAtOrBehind(offset: number): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#ranges[middle]!.end >= offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
