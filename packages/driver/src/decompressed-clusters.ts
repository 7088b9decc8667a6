/**
 * Decompressed clusters by the compressed data that they came from: the ones that were used last, up to a number of
 * bytes, and those that are being made.
 *
 * Invariant: what is found here is what the data says now. Compressed data never changes while somebody refers to it
 * (CMP-012), and its host clusters are handed out again only when every read that began before has ended. `forget` is
 * called then, and takes what is being made with it: a job that ends later is not kept.
 */
import type { Cleanable } from './cache-cleaner.ts';
import type { HostArea } from './image-core.ts';

interface Entry {
  /** The promise while it is being made. */
  cluster: Uint8Array | Promise<Uint8Array>;
  readonly hostOffset: number;
  /** The interval in which it was used last. */
  usedIn: number;
}

export class DecompressedClusters implements Cleanable {
  readonly #clusterBytes: number;
  readonly #maxBytes: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>();
  /** Keys of the entries whose data begins in a host cluster. */
  readonly #byHostCluster = new Map<number, Set<string>>();
  readonly #onFilled: () => void;
  #ready = 0;
  /** Counts calls of `dropUnused`. */
  #interval = 0;
  #hits = 0;
  #misses = 0;

  /** @param onFilled called when something comes into an empty cache */
  constructor(clusterBytes: number, maxBytes: number, onFilled: () => void) {
    this.#clusterBytes = clusterBytes;
    this.#maxBytes = maxBytes;
    this.#onFilled = onFilled;
  }

  get counters(): { readonly hits: number; readonly misses: number; readonly bytes: number } {
    return { hits: this.#hits, misses: this.#misses, bytes: this.#ready * this.#clusterBytes };
  }

  /** The cluster, or the promise of who is making it; else `make` is called. Not to be changed. */
  get(data: HostArea, make: () => Uint8Array | Promise<Uint8Array>): Uint8Array | Promise<Uint8Array> {
    // Of two descriptors with one beginning, that of a damaged image perhaps, each has its own length.
    const key = `${data.hostOffset}+${data.lengthBytes}`;
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#hits++;
      this.#entries.delete(key);
      this.#entries.set(key, known);
      known.usedIn = this.#interval;
      return known.cluster;
    }
    this.#misses++;
    const made = make();
    const entry: Entry = { cluster: made, hostOffset: data.hostOffset, usedIn: this.#interval };
    this.#add(key, entry);
    if (made instanceof Uint8Array) this.#noteReady(key, entry, made);
    else {
      made.then(
        (cluster) => this.#noteReady(key, entry, cluster),
        () => this.#drop(key, entry),
      );
    }
    return made;
  }

  get isEmpty(): boolean {
    return this.#ready === 0;
  }

  dropUnused(): void {
    for (const [key, entry] of this.#entries) {
      if (entry.usedIn < this.#interval && entry.cluster instanceof Uint8Array) this.#drop(key, entry);
    }
    this.#interval++;
  }

  /** A host cluster may hold something else from now on. */
  forget(hostCluster: number): void {
    for (const key of this.#byHostCluster.get(hostCluster) ?? []) this.#drop(key, this.#entries.get(key)!);
  }

  #add(key: string, entry: Entry): void {
    this.#entries.set(key, entry);
    const hostCluster = this.#hostClusterOf(entry);
    const keys = this.#byHostCluster.get(hostCluster);
    if (keys === undefined) this.#byHostCluster.set(hostCluster, new Set([key]));
    else keys.add(key);
  }

  #noteReady(key: string, entry: Entry, cluster: Uint8Array): void {
    if (this.#entries.get(key) !== entry) return;
    entry.cluster = cluster;
    if (++this.#ready === 1) this.#onFilled();
    for (const [oldKey, old] of this.#entries) {
      if (this.#ready * this.#clusterBytes <= this.#maxBytes) break;
      if (old.cluster instanceof Uint8Array) this.#drop(oldKey, old);
    }
  }

  #drop(key: string, entry: Entry): void {
    if (this.#entries.get(key) !== entry) return;
    this.#entries.delete(key);
    if (entry.cluster instanceof Uint8Array) this.#ready--;
    const hostCluster = this.#hostClusterOf(entry);
    const keys = this.#byHostCluster.get(hostCluster);
    keys?.delete(key);
    if (keys?.size === 0) this.#byHostCluster.delete(hostCluster);
  }

  #hostClusterOf({ hostOffset }: Entry): number {
    return Math.floor(hostOffset / this.#clusterBytes);
  }
}
