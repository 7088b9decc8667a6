/**
 * What a guest does to a disk, and what the disk holds then: bytes, and which of them have changed since a bitmap began. A discard is of
 * whole clusters, the last one of the disk counting as whole, and zeros are read then. Version 2 has no way to say so over a
 * backing file: QEMU does nothing there, and of the library it is left open what is read.
 */

/** What is written: one byte over and over, or a text of `fills` from its beginning, over and over. */
export type Fill = number | 'noise' | 'mixed';

export interface Step {
  readonly kind: 'write' | 'compressed' | 'zero' | 'unmap' | 'discard';
  readonly offset: number;
  readonly lengthBytes: number;
  readonly fill: Fill;
}

export interface DirtyRange {
  readonly offset: number;
  readonly lengthBytes: number;
}

export class DiskModel {
  readonly bytes: Uint8Array;
  readonly #clusterBytes: number;
  readonly #discards: boolean;
  readonly #fills: Fills;
  /** One for each sector of 512 bytes, the least that a bitmap tells apart. */
  #dirty: Uint8Array;

  /** @param below what a backing file shows; the disk is its beginning, and zeros behind it */
  constructor(
    sizeBytes: number,
    { clusterBytes, discards, fills }: { clusterBytes: number; discards: boolean; fills: Fills },
    below: Uint8Array = new Uint8Array(),
  ) {
    this.bytes = new Uint8Array(sizeBytes);
    this.bytes.set(below.subarray(0, sizeBytes));
    this.#clusterBytes = clusterBytes;
    this.#discards = discards;
    this.#fills = fills;
    this.#dirty = new Uint8Array(Math.ceil(sizeBytes / 512));
  }

  /** A step as QEMU does it. */
  apply(step: Step): void {
    const { kind, offset, lengthBytes } = step;
    if (kind !== 'discard') this.bytes.set(contentOf(step, this.#fills), offset);
    else if (this.#discards) this.bytes.fill(0, ...this.#discarded(step));
    // A bitmap is told of what was asked for, whatever came of it.
    this.#dirty.fill(1, Math.floor(offset / 512), Math.ceil((offset + lengthBytes) / 512));
  }

  /**
   * As `apply`, for a discard after which `found` is read in its range: that is what the disk holds from now on.
   * @returns what must not have come of it
   */
  adopt(step: Step, found: Uint8Array): string | undefined {
    const { offset, lengthBytes } = step;
    const [start, end] = this.#discarded(step);
    const wrong = found.findIndex((byte, index) => {
      const at = offset + index;
      return byte !== this.bytes[at] && (byte !== 0 || at < start || at >= end);
    });
    this.bytes.set(found, offset);
    this.#dirty.fill(1, Math.floor(offset / 512), Math.ceil((offset + lengthBytes) / 512));
    return wrong === -1
      ? undefined
      : `after a discard, byte ${offset + wrong} is neither what it was nor zero`;
  }

  #discarded({ offset, lengthBytes }: Step): [number, number] {
    const unit = this.#clusterBytes;
    const start = Math.ceil(offset / unit) * unit;
    const end = offset + lengthBytes;
    const last = end === this.bytes.length ? end : Math.floor(end / unit) * unit;
    return [start, Math.max(start, last)];
  }

  /** What a bitmap has that began with the disk, or with the last `forget`. */
  dirty(granularityBytes: number): DirtyRange[] {
    const ranges: { offset: number; lengthBytes: number }[] = [];
    const sectors = granularityBytes / 512;
    for (let at = 0; at < this.#dirty.length; at += sectors) {
      if (!this.#dirty.subarray(at, at + sectors).includes(1)) continue;
      const offset = at * 512;
      const lengthBytes = Math.min(granularityBytes, this.bytes.length - offset);
      const last = ranges.at(-1);
      if (last !== undefined && last.offset + last.lengthBytes === offset) last.lengthBytes += lengthBytes;
      else ranges.push({ offset, lengthBytes });
    }
    return ranges;
  }

  forget(): void {
    this.#dirty = new Uint8Array(this.#dirty.length);
  }
}

export interface Fills {
  /** Does not get smaller. */
  readonly noise: Uint8Array;
  /** Gets smaller, but not much. */
  readonly mixed: Uint8Array;
}

/** The bytes that a step writes: zeros where it writes none. */
export function contentOf({ kind, lengthBytes, fill }: Step, fills: Fills): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  if (kind !== 'write' && kind !== 'compressed') return bytes;
  if (typeof fill === 'number') return bytes.fill(fill);
  const source = fills[fill];
  for (let at = 0; at < lengthBytes; at += source.length) {
    bytes.set(source.subarray(0, Math.min(source.length, lengthBytes - at)), at);
  }
  return bytes;
}
