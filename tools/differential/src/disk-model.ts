/**
 * What an image is to hold, as plain as can be: the disk's bytes, those of each snapshot, and for each bitmap what it says at
 * least, and at most.
 */

const sectorBytes = 512;

export interface SnapshotModel {
  readonly name: string;
  readonly content: Uint8Array;
}

/** Bits by sectors: each stands for what its granule says. */
export interface BitmapModel {
  readonly name: string;
  readonly granularityBytes: number;
  enabled: boolean;
  /** Has changed. */
  least: Uint8Array;
  /** Somebody has asked for a change of it. */
  most: Uint8Array;
}

export class DiskModel {
  bytes: Uint8Array;
  snapshots: SnapshotModel[] = [];
  bitmaps: BitmapModel[] = [];

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  write(offset: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, offset);
    this.#note(offset, bytes.length, ['least', 'most']);
  }

  fill(offset: number, lengthBytes: number, byte: number): void {
    this.bytes.fill(byte, offset, offset + lengthBytes);
    this.#note(offset, lengthBytes, ['least', 'most']);
  }

  /** A discard was asked for: parts of the range read as zeros now, or nothing has happened to them. */
  discard(
    offset: number,
    lengthBytes: number,
    zeroed: { readonly start: number; readonly end: number },
  ): void {
    this.#note(offset, lengthBytes, ['most']);
    const { start, end } = zeroed;
    if (end <= start) return;
    if (this.bytes.subarray(start, end).some((byte) => byte !== 0)) this.#note(start, end - start, ['least']);
    this.bytes.fill(0, start, end);
  }

  /** What is new reads as zeros, and nothing of it has changed. */
  resize(sizeBytes: number): void {
    this.bytes = resized(this.bytes, sizeBytes);
    for (const bitmap of this.bitmaps) {
      for (const bits of ['least', 'most'] as const) {
        bitmap[bits] = resized(bitmap[bits], Math.ceil(sizeBytes / sectorBytes));
        roundUp(bitmap[bits], bitmap.granularityBytes);
      }
    }
  }

  createSnapshot(name: string): void {
    this.snapshots.push({ name, content: this.bytes.slice() });
  }

  applySnapshot(snapshot: SnapshotModel): void {
    this.bytes = snapshot.content.slice();
  }

  deleteSnapshot(snapshot: SnapshotModel): void {
    this.snapshots = this.snapshots.filter((one) => one !== snapshot);
  }

  addBitmap(name: string, granularityBytes: number, enabled: boolean): void {
    const sectors = Math.ceil(this.sizeBytes / sectorBytes);
    const [least, most] = [new Uint8Array(sectors), new Uint8Array(sectors)];
    this.bitmaps.push({ name, granularityBytes, enabled, least, most });
  }

  removeBitmap(bitmap: BitmapModel): void {
    this.bitmaps = this.bitmaps.filter((one) => one !== bitmap);
  }

  clearBitmap(bitmap: BitmapModel): void {
    bitmap.least.fill(0);
    bitmap.most.fill(0);
  }

  mergeBitmap(bitmap: BitmapModel, source: BitmapModel): void {
    for (const bits of ['least', 'most'] as const) {
      const into = bitmap[bits];
      source[bits].forEach((bit, sector) => {
        if (bit === 1) into[sector] = 1;
      });
      roundUp(into, bitmap.granularityBytes);
    }
  }

  #note(offset: number, lengthBytes: number, which: readonly ('least' | 'most')[]): void {
    if (lengthBytes === 0) return;
    for (const bitmap of this.bitmaps) {
      if (!bitmap.enabled) continue;
      const unit = bitmap.granularityBytes / sectorBytes;
      const first = Math.floor(offset / bitmap.granularityBytes) * unit;
      const end = Math.ceil((offset + lengthBytes) / bitmap.granularityBytes) * unit;
      for (const bits of which) bitmap[bits].fill(1, first, end);
    }
  }
}

function resized(bytes: Uint8Array, length: number): Uint8Array {
  const result = new Uint8Array(length);
  result.set(bytes.subarray(0, length));
  return result;
}

/** A granule is dirty as a whole. */
function roundUp(bits: Uint8Array, granularityBytes: number): void {
  const unit = granularityBytes / sectorBytes;
  for (let at = 0; at < bits.length; at += unit) {
    const granule = bits.subarray(at, at + unit);
    if (granule.includes(1)) granule.fill(1);
  }
}
