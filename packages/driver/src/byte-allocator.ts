/**
 * Places for compressed data: one behind the other at single bytes, as QEMU puts them, so that a host cluster holds as many
 * as fit, and one may lie across the border of two clusters that follow each other in the file.
 *
 * Known in memory only: who opens the image begins with a new host cluster.
 *
 * Crash argument. The place behind the last data lies in a cluster that is in use and that nobody else writes to, and no
 * durable descriptor leads there yet. A write there leaves the bytes before it as they are, those in the same sector
 * included; so whatever a crash leaves of it harms no data that was durable. When the last reference to that
 * cluster goes away, the place is forgotten: the cluster may become something else.
 *
 * Holds: the write lock.
 */
import type { Task } from '@qcow2/block-device';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';

/** Where compressed data goes, and what the change that leads to it has to count. */
export interface BytePlace {
  readonly hostOffset: number;
  /** A cluster that is in use already: it gets one reference more. */
  readonly shared: number | undefined;
  /** A cluster that was reserved for it: it gets its first reference. */
  readonly reserved: number | undefined;
}

export class ByteAllocator {
  readonly #core: ImageCore;
  readonly #allocator: Allocator;
  /** The first byte behind the last data, in a cluster in use. */
  #next: number | undefined;

  constructor(core: ImageCore, allocator: Allocator) {
    this.#core = core;
    this.#allocator = allocator;
    allocator.onUnused = (cluster) => {
      if (this.#next !== undefined && this.#clusterOf(this.#next) === cluster) this.#next = undefined;
    };
  }

  /**
   * A place for so many bytes, fewer than a cluster. It is taken when `keep` is called; `giveBack` lets it go.
   * @throws as `Allocator.allocate`
   */
  *allocate(lengthBytes: number): Task<BytePlace> {
    const { clusterBytes } = this.#core;
    const next = yield* this.#usable();
    if (next === undefined) return this.#beginning((yield* this.#allocator.allocate()).first);
    const shared = this.#clusterOf(next);
    if (lengthBytes <= clusterBytes - (next % clusterBytes)) {
      return { hostOffset: next, shared, reserved: undefined };
    }
    const { first } = yield* this.#allocator.allocate();
    return first === shared + 1 ? { hostOffset: next, shared, reserved: first } : this.#beginning(first);
  }

  /** The data stands there, and a change that leads to it was submitted. */
  keep({ hostOffset }: BytePlace, lengthBytes: number): void {
    const end = hostOffset + lengthBytes;
    this.#next = end % this.#core.clusterBytes === 0 ? undefined : end;
  }

  giveBack({ reserved }: BytePlace): void {
    if (reserved !== undefined) this.#allocator.unreserve(reserved, 1);
  }

  #beginning(cluster: number): BytePlace {
    return { hostOffset: cluster * this.#core.clusterBytes, shared: undefined, reserved: cluster };
  }

  /** The place behind the last data, where its cluster's refcount can be raised [CMP-014]. */
  *#usable(): Task<number | undefined> {
    if (this.#next === undefined) return undefined;
    const refcount = yield* this.#allocator.refcount(this.#clusterOf(this.#next));
    const most = 2 ** Math.min(53, this.#core.refcounts.widthBits) - 1;
    return refcount < most ? this.#next : undefined;
  }

  #clusterOf(hostOffset: number): number {
    return Math.floor(hostOffset / this.#core.clusterBytes);
  }
}
