/**
 * Guest writes, zeroes and discards: which way each piece of a request goes. Everything here holds the
 * write lock.
 *
 *   with a journal   writes to clusters that are not the image's own yet go to the overlay as long as little is
 *                    gathered there, so that a flush logs them and pays for one flush of storage; beyond that small
 *                    ones still do, large ones go in place, and so do clusters that are whole; pieces of clusters
 *                    that are in the overlay go there too; all else goes in place
 *   without          everything goes in place
 *
 * In place means: into the image's own cluster, or into one that is pending until it is whole.
 */
import { type Task, wait } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import type { ClusterReader } from './cluster-reader.ts';
import type { ClusterWriter } from './cluster-writer.ts';
import type { CompressedWriter } from './compressed-writer.ts';
import { type GuestOverlay, type OverlayCluster, sectorBytes } from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import type { NewEntry } from './metadata-update.ts';
import type { PendingCluster, PendingClusters } from './pending-clusters.ts';
import { isInPlace, kindRuns, wholeSubclusters } from './sub-clusters.ts';

/** Clusters whose entries one change sets: its descriptors must fit a record of the smallest ring. */
const clustersPerChange = 32;

export interface ZeroMode {
  /** Give the clusters back. */
  readonly unmap: boolean;
  /** The range need not read as zeros. */
  readonly discard: boolean;
  /** It is to show what a backing file has, whatever the image has of it. */
  readonly show?: boolean;
}

export class ImageWriter {
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #reader: ClusterReader;
  readonly #writer: ClusterWriter;
  readonly #compressed: CompressedWriter;
  readonly #overlay: GuestOverlay;
  readonly #pending: PendingClusters;
  readonly #directBytes: number;
  readonly #littleBytes: number;

  /**
   * @param directBytes pieces of at least this many bytes do not wait in the overlay; 0: none does (no journal)
   * @param littleBytes as long as no more than this is gathered and in no record, they do all the same
   */
  constructor(
    core: ImageCore,
    mappings: MappingTable,
    reader: ClusterReader,
    writer: ClusterWriter,
    compressed: CompressedWriter,
    overlay: GuestOverlay,
    pending: PendingClusters,
    directBytes: number,
    littleBytes: number,
  ) {
    this.#core = core;
    this.#mappings = mappings;
    this.#reader = reader;
    this.#writer = writer;
    this.#compressed = compressed;
    this.#overlay = overlay;
    this.#pending = pending;
    this.#directBytes = directBytes;
    this.#littleBytes = littleBytes;
  }

  /** Large enough to go in place, where with what is gathered already it would be too much to be logged. */
  #isDirect(lengthBytes: number): boolean {
    return lengthBytes >= this.#directBytes && this.#overlay.dirtyBytes + lengthBytes > this.#littleBytes;
  }

  /**
   * Where the bytes of a request go in place, if that is all there is to it: part of one cluster that is the
   * image's own, whose mapping is at hand, and of which the overlay has nothing; or whole sectors of a pending cluster
   * that they do not fill. When they are written, `noteInPlace` is to be told.
   */
  inPlaceOffset(offset: number, lengthBytes: number): number | undefined {
    const { clusterBytes } = this.#core;
    const inCluster = offset % clusterBytes;
    const guestCluster = (offset - inCluster) / clusterBytes;
    if (inCluster + lengthBytes > clusterBytes || this.#overlay.get(guestCluster) !== undefined)
      return undefined;
    const pending = this.#pending.get(guestCluster);
    if (pending !== undefined) return placeInPending(pending, inCluster, lengthBytes);
    const mapping = this.#mappings.peek(guestCluster);
    if (mapping === undefined || !isInPlace(mapping, clusterBytes, inCluster, inCluster + lengthBytes))
      return undefined;
    const hostOffset = mapping.hostOffset + inCluster;
    return this.#core.fills.touches(hostOffset, lengthBytes) ? undefined : hostOffset;
  }

  /** The bytes of a request stand where `inPlaceOffset` said. Nothing was changed in between. */
  noteInPlace(offset: number, lengthBytes: number): void {
    if (this.#pending.isEmpty) return;
    const inCluster = offset % this.#core.clusterBytes;
    const pending = this.#pending.get((offset - inCluster) / this.#core.clusterBytes);
    pending?.written.setTouched(inCluster, inCluster + lengthBytes);
  }

  /**
   * Take a request for which `inPlaceOffset` knows no place into the overlay, if that is all there is to it: a small one, whole
   * sectors of one cluster whose mapping is at hand, and no cluster would go in place because of it. Says whether it did; then
   * nothing else is to be done.
   */
  gatherAtOnce(offset: number, bytes: Uint8Array): boolean {
    const { clusterBytes } = this.#core;
    const { length } = bytes;
    const inCluster = offset % clusterBytes;
    if (length >= this.#directBytes || inCluster + length > clusterBytes) return false;
    if (inCluster % sectorBytes !== 0 || length % sectorBytes !== 0 || length === 0) return false;
    const guestCluster = (offset - inCluster) / clusterBytes;
    const held = this.#overlay.get(guestCluster);
    if (held === undefined) {
      if (this.#pending.get(guestCluster) !== undefined) return false;
      const mapping = this.#mappings.peek(guestCluster);
      // What is compressed is to be read once, while the writer is there to hear that it can not be.
      if (mapping === undefined || mapping.compressed !== undefined) return false;
    } else if (
      clusterBytes >= this.#directBytes &&
      held.validSectors * sectorBytes + length >= clusterBytes &&
      this.#overlay.dirtyBytes + length > this.#littleBytes
    ) {
      // It may be whole then, and go in place.
      return false;
    }
    this.#overlay.put(guestCluster, inCluster, bytes);
    return true;
  }

  *write(offset: number, bytes: Uint8Array): Task<void> {
    const { clusterBytes } = this.#core;
    for (let done = 0; done < bytes.length; ) {
      const at = offset + done;
      const inCluster = at % clusterBytes;
      const guestCluster = (at - inCluster) / clusterBytes;
      const left = bytes.length - done;
      const count = inCluster === 0 ? this.#wholeRun(guestCluster, Math.floor(left / clusterBytes)) : 0;
      if (count > 0 && this.#isDirect(count * clusterBytes)) {
        yield* this.#settleWhole();
        yield* this.#writer.writeWhole(guestCluster, bytes.subarray(done, done + count * clusterBytes));
        done += count * clusterBytes;
        continue;
      }
      const length = Math.min(left, clusterBytes - inCluster);
      yield* this.#writePiece(guestCluster, inCluster, bytes.subarray(done, done + length));
      done += length;
    }
  }

  /** Compressed data of a whole cluster, in place of whatever was written to it before. */
  *writeCompressed(guestCluster: number, data: Uint8Array): Task<void> {
    const held = this.#overlay.get(guestCluster);
    yield* this.#compressed.place(guestCluster, data, held !== undefined);
    if (held !== undefined) this.#overlay.drop(held, 0, this.#core.clusterBytes);
    const open = this.#pending.get(guestCluster);
    if (open !== undefined) this.#writer.pending.drop(open);
  }

  /** How many of the clusters from here on are not in the overlay. */
  #wholeRun(guestCluster: number, limit: number): number {
    let count = 0;
    while (count < limit && this.#overlay.get(guestCluster + count) === undefined) count++;
    return count;
  }

  *#writePiece(guestCluster: number, inCluster: number, bytes: Uint8Array): Task<void> {
    if (this.#overlay.get(guestCluster) === undefined) {
      const mapping = this.#mappings.peek(guestCluster) ?? (yield* this.#mappings.lookup(guestCluster));
      const pending = this.#pending.get(guestCluster) !== undefined;
      const own =
        isInPlace(mapping, this.#core.clusterBytes, inCluster, inCluster + bytes.length) &&
        !this.#core.fills.touches(mapping.hostOffset + inCluster, bytes.length);
      if (pending || own || this.#isDirect(bytes.length)) {
        yield* this.#writer.writePart(guestCluster, { inCluster, bytes });
        return;
      }
      // Refused now, not when it settles: the writer is still there to hear it.
      if (bytes.length < this.#core.clusterBytes) yield* this.#reader.probe(mapping);
    }
    yield* this.#gather(guestCluster, inCluster, bytes);
    const held = this.#overlay.get(guestCluster);
    if (this.#overlay.dirtyBytes > this.#littleBytes && held !== undefined && this.#isWhole(held)) {
      yield* this.#settleWhole();
    }
  }

  /** Large, and filled before any of it was logged: it need not be doubled, and nothing has to be copied. */
  #isWhole(held: OverlayCluster): boolean {
    return (
      this.#core.clusterBytes >= this.#directBytes &&
      this.#overlay.isFull(held) &&
      held.dirtySectors === held.validSectors
    );
  }

  /** Too much is gathered to be logged, or will be: what is whole goes in place now. */
  *#settleWhole(): Task<void> {
    if (this.#overlay.dirtyBytes === 0) return;
    for (const held of this.#overlay.sortedDirty()) {
      if (this.#isWhole(held)) yield* this.#writer.settle(held, 'leave-rest');
    }
  }

  /** Into the overlay, in whole sectors: where the piece covers one in part, the rest is read first. */
  *#gather(guestCluster: number, inCluster: number, bytes: Uint8Array): Task<void> {
    const start = inCluster - (inCluster % sectorBytes);
    const end = Math.ceil((inCluster + bytes.length) / sectorBytes) * sectorBytes;
    if (end - start === bytes.length) {
      this.#overlay.put(guestCluster, inCluster, bytes);
      return;
    }
    const sectors = new Uint8Array(end - start);
    const base = guestCluster * this.#core.clusterBytes;
    if (start < inCluster) yield* wait(this.#reader.read(base + start, sectors.subarray(0, sectorBytes)));
    if (end > inCluster + bytes.length) {
      yield* wait(
        this.#reader.read(base + end - sectorBytes, sectors.subarray(sectors.length - sectorBytes)),
      );
    }
    sectors.set(bytes, inCluster - start);
    this.#overlay.put(guestCluster, start, sectors);
  }

  /**
   * Whole clusters change their mapping, and so do whole sub-clusters; other parts of clusters are written as zeros.
   * A discard leaves parts of clusters alone.
   */
  *zero(offset: number, lengthBytes: number, mode: ZeroMode): Task<void> {
    const { clusterBytes, header } = this.#core;
    const end = offset + lengthBytes;
    const first = Math.ceil(offset / clusterBytes) * clusterBytes;
    // What the last cluster has behind the disk's end is nobody's: it is whole without.
    const whole = end === header.sizeBytes ? Math.ceil : Math.floor;
    const last = whole(end / clusterBytes) * clusterBytes;
    if (first > last || (first === last && lengthBytes < clusterBytes)) {
      if (!mode.discard) yield* this.#zeroParts(offset, end);
      return;
    }
    if (!mode.discard) {
      yield* this.#zeroParts(offset, first);
      if (last < end) yield* this.#zeroParts(last, end);
    }
    for (let at = first; at < last; ) {
      const guestCluster = at / clusterBytes;
      const inTable = this.#core.l2Entries - (guestCluster % this.#core.l2Entries);
      const count = Math.min((last - at) / clusterBytes, inTable, clustersPerChange);
      yield* this.#zeroWhole(guestCluster, count, mode);
      at += count * clusterBytes;
    }
  }

  *#zeroParts(from: number, to: number): Task<void> {
    const { clusterBytes } = this.#core;
    for (let at = from; at < to; ) {
      const guestCluster = Math.floor(at / clusterBytes);
      const pieceEnd = Math.min(to, (guestCluster + 1) * clusterBytes);
      const base = guestCluster * clusterBytes;
      yield* this.#zeroPart(guestCluster, at - base, pieceEnd - base);
      at = pieceEnd;
    }
  }

  *#zeroPart(guestCluster: number, start: number, end: number): Task<void> {
    const mapping = yield* this.#mappings.lookup(guestCluster);
    const held = this.#isHeld(guestCluster);
    if (!held && this.#showsZeros(guestCluster, mapping, start, end)) return;
    // A raw data file gets its zeros as bytes [DAT-004].
    const asBytes = held || this.#core.data.isRaw;
    const whole = asBytes ? undefined : wholeSubclusters(mapping, this.#core.clusterBytes, start, end);
    if (whole === undefined) {
      yield* this.#writePiece(guestCluster, start, new Uint8Array(end - start));
      return;
    }
    yield* this.#writer.zeroSubclusters(guestCluster, whole.mask);
    if (start < whole.start) yield* this.#zeroPart(guestCluster, start, whole.start);
    if (whole.end < end) yield* this.#zeroPart(guestCluster, whole.end, end);
  }

  /** The guest sees zeros in the range, and that is known without reading. */
  #showsZeros(guestCluster: number, mapping: Mapping, start: number, end: number): boolean {
    for (const run of kindRuns(mapping, this.#core.clusterBytes, start, end)) {
      if (!this.#reader.readsAsZeros(guestCluster, { ...mapping, kind: run.kind })) return false;
    }
    return true;
  }

  *#zeroWhole(guestCluster: number, count: number, mode: ZeroMode): Task<void> {
    const update = this.#writer.update(mode.unmap ? 'request' : 'other');
    const inOverlay: number[] = [];
    const pending: PendingCluster[] = [];
    for (let i = 0; i < count; i++) {
      const cluster = guestCluster + i;
      const mapping = yield* this.#mappings.lookup(cluster);
      const held = this.#isHeld(cluster);
      const entry = this.#entryForZeros(cluster, mapping, held, mode);
      if (entry === 'write') {
        yield* this.#writeZeroCluster(cluster);
        continue;
      }
      if (entry === 'through') {
        yield* this.#core.data.writeZeroes(
          cluster * this.#core.clusterBytes,
          this.#core.clusterBytes,
          mode.unmap,
        );
        continue;
      }
      if (this.#overlay.get(cluster) !== undefined) {
        update.settled(cluster * this.#core.clusterBytes, this.#core.clusterBytes);
        inOverlay.push(cluster);
      }
      const open = this.#pending.get(cluster);
      if (open !== undefined) pending.push(open);
      if (entry === 'keep') continue;
      yield* this.#writer.l2.prepare(cluster);
      update.setEntry(cluster, entry);
      if (this.#core.data.isExternal) {
        if (mode.unmap && mapping.kind !== clusterKind.unallocated) yield* this.#discardPlace(cluster);
      } else if (entry.kind !== 'zero-allocated') {
        update.dropMapping(mapping);
      }
    }
    if (!update.isEmpty) yield* update.submit({ required: true, afterData: false });
    for (const cluster of inOverlay) {
      const held = this.#overlay.get(cluster);
      if (held !== undefined) this.#overlay.drop(held, 0, this.#core.clusterBytes);
    }
    for (const cluster of pending) this.#writer.pending.drop(cluster);
  }

  /**
   * The entry that a cluster gets; `keep`: it is right as it is; `write`: zeros must be written as data; `through`: zeros
   * are written through to a raw data file, and the entry stays [DAT-004].
   */
  #entryForZeros(
    cluster: number,
    mapping: Mapping,
    held: boolean,
    mode: ZeroMode,
  ): NewEntry | 'keep' | 'write' | 'through' {
    const { header, clusterBytes, backing, data } = this.#core;
    const shows = backing !== undefined && cluster * clusterBytes < backing.sizeBytes;
    const zero: NewEntry = header.version > 2 ? { kind: 'zero-plain' } : { kind: 'unallocated' };
    if (mode.show === true) {
      return mapping.kind === clusterKind.unallocated ? 'keep' : { kind: 'unallocated' };
    }
    switch (mapping.kind) {
      case clusterKind.zeroPlain:
        return 'keep';
      case clusterKind.zeroAllocated:
        return mode.unmap ? zero : 'keep';
      case clusterKind.unallocated:
        if (!shows) return 'keep';
        if (header.version > 2) return zero;
        return mode.discard && !held ? 'keep' : 'write';
      default:
        if (data.isRaw) return 'through';
        if (data.isExternal) return zero;
        if (header.version === 2 && (shows || !mode.unmap)) return mode.discard && !held ? 'keep' : 'write';
        if (!mode.unmap && mapping.exclusive)
          return { kind: 'zero-allocated', hostOffset: mapping.hostOffset };
        return mode.discard && !shows ? { kind: 'unallocated' } : zero;
    }
  }

  /**
   * The cluster of a data file goes away, and its space with it. Before that is durable: what a crash then shows is the
   * old bytes or zeros, as of any change that no flush has covered.
   */
  *#discardPlace(guestCluster: number): Task<void> {
    const { clusterBytes, data } = this.#core;
    yield* data.discard(guestCluster * clusterBytes, clusterBytes);
  }

  *#writeZeroCluster(guestCluster: number): Task<void> {
    const { clusterBytes, header } = this.#core;
    const offset = guestCluster * clusterBytes;
    // Where the disk is about to grow they are laid behind its end, whole.
    const inDisk = header.sizeBytes - offset;
    yield* this.write(offset, new Uint8Array(inDisk > 0 ? Math.min(clusterBytes, inDisk) : clusterBytes));
  }

  /**
   * Of a raw data file: the clusters of a range are mapped, those that were not to zeros. Returns whether any was not:
   * then that is made durable before anything is written there.
   */
  *mapRange(offset: number, lengthBytes: number): Task<boolean> {
    const { clusterBytes, l2Entries } = this.#core;
    const end = Math.ceil((offset + lengthBytes) / clusterBytes);
    let mapped = false;
    for (let cluster = Math.floor(offset / clusterBytes); cluster < end; ) {
      const count = Math.min(end - cluster, l2Entries - (cluster % l2Entries), clustersPerChange);
      if (yield* this.#writer.mapOverZeros(cluster, count)) mapped = true;
      cluster += count;
    }
    return mapped;
  }

  /** Something that was written to the cluster is not found through its mapping yet. */
  #isHeld(guestCluster: number): boolean {
    return this.#overlay.get(guestCluster) !== undefined || this.#pending.get(guestCluster) !== undefined;
  }
}

function placeInPending(
  { hostOffset, written }: PendingCluster,
  inCluster: number,
  lengthBytes: number,
): number | undefined {
  if (inCluster % sectorBytes !== 0 || lengthBytes % sectorBytes !== 0) return undefined;
  return lengthBytes < written.missing * sectorBytes ? hostOffset + inCluster : undefined;
}
