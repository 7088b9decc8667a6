/** Which sectors of a cluster have been written: one bit for each 512 bytes. */
import { sectorBytes } from './guest-overlay.ts';

/** A run of bytes in a cluster: from `start` on, up to `end`, which is not part of it. */
export interface ClusterRange {
  readonly start: number;
  readonly end: number;
}

export class SectorMap {
  readonly #sectors: number;
  readonly #words: Uint32Array;
  #set = 0;

  constructor(clusterBytes: number) {
    this.#sectors = clusterBytes / sectorBytes;
    this.#words = new Uint32Array(Math.ceil(this.#sectors / 32));
  }

  get isFull(): boolean {
    return this.#set === this.#sectors;
  }

  /** Sectors that are not set. */
  get missing(): number {
    return this.#sectors - this.#set;
  }

  /** Whether the sector is set in which a byte of the cluster stands. */
  hasSectorOf(inCluster: number): boolean {
    const sector = Math.floor(inCluster / sectorBytes);
    return (this.#words[sector >>> 5]! & (1 << (sector & 31))) !== 0;
  }

  /** Set every sector that the range touches. */
  setTouched(start: number, end: number): void {
    const last = Math.ceil(end / sectorBytes);
    for (let sector = Math.floor(start / sectorBytes); sector < last; sector++) {
      const bit = 1 << (sector & 31);
      const word = this.#words[sector >>> 5]!;
      if ((word & bit) !== 0) continue;
      this.#words[sector >>> 5] = word | bit;
      this.#set++;
    }
  }

  /** What is not set, in order. */
  gaps(): ClusterRange[] {
    const clusterBytes = this.#sectors * sectorBytes;
    if (this.isFull) return [];
    return [...this.runs(0, clusterBytes)].filter(({ set }) => !set);
  }

  /** The range cut where sectors that are set and sectors that are not meet. */
  *runs(start: number, end: number): Generator<ClusterRange & { readonly set: boolean }, void, undefined> {
    for (let at = start; at < end; ) {
      const set = this.hasSectorOf(at);
      let next = (Math.floor(at / sectorBytes) + 1) * sectorBytes;
      while (next < end && this.hasSectorOf(next) === set) next += sectorBytes;
      yield { start: at, end: Math.min(next, end), set };
      at = next;
    }
  }
}
