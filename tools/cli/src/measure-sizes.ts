/** How large an image will be: what `measure` tells, counted from the format's rules and without making one. */
import type { BitmapInfo } from '@qcow2/driver';
import { qcow2Limits } from '@qcow2/spec';

export interface MeasuredShape {
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
  /** Of its journal, in whole clusters; 0 without one. */
  readonly journalBytes: number;
}

const entryBytes = 8;

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function l2EntryBytes({ extendedL2 }: MeasuredShape): number {
  return extendedL2 ? 16 : 8;
}

/** Whether a disk has more L2 tables than an L1 table may lead to. */
export function isTooLarge(diskBytes: number, shape: MeasuredShape): boolean {
  const { clusterBytes } = shape;
  const tables = Math.ceil(Math.ceil(diskBytes / clusterBytes) / (clusterBytes / l2EntryBytes(shape)));
  return tables * entryBytes > qcow2Limits.maxL1TableBytes;
}

/** Of a file in which every cluster of the disk has its place. */
export function fullyAllocatedBytes(diskBytes: number, shape: MeasuredShape): number {
  const { clusterBytes } = shape;
  const dataBytes = roundUp(diskBytes, clusterBytes);
  const l2Bytes = roundUp((dataBytes / clusterBytes) * l2EntryBytes(shape), clusterBytes);
  const l1Bytes = roundUp((l2Bytes / clusterBytes) * entryBytes, clusterBytes);
  // What stands behind the journal is counted as far behind, whether its clusters are or not.
  const bytes = clusterBytes + dataBytes + l2Bytes + l1Bytes + shape.journalBytes;
  return bytes + refcountBytes(bytes / clusterBytes, shape);
}

/** Refcount blocks count themselves, and their table. */
function refcountBytes(clusters: number, { clusterBytes, refcountBits }: MeasuredShape): number {
  const perBlock = (clusterBytes * 8) / refcountBits;
  const perTableCluster = clusterBytes / entryBytes;
  let blocks = 0;
  let tables = 0;
  for (;;) {
    const needed = Math.ceil((clusters + blocks + tables) / perBlock);
    const neededTables = Math.ceil(needed / perTableCluster);
    if (needed === blocks && neededTables === tables) return (blocks + tables) * clusterBytes;
    blocks = needed;
    tables = neededTables;
  }
}

const directoryEntryBytes = 24;

/** Of bitmaps that are copied to an image of this cluster size, if all of each were dirty. */
export function bitmapBytes(
  bitmaps: readonly BitmapInfo[],
  diskBytes: number,
  { clusterBytes }: MeasuredShape,
): number {
  let bytes = 0;
  let directoryBytes = 0;
  for (const { inconsistent, granularityBytes, name } of bitmaps) {
    if (inconsistent) continue;
    const clusters = Math.ceil(Math.ceil(Math.ceil(diskBytes / granularityBytes) / 8) / clusterBytes);
    bytes += clusters * clusterBytes + roundUp(clusters * entryBytes, clusterBytes);
    directoryBytes += roundUp(directoryEntryBytes + Buffer.byteLength(name), 8);
  }
  return bytes + roundUp(directoryBytes, clusterBytes);
}
