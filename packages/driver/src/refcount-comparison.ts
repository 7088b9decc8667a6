/**
 * The refcounts on disk beside the references that were counted, a window of the file at a time.
 *
 * A refcount block is read whole, through what waits in the log; blocks that the table does not name, or names where none
 * can be, hold zeros for this purpose.
 */
import { type Task, wait } from '@qcow2/block-device';
import { FormatError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { ImageCore } from './image-core.ts';
import type { ImageParts } from './parts.ts';
import type { ReferencePasses } from './reference-passes.ts';
import { ReferenceWindow, windowClusters } from './reference-window.ts';

/** A refcount block as it was read. Its bytes are used again for the next. */
export interface ReadBlock {
  readonly index: number;
  readonly hostOffset: number;
  readonly view: DataView;
  /** First cluster that it counts. */
  readonly first: number;
}

export interface ComparisonVisitor {
  /**
   * A cluster has another refcount than references. `stored` is infinite where it is above 2^53 - 1; the visitor may write
   * another one into the block. Returns what it is then.
   */
  difference(cluster: number, stored: number, counted: number, block: ReadBlock | undefined): number;
  /** A block has been gone through. */
  block?(block: ReadBlock): Task<void>;
}

/**
 * Compare a window. Wrong refcounts of what is referenced are marked in it.
 * @returns the last cluster with a refcount or a reference, or -1
 */
export function* compareRefcounts(
  parts: ImageParts,
  window: ReferenceWindow,
  visitor: ComparisonVisitor,
): Task<number> {
  const { refcountsPerBlock, refcountTable } = parts.core;
  const entries = refcountTable.byteLength / 8;
  const firstBlock = window.start / refcountsPerBlock;
  const bytes = new Uint8Array(parts.core.clusterBytes);
  let last = -1;
  for (let index = firstBlock; index < firstBlock + windowClusters / refcountsPerBlock; index++) {
    const first = index * refcountsPerBlock;
    const block = index < entries ? yield* readBlock(parts, index, bytes) : undefined;
    if (block === undefined) {
      if (index >= entries && index > firstBlock) {
        // No block reaches the rest of the window.
        return Math.max(last, notCounted(window, first, window.end - first, visitor));
      }
      last = Math.max(last, notCounted(window, first, refcountsPerBlock, visitor));
      continue;
    }
    last = Math.max(last, compareBlock(parts.core, window, block, visitor));
    if (visitor.block !== undefined) yield* visitor.block(block);
  }
  return last;
}

/** The blocks of windows in which nothing is referenced: whatever they count is too much. Returns as `compareRefcounts`. */
export function* compareUnreferenced(
  parts: ImageParts,
  passes: ReferencePasses,
  visitor: ComparisonVisitor,
): Task<number> {
  const { refcountsPerBlock, refcountTable, clusterBytes } = parts.core;
  const bytes = new Uint8Array(clusterBytes);
  let last = -1;
  for (let index = 0; index < refcountTable.byteLength / 8; index++) {
    const first = index * refcountsPerBlock;
    const start = first - (first % windowClusters);
    if (passes.covers(start)) continue;
    const block = yield* readBlock(parts, index, bytes);
    if (block === undefined) continue;
    const nothingThere = new ReferenceWindow(start, clusterBytes);
    last = Math.max(last, compareBlock(parts.core, nothingThere, block, visitor));
    if (visitor.block !== undefined) yield* visitor.block(block);
  }
  return last;
}

/** Undefined where no block is, or none can be: the walk over the references says why. */
function* readBlock(
  { core, allocator }: ImageParts,
  index: number,
  bytes: Uint8Array,
): Task<ReadBlock | undefined> {
  const hostOffset = usableBlock(core, allocator, index);
  if (hostOffset === undefined) return undefined;
  yield* wait(core.readPatched(hostOffset, bytes, { event: 'refblock_load' }));
  return { index, hostOffset, view: new DataView(bytes.buffer), first: index * core.refcountsPerBlock };
}

/** Where the block of a place in the table stands; undefined where none is, or none can be. */
export function usableBlock(core: ImageCore, allocator: Allocator, index: number): number | undefined {
  if (index >= core.refcountTable.byteLength / 8) return undefined;
  try {
    const hostOffset = allocator.blockOffset(index);
    if (hostOffset === 0) return undefined;
    core.refuseOutside(hostOffset, core.clusterBytes);
    return hostOffset;
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}

/**
 * Entries of the refcount table that name a cluster of the window which is something else already, an earlier entry's
 * block for example.
 */
export function sharedBlocks({ core, allocator }: ImageParts, window: ReferenceWindow): number[] {
  const entries = new Map<number, number[]>();
  for (let index = 0; index < core.refcountTable.byteLength / 8; index++) {
    const hostOffset = usableBlock(core, allocator, index);
    const cluster = hostOffset === undefined ? -1 : hostOffset / core.clusterBytes;
    if (!window.has(cluster) || window.get(cluster) < 2) continue;
    const those = entries.get(cluster);
    if (those === undefined) entries.set(cluster, [index]);
    else those.push(index);
  }
  return [...entries].flatMap(([cluster, those]) =>
    window.get(cluster) > those.length ? those : those.slice(1),
  );
}

function compareBlock(
  core: ImageCore,
  window: ReferenceWindow,
  block: ReadBlock,
  visitor: ComparisonVisitor,
): number {
  const { refcountsPerBlock } = core;
  const { view, first } = block;
  if (isZero(view) && !window.any(first, refcountsPerBlock)) return -1;
  let last = -1;
  for (let i = 0; i < refcountsPerBlock; i++) {
    const counted = window.get(first + i);
    const stored = storedRefcount(core, view, i);
    if (stored === 0 && counted === 0) continue;
    last = first + i;
    if (stored === counted) continue;
    const left = visitor.difference(last, stored, counted, block);
    if (counted > 0 && left !== counted) window.markWrong(last, left);
  }
  return last;
}

/** What is referenced where no block counts. */
function notCounted(
  window: ReferenceWindow,
  first: number,
  count: number,
  visitor: ComparisonVisitor,
): number {
  let last = -1;
  for (const [cluster, counted] of window.counted(first, count)) {
    last = cluster;
    window.markWrong(cluster, 0);
    visitor.difference(cluster, 0, counted, undefined);
  }
  return last;
}

/** A 64-bit refcount may hold more than is handled: that is too high, whatever it is. */
export function storedRefcount(core: ImageCore, view: DataView, index: number): number {
  try {
    return core.refcounts.get(view, index);
  } catch (error) {
    if (error instanceof FormatError) return Number.POSITIVE_INFINITY;
    throw error;
  }
}

function isZero(view: DataView): boolean {
  const words = new Uint32Array(view.buffer, view.byteOffset, view.byteLength / 4);
  return words.every((word) => word === 0);
}
