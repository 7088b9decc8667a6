/**
 * Clusters that the guest is filling: a host cluster is reserved, guest bytes stand in it, and nothing leads
 * to it yet, neither on disk nor in a table.
 *
 * Reads look here before the mapping: sectors that were written come from the host cluster, the others from
 * where they came from before. Further writes to the guest cluster go straight into the host cluster. When
 * the last sector is written the cluster is mapped, and nothing was read or copied. Where something asks for
 * the mapping earlier (a flush, too many pending clusters), the rest is brought in first, or named in the log.
 *
 * A guest cluster is here or in the overlay, never in both. A crash forgets what is here, rightly: no flush has
 * covered it, and the host cluster is free on disk.
 *
 * Entries are added and taken away under the write lock. Held for each: a bit for each sector.
 */
import { SectorMap } from './sector-map.ts';

export class PendingCluster {
  readonly guestCluster: number;
  readonly hostOffset: number;
  /** What is not written reads as zeros in place. */
  readonly fresh: boolean;
  /** The guest cluster's own place already (`DataArea.ownPlace`): it is neither reserved nor counted. */
  readonly reused: boolean;
  readonly written: SectorMap;

  constructor(place: Omit<PendingCluster, 'written'>, clusterBytes: number) {
    this.guestCluster = place.guestCluster;
    this.hostOffset = place.hostOffset;
    this.fresh = place.fresh;
    this.reused = place.reused;
    this.written = new SectorMap(clusterBytes);
  }
}

export class PendingClusters {
  readonly #clusters = new Map<number, PendingCluster>();

  get isEmpty(): boolean {
    return this.#clusters.size === 0;
  }

  get count(): number {
    return this.#clusters.size;
  }

  get(guestCluster: number): PendingCluster | undefined {
    return this.#clusters.size === 0 ? undefined : this.#clusters.get(guestCluster);
  }

  add(cluster: PendingCluster): void {
    this.#clusters.set(cluster.guestCluster, cluster);
  }

  delete(cluster: PendingCluster): void {
    this.#clusters.delete(cluster.guestCluster);
  }

  /** The one that has been here longest. */
  oldest(): PendingCluster | undefined {
    return this.#clusters.values().next().value;
  }

  /** All of them in guest order. */
  sorted(): PendingCluster[] {
    return [...this.#clusters.values()].sort((a, b) => a.guestCluster - b.guestCluster);
  }
}
