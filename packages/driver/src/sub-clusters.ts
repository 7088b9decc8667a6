/**
 * Sub-clusters: the 32 parts of a cluster that an image with extended L2 entries keeps apart [SUB-003]. Each has its
 * data in the host cluster, or reads as zeros, or shows the backing file; so a cluster need not be filled before it is mapped.
 *
 * All that is special about such images is decided here. The rest of the driver works on guest clusters, as with any
 * image: it asks what a range of a cluster is made of, whether it may be written where it stands, and, for a cluster
 * that is about to be mapped, which entry that takes and what has to be brought in before.
 *
 * Crash argument. A sub-cluster whose bit is not set is read by nobody, whatever its host cluster holds. So
 * bytes go there in place, and the bit is set by a change that waits for them (`afterData`): a crash leaves
 * the bit clear, or set over all the bytes. That is how a zero cluster's own host cluster is written too; an entry that
 * keeps its host cluster keeps the bytes of the other sub-clusters with it. What the log is still to bring
 * into that cluster is brought before, since a change of an entry ends it.
 *
 * Masks are unsigned 32 bits; bit n is the sub-cluster at n / 32 of the cluster.
 */
import {
  type ClusterKind,
  clusterKind,
  type L2Format,
  writeCompressedEntry,
  writeExtendedEntry,
} from '@qcow2/codec';
import { mappingSizes } from '@qcow2/spec';
import type { Mapping } from './mapping.ts';
import type { NewEntry } from './metadata-update.ts';
import type { ClusterRange } from './sector-map.ts';

const perCluster = mappingSizes.subclustersPerCluster;
const all = 0xffffffff;

/** What an extended entry says of the parts of its cluster: no bit is set in both. */
export interface Subclusters {
  readonly allocated: number;
  readonly zeros: number;
}

export const noSubclusters: Subclusters = { allocated: 0, zeros: 0 };

/** Those that a range of a cluster touches. */
function touched(clusterBytes: number, start: number, end: number): number {
  const bytes = clusterBytes / perCluster;
  return bits(Math.floor(start / bytes), Math.ceil(end / bytes));
}

/** Those that lie in a range of a cluster as a whole. */
function wholeIn(clusterBytes: number, { start, end }: ClusterRange): number {
  const bytes = clusterBytes / perCluster;
  return bits(Math.ceil(start / bytes), Math.floor(end / bytes));
}

/** What of a range is whole sub-clusters, whose kind an entry can change; undefined where nothing is. */
export function wholeSubclusters(
  { kind, subclusters }: Mapping,
  clusterBytes: number,
  start: number,
  end: number,
): (ClusterRange & { readonly mask: number }) | undefined {
  if (subclusters === undefined || kind === clusterKind.compressed) return undefined;
  const mask = wholeIn(clusterBytes, { start, end });
  if (mask === 0) return undefined;
  const bytes = clusterBytes / perCluster;
  return { mask, start: Math.ceil(start / bytes) * bytes, end: Math.floor(end / bytes) * bytes };
}

function bits(first: number, end: number): number {
  if (end <= first) return 0;
  return end - first === perCluster ? all : ((2 ** (end - first) - 1) << first) >>> 0;
}

/** Of one kind as far as reads go: of a cluster without sub-clusters, and of one of them. */
function kindOf({ kind, subclusters }: Mapping, index: number): ClusterKind {
  if (kind !== clusterKind.mixed || subclusters === undefined) return kind;
  const bit = 1 << index;
  if ((subclusters.allocated & bit) !== 0) return clusterKind.standard;
  return (subclusters.zeros & bit) !== 0 ? clusterKind.zeroPlain : clusterKind.unallocated;
}

/** A range of a cluster, cut where sub-clusters of different kinds meet. None of the pieces is `mixed`. */
export function* kindRuns(
  mapping: Mapping,
  clusterBytes: number,
  start: number,
  end: number,
): Generator<ClusterRange & { readonly kind: ClusterKind }, void, undefined> {
  const bytes = mapping.kind === clusterKind.mixed ? clusterBytes / perCluster : clusterBytes;
  for (let at = start; at < end; ) {
    const from = at;
    const kind = kindOf(mapping, Math.floor(at / bytes));
    do at = (Math.floor(at / bytes) + 1) * bytes;
    while (at < end && kindOf(mapping, at / bytes) === kind);
    yield { start: from, end: Math.min(at, end), kind };
  }
}

/** A write may go straight to the range: it holds data, and nobody else refers to the cluster. */
export function isInPlace(mapping: Mapping, clusterBytes: number, start: number, end: number): boolean {
  if (!mapping.exclusive) return false;
  if (mapping.kind === clusterKind.standard) return true;
  if (mapping.kind !== clusterKind.mixed || mapping.subclusters === undefined) return false;
  return (touched(clusterBytes, start, end) & ~mapping.subclusters.allocated) === 0;
}

/** A new mapping may stay in the host cluster: it is the image's own, and some of it is read by nobody yet. */
export function isReusable({ kind, exclusive, hostOffset }: Mapping): boolean {
  if (!exclusive || hostOffset === 0) return false;
  return (
    kind === clusterKind.zeroAllocated || kind === clusterKind.preallocated || kind === clusterKind.mixed
  );
}

/** Where a cluster is about to be mapped. `reused`: the host cluster is the one that it has. */
export interface Place {
  readonly hostOffset: number;
  readonly reused: boolean;
}

/**
 * The entry that a cluster gets when all but `gaps` is written at its place, and what of the gaps has to be brought in for it:
 * the rest of each sub-cluster that was written in part, and in a new host cluster those that the old one holds.
 */
export function mapped(
  mapping: Mapping,
  clusterBytes: number,
  { hostOffset, reused }: Place,
  gaps: readonly ClusterRange[],
): { readonly entry: NewEntry; readonly rest: readonly ClusterRange[] } {
  const { subclusters } = mapping;
  if (subclusters === undefined) return { entry: { kind: 'standard', hostOffset }, rest: gaps };
  let untouched = 0;
  for (const gap of gaps) untouched |= wholeIn(clusterBytes, gap);
  // Compressed data has no parts that could stay where they are.
  const kept = mapping.kind === clusterKind.compressed ? all : subclusters.allocated;
  const allocated = (~untouched | kept) >>> 0;
  const missing = reused ? (allocated & ~kept) >>> 0 : allocated;
  const rest = gaps.flatMap((gap) => rangesOf(missing, clusterBytes, gap));
  if (allocated === all) return { entry: { kind: 'standard', hostOffset }, rest };
  const zeros = (subclusters.zeros & ~allocated) >>> 0;
  return { entry: { kind: 'subclusters', hostOffset, copied: true, allocated, zeros }, rest };
}

/** The parts of a range that lie in some of the sub-clusters. */
export function rangesOf(mask: number, clusterBytes: number, { start, end }: ClusterRange): ClusterRange[] {
  const bytes = clusterBytes / perCluster;
  const ranges: { start: number; end: number }[] = [];
  for (let at = start; at < end; ) {
    const index = Math.floor(at / bytes);
    const to = Math.min((index + 1) * bytes, end);
    if ((mask & (1 << index)) !== 0) {
      const last = ranges.at(-1);
      if (last?.end === at) last.end = to;
      else ranges.push({ start: at, end: to });
    }
    at = to;
  }
  return ranges;
}

/** The entry of a cluster some of whose sub-clusters read as zeros from now on; it keeps its host cluster. */
export function withZeros({ hostOffset, exclusive, subclusters }: Mapping, mask: number): NewEntry {
  const { allocated, zeros } = subclusters ?? noSubclusters;
  return {
    kind: 'subclusters',
    hostOffset,
    copied: exclusive,
    allocated: (allocated & ~mask) >>> 0,
    zeros: (zeros | mask) >>> 0,
  };
}

/** All 16 bytes of an entry. */
export function writeNewExtendedEntry(
  view: DataView,
  at: number,
  { clusterBits }: L2Format,
  entry: NewEntry,
): void {
  switch (entry.kind) {
    case 'standard':
      writeExtendedEntry(view, at, entry.hostOffset, true, all, 0);
      break;
    case 'subclusters':
      writeExtendedEntry(view, at, entry.hostOffset, entry.copied, entry.allocated, entry.zeros);
      break;
    case 'zero-allocated':
      writeExtendedEntry(view, at, entry.hostOffset, true, 0, all);
      break;
    case 'zero-plain':
      writeExtendedEntry(view, at, 0, false, 0, all);
      break;
    case 'unallocated':
      writeExtendedEntry(view, at, 0, false, 0, 0);
      break;
    case 'compressed':
      writeExtendedEntry(view, at, 0, false, 0, 0);
      writeCompressedEntry(view, at, clusterBits, entry.hostOffset, entry.lengthBytes);
      break;
  }
}
