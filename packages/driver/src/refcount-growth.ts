/**
 * A larger refcount table, when clusters beyond its reach are needed.
 *
 * The new table and the refcount blocks that cover it stand in a row behind everything that the old table
 * covers, where nothing can be in use. They are written whole, unreferenced; then one change points the
 * header to the new table and drops the old one's clusters. A crash before that change is durable finds the
 * old table and bytes behind the end that nobody refers to; after it, the new one. Changes of the old table
 * that still wait in the log are in the new one's content, and revoked.
 */
import type { Task } from '@qcow2/block-device';
import type { TableSlice } from '@qcow2/cache';
import { writeRefcountTableEntry } from '@qcow2/codec';
import { hostOffset, qcow2Limits, StorageError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { MetadataWrite } from './metadata-log.ts';
import { countReference } from './metadata-update.ts';

/** Grow the table so that it has an entry for `neededBlock`. Holds: the write lock. */
export function* growRefcountTable(allocator: Allocator, neededBlock: number): Task<void> {
  const { core } = allocator;
  const { clusterBytes, refcountsPerBlock, header } = core;
  const plan = planGrowth(allocator, neededBlock);
  const table = new Uint8Array(plan.tableClusters * clusterBytes);
  table.set(new Uint8Array(core.refcountTable.buffer));
  const view = new DataView(table.buffer);
  for (let i = 0; i < plan.blockCount; i++) {
    const index = plan.firstBlock + i;
    const offset = (plan.firstCluster + i) * clusterBytes;
    const block = new Uint8Array(clusterBytes);
    const blockView = new DataView(block.buffer);
    for (let cluster = plan.firstCluster; cluster < plan.endCluster; cluster++) {
      if (Math.floor(cluster / refcountsPerBlock) === index) {
        core.refcounts.set(blockView, cluster % refcountsPerBlock, 1);
      }
    }
    writeRefcountTableEntry(view, index * 8, offset);
    yield* core.writeInPlace(offset, block, 'refblock_alloc_write');
    core.refcountCache.drop(offset, clusterBytes);
  }
  const tableOffset = (plan.firstCluster + plan.blockCount) * clusterBytes;
  yield* core.writeInPlace(tableOffset, table, 'reftable_grow');
  allocator.noteUse(plan.firstCluster, plan.endCluster - plan.firstCluster);
  const old = { offset: header.refcountTableOffset, clusters: header.refcountTableClusters };
  header.refcountTableOffset = tableOffset;
  header.refcountTableClusters = plan.tableClusters;
  core.refcountTable = view;
  const pointer = new Uint8Array(12);
  new DataView(pointer.buffer).setBigUint64(0, BigInt(tableOffset));
  new DataView(pointer.buffer).setUint32(8, plan.tableClusters);
  yield* submitSwitch(allocator, pointer, old);
}

/**
 * A refcount block for a range that has none, in a cluster of another range, so that the range stays free as a
 * whole. Its content is zeros; the table's entry and the block's own reference are one change.
 */
export function* addRefcountBlockElsewhere(allocator: Allocator, index: number): Task<void> {
  const { core } = allocator;
  const { first } = yield* allocator.allocate();
  const offset = first * core.clusterBytes;
  yield* core.writeInPlace(offset, new Uint8Array(core.clusterBytes), 'refblock_alloc_write');
  core.refcountCache.drop(offset, core.clusterBytes);
  if (Math.floor(first / core.refcountsPerBlock) === index) {
    // The search for a free cluster came to the range itself, and gave it a block of its own.
    allocator.unreserve(first, 1);
    return;
  }
  const slice = yield* core.refcountCache.load(allocator.refcountOffset(first));
  const writes: MetadataWrite[] = [];
  countReference(core, allocator, first, 1, () => core.refcountCache.restore(slice), writes);
  allocator.settleReservation(first);
  writeRefcountTableEntry(core.refcountTable, index * 8, offset);
  const bytes = new Uint8Array(core.refcountTable.buffer, index * 8, 8).slice();
  writes.push({ step: 1, hostOffset: hostOffset(core.header.refcountTableOffset + index * 8), bytes });
  core.log.submit({ writes, revokes: [], settled: [], required: false, afterData: true });
}

interface GrowthPlan {
  readonly firstCluster: number;
  readonly endCluster: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly tableClusters: number;
}

function planGrowth(allocator: Allocator, neededBlock: number): GrowthPlan {
  const { core } = allocator;
  const { clusterBytes, refcountsPerBlock } = core;
  const entriesPerCluster = clusterBytes / 8;
  const oldEntries = core.refcountTable.byteLength / 8;
  let firstCluster = Math.max(oldEntries, neededBlock) * refcountsPerBlock;
  const journal = core.journalArea;
  if (journal !== undefined) {
    const end = (journal.hostOffset + journal.lengthBytes) / clusterBytes;
    // Behind the journal's area wherever the two could meet: simpler than fitting in before it.
    if (end > firstCluster) firstCluster = end;
  }
  let tableClusters = Math.ceil((oldEntries * 1.5) / entriesPerCluster);
  let blockCount = 1;
  const firstBlock = Math.floor(firstCluster / refcountsPerBlock);
  for (;;) {
    const endCluster = firstCluster + blockCount + tableClusters;
    const lastBlock = Math.floor((endCluster - 1) / refcountsPerBlock);
    const wantedTable = Math.max(tableClusters, Math.ceil((lastBlock + 1) / entriesPerCluster));
    const wantedBlocks = lastBlock - firstBlock + 1;
    if (wantedTable * clusterBytes > qcow2Limits.maxRefcountTableBytes) {
      throw new StorageError('NO_SPACE', 'the refcount table has reached its limit', { clause: 'LIM-003' });
    }
    if (wantedTable === tableClusters && wantedBlocks === blockCount) {
      return { firstCluster, endCluster, firstBlock, blockCount, tableClusters };
    }
    tableClusters = wantedTable;
    blockCount = wantedBlocks;
  }
}

function* submitSwitch(
  allocator: Allocator,
  pointer: Uint8Array,
  old: { offset: number; clusters: number },
): Task<void> {
  const { core } = allocator;
  const clusters = Array.from({ length: old.clusters }, (_, i) => old.offset / core.clusterBytes + i);
  const writes: MetadataWrite[] = [{ step: 1, hostOffset: hostOffset(48), bytes: pointer }];
  const revokes = [{ hostOffset: hostOffset(old.offset), lengthBytes: old.clusters * core.clusterBytes }];
  const common = { writes, revokes, settled: [], required: false, afterData: true };
  if (core.log.lateFrees) {
    core.log.submit({ ...common, onDurable: () => allocator.freeLater(clusters) });
    return;
  }
  const slices: TableSlice[] = [];
  for (const cluster of clusters)
    slices.push(yield* core.refcountCache.load(allocator.refcountOffset(cluster)));
  const freed = clusters.filter((cluster, i) => {
    const slice = core.refcountCache.restore(slices[i]!);
    if (countReference(core, allocator, cluster, -1, () => slice, writes) !== 1) return false;
    allocator.quarantine(cluster);
    return true;
  });
  core.log.submit({ ...common, onDurable: () => allocator.release(freed) });
}
