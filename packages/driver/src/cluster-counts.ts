/**
 * How often each host cluster was counted, for one pass over a table: 16 bits for each, in pieces that exist only where
 * something is counted, so that a sparse image of any length costs what it uses. A counter stays at its end; no table
 * refers to one cluster that often and is taken for whole.
 */
const pieceClusters = 32768;
const largest = 65535;

export class ClusterCounts {
  readonly #pieces = new Map<number, Uint16Array>();

  /** Count once more. Returns how often that makes. */
  add(cluster: number): number {
    const index = Math.floor(cluster / pieceClusters);
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = new Uint16Array(pieceClusters);
      this.#pieces.set(index, piece);
    }
    const at = cluster % pieceClusters;
    if (piece[at]! < largest) piece[at]!++;
    return piece[at]!;
  }
}
