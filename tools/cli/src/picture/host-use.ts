/**
 * What the clusters of an image's file are used for, in a number of cells of one size: guest data, compressed data, clusters
 * that several refer to, metadata, the journal; and what nobody refers to, which is free or leaked.
 *
 * Memory is a byte for each cluster of a window and a few numbers for each cell, whatever the image; time is a walk over its tables
 * for each window.
 */
import type { BlockDevice } from '@qcow2/block-device';
import type { Qcow2Header } from '@qcow2/codec';
import { type HostReference, hostReferences, type ReferenceKind } from '@qcow2/driver';

export const uses = ['free', 'data', 'compressed', 'shared', 'metadata', 'journal'] as const;
export type Use = (typeof uses)[number];
/** A number for each use. */
export type ByUse = Readonly<Record<Use, number>>;

export interface HostUse {
  readonly clusterBytes: number;
  /** Clusters of the file, the last one perhaps incomplete. */
  readonly clusters: number;
  /** Clusters that one cell stands for; the last cell may stand for fewer. */
  readonly cellClusters: number;
  /** Clusters of each cell by use. */
  readonly cells: readonly ByUse[];
  /** Clusters of the file by use. */
  readonly total: ByUse;
}

/** 16 MiB of memory. */
const windowClusters = 2 ** 24;

const useOf: Readonly<Record<ReferenceKind, Use>> = {
  header: 'metadata',
  refcountTable: 'metadata',
  refcountBlock: 'metadata',
  snapshotTable: 'metadata',
  encryptionHeader: 'metadata',
  bitmapDirectory: 'metadata',
  bitmapTable: 'metadata',
  bitmap: 'metadata',
  l1Table: 'metadata',
  snapshotL1Table: 'metadata',
  detachedTable: 'metadata',
  l2Table: 'metadata',
  compressedData: 'compressed',
  guestCluster: 'data',
  journal: 'journal',
};

/**
 * @param cellCount so many cells at most, and no more than there are clusters
 * @throws FormatError, UNSUPPORTED_FEATURE where the image can not be opened
 */
export async function hostUse(device: BlockDevice, header: Qcow2Header, cellCount: number): Promise<HostUse> {
  const clusterBytes = 2 ** header.clusterBits;
  const clusters = Math.max(1, Math.ceil(device.sizeBytes / clusterBytes));
  const cellClusters = Math.ceil(clusters / cellCount);
  const cells = Array.from({ length: Math.ceil(clusters / cellClusters) }, nothing);
  const image = await hostReferences(device);
  const window = new Uint8Array(Math.min(windowClusters, clusters));
  for (let start = 0; start < clusters; start += window.length) {
    const end = Math.min(clusters, start + window.length);
    window.fill(0);
    await image.visit((reference) => mark(window, start, end, clusterBytes, reference));
    for (let cluster = start; cluster < end; cluster++) {
      cells[Math.floor(cluster / cellClusters)]![uses[window[cluster - start]!]!]++;
    }
  }
  const total = nothing();
  for (const cell of cells) for (const use of uses) total[use] += cell[use];
  return { clusterBytes, clusters, cellClusters, cells, total };
}

function nothing(): Record<Use, number> {
  return { free: 0, data: 0, compressed: 0, shared: 0, metadata: 0, journal: 0 };
}

const shared = uses.indexOf('shared');

/** Whoever comes second shares. Compressed data stands beside other such in one cluster; that is no sharing. */
function mark(
  window: Uint8Array,
  start: number,
  end: number,
  clusterBytes: number,
  { kind, hostOffset, lengthBytes }: HostReference,
): void {
  const use = uses.indexOf(useOf[kind]);
  const first = Math.max(start, Math.floor(hostOffset / clusterBytes));
  const last = Math.min(end - 1, Math.floor((hostOffset + lengthBytes - 1) / clusterBytes));
  for (let cluster = first; cluster <= last; cluster++) {
    const before = window[cluster - start]!;
    window[cluster - start] = before === 0 || (before === use && kind === 'compressedData') ? use : shared;
  }
}
