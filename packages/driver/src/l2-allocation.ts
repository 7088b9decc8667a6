/**
 * Making sure that a guest cluster's L2 table exists and is the image's own.
 *
 * A new table is written whole (zeros, or the content of the shared one) before the L1 entry leads to it, in
 * a change of its own: a crash behind it leaves an empty or equal table, which is no leak and no change.
 * Changes of the old table that wait in the log are in the copy. Holds: the write lock.
 */
import { type Task, wait } from '@qcow2/block-device';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { MappingTable } from './mapping.ts';
import { MetadataUpdate } from './metadata-update.ts';

export class L2Allocator {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #allocator: Allocator;

  constructor(core: ImageCore, mappings: MappingTable, allocator: Allocator) {
    this.#core = core;
    this.#mappings = mappings;
    this.#allocator = allocator;
  }

  *prepare(guestCluster: number): Task<void> {
    const before = this.#mappings.l2TableOffset(guestCluster);
    if (before !== 0 && this.#mappings.l2TableExclusive(guestCluster)) return;
    const { clusterBytes, l2Entries } = this.#core;
    const { first, fresh } = yield* this.#allocator.allocate();
    const offset = first * clusterBytes;
    const content = new Uint8Array(clusterBytes);
    try {
      if (before !== 0) yield* wait(this.#core.readPatched(before, content));
      yield* this.#core.writeInPlace(offset, content, 'l2_alloc_write');
      const update = new MetadataUpdate(this.#core, this.#mappings, this.#allocator);
      update.addReference(first);
      update.setL1Entry(Math.floor(guestCluster / l2Entries), offset);
      if (before !== 0) {
        update.dropReference(before / clusterBytes);
        // Where that was the last reference, the range may be reused for data.
        if ((yield* this.#allocator.refcount(before / clusterBytes)) === 1)
          update.revoke(before, clusterBytes);
      }
      yield* update.submit({ required: false, afterData: true, overZeros: fresh && before === 0 });
    } catch (error) {
      this.#allocator.unreserve(first, 1);
      throw error;
    }
    const { sliceBytes } = this.#core.l2Cache;
    for (let at = 0; at < clusterBytes; at += sliceBytes) {
      this.#core.l2Cache.put(offset + at, content.slice(at, at + sliceBytes));
    }
    if (before !== 0) this.#core.l2Cache.drop(before, clusterBytes);
  }
}
