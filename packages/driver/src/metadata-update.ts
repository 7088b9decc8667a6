/**
 * One change of metadata, gathered and then made at once.
 *
 * Gathering waits for nothing and changes nothing. `submit` loads every slice that it needs, and then,
 * without waiting, changes the slices and hands the same bytes to the log: so no reader and no crash ever
 * sees half of it, and a slice that is evicted in between is put back before it is changed. The caller holds
 * the write lock.
 */
import type { Task } from '@qcow2/block-device';
import type { TableCache, TableSlice, WriteStep } from '@qcow2/cache';
import {
  type L2Format,
  writeCompressedEntry,
  writeEntryCopied,
  writeL1Entry,
  writeStandardEntry,
  writeUnallocated,
  writeZeroEntry,
} from '@qcow2/codec';
import type { BackingFill, GuestRange, HostCopy, HostRange, LoggedIntent } from '@qcow2/journal';
import { FormatError, guestOffset, hostOffset, InvariantError, StateError } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { FreeCause } from './host-discard.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping, MappingTable } from './mapping.ts';
import type { MetadataWrite } from './metadata-log.ts';
import type { FillSource } from './pending-fills.ts';
import { writeNewExtendedEntry } from './sub-clusters.ts';

export type NewEntry =
  | { readonly kind: 'standard'; readonly hostOffset: number }
  | { readonly kind: 'compressed'; readonly hostOffset: number; readonly lengthBytes: number }
  | { readonly kind: 'zero-plain' }
  | { readonly kind: 'zero-allocated'; readonly hostOffset: number }
  | { readonly kind: 'unallocated' }
  /** In part, with extended L2 entries; masks as in `Subclusters`. */
  | {
      readonly kind: 'subclusters';
      readonly hostOffset: number;
      readonly copied: boolean;
      readonly allocated: number;
      readonly zeros: number;
    };

/** Part of a cluster whose bytes stand elsewhere until they are brought in. */
export interface LaterPart {
  readonly hostOffset: number;
  readonly lengthBytes: number;
  readonly source: FillSource;
}

export interface SubmitOptions {
  readonly required: boolean;
  readonly afterData: boolean;
  /** As in `MetadataChange`. */
  readonly overZeros?: boolean;
  /** The operation that this change begins, or how far it brings one. Only where the log has `newIntentId`. */
  readonly intent?: LoggedIntent | undefined;
  /** The operation that this change completes. */
  readonly intentDone?: number | undefined;
  readonly onDurable?: () => void;
}

export class MetadataUpdate {
  /** Why what it drops is free then. */
  readonly #cause: FreeCause;
  readonly #core: ImageCore;
  readonly #mappings: MappingTable;
  readonly #allocator: Allocator;
  readonly #entries: { guestCluster: number; entry: NewEntry }[] = [];
  readonly #l1Entries: { index: number; tableOffset: number }[] = [];
  readonly #flags: { entryOffset: number; copied: boolean }[] = [];
  readonly #l1Flags: { index: number; copied: boolean }[] = [];
  readonly #added: number[] = [];
  readonly #shared: number[] = [];
  readonly #dropped: number[] = [];
  readonly #direct: MetadataWrite[] = [];
  readonly #revokes: HostRange[] = [];
  readonly #settled: GuestRange[] = [];
  readonly #later: LaterPart[] = [];
  readonly #ended: { hostOffset: number; lengthBytes: number }[] = [];

  constructor(core: ImageCore, mappings: MappingTable, allocator: Allocator, cause: FreeCause = 'other') {
    this.#cause = cause;
    this.#core = core;
    this.#mappings = mappings;
    this.#allocator = allocator;
  }

  get isEmpty(): boolean {
    return (
      this.#entries.length + this.#l1Entries.length + this.#added.length + this.#dropped.length === 0 &&
      this.#shared.length +
        this.#flags.length +
        this.#l1Flags.length +
        this.#direct.length +
        this.#settled.length +
        this.#later.length +
        this.#ended.length ===
        0
    );
  }

  setEntry(guestCluster: number, entry: NewEntry): void {
    this.#entries.push({ guestCluster, entry });
  }

  setL1Entry(index: number, tableOffset: number): void {
    this.#l1Entries.push({ index, tableOffset });
  }

  /** No table stands behind this entry any more. The caller drops the reference to the one that did. */
  clearL1Entry(index: number): void {
    this.#l1Entries.push({ index, tableOffset: 0 });
  }

  /** Bit 63 of an L2 entry, by its host offset: of an active table, or of one that is about to be. */
  setCopied(entryOffset: number, copied: boolean): void {
    this.#flags.push({ entryOffset, copied });
  }

  /** Bit 63 of an active L1 entry. */
  setL1Copied(index: number, copied: boolean): void {
    this.#l1Flags.push({ index, copied });
  }

  /** A reserved cluster gets its first reference. */
  addReference(hostCluster: number): void {
    this.#added.push(hostCluster);
  }

  /** A cluster that is in use gets one reference more. The caller knows that its refcount can be raised. */
  shareReference(hostCluster: number): void {
    this.#shared.push(hostCluster);
  }

  /** A reference to a cluster goes away; it is free again when that is durable and it was the last. */
  dropReference(hostCluster: number): void {
    this.#dropped.push(hostCluster);
  }

  /**
   * What a guest cluster leads to loses that reference: its cluster, or each one that holds sectors of its compressed data
   * [CMP-010]. It may lead to none.
   */
  dropMapping({ hostOffset: at, compressed }: Mapping): void {
    if (compressed !== undefined) this.#dropped.push(...this.#core.hostClustersOf(compressed));
    else if (at !== 0) this.dropReference(at / this.#core.clusterBytes);
  }

  writeBytes(step: WriteStep, at: number, bytes: Uint8Array): void {
    this.#direct.push({ step, hostOffset: hostOffset(at), bytes });
  }

  /** A range that held tables is freed by this change. */
  revoke(at: number, lengthBytes: number): void {
    this.#revokes.push({ hostOffset: hostOffset(at), lengthBytes });
  }

  /** What the log holds of this guest range is out of date from here on. */
  settled(at: number, lengthBytes: number): void {
    this.#settled.push({ guestOffset: guestOffset(at), lengthBytes });
  }

  /** Whole sectors of a cluster that it maps, or of one whose fills it ends, are brought in later. */
  bringLater(part: LaterPart): void {
    this.#later.push(part);
  }

  /**
   * What is to be brought into the range, whole sectors, stands in place, or is not wanted any more: the log ends it.
   * Parts that the same change leaves for later come after that.
   */
  endFills(at: number, lengthBytes: number): void {
    this.#ended.push({ hostOffset: at, lengthBytes });
    this.revoke(at, lengthBytes);
  }

  *submit(options: SubmitOptions): Task<void> {
    const late = this.#core.log.lateFrees;
    const { fills } = this.#core;
    const raised = [...this.#added, ...this.#shared];
    const counted = late ? raised : [...raised, ...this.#dropped];
    const tables = new SliceSet(this.#core.l2Cache);
    const counts = new SliceSet(this.#core.refcountCache);
    for (const { guestCluster } of this.#entries) {
      yield* tables.load(this.#mappings.entryOffset(guestCluster));
    }
    for (const { entryOffset } of this.#flags) yield* tables.load(entryOffset);
    for (const cluster of counted) yield* counts.load(this.#allocator.refcountOffset(cluster));
    // What is counted down later must be countable: a damaged mapping is refused before anything is changed.
    if (late) for (const cluster of this.#dropped) this.#allocator.refcountOffset(cluster);
    tables.restore();
    counts.restore();
    const writes = [...this.#direct];
    const endedAt = fills.now;
    const freed = this.#applyRefcounts(counts, writes, late);
    this.#endFillsOfEntries();
    this.#applyEntries(tables, writes);
    this.#applyFlags(tables, writes);
    this.#applyL1(writes);
    let addedUntil = endedAt;
    this.#core.log.submit({
      writes: joined(writes),
      revokes: this.#revokes,
      settled: this.#settled,
      ...this.#copiesAndFills(),
      required: options.required,
      afterData: options.afterData,
      overZeros: options.overZeros ?? false,
      intent: options.intent,
      intentDone: options.intentDone,
      onDurable: () => {
        if (late) this.#allocator.freeLater(this.#dropped, this.#cause);
        else this.#allocator.release(freed);
        for (const { hostOffset, lengthBytes } of this.#ended) fills.end(hostOffset, lengthBytes, endedAt);
        if (this.#later.length > 0) fills.becameDurable(addedUntil);
        options.onDurable?.();
      },
      ...this.#retiring(() => addedUntil),
    });
    for (const { hostOffset, lengthBytes } of this.#ended) fills.written(hostOffset, lengthBytes);
    for (const { hostOffset, lengthBytes, source } of this.#later) {
      fills.add(hostOffset, lengthBytes, source, hostOffset);
    }
    addedUntil = fills.now;
  }

  /** What is to be done when the log can not ask for its copies any more, if it has any. */
  #retiring(addedUntil: () => number): { onRetired?: () => void } {
    if (this.#later.length === 0) return {};
    const onRetired = (): void => {
      for (const { hostOffset, lengthBytes } of this.#later) {
        this.#core.fills.end(hostOffset, lengthBytes, addedUntil());
      }
    };
    return { onRetired };
  }

  /** Returns the clusters that nobody refers to any more. */
  #applyRefcounts(counts: SliceSet, writes: MetadataWrite[], late: boolean): number[] {
    const freed: number[] = [];
    for (const cluster of this.#added) {
      const before = this.#count(counts, writes, cluster, 1);
      if (before !== 0) throw new InvariantError('a cluster was handed out that is in use');
      this.#allocator.settleReservation(cluster);
    }
    for (const cluster of this.#shared) {
      const before = this.#count(counts, writes, cluster, 1);
      if (before === 0) throw new InvariantError('a cluster was shared that nobody uses');
    }
    if (late) return freed;
    for (const cluster of this.#dropped) {
      if (this.#count(counts, writes, cluster, -1) !== 1) continue;
      this.#allocator.quarantine(cluster, this.#cause);
      freed.push(cluster);
    }
    return freed;
  }

  #count(counts: SliceSet, writes: MetadataWrite[], cluster: number, change: 1 | -1): number {
    return countReference(this.#core, this.#allocator, cluster, change, (at) => counts.get(at), writes);
  }

  /** A cluster that a guest cluster leads to no more, or to as zeros, is not to be filled by a replay. */
  #endFillsOfEntries(): void {
    const { fills, clusterBytes } = this.#core;
    if (fills.isEmpty) return;
    for (const { guestCluster } of this.#entries) {
      const before = this.#mappings.peek(guestCluster)?.hostOffset ?? 0;
      if (before !== 0 && fills.touches(before, clusterBytes)) this.endFills(before, clusterBytes);
    }
  }

  #copiesAndFills(): { copies: HostCopy[]; fills: BackingFill[] } {
    const copies: HostCopy[] = [];
    const fills: BackingFill[] = [];
    for (const { hostOffset: target, lengthBytes, source } of this.#later) {
      const targetHostOffset = hostOffset(target);
      if (source.kind === 'copy') {
        copies.push({ targetHostOffset, lengthBytes, sourceHostOffset: hostOffset(source.hostOffset) });
      } else {
        fills.push({ targetHostOffset, lengthBytes, guestOffset: guestOffset(source.guestOffset) });
      }
    }
    return { copies, fills };
  }

  #applyEntries(tables: SliceSet, writes: MetadataWrite[]): void {
    const { l2Format, l2EntryBytes } = this.#core;
    for (const { guestCluster, entry } of this.#entries) {
      const entryOffset = this.#mappings.entryOffset(guestCluster);
      const slice = tables.get(entryOffset);
      const at = entryOffset - slice.hostOffset;
      if (l2Format.extended) writeNewExtendedEntry(slice.view, at, l2Format, entry);
      else writeNewEntry(slice.view, at, l2Format, entry);
      const bytes = slice.bytes.slice(at, at + l2EntryBytes);
      writes.push({ step: 2, hostOffset: hostOffset(entryOffset), bytes });
    }
  }

  #applyFlags(tables: SliceSet, writes: MetadataWrite[]): void {
    for (const { entryOffset, copied } of this.#flags) {
      const slice = tables.get(entryOffset);
      const at = entryOffset - slice.hostOffset;
      writeEntryCopied(slice.view, at, copied);
      writes.push({ step: 2, hostOffset: hostOffset(entryOffset), bytes: slice.bytes.slice(at, at + 8) });
    }
  }

  #applyL1(writes: MetadataWrite[]): void {
    const { l1 } = this.#core;
    for (const { index, tableOffset } of this.#l1Entries) {
      writeL1Entry(l1, index * 8, tableOffset, tableOffset !== 0);
      writes.push(this.#l1Write(index));
    }
    for (const { index, copied } of this.#l1Flags) {
      writeEntryCopied(l1, index * 8, copied);
      writes.push(this.#l1Write(index));
    }
  }

  #l1Write(index: number): MetadataWrite {
    const { l1, header } = this.#core;
    const bytes = new Uint8Array(l1.buffer, l1.byteOffset + index * 8, 8).slice();
    return { step: 2, hostOffset: hostOffset(header.l1Offset + index * 8), bytes };
  }
}

/** All 8 bytes of an entry, in an image without sub-clusters. */
export function writeNewEntry(view: DataView, at: number, { clusterBits }: L2Format, entry: NewEntry): void {
  switch (entry.kind) {
    case 'standard':
      writeStandardEntry(view, at, entry.hostOffset, true);
      break;
    case 'zero-allocated':
      writeZeroEntry(view, at, entry.hostOffset, true);
      break;
    case 'zero-plain':
      writeZeroEntry(view, at, 0, false);
      break;
    case 'unallocated':
      writeUnallocated(view, at);
      break;
    case 'compressed':
      writeCompressedEntry(view, at, clusterBits, entry.hostOffset, entry.lengthBytes);
      break;
    case 'subclusters':
      throw new InvariantError('sub-clusters in an image that has none');
  }
}

/** The slices of one cache that a change needs: all of them loaded, then put back, then changed. */
class SliceSet {
  readonly #cache: TableCache;
  readonly #slices = new Map<number, TableSlice>();

  constructor(cache: TableCache) {
    this.#cache = cache;
  }

  *load(at: number): Task<void> {
    const start = this.#start(at);
    if (this.#slices.has(start)) return;
    this.#slices.set(start, yield* this.#cache.load(start));
  }

  /** Put back what was evicted since. From here to the log's `submit` nothing may wait. */
  restore(): void {
    for (const slice of this.#slices.values()) this.#slices.set(slice.hostOffset, this.#cache.restore(slice));
  }

  get(at: number): TableSlice {
    const slice = this.#slices.get(this.#start(at));
    if (slice === undefined) throw new InvariantError('a slice was not loaded before it was changed');
    return slice;
  }

  #start(at: number): number {
    return at - (at % this.#cache.sliceBytes);
  }
}

/**
 * Count a cluster up or down in its slice, and queue the bytes. Returns the count before.
 * @throws REFCOUNT_WRONG where a cluster in use counts as free; INVALID_ARGUMENT where its refcount has no room
 */
export function countReference(
  core: ImageCore,
  allocator: Allocator,
  cluster: number,
  change: 1 | -1,
  sliceAt: (hostOffset: number) => TableSlice,
  writes: MetadataWrite[],
): number {
  const at = allocator.refcountOffset(cluster);
  const slice = sliceAt(at);
  const bits = core.refcounts.widthBits;
  const inSlice = at - slice.hostOffset;
  const perByte = bits < 8 ? 8 / bits : 1;
  const index = bits < 8 ? inSlice * perByte + (cluster % perByte) : inSlice / (bits / 8);
  const before = core.refcounts.get(slice.view, index);
  if (before + change < 0) {
    throw new FormatError('REFCOUNT_WRONG', 'a cluster in use counts as free', {
      hostOffset: cluster * core.clusterBytes,
      clause: 'RCB-001',
    });
  }
  if (before + change > core.refcounts.maxValue) throw refcountFull(core, cluster);
  core.refcounts.set(slice.view, index, before + change);
  const bytes = slice.bytes.slice(inSlice, inSlice + Math.max(1, bits / 8));
  writes.push({ step: 0, hostOffset: hostOffset(at), bytes });
  return before;
}

/** One more reference to a cluster than its refcount can say [SNP-025]. */
export function refcountFull({ refcounts, clusterBytes }: ImageCore, cluster: number): StateError {
  const message = `a refcount of ${refcounts.widthBits} bits can not count one more reference`;
  return new StateError('INVALID_ARGUMENT', message, {
    hostOffset: cluster * clusterBytes,
    field: 'refcount',
    value: refcounts.maxValue,
    clause: 'SNP-025',
  });
}

/** Neighbours become one write: refcounts of a run of clusters, entries of one table. A record has a head for each. */
function joined(writes: readonly MetadataWrite[]): MetadataWrite[] {
  const result: MetadataWrite[] = [];
  for (let i = 0; i < writes.length; ) {
    const { step, hostOffset: at } = writes[i]!;
    let end = at + writes[i]!.bytes.length;
    let next = i + 1;
    for (; next < writes.length; next++) {
      const { step: itsStep, hostOffset: itsOffset, bytes } = writes[next]!;
      if (itsStep !== step || itsOffset !== end) break;
      end += bytes.length;
    }
    result.push(
      next === i + 1 ? writes[i]! : { step, hostOffset: at, bytes: inARow(writes, i, next, end - at) },
    );
    i = next;
  }
  return result;
}

function inARow(writes: readonly MetadataWrite[], from: number, to: number, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let i = from, at = 0; i < to; i++) {
    bytes.set(writes[i]!.bytes, at);
    at += writes[i]!.bytes.length;
  }
  return bytes;
}
