/**
 * Where new refcount blocks, and a larger refcount table, are put when refcounts are made anew: in a row behind everything in
 * use, which counts itself.
 */
import { qcow2Limits, StorageError } from '@qcow2/spec';
import type { ImageCore } from './image-core.ts';

export interface RefcountRow {
  /** First cluster: the blocks, then the table where it moves. */
  readonly first: number;
  /** Places in the table of the blocks, in ascending order. */
  readonly blocks: readonly number[];
  /** 0: the table stays where it is. */
  readonly tableClusters: number;
}

/**
 * @param missing places in the table that need a block
 * @param hasBlock whether a place has one that can stay
 * @throws NO_SPACE where the table would be longer than the format allows
 */
export function planRefcountRow(
  core: ImageCore,
  missing: Iterable<number>,
  first: number,
  hasBlock: (index: number) => boolean,
): RefcountRow {
  const { clusterBytes, refcountsPerBlock, refcountTable } = core;
  const blocks = new Set(missing);
  const entriesNow = refcountTable.byteLength / 8;
  for (let tableClusters = 0; ; ) {
    const size = blocks.size + tableClusters;
    const lastBlock = Math.floor((first + size - 1) / refcountsPerBlock);
    for (let index = Math.floor(first / refcountsPerBlock); index <= lastBlock; index++) {
      if (!hasBlock(index)) blocks.add(index);
    }
    const entries = [...blocks].reduce((most, index) => Math.max(most, index), 0) + 1;
    const wanted = entries > entriesNow ? Math.ceil((entries * 8) / clusterBytes) : 0;
    if (wanted * clusterBytes > qcow2Limits.maxRefcountTableBytes) {
      throw new StorageError('NO_SPACE', 'the refcount table has reached its limit', { clause: 'LIM-004' });
    }
    if (blocks.size + wanted === size)
      return { first, blocks: [...blocks].sort((a, b) => a - b), tableClusters };
    tableClusters = wanted;
  }
}

/** Header bytes from the refcount table's offset to the end of its length (HDR-010, HDR-011). */
export const refcountTablePointerAt = 48;

/** Those bytes for a table. */
export function encodeTablePointer(hostOffset: number, clusters: number): Uint8Array {
  const pointer = new Uint8Array(12);
  const view = new DataView(pointer.buffer);
  view.setBigUint64(0, BigInt(hostOffset));
  view.setUint32(8, clusters);
  return pointer;
}
