/**
 * Leaving the rest of a new cluster to the log: which parts, from where, and whether the log has room for them.
 *
 * Crash argument. The record that maps the cluster names every part that was not written. So a crash keeps both or
 * neither: where the mapping is durable, replay brings the rest from where it stands (see `PendingFills`).
 */
import { type ClusterKind, clusterKind } from '@qcow2/codec';
import type { ImageCore } from './image-core.ts';
import type { Mapping } from './mapping.ts';
import type { LaterPart, MetadataUpdate } from './metadata-update.ts';
import { type FillSource, movedSource } from './pending-fills.ts';
import type { Piece } from './pending-writer.ts';
import type { ClusterRange } from './sector-map.ts';
import { kindRuns } from './sub-clusters.ts';

/** Parts of one cluster that the log is burdened with at most: 32 bytes each, and as many requests later. */
const mostParts = 8;

/** Whether so many parts may be left to the log now. */
export function mayLeave(core: ImageCore, parts: number): boolean {
  return parts <= mostParts && !core.log.isBacklogged && mayAdd(core, parts);
}

/** Whether so many parts more may be live: a reader of the log has its bounds. */
export function mayAdd({ log, fills }: ImageCore, parts: number): boolean {
  return log.mostLiveParts === undefined || fills.liveParts + parts <= log.mostLiveParts;
}

/**
 * Add to a change that maps `target` what is to be brought into the gaps later; false where they have to be written
 * before it. What the mapping shows there is not known to be zeros.
 */
export function leaveRest(
  core: ImageCore,
  update: MetadataUpdate,
  mapping: Mapping,
  target: { readonly guestCluster: number; readonly hostOffset: number; readonly fresh: boolean },
  gaps: readonly ClusterRange[],
): boolean {
  if (gaps.length === 0) return true;
  const parts: LaterPart[] = [];
  for (const gap of gaps) {
    for (const { start, end, kind } of kindRuns(mapping, core.clusterBytes, gap.start, gap.end)) {
      if (isZero(kind) && target.fresh) continue;
      const source = sourceOf(core, mapping, kind, target.guestCluster);
      if (source === undefined) return false;
      const hostOffset = target.hostOffset + start;
      parts.push({ hostOffset, lengthBytes: end - start, source: movedSource(source, start) });
    }
  }
  if (!mayLeave(core, parts.length)) return false;
  for (const part of parts) update.bringLater(part);
  return true;
}

/** Where the first byte of the cluster stands, if the log can say so. */
function sourceOf(
  core: ImageCore,
  mapping: Mapping,
  kind: ClusterKind,
  guestCluster: number,
): FillSource | undefined {
  const { log, fills, clusterBytes } = core;
  const isBelow = kind === clusterKind.unallocated || kind === clusterKind.preallocated;
  if (isBelow && log.takesFills === true) {
    return { kind: 'backing', guestOffset: guestCluster * clusterBytes };
  }
  // A target is no source [JRN-COPY-008]; in an encrypted image nothing is [JRN-COPY-011].
  const takes = log.takesCopies === true && core.data.copies;
  const copies = takes && kind === clusterKind.standard;
  if (!copies || fills.touches(mapping.hostOffset, clusterBytes)) return undefined;
  return { kind: 'copy', hostOffset: mapping.hostOffset };
}

function isZero(kind: ClusterKind): boolean {
  return kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated;
}

/** The ranges of pieces that are in order, those that meet made one. */
export function joinedRanges(pieces: readonly Piece[]): ClusterRange[] {
  return joined(pieces.map(rangeOf));
}

/** The ranges of pieces, and of the gaps between some of them, those that meet made one. */
export function filledRanges(pieces: readonly Piece[], gaps: readonly ClusterRange[]): ClusterRange[] {
  return joined([...pieces.map(rangeOf), ...gaps].sort((a, b) => a.start - b.start));
}

function rangeOf({ inCluster, bytes }: Piece): ClusterRange {
  return { start: inCluster, end: inCluster + bytes.length };
}

function joined(ranges: readonly ClusterRange[]): ClusterRange[] {
  const result: { start: number; end: number }[] = [];
  for (const { start, end } of ranges) {
    const last = result.at(-1);
    if (last?.end === start) last.end = end;
    else result.push({ start, end });
  }
  return result;
}

/** What ranges in order leave of a cluster. */
export function gapsBetween(ranges: readonly ClusterRange[], clusterBytes: number): ClusterRange[] {
  return rangesWithout({ start: 0, end: clusterBytes }, ranges);
}

/** What is left of a range without others, which are in order. */
export function rangesWithout(range: ClusterRange, others: readonly ClusterRange[]): ClusterRange[] {
  const left: ClusterRange[] = [];
  let at = range.start;
  for (const { start, end } of others) {
    if (end <= at) continue;
    if (start >= range.end) break;
    if (start > at) left.push({ start: at, end: start });
    at = end;
  }
  if (at < range.end) left.push({ start: at, end: range.end });
  return left;
}
