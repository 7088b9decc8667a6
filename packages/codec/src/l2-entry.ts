/**
 * L2 entries, plain and extended, read and written in place.
 *
 * An entry is 8 bytes, or 16 with extended L2 entries: there the second half holds one "allocated" and one
 * "reads as zeros" bit for each of 32 sub-clusters, and bit 0 of the first half has no meaning.
 *
 * `checkL2Entry` first, once, where an entry comes from disk; `classifyL2Entry` then says what kind it is
 * and never throws.
 */
import { incompatibleFeatures, l2EntryBits, standardClusterBits, subclusterBitmapBits } from '@qcow2/spec';
import { bitMask, reservedMask, wordMask } from './bit-masks.ts';
import { compressedFault } from './compressed-descriptor.ts';
import { entryError } from './table-entry.ts';

/** What an image says about its L2 entries; one object for each image, made when it is opened. */
export interface L2Format {
  readonly clusterBits: number;
  /** Header version: in version 2, bit 0 of a descriptor is reserved. */
  readonly version: number;
  /** Extended L2 entries: 16 bytes each, with sub-clusters. */
  readonly extended: boolean;
  /** Guest clusters are in an external data file: host offset 0 is a place there. */
  readonly externalData: boolean;
}

/** What a header says about the L2 entries of its image. [FEA-003] [FEA-005] */
export function l2FormatOf(header: {
  readonly version: number;
  readonly clusterBits: number;
  readonly incompatibleFeatures: bigint;
}): L2Format {
  const has = (feature: bigint): boolean => (header.incompatibleFeatures & feature) !== 0n;
  return {
    clusterBits: header.clusterBits,
    version: header.version,
    extended: has(incompatibleFeatures.extendedL2),
    externalData: has(incompatibleFeatures.externalDataFile),
  };
}

/** Kinds of clusters, and of sub-clusters (the first six). Small integers: they are switched on for every request. */
export const clusterKind = {
  /** Reads go to the backing file. */
  unallocated: 0,
  /** Reads as zeros, has no host cluster. */
  zeroPlain: 1,
  /** Reads as zeros, has a host cluster that a write may use. */
  zeroAllocated: 2,
  /** Data stands in the host cluster. */
  standard: 3,
  /** Compressed data. */
  compressed: 4,
  /** Has a host cluster, but reads still go to the backing file (only with sub-clusters). */
  preallocated: 5,
  /** Sub-clusters of several kinds: see each with `classifySubcluster`. */
  mixed: 6,
} as const;
export type ClusterKind = (typeof clusterKind)[keyof typeof clusterKind];

const { high: offsetHigh, low: offsetLow } = wordMask(bitMask(standardClusterBits, 'hostClusterOffset'));
const { high: reservedHigh, low: reservedLow } = wordMask(reservedMask(standardClusterBits));
const zeroLow = wordMask(bitMask(standardClusterBits, 'readsAsZeros')).low;
const compressedHigh = wordMask(bitMask(l2EntryBits, 'compressed')).high;
const copiedHigh = wordMask(bitMask(l2EntryBits, 'copied')).high;
const allSubclusters = wordMask(bitMask(subclusterBitmapBits, 'allocated')).low;
const twoTo32 = 0x100000000;
const maxSafeHigh = 0x1fffff;

/** Bytes of one entry: 8, or 16 if extended. [SUB-001] */
export function l2EntryBytes(format: L2Format): number {
  return format.extended ? 16 : 8;
}

/** Entries of one L2 table, which is one cluster. [L2E-009] [SUB-001] */
export function l2EntriesPerTable(format: L2Format): number {
  return 2 ** (format.clusterBits - (format.extended ? 4 : 3));
}

/** Kind of the cluster that the entry at byte `at` describes. Trusts the entry. */
export function classifyL2Entry(view: DataView, at: number, format: L2Format): ClusterKind {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((high & compressedHigh) !== 0) return clusterKind.compressed;
  const hasHostCluster = (high & (offsetHigh | copiedHigh)) !== 0 || (low & offsetLow) !== 0;
  if (format.extended) {
    return classifyBitmaps(hasHostCluster, view.getUint32(at + 12), view.getUint32(at + 8));
  }
  if ((low & zeroLow) !== 0 && format.version > 2) {
    return hasHostCluster ? clusterKind.zeroAllocated : clusterKind.zeroPlain;
  }
  return hasHostCluster ? clusterKind.standard : clusterKind.unallocated;
}

/** Kind of one sub-cluster, 0 to 31, of an extended entry. Never `mixed`. Trusts the entry. */
export function classifySubcluster(view: DataView, at: number, index: number): ClusterKind {
  const high = view.getUint32(at);
  if ((high & compressedHigh) !== 0) return clusterKind.compressed;
  const hasHostCluster =
    (high & (offsetHigh | copiedHigh)) !== 0 || (view.getUint32(at + 4) & offsetLow) !== 0;
  if (((view.getUint32(at + 8) >>> index) & 1) !== 0) {
    return hasHostCluster ? clusterKind.zeroAllocated : clusterKind.zeroPlain;
  }
  if (((view.getUint32(at + 12) >>> index) & 1) !== 0) return clusterKind.standard;
  return hasHostCluster ? clusterKind.preallocated : clusterKind.unallocated;
}

function classifyBitmaps(hasHostCluster: boolean, allocated: number, zeros: number): ClusterKind {
  if (allocated === allSubclusters) return clusterKind.standard;
  if (zeros === allSubclusters) return hasHostCluster ? clusterKind.zeroAllocated : clusterKind.zeroPlain;
  if ((allocated | zeros) !== 0) return clusterKind.mixed;
  return hasHostCluster ? clusterKind.preallocated : clusterKind.unallocated;
}

/** Bit n set: sub-cluster n has its data in the host cluster. Unsigned 32 bits. [SUB-004] */
export function readAllocatedSubclusters(view: DataView, at: number): number {
  return view.getUint32(at + 12);
}

/** Bit n set: sub-cluster n reads as zeros. Unsigned 32 bits. [SUB-005] */
export function readZeroSubclusters(view: DataView, at: number): number {
  return view.getUint32(at + 8);
}

/** The first 8 bytes of an entry for a standard cluster: data at `hostOffset`. [L2E-008] */
export function writeStandardEntry(view: DataView, at: number, hostOffset: number, copied: boolean): void {
  view.setUint32(at, (hostOffset / twoTo32) | (copied ? copiedHigh : 0));
  view.setUint32(at + 4, hostOffset >>> 0);
}

/** An entry that reads as zeros; `hostOffset` 0 and `copied` false if it has no host cluster. Not for extended entries. [L2E-006] */
export function writeZeroEntry(view: DataView, at: number, hostOffset: number, copied: boolean): void {
  view.setUint32(at, (hostOffset / twoTo32) | (copied ? copiedHigh : 0));
  view.setUint32(at + 4, (hostOffset | zeroLow) >>> 0);
}

/** The first 8 bytes of an unallocated entry (an extended one needs its bitmaps cleared as well). */
export function writeUnallocated(view: DataView, at: number): void {
  view.setUint32(at, 0);
  view.setUint32(at + 4, 0);
}

/** All 16 bytes of an extended entry of a standard cluster; masks as `readAllocatedSubclusters` gives them. */
export function writeExtendedEntry(
  view: DataView,
  at: number,
  hostOffset: number,
  copied: boolean,
  allocated: number,
  zeros: number,
): void {
  writeStandardEntry(view, at, hostOffset, copied);
  view.setUint32(at + 8, zeros);
  view.setUint32(at + 12, allocated);
}

/**
 * Clear the reserved bits of a standard entry's first 8 bytes, and nothing else; a compressed entry has none of these. For
 * a repair, which looks at the rest. [L2E-007] [L2E-010] [SUB-002]
 */
export function clearReservedL2(view: DataView, at: number, format: L2Format): void {
  const high = view.getUint32(at);
  if ((high & compressedHigh) !== 0) return;
  const zeroIsReserved = format.version === 2 || format.extended;
  const low = view.getUint32(at + 4) & ~(zeroIsReserved ? reservedLow | zeroLow : reservedLow);
  view.setUint32(at, high & ~reservedHigh);
  view.setUint32(at + 4, low);
}

/**
 * Refuse an L2 entry that breaks its clauses.
 *
 * @param tableOffset host offset of the view's first byte, for the error
 * @throws FormatError RESERVED_SET, BAD_ALIGNMENT, BAD_FIELD, OFFSET_TOO_LARGE; clauses L2E-*, CMP-*, SUB-*, FEA-003
 */
export function checkL2Entry(view: DataView, at: number, format: L2Format, tableOffset: number): void {
  const fault = descriptorFault(view, at, format);
  if (fault !== undefined) throw entryError(fault.code, fault.message, view, at, tableOffset, fault.clause);
  const second = format.extended ? subclusterFault(view, at) : undefined;
  if (second === undefined) return;
  throw entryError(second.code, second.message, view, at + 8, tableOffset, second.clause);
}

/** Whether `checkL2Entry` would let an entry pass: for who goes through many that it would not. */
export function isSoundL2Entry(view: DataView, at: number, format: L2Format): boolean {
  if (descriptorFault(view, at, format) !== undefined) return false;
  return !format.extended || subclusterFault(view, at) === undefined;
}

function descriptorFault(view: DataView, at: number, format: L2Format): EntryFault | undefined {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  return (high & compressedHigh) === 0
    ? standardFault(high, low, format)
    : compressedFault(high, low, format);
}

/** What is wrong with an entry; made only where something is. */
export interface EntryFault {
  readonly code: 'RESERVED_SET' | 'OFFSET_TOO_LARGE' | 'BAD_ALIGNMENT' | 'BAD_FIELD';
  readonly message: string;
  readonly clause: string;
}

function standardFault(high: number, low: number, format: L2Format): EntryFault | undefined {
  if ((high & reservedHigh) !== 0 || (low & reservedLow) !== 0) {
    return { code: 'RESERVED_SET', message: 'reserved bits of an L2 entry are set', clause: 'L2E-007' };
  }
  if ((low & zeroLow) !== 0 && (format.version === 2 || format.extended)) {
    const clause = format.extended ? 'SUB-002' : 'L2E-010';
    return { code: 'RESERVED_SET', message: 'bit 0 is set where it has no meaning', clause };
  }
  if ((high & offsetHigh) >>> 0 > maxSafeHigh) {
    return { code: 'OFFSET_TOO_LARGE', message: 'a cluster beyond 2^53 - 1', clause: 'LIM-015' };
  }
  if ((low & offsetLow & ((1 << format.clusterBits) - 1)) !== 0) {
    return { code: 'BAD_ALIGNMENT', message: 'a cluster off a cluster boundary', clause: 'L2E-008' };
  }
  const hasOffset = (high & offsetHigh) !== 0 || (low & offsetLow) !== 0;
  if (!hasOffset && (high & copiedHigh) !== 0 && !format.externalData) {
    return { code: 'BAD_FIELD', message: 'bit 63 is set and no cluster is there', clause: 'L2E-011' };
  }
  return undefined;
}

/** Of the bitmaps of an extended entry. */
function subclusterFault(view: DataView, at: number): EntryFault | undefined {
  const zeros = view.getUint32(at + 8);
  const allocated = view.getUint32(at + 12);
  if ((view.getUint32(at) & compressedHigh) !== 0) {
    if ((zeros | allocated) === 0) return undefined;
    return { code: 'RESERVED_SET', message: 'a compressed cluster with sub-clusters', clause: 'SUB-006' };
  }
  if ((zeros & allocated) !== 0) {
    const message = 'a sub-cluster that is allocated and reads as zeros';
    return { code: 'BAD_FIELD', message, clause: 'SUB-005' };
  }
  const hasHostCluster =
    (view.getUint32(at) & (offsetHigh | copiedHigh)) !== 0 || (view.getUint32(at + 4) & offsetLow) !== 0;
  if (allocated === 0 || hasHostCluster) return undefined;
  return { code: 'BAD_FIELD', message: 'an allocated sub-cluster without a host cluster', clause: 'SUB-004' };
}
