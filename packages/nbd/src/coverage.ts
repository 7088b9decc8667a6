/** Which bytes of a READ have come. A server may send them in parts, in any order, each once and none twice. */
import { FormatError } from '@qcow2/spec';
import { clientLimits } from './protocol.ts';

export class Coverage {
  readonly #lengthBytes: number;
  /** `[start, end)`, in order, apart from each other. */
  readonly #parts: { start: number; end: number }[] = [];

  constructor(lengthBytes: number) {
    this.#lengthBytes = lengthBytes;
  }

  get isWhole(): boolean {
    const [first] = this.#parts;
    return this.#lengthBytes === 0 || (first?.start === 0 && first.end === this.#lengthBytes);
  }

  /** @throws BAD_FIELD where a byte comes again, or was not asked for; LIMIT_EXCEEDED for too many parts */
  add(start: number, lengthBytes: number): void {
    const end = start + lengthBytes;
    if (start < 0 || lengthBytes === 0 || end > this.#lengthBytes) {
      throw new FormatError('BAD_FIELD', 'a reply with bytes that were not asked for', { field: 'offset' });
    }
    const parts = this.#parts;
    const at = this.#firstEndingFrom(start);
    const before = parts[at]?.end === start ? parts[at] : undefined;
    const next = parts[before === undefined ? at : at + 1];
    if (next !== undefined && next.start < end) {
      throw new FormatError('BAD_FIELD', 'a reply that brings bytes twice', { field: 'offset' });
    }
    const joins = next?.start === end;
    if (before !== undefined) {
      before.end = joins ? next.end : end;
      if (joins) parts.splice(at + 1, 1);
    } else if (joins) next.start = start;
    else if (parts.length === clientLimits.separateParts) {
      throw new FormatError('LIMIT_EXCEEDED', 'a reply in too many parts');
    } else parts.splice(at, 0, { start, end });
  }

  /** Place of the first part that ends at `start` or behind it. */
  #firstEndingFrom(start: number): number {
    let low = 0;
    let high = this.#parts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#parts[middle]?.end ?? 0) < start) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
