/**
 * How often each host cluster is referenced, for the check: one 16-bit counter for each cluster of the file,
 * in pieces that exist only where something is counted, so that a sparse image of any length costs what it
 * uses. A counter that would overflow stays at its end; a refcount that large is compared there.
 */
const pieceClusters = 32768;
const largest = 65535;

export class ReferenceCounts {
  readonly #pieces = new Map<number, Uint16Array>();
  /** Beyond 16 bits: rare. */
  readonly #large = new Map<number, number>();
  readonly #limit: number;
  /** Nothing is counted from here on. */
  #end = 0;

  constructor(clusterBytes: number, fileBytes: number) {
    this.#limit = Math.ceil(fileBytes / clusterBytes);
  }

  /** Clusters that the file has. */
  get limit(): number {
    return this.#limit;
  }

  add(cluster: number): void {
    const index = Math.floor(cluster / pieceClusters);
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = new Uint16Array(pieceClusters);
      this.#pieces.set(index, piece);
    }
    this.#end = Math.max(this.#end, cluster + 1);
    const at = cluster % pieceClusters;
    if (piece[at]! < largest) piece[at]!++;
    else this.#large.set(cluster, (this.#large.get(cluster) ?? largest) + 1);
  }

  get(cluster: number): number {
    const piece = this.#pieces.get(Math.floor(cluster / pieceClusters));
    const count = piece === undefined ? 0 : piece[cluster % pieceClusters]!;
    return count < largest ? count : (this.#large.get(cluster) ?? count);
  }

  /** Whether anything is counted in a range of clusters. */
  any(first: number, count: number): boolean {
    const end = first + count;
    for (let at = first; at < end; ) {
      const index = Math.floor(at / pieceClusters);
      const pieceEnd = Math.min(end, (index + 1) * pieceClusters);
      const piece = this.#pieces.get(index);
      const from = at - index * pieceClusters;
      if (piece?.subarray(from, pieceEnd - index * pieceClusters).some((value) => value > 0)) return true;
      at = pieceEnd;
    }
    return false;
  }

  /** The count, which is forgotten. */
  take(cluster: number): number {
    const count = this.get(cluster);
    if (count > 0) {
      this.#pieces.get(Math.floor(cluster / pieceClusters))![cluster % pieceClusters] = 0;
      this.#large.delete(cluster);
    }
    return count;
  }

  /** What has not been taken. */
  *rest(): Generator<[cluster: number, count: number], void, undefined> {
    for (const [index, piece] of this.#pieces) {
      const end = Math.min(pieceClusters, this.#end - index * pieceClusters);
      for (let at = 0; at < end; at++) {
        if (piece[at]! > 0) yield [index * pieceClusters + at, this.get(index * pieceClusters + at)];
      }
    }
  }
}
