/**
 * What one process of qemu-io has written in compressed form, and whether the next compressed write may be asked of it.
 *
 * It packs each behind the one before, in the same host cluster, as long as that has room; and goes on there when the host cluster has
 * been given up meanwhile and is somebody's data. So once something compressed is gone (discarded, zeroed, written over) and data was
 * written since, which may stand in its place, nothing more is compressed in this process. A new one begins with a new host cluster.
 */
export class PackedClusters {
  readonly #clusterBytes: number;
  readonly #clusters = new Set<number>();
  #isGone = false;
  #isTaken = false;

  constructor(clusterBytes: number) {
    this.#clusterBytes = clusterBytes;
  }

  get mayGoOn(): boolean {
    return !this.#isTaken;
  }

  /** Written in compressed form: what comes next goes behind it. */
  pack(offset: number, lengthBytes: number): void {
    for (const cluster of this.#in(offset, lengthBytes)) this.#clusters.add(cluster);
    this.#isGone = false;
  }

  /** @param isData a new cluster may hold what takes its place */
  replace(offset: number, lengthBytes: number, isData: boolean): void {
    for (const cluster of this.#in(offset, lengthBytes)) {
      if (this.#clusters.delete(cluster)) this.#isGone = true;
    }
    if (this.#isGone && isData) this.#isTaken = true;
  }

  *#in(offset: number, lengthBytes: number): Generator<number> {
    const end = Math.ceil((offset + lengthBytes) / this.#clusterBytes);
    for (let cluster = Math.floor(offset / this.#clusterBytes); cluster < end; cluster++) yield cluster;
  }
}
