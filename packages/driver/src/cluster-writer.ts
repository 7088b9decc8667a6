/**
 * Writing guest bytes in place: into clusters that are the image's own, and into new ones.
 *
 * A new cluster is written whole before anything refers to it. Whole clusters of a request are mapped at once;
 * parts of clusters wait as pending clusters until they are whole or a flush asks for them (`PendingWriter`). One
 * change maps a cluster. With a journal it enters a record only after a flush that covers the bytes; without one
 * the ordered writes flush them before the mapping. So a crash leaves the old mapping, or the new one with all its
 * bytes.
 *
 * Settling is how the overlay empties: its sectors go in place, with the rest of the cluster only where the
 * cluster is new and the sectors do not fill it. That is delayed copy on write: a cluster that is filled
 * before it settles is never copied.
 *
 * Everything here holds the write lock.
 */
import { isPromise, type Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { Allocator } from './allocator.ts';
import type { ClusterReader } from './cluster-reader.ts';
import { type GuestOverlay, type OverlayCluster, sectorBytes } from './guest-overlay.ts';
import type { FreeCause } from './host-discard.ts';
import type { ImageCore } from './image-core.ts';
import { L2Allocator } from './l2-allocation.ts';
import {
  filledRanges,
  gapsBetween,
  joinedRanges,
  leaveRest,
  mayAdd,
  mayLeave,
  rangesWithout,
} from './later-parts.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import { MetadataUpdate, type NewEntry } from './metadata-update.ts';
import type { PendingClusters } from './pending-clusters.ts';
import { movedSource } from './pending-fills.ts';
import { PendingWriter, type Piece } from './pending-writer.ts';
import type { ClusterRange } from './sector-map.ts';
import { isInPlace, kindRuns, mapped, withZeros } from './sub-clusters.ts';

/** Clusters that one change maps at most: its descriptors must fit a record of a small ring. */
export const longestRun = 64;

/** Bring bytes to a place that nobody reads yet. @returns how many, from the front on */
export type FillRun = (hostOffset: number, guestOffset: number, lengthBytes: number) => Task<number>;

export class ClusterWriter {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #allocator: Allocator;
  readonly #reader: ClusterReader;
  readonly #overlay: GuestOverlay;
  readonly l2: L2Allocator;
  readonly pending: PendingWriter;

  constructor(
    core: ImageCore,
    mappings: MappingTable,
    allocator: Allocator,
    reader: ClusterReader,
    overlay: GuestOverlay,
    pending: PendingClusters,
  ) {
    this.#core = core;
    this.#mappings = mappings;
    this.#allocator = allocator;
    this.#reader = reader;
    this.#overlay = overlay;
    this.l2 = new L2Allocator(core, mappings, allocator);
    this.pending = new PendingWriter(core, mappings, allocator, reader, this.l2, pending);
  }

  update(cause: FreeCause = 'other'): MetadataUpdate {
    return new MetadataUpdate(this.#core, this.#mappings, this.#allocator, cause);
  }

  /**
   * Whole clusters from a guest cluster on, as many as `bytes` has, that are not in the overlay: in place
   * where they are the image's own, else into new clusters, in runs as long as the allocator gives.
   */
  *writeWhole(guestCluster: number, bytes: Uint8Array): Task<void> {
    const { clusterBytes } = this.#core;
    const count = bytes.length / clusterBytes;
    for (let done = 0; done < count; ) {
      const mapping = yield* this.#mappings.lookup(guestCluster + done);
      const piece = bytes.subarray(done * clusterBytes, (done + 1) * clusterBytes);
      if (isInPlace(mapping, clusterBytes, 0, clusterBytes)) {
        yield* this.#writeOwn(guestCluster + done, mapping, { inCluster: 0, bytes: piece });
        done++;
        continue;
      }
      if (this.pending.get(guestCluster + done) !== undefined) {
        yield* this.pending.write(guestCluster + done, mapping, { inCluster: 0, bytes: piece });
        done++;
        continue;
      }
      let wanted = 1;
      while (done + wanted < count && wanted < longestRun) {
        if (this.pending.get(guestCluster + done + wanted) !== undefined) break;
        const next = yield* this.#mappings.lookup(guestCluster + done + wanted);
        if (isInPlace(next, clusterBytes, 0, clusterBytes)) break;
        wanted++;
      }
      const left = bytes.subarray(done * clusterBytes);
      done += yield* this.newRun(guestCluster + done, wanted, (hostOffset, guestOffset, lengthBytes) =>
        this.#writeAll(hostOffset, guestOffset, left.subarray(0, lengthBytes)),
      );
    }
  }

  *#writeAll(hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<number> {
    yield* this.#core.data.write(hostOffset, guestOffset, bytes);
    return bytes.length;
  }

  /** Part of a cluster, not in the overlay. */
  *writePart(guestCluster: number, piece: Piece): Task<void> {
    const mapping = yield* this.#mappings.lookup(guestCluster);
    if (isInPlace(mapping, this.#core.clusterBytes, piece.inCluster, piece.inCluster + piece.bytes.length)) {
      yield* this.#writeOwn(guestCluster, mapping, piece);
      return;
    }
    if (this.pending.get(guestCluster) === undefined) yield* this.#reader.probe(mapping);
    yield* this.#finishKept(mapping);
    yield* this.pending.write(guestCluster, mapping, piece);
  }

  /**
   * Into a cluster of the image's own. What the log was to bring there is ended, by whole sectors. Where that would cut a part
   * in two and there are too many, all of the cluster is.
   */
  *#writeOwn(guestCluster: number, mapping: Mapping, { inCluster, bytes }: Piece): Task<void> {
    const { fills, clusterBytes } = this.#core;
    const base = guestCluster * clusterBytes;
    const at = mapping.hostOffset + inCluster;
    if (!fills.touches(at, bytes.length)) {
      yield* this.#core.data.write(at, base + inCluster, bytes);
      return;
    }
    const start = inCluster - (inCluster % sectorBytes);
    const end = Math.ceil((inCluster + bytes.length) / sectorBytes) * sectorBytes;
    let sectors = bytes;
    if (end - start > bytes.length) {
      sectors = new Uint8Array(end - start);
      const done = this.#reader.readMapped(mapping, base + start, start, sectors);
      if (isPromise(done)) yield done;
      sectors.set(bytes, inCluster - start);
    }
    yield* this.#core.data.write(mapping.hostOffset + start, base + start, sectors);
    const update = this.update();
    if (mayAdd(this.#core, 2)) update.endFills(mapping.hostOffset + start, end - start);
    else {
      yield* this.#bringIn(mapping.hostOffset / clusterBytes, [{ start, end }]);
      update.endFills(mapping.hostOffset, clusterBytes);
    }
    yield* update.submit({ required: true, afterData: true });
  }

  /**
   * Bring what the log was to bring into a host cluster, up to a time, unless somebody has done so.
   * The log is told, and forgets it when that is durable.
   */
  *finishFill(hostCluster: number, until: number): Task<void> {
    const { fills, clusterBytes } = this.#core;
    if (fills.unfilledIn(hostCluster, until).length === 0) return;
    yield* this.#bringIn(hostCluster, []);
    const update = this.update();
    update.endFills(hostCluster * clusterBytes, clusterBytes);
    yield* update.submit({ required: false, afterData: true });
  }

  /**
   * As `finishFill`, where the log ends copies by itself: what was added up to a time is brought in, and nothing is submitted.
   * Returns how many bytes were.
   */
  *makeCopies(hostCluster: number, until: number): Task<number> {
    const { fills, clusterBytes } = this.#core;
    const base = hostCluster * clusterBytes;
    const parts = fills.unfilledIn(hostCluster, until);
    yield* this.#bringIn(hostCluster, [], until);
    let bytes = 0;
    for (const { start, end } of parts) {
      fills.written(base + start, end - start);
      bytes += end - start;
    }
    return bytes;
  }

  /** Before an entry changes that keeps its host cluster: what the log is to bring there is there. */
  *#finishKept({ hostOffset }: Mapping): Task<void> {
    const { fills, clusterBytes } = this.#core;
    if (hostOffset !== 0 && fills.touches(hostOffset, clusterBytes)) {
      yield* this.finishFill(hostOffset / clusterBytes, fills.now);
    }
  }

  /** Sub-clusters, as a mask, that read as zeros from now on. Nothing of their cluster waits anywhere. */
  *zeroSubclusters(guestCluster: number, mask: number): Task<void> {
    yield* this.l2.prepare(guestCluster);
    const mapping = yield* this.#mappings.lookup(guestCluster);
    yield* this.#finishKept(mapping);
    const update = this.update();
    update.setEntry(guestCluster, withZeros(mapping, mask));
    yield* update.submit({ required: true, afterData: false });
  }

  /** Write what stands elsewhere still of a host cluster, up to a time, except where there is something newer. */
  *#bringIn(hostCluster: number, except: readonly ClusterRange[], until?: number): Task<void> {
    const base = hostCluster * this.#core.clusterBytes;
    for (const part of this.#core.fills.unfilledIn(hostCluster, until)) {
      for (const { start, end } of rangesWithout(part, except)) {
        const bytes = new Uint8Array(end - start);
        const source = movedSource(part.source, start - part.start);
        const done = this.#reader.readSource(source, bytes);
        if (isPromise(done)) yield done;
        // The log fills a place with what the backing file has for it.
        const guestOffset = source.kind === 'backing' ? source.guestOffset : undefined;
        yield* this.#core.data.writeBrought(base + start, guestOffset, bytes);
      }
    }
  }

  /**
   * Bring a cluster of the overlay in place. What is in place then stays in the overlay until it is durable. The rest of a
   * new cluster comes with it, or is left to the log where that takes it.
   */
  *settle(cluster: OverlayCluster, rest: 'bring-rest' | 'leave-rest' = 'bring-rest'): Task<void> {
    if (cluster.settledVersion === cluster.version) return;
    const { guestCluster } = cluster;
    const required = cluster.dirtySectors > 0;
    const mapping = yield* this.#mappings.lookup(guestCluster);
    const pieces = this.#overlay.runs(cluster);
    const { version } = cluster;
    const onDurable = (): void => this.#overlay.release(cluster, version);
    if (this.#allInPlace(mapping, pieces)) {
      const update = this.update();
      const hasFills = this.#core.fills.touches(mapping.hostOffset, this.#core.clusterBytes);
      if (hasFills) yield* this.#endFills(mapping, pieces, rest, update);
      yield* this.#writePieces(mapping.hostOffset, guestCluster, pieces);
      update.settled(guestCluster * this.#core.clusterBytes, this.#core.clusterBytes);
      yield* update.submit({ required, afterData: true, onDurable });
    } else {
      yield* this.#settleNew(guestCluster, mapping, pieces, rest, { required, onDurable });
    }
    cluster.settledVersion = version;
    this.#overlay.markClean(cluster);
  }

  #allInPlace(mapping: Mapping, pieces: readonly Piece[]): boolean {
    const { clusterBytes } = this.#core;
    return pieces.every(({ inCluster, bytes }) =>
      isInPlace(mapping, clusterBytes, inCluster, inCluster + bytes.length),
    );
  }

  /**
   * Pieces go into a cluster of which the log brings parts. These end with the change that settles the pieces: they
   * are brought in first, or what the pieces leave of them is logged anew.
   */
  *#endFills(
    mapping: Mapping,
    pieces: readonly Piece[],
    rest: 'bring-rest' | 'leave-rest',
    update: MetadataUpdate,
  ): Task<void> {
    const { fills, clusterBytes } = this.#core;
    const { hostOffset } = mapping;
    const hostCluster = hostOffset / clusterBytes;
    const written = joinedRanges(pieces);
    update.endFills(hostOffset, clusterBytes);
    const left = fills.unfilledIn(hostCluster).flatMap((part) =>
      rangesWithout(part, written).map((range) => ({
        hostOffset: hostOffset + range.start,
        lengthBytes: range.end - range.start,
        source: movedSource(part.source, range.start - part.start),
      })),
    );
    if (rest === 'leave-rest' && mayLeave(this.#core, left.length)) {
      for (const part of left) update.bringLater(part);
    } else {
      yield* this.#bringIn(hostCluster, written);
    }
  }

  /**
   * Whole clusters get new places, in a row, are filled there, and mapped. What was not filled to its end stays as it is mapped.
   * @returns clusters that were mapped, from the first on; none where nothing was filled
   */
  *newRun(guestCluster: number, wanted: number, fill: FillRun): Task<number> {
    const { clusterBytes, l2Entries } = this.#core;
    // The update of a run stays within one L2 table.
    const inTable = l2Entries - (guestCluster % l2Entries);
    yield* this.l2.prepare(guestCluster);
    const own = this.#core.data.ownRun(guestCluster, Math.min(wanted, inTable));
    const run = own ?? (yield* this.#allocator.allocate(Math.min(wanted, inTable)));
    const update = this.update();
    let overZeros = run.fresh;
    let count = 0;
    try {
      const filled = yield* fill(
        run.first * clusterBytes,
        guestCluster * clusterBytes,
        run.count * clusterBytes,
      );
      count = Math.floor(filled / clusterBytes);
      if (own === undefined) this.#allocator.unreserve(run.first + count, run.count - count);
      if (count === 0) return 0;
      for (let i = 0; i < count; i++) {
        const before = yield* this.#mappings.lookup(guestCluster + i);
        overZeros &&= this.#reader.readsAsZeros(guestCluster + i, before);
        if (own === undefined) {
          update.dropMapping(before);
          update.addReference(run.first + i);
        }
        update.setEntry(guestCluster + i, { kind: 'standard', hostOffset: (run.first + i) * clusterBytes });
      }
      yield* update.submit({ required: true, afterData: true, overZeros });
    } catch (error) {
      if (own === undefined) this.#allocator.unreserve(run.first, run.count);
      throw error;
    }
    return count;
  }

  /**
   * Give unallocated clusters of a new image host clusters, which read as before without having been written; in a raw
   * data file, the bytes that stand there. Returns how many; the caller goes on behind them.
   */
  *preallocate(guestCluster: number, wanted: number, says: PreallocatedKind = 'nothing'): Task<number> {
    const { clusterBytes, l2Entries } = this.#core;
    yield* this.l2.prepare(guestCluster);
    const inTable = l2Entries - (guestCluster % l2Entries);
    const most = Math.min(wanted, inTable, longestRun);
    const { data } = this.#core;
    const own = data.ownRun(guestCluster, most);
    const run = own ?? (yield* this.#allocator.allocate(most));
    const update = this.update();
    // Who says that there are data has seen to it that a data file holds zeros there.
    const isZero = run.fresh || data.isRaw || (says === 'data' && data.isExternal);
    for (let i = 0; i < run.count; i++) {
      const hostOffset = (run.first + i) * clusterBytes;
      if (own === undefined) update.addReference(run.first + i);
      update.setEntry(guestCluster + i, preallocated(this.#core, hostOffset, isZero, says));
    }
    yield* update.submit({ required: true, afterData: true });
    return run.count;
  }

  /**
   * Map clusters of a raw data file that are not mapped, to zeros, before anything is written there [DAT-005]. Returns
   * whether there were any; what comes next waits until that is durable. No more clusters than one change takes.
   */
  *mapOverZeros(guestCluster: number, count: number): Task<boolean> {
    const { clusterBytes, data } = this.#core;
    const update = this.update();
    for (let i = 0; i < count; i++) {
      const cluster = guestCluster + i;
      const mapping = yield* this.#mappings.lookup(cluster);
      if (isInPlace(mapping, clusterBytes, 0, clusterBytes)) continue;
      yield* this.l2.prepare(cluster);
      for (const { start, end, kind } of kindRuns(mapping, clusterBytes, 0, clusterBytes)) {
        if (kind === clusterKind.standard) continue;
        yield* data.writeZeroes(cluster * clusterBytes + start, end - start, false);
      }
      update.setEntry(cluster, { kind: 'standard', hostOffset: cluster * clusterBytes });
    }
    if (update.isEmpty) return false;
    yield* update.submit({ required: true, afterData: true });
    return true;
  }

  *#settleNew(
    guestCluster: number,
    mapping: Mapping,
    pieces: readonly Piece[],
    rest: 'bring-rest' | 'leave-rest',
    how: { required: boolean; onDurable: () => void },
  ): Task<void> {
    const { clusterBytes } = this.#core;
    yield* this.l2.prepare(guestCluster);
    // Nobody reads there yet.
    const own = this.#core.data.ownPlace(guestCluster, mapping);
    if (own !== undefined) yield* this.#finishKept(mapping);
    const run = own ?? (yield* this.#allocator.allocate());
    const offset = run.first * clusterBytes;
    try {
      const update = this.update();
      const gaps = gapsBetween(joinedRanges(pieces), clusterBytes);
      const target = { guestCluster, hostOffset: offset, reused: own !== undefined, fresh: run.fresh };
      const { entry, rest: needed } = mapped(mapping, clusterBytes, target, gaps);
      const open = needed.length > 0 && !this.#reader.readsAsZeros(guestCluster, mapping);
      if (rest === 'leave-rest' && open && leaveRest(this.#core, update, mapping, target, needed)) {
        yield* this.#writePieces(offset, guestCluster, pieces);
      } else {
        yield* this.#fill(mapping, target, pieces, needed);
      }
      if (own === undefined) {
        update.addReference(run.first);
        update.dropMapping(mapping);
      }
      update.setEntry(guestCluster, entry);
      update.settled(guestCluster * clusterBytes, clusterBytes);
      const overZeros = run.fresh && this.#reader.readsAsZeros(guestCluster, mapping);
      yield* update.submit({ ...how, afterData: true, overZeros });
    } catch (error) {
      if (own === undefined) this.#allocator.unreserve(run.first, 1);
      throw error;
    }
  }

  /**
   * Write what nobody reads there yet: the pieces, and what the guest sees now in the gaps that are needed. What
   * stands in a row is written at once.
   */
  *#fill(
    mapping: Mapping,
    { guestCluster, hostOffset, fresh }: { guestCluster: number; hostOffset: number; fresh: boolean },
    pieces: readonly Piece[],
    gaps: readonly ClusterRange[],
  ): Task<void> {
    const base = guestCluster * this.#core.clusterBytes;
    const zeros = this.#reader.readsAsZeros(guestCluster, mapping);
    if (zeros && fresh) {
      yield* this.#writePieces(hostOffset, guestCluster, pieces);
      return;
    }
    for (const { start, end } of filledRanges(pieces, gaps)) {
      const inRange = pieces.filter(({ inCluster }) => inCluster >= start && inCluster < end);
      let content = inRange[0]?.bytes;
      // One piece is written as it stands.
      if (content?.length !== end - start) {
        content = new Uint8Array(end - start);
        for (const gap of zeros ? [] : gaps) {
          if (gap.start < start || gap.start >= end) continue;
          const into = content.subarray(gap.start - start, gap.end - start);
          const done = this.#reader.readMapped(mapping, base + gap.start, gap.start, into);
          if (isPromise(done)) yield done;
        }
        for (const { inCluster, bytes } of inRange) content.set(bytes, inCluster - start);
      }
      yield* this.#core.data.write(hostOffset + start, base + start, content);
    }
  }

  *#writePieces(hostOffset: number, guestCluster: number, pieces: readonly Piece[]): Task<void> {
    const base = guestCluster * this.#core.clusterBytes;
    for (const { inCluster, bytes } of pieces) {
      yield* this.#core.data.write(hostOffset + inCluster, base + inCluster, bytes);
    }
  }
}

/**
 * What an entry says of a cluster that has a place and was not written: `zeros`; `data`, which are zeros where the place is fresh; or
 * `nothing` of its own. Sub-clusters say that there are data where something is below.
 */
export type PreallocatedKind = 'nothing' | 'zeros' | 'data';

const allSubclusters = 0xffff_ffff;

/** A cluster that reads as it did before it had a host cluster: as zeros, or, where sub-clusters can say so, as what is below. */
function preallocated(core: ImageCore, hostOffset: number, fresh: boolean, says: PreallocatedKind): NewEntry {
  if (core.l2Format.extended && !core.data.isRaw) {
    // Without a word of its own a sub-cluster shows what is below.
    const isSaid = says === 'zeros' || (says === 'data' && core.backing !== undefined);
    const allocated = isSaid && says === 'data' && fresh ? allSubclusters : 0;
    const zeros = isSaid && allocated === 0 ? allSubclusters : 0;
    return { kind: 'subclusters', hostOffset, copied: true, allocated, zeros };
  }
  return fresh && says !== 'zeros'
    ? { kind: 'standard', hostOffset }
    : { kind: 'zero-allocated', hostOffset };
}
