/**
 * Refcounts of another width: a new refcount table and new blocks, which count what the old ones count, and themselves.
 *
 *   1. All refcounts are read. One that the new width can not hold is refused, and nothing has been written.
 *   2. A row of free clusters is reserved for the new structure. The image comes to rest; what has changed meanwhile is read again.
 *   3. New blocks and table are written there: they count themselves, and not the old structure. Flush.
 *   4. One write of the header changes where the table stands, how long it is and how wide its refcounts are. Flush.
 *   5. The clusters of the old structure may be handed out.
 *
 * Crash argument. 3 writes where nothing stands that anybody refers to: a crash before 4 is durable finds the old structure untouched, and
 * bytes in clusters that it counts as free. The fields of 4 stand in the first sector, so a crash keeps all of them or none, and what they
 * lead to is durable before. So each structure counts itself and not the other, and nothing leaks. The old header may come back until the
 * flush of 4 is over: nobody is given a cluster of its structure before that.
 *
 * With a journal: at rest the image is clean, and no record of the ring is ever replayed again. So no record names a place of the
 * old structure, and 3 and 4 need none.
 */
import { readPadded, run, type Task, wait } from '@qcow2/block-device';
import { type RefcountCodec, refcountCodec, writeRefcountTableEntry } from '@qcow2/codec';
import { FormatError, qcow2Limits, refcountSizes, StateError, StorageError } from '@qcow2/spec';
import type { ImageRequests } from './image-requests.ts';
import type { ImageParts } from './parts.ts';

/** Header bytes from the refcount table's offset to the end of the refcount order (HDR-010, HDR-011, HDR-018). */
const fieldsAt = 48;
const fieldsEnd = 100;

/** Durable on return. @throws INVALID_ARGUMENT, NO_SPACE */
export async function changeRefcountWidth(
  parts: ImageParts,
  requests: ImageRequests,
  widthBits: number,
): Promise<void> {
  if (widthBits === parts.core.refcounts.widthBits) return;
  const change = new RefcountWidth(parts, refcountCodec(Math.log2(widthBits)));
  try {
    for (let isDone = false; !isDone; ) {
      await run(requests.guarded(() => change.reserve()));
      await requests.rest();
      isDone = await run(requests.operation(() => requests.exclusively(() => change.make())));
    }
  } finally {
    change.giveBack();
  }
}

/** The new structure, for a row that begins with a cluster: the blocks, then the table. */
interface Plan {
  /** Places in the table of the blocks, in ascending order. */
  readonly blocks: readonly number[];
  readonly tableClusters: number;
  readonly size: number;
}

class RefcountWidth {
  readonly #parts: ImageParts;
  readonly #wanted: RefcountCodec;
  /** Refcounts in one new block. */
  readonly #perBlock: number;
  #row = { first: 0, count: 0 };
  /** The old block that was read last. */
  #old: { readonly index: number; readonly view: DataView } | undefined;

  constructor(parts: ImageParts, wanted: RefcountCodec) {
    this.#parts = parts;
    this.#wanted = wanted;
    this.#perBlock = wanted.entriesPerBlock(parts.core.clusterBytes);
  }

  /** Clusters for all of it. Holds: the write lock. @throws INVALID_ARGUMENT for a refcount that is too large */
  *reserve(): Task<void> {
    const { core, allocator } = this.#parts;
    for (;;) {
      const used = yield* this.#usedBlocks();
      const fileEnd = Math.ceil(core.device.sizeBytes / core.clusterBytes);
      const { size } = this.#plan(used, this.#row.count > 0 ? this.#row.first : fileEnd);
      if (size <= this.#row.count) return;
      this.giveBack();
      // To reserve them may need refcounts of the old kind, and so more of the new.
      this.#row = { first: yield* allocator.allocateRow(size), count: size };
    }
  }

  giveBack(): void {
    const { first, count } = this.#row;
    this.#row = { first: 0, count: 0 };
    if (count > 0) this.#parts.allocator.unreserve(first, count);
  }

  /** False, and nothing is changed, where something waits in the log, or the row is too short by now. Holds: the write lock. */
  *make(): Task<boolean> {
    const parts = this.#parts;
    const { core, allocator } = parts;
    if (!parts.isAtRest) return false;
    const { first } = this.#row;
    const plan = this.#plan(yield* this.#usedBlocks(), first);
    if (plan.size > this.#row.count) return false;
    const oldClusters = yield* this.#oldClusters();
    const table = yield* this.#writeStructure(plan, oldClusters);
    yield* this.#flush();
    yield* this.#switchHeader(plan);
    yield* this.#flush();
    core.useRefcounts(this.#wanted, table);
    for (let i = 0; i < plan.size; i++) allocator.settleReservation(first + i);
    this.#row = { first: first + plan.size, count: this.#row.count - plan.size };
    for (const cluster of oldClusters) allocator.quarantine(cluster);
    allocator.release(oldClusters);
    return true;
  }

  /** Places in the new table of the blocks in which something counts. */
  *#usedBlocks(): Task<ReadonlySet<number>> {
    const { core } = this.#parts;
    const used = new Set<number>();
    this.#old = undefined;
    for (let index = 0; index < core.refcountTable.byteLength / 8; index++) {
      const view = yield* this.#oldBlock(index);
      if (view === undefined) continue;
      for (let i = 0; i < core.refcountsPerBlock; i++) {
        const count = core.refcounts.get(view, i);
        if (count === 0) continue;
        const cluster = index * core.refcountsPerBlock + i;
        if (count > this.#wanted.maxValue) throw this.#tooLarge(cluster, count);
        used.add(Math.floor(cluster / this.#perBlock));
      }
    }
    return used;
  }

  #tooLarge(cluster: number, value: number): StateError {
    const message = `a refcount of ${value} does not fit into ${this.#wanted.widthBits} bits`;
    const hostOffset = cluster * this.#parts.core.clusterBytes;
    return new StateError('INVALID_ARGUMENT', message, {
      hostOffset,
      field: 'refcount',
      value,
      clause: 'RCB-002',
    });
  }

  /** @throws NO_SPACE where the table would be longer than the format allows */
  #plan(used: ReadonlySet<number>, first: number): Plan {
    const { clusterBytes } = this.#parts.core;
    const blocks = new Set(used);
    for (let size = 0; ; ) {
      const last = Math.floor((first + size - 1) / this.#perBlock);
      for (let index = Math.floor(first / this.#perBlock); index <= last; index++) blocks.add(index);
      const entries = [...blocks].reduce((most, index) => Math.max(most, index), 0) + 1;
      const tableBytes = entries * refcountSizes.refcountTableEntryBytes;
      const tableClusters = Math.ceil(tableBytes / clusterBytes);
      if (tableClusters * clusterBytes > qcow2Limits.maxRefcountTableBytes) {
        throw new StorageError('NO_SPACE', 'the refcount table has reached its limit', { clause: 'LIM-004' });
      }
      if (blocks.size + tableClusters === size)
        return { blocks: [...blocks].sort((a, b) => a - b), tableClusters, size };
      size = blocks.size + tableClusters;
    }
  }

  /** Of the old structure. @throws REFCOUNT_WRONG where something else than it has one of them, or nothing */
  *#oldClusters(): Task<number[]> {
    const { core, allocator } = this.#parts;
    const { header, clusterBytes } = core;
    const clusters = Array.from(
      { length: header.refcountTableClusters },
      (_, i) => header.refcountTableOffset / clusterBytes + i,
    );
    for (let index = 0; index < core.refcountTable.byteLength / 8; index++) {
      const offset = allocator.blockOffset(index);
      if (offset !== 0) clusters.push(offset / clusterBytes);
    }
    for (const cluster of clusters) {
      const value = yield* allocator.refcount(cluster);
      if (value === 1) continue;
      throw new FormatError('REFCOUNT_WRONG', 'a cluster of the refcounts is not used once', {
        hostOffset: cluster * clusterBytes,
        value,
        clause: 'RCB-006',
      });
    }
    return clusters;
  }

  /** Returns the new table. */
  *#writeStructure(plan: Plan, oldClusters: readonly number[]): Task<DataView> {
    const { clusterBytes, device } = this.#parts.core;
    const { first } = this.#row;
    const table = new Uint8Array(plan.tableClusters * clusterBytes);
    const view = new DataView(table.buffer);
    this.#old = undefined;
    const dropped = new Map<number, number[]>();
    for (const cluster of oldClusters) {
      const index = Math.floor(cluster / this.#perBlock);
      const here = dropped.get(index);
      if (here === undefined) dropped.set(index, [cluster]);
      else here.push(cluster);
    }
    for (const [i, index] of plan.blocks.entries()) {
      const offset = (first + i) * clusterBytes;
      const block = yield* this.#newBlock(index, plan.size, dropped.get(index) ?? []);
      yield* wait(device.write(offset, block, { event: 'refblock_alloc_write' }));
      writeRefcountTableEntry(view, index * 8, offset);
    }
    const tableOffset = (first + plan.blocks.length) * clusterBytes;
    yield* wait(device.write(tableOffset, table, { event: 'reftable_grow' }));
    return view;
  }

  /** What the old blocks count there, and the new structure in place of the old one. */
  *#newBlock(index: number, size: number, dropped: readonly number[]): Task<Uint8Array> {
    const { core } = this.#parts;
    const block = new Uint8Array(core.clusterBytes);
    const view = new DataView(block.buffer);
    const start = index * this.#perBlock;
    const end = start + this.#perBlock;
    for (let cluster = start; cluster < end; ) {
      const oldIndex = Math.floor(cluster / core.refcountsPerBlock);
      const to = Math.min(end, (oldIndex + 1) * core.refcountsPerBlock);
      const old = yield* this.#oldBlock(oldIndex);
      for (let i = cluster; old !== undefined && i < to; i++) {
        const count = core.refcounts.get(old, i % core.refcountsPerBlock);
        if (count > 0) this.#wanted.set(view, i - start, count);
      }
      cluster = to;
    }
    for (const cluster of dropped) this.#wanted.set(view, cluster - start, 0);
    const { first } = this.#row;
    for (let i = Math.max(first, start); i < Math.min(first + size, end); i++)
      this.#wanted.set(view, i - start, 1);
    return block;
  }

  /** Undefined where there is none, or nothing counts in it. */
  *#oldBlock(index: number): Task<DataView | undefined> {
    const { core, allocator } = this.#parts;
    if (index >= core.refcountTable.byteLength / 8) return undefined;
    const offset = allocator.blockOffset(index);
    if (offset === 0) return undefined;
    if (this.#old?.index !== index) {
      core.refuseNoTable(offset, core.clusterBytes);
      const bytes = new Uint8Array(core.clusterBytes);
      yield* wait(core.readPatched(offset, bytes, { event: 'refblock_load' }));
      this.#old = { index, view: new DataView(bytes.buffer) };
    }
    const { view } = this.#old;
    return new Uint32Array(view.buffer).every((word) => word === 0) ? undefined : view;
  }

  /** In one write: a crash leaves all of the fields, or none. */
  *#switchHeader(plan: Plan): Task<void> {
    const { core } = this.#parts;
    const { device, header, clusterBytes } = core;
    const fields = new Uint8Array(fieldsEnd - fieldsAt);
    yield* wait(readPadded(device, fieldsAt, fields));
    const tableOffset = (this.#row.first + plan.blocks.length) * clusterBytes;
    const view = new DataView(fields.buffer);
    view.setBigUint64(0, BigInt(tableOffset));
    view.setUint32(8, plan.tableClusters);
    view.setUint32(96 - fieldsAt, this.#wanted.order);
    yield* wait(device.write(fieldsAt, fields, { event: 'reftable_update' }));
    header.refcountTableOffset = tableOffset;
    header.refcountTableClusters = plan.tableClusters;
    header.refcountOrder = this.#wanted.order;
  }

  *#flush(): Task<void> {
    yield* wait(this.#parts.core.device.flush({ event: 'flush_metadata' }));
  }
}
