/**
 * Making sure that a guest cluster's L2 table exists and is the image's own.
 *
 * A new table is written whole (zeros, or the content of the shared one) before the L1 entry leads to it, in
 * a change of its own: a crash behind it leaves an empty or equal table, which is no leak and no change.
 * Changes of the old table that wait in the log are in the copy. Holds: the write lock.
 */
import { type Task, wait } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { MappingTable } from './mapping.ts';
import { MetadataUpdate, writeNewEntry } from './metadata-update.ts';
import { writeNewExtendedEntry } from './sub-clusters.ts';

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
    const content = new Uint8Array(this.#core.clusterBytes);
    if (before !== 0) yield* wait(this.#core.readPatched(before, content));
    yield* this.#replace(guestCluster, before, content, { required: false, isEmpty: before === 0 });
    if (before !== 0) this.#core.l2Cache.drop(before, this.#core.clusterBytes);
  }

  /**
   * A table for guest clusters that have none, in which those from `guestCluster` on, `count` of them, are zero
   * clusters. Written whole: however many they are, the log gets one L1 entry.
   */
  *addZeros(guestCluster: number, count: number): Task<void> {
    const { clusterBytes, l2Entries, l2EntryBytes, l2Format } = this.#core;
    const content = new Uint8Array(clusterBytes);
    const view = new DataView(content.buffer);
    const first = guestCluster % l2Entries;
    const write = l2Format.extended ? writeNewExtendedEntry : writeNewEntry;
    for (let i = first; i < first + count; i++)
      write(view, i * l2EntryBytes, l2Format, { kind: 'zero-plain' });
    yield* this.#replace(guestCluster, 0, content, { required: true, isEmpty: false });
  }

  /** Take away a table that leads to no cluster. Returns whether it was one. */
  *removeEmpty(l1Index: number): Task<boolean> {
    const { clusterBytes, l2Entries, l2Cache } = this.#core;
    const first = l1Index * l2Entries;
    const table = this.#mappings.l2TableOffset(first);
    if (table === 0 || !this.#mappings.l2TableExclusive(first)) return false;
    for (let i = 0; i < l2Entries; i++) {
      const { kind, hostOffset } = yield* this.#mappings.lookup(first + i);
      if (hostOffset !== 0 || kind === clusterKind.standard || kind === clusterKind.compressed) return false;
    }
    const update = new MetadataUpdate(this.#core, this.#mappings, this.#allocator);
    update.clearL1Entry(l1Index);
    update.dropReference(table / clusterBytes);
    update.revoke(table, clusterBytes);
    yield* update.submit({ required: true, afterData: false });
    l2Cache.drop(table, clusterBytes);
    return true;
  }

  /** A new table takes the place of the one at `before`, or of none (0). */
  *#replace(
    guestCluster: number,
    before: number,
    content: Uint8Array,
    { required, isEmpty }: { required: boolean; isEmpty: boolean },
  ): Task<void> {
    const { clusterBytes, l2Entries } = this.#core;
    const { first, fresh } = yield* this.#allocator.allocate();
    const offset = first * clusterBytes;
    try {
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
      yield* update.submit({ required, afterData: true, overZeros: fresh && isEmpty });
    } catch (error) {
      this.#allocator.unreserve(first, 1);
      throw error;
    }
    const { sliceBytes } = this.#core.l2Cache;
    for (let at = 0; at < clusterBytes; at += sliceBytes) {
      this.#core.l2Cache.put(offset + at, content.slice(at, at + sliceBytes));
    }
  }
}
