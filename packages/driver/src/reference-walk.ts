/**
 * Every reference to host clusters that an image holds: header, refcount table, snapshot table, extensions, L1 and L2
 * tables of the active disk and of snapshots, refcount blocks. For the check, which reports, and for the rebuilding of
 * refcounts, which counts.
 *
 * The walk reads tables through what waits in a log, follows nothing that has not been checked by its clauses, and holds
 * one table at a time. What it finds it tells a visitor, who decides what is followed: a table is entered only
 * where its visitor says so.
 */
import { type Task, wait } from '@qcow2/block-device';
import {
  checkL1Entry,
  checkL2Entry,
  classifyL2Entry,
  clusterKind,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  findHeaderExtension,
  isSoundL2Entry,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
} from '@qcow2/codec';
import { autoclearFeatures, FormatError, headerExtensionTypes } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import { checkPlace } from './data-area.ts';
import { draftHostArea } from './draft-journal.ts';
import type { EntryRepair } from './entry-repair.ts';
import type { ImageParts } from './parts.ts';
import type { TableReach } from './table-reach.ts';

/** What refers to a range, in words for people. */
export const referenceNames = {
  header: 'the header',
  refcountTable: 'the refcount table',
  snapshotTable: 'the snapshot table',
  encryptionHeader: 'the encryption header',
  bitmapDirectory: 'the bitmap directory',
  bitmapTable: 'a bitmap table',
  bitmap: 'a bitmap',
  l1Table: 'the L1 table',
  snapshotL1Table: 'the L1 table of a snapshot',
  detachedTable: 'an L1 table that an operation has detached',
  l2Table: 'an L2 table',
  compressedData: 'compressed data',
  guestCluster: 'a guest cluster',
  refcountBlock: 'a refcount block',
  journal: 'the journal',
} as const;

export type ReferenceKind = keyof typeof referenceNames;

export interface ReferenceVisitor {
  /** A reference to a host range. False: it is not followed. */
  reference(kind: ReferenceKind, hostOffset: number, lengthBytes: number, guestOffset?: number): boolean;
  /** An entry breaks its clauses; it is passed over. May throw it, which ends the walk. `kind`: what it should lead to. */
  damaged(error: unknown, guestOffset?: number, kind?: ReferenceKind): void;
  /** An L2 table of the active disk is gone through, and each cluster that it has, after its reference. */
  activeTable?(): void;
  activeCluster?(hostOffset: number, compressed: boolean): void;
}

export interface WalkOptions {
  /** L2 tables that lead to no cluster of `window` are passed over, as far as `reach` knows them; else it gets to know them. */
  readonly reach?: TableReach;
  readonly window?: { readonly start: number; readonly end: number };
  /** The visitor has been told of damaged L2 entries before. To make an error of each takes longer than all the rest. */
  readonly isQuiet?: boolean;
  /** Entries are seen as this leaves them. */
  readonly repair?: EntryRepair | undefined;
}

/** Guest clusters. */
interface CountedRange {
  readonly countedFrom: number;
  readonly countedTo: number;
}

const everything: CountedRange = { countedFrom: 0, countedTo: Infinity };

export class ReferenceWalk {
  readonly #parts: ImageParts;
  readonly #visitor: ReferenceVisitor;
  readonly #options: WalkOptions;
  /** Number of the L2 table that is gone through. */
  #table = 0;
  #l2Bytes: Uint8Array | undefined;

  constructor(parts: ImageParts, visitor: ReferenceVisitor, options: WalkOptions = {}) {
    this.#parts = parts;
    this.#visitor = visitor;
    this.#options = options;
  }

  /** @throws FormatError where a table that has no entries to pass over is damaged; what the visitor throws */
  *walk(): Task<void> {
    const { core, snapshots, detachedTables } = this.#parts;
    const { header, clusterBytes } = core;
    this.#visitor.reference('header', 0, clusterBytes);
    this.#visitor.reference('refcountTable', header.refcountTableOffset, core.refcountTable.byteLength);
    if (header.snapshotCount > 0) {
      this.#visitor.reference('snapshotTable', header.snapshotsOffset, core.snapshotTableBytes);
    }
    yield* this.#walkExtensions();
    yield* this.#walkDraft();
    this.#visitor.reference('l1Table', header.l1Offset, core.l1.byteLength);
    yield* this.#walkL1(header.l1Offset, core.l1, true);
    for (const { l1Offset, l1Entries } of snapshots) {
      // Nothing is allocated for what the file does not have.
      if (!this.#visitor.reference('snapshotL1Table', l1Offset, l1Entries * 8)) continue;
      const l1 = new Uint8Array(l1Entries * 8);
      yield* wait(core.readPatched(l1Offset, l1));
      yield* this.#walkL1(l1Offset, new DataView(l1.buffer), false);
    }
    for (const table of detachedTables) {
      if (!this.#visitor.reference('detachedTable', table.l1Offset, table.l1Entries * 8)) continue;
      const l1 = new Uint8Array(table.l1Entries * 8);
      yield* wait(core.readPatched(table.l1Offset, l1));
      yield* this.#walkL1(table.l1Offset, new DataView(l1.buffer), false, table);
    }
    this.#walkRefcountBlocks();
  }

  *#walkExtensions(): Task<void> {
    const { core } = this.#parts;
    const { extensions } = core.header;
    const { clusterBytes } = core;
    const encryption = findHeaderExtension(extensions, headerExtensionTypes.fullDiskEncryption);
    if (encryption !== undefined) {
      const pointer = decodeEncryptionHeaderPointer(encryption, { clusterBytes });
      this.#visitor.reference('encryptionHeader', pointer.headerOffset, pointer.headerLengthBytes);
    }
    const bitmaps = findHeaderExtension(extensions, headerExtensionTypes.bitmaps);
    if (bitmaps === undefined || (core.header.autoclearFeatures & autoclearFeatures.bitmaps) === 0n) return;
    const extension = decodeBitmapsExtension(bitmaps, { clusterBytes });
    const { directoryOffset, directoryLengthBytes, bitmapCount } = extension;
    if (!this.#visitor.reference('bitmapDirectory', directoryOffset, directoryLengthBytes)) return;
    const bytes = new Uint8Array(directoryLengthBytes);
    yield* wait(core.readPatched(directoryOffset, bytes));
    const where = { hostOffset: directoryOffset, clusterBytes };
    for (const { tableOffset, tableEntries } of decodeBitmapDirectory(bytes, bitmapCount, where)) {
      yield* this.#walkBitmapTable(tableOffset, tableEntries);
    }
  }

  /** The draft's journal refers to its clusters; what a crash left uncounted of a new one is no error [JD13-BIND-007]. */
  *#walkDraft(): Task<void> {
    const { core, allocator, draftArea } = this.#parts;
    const binding = core.header.draftJournal;
    if (binding === undefined || draftArea === undefined) return;
    const { hostOffset, lengthBytes } = draftHostArea(draftArea, core.clusterBytes);
    for (let at = hostOffset; at < hostOffset + lengthBytes; at += core.clusterBytes) {
      const mayBeFree = binding.sealed && (yield* isUncounted(allocator, at / core.clusterBytes));
      if (!mayBeFree) this.#visitor.reference('journal', at, core.clusterBytes);
    }
  }

  *#walkBitmapTable(tableOffset: number, tableEntries: number): Task<void> {
    const { core } = this.#parts;
    if (!this.#visitor.reference('bitmapTable', tableOffset, tableEntries * 8)) return;
    const bytes = new Uint8Array(tableEntries * 8);
    yield* wait(core.readPatched(tableOffset, bytes));
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < tableEntries; i++) {
      const offset = readEntryOffset(view, i * 8);
      if (offset !== 0) this.#visitor.reference('bitmap', offset, core.clusterBytes);
    }
  }

  /** @param range guest clusters that count; default: all that the table maps */
  *#walkL1(l1Offset: number, table: DataView, active: boolean, range = everything): Task<void> {
    const { core } = this.#parts;
    const l1 = this.#options.repair?.repairedL1(table, l1Offset) ?? table;
    const first = Math.floor(range.countedFrom / core.l2Entries);
    const end = Math.min(l1.byteLength / 8, Math.ceil(range.countedTo / core.l2Entries));
    for (let index = range.countedTo === range.countedFrom ? end : first; index < end; index++) {
      try {
        checkL1Entry(l1, index * 8, core.clusterBits, l1Offset);
      } catch (error) {
        this.#visitor.damaged(error);
        continue;
      }
      const table = readEntryOffset(l1, index * 8);
      if (table === 0) continue;
      if (!this.#visitor.reference('l2Table', table, core.clusterBytes)) continue;
      yield* this.#walkL2(table, index, active, range);
    }
  }

  /** The table leads to nothing in the window, as is known from before. */
  #isMissed(table: number): boolean {
    const { reach, window } = this.#options;
    return reach !== undefined && window !== undefined && reach.misses(table, window.start, window.end);
  }

  *#walkL2(
    tableOffset: number,
    l1Index: number,
    active: boolean,
    { countedFrom, countedTo }: CountedRange,
  ): Task<void> {
    const { core } = this.#parts;
    const { clusterBytes, l2EntryBytes, l2Entries, l2Format } = core;
    const number = this.#table++;
    if (this.#isMissed(number)) return;
    // One for all: garbage of a cluster for each table would be most of the memory that a large image takes.
    this.#l2Bytes ??= new Uint8Array(clusterBytes);
    yield* wait(core.readPatched(tableOffset, this.#l2Bytes));
    const view = new DataView(this.#l2Bytes.buffer);
    this.#options.repair?.l2Table(view, tableOffset, l1Index * l2Entries * clusterBytes);
    let lowest = Number.POSITIVE_INFINITY;
    let highest = -1;
    if (active) this.#visitor.activeTable?.();
    for (let i = 0; i < l2Entries; i++) {
      const at = i * l2EntryBytes;
      const guestCluster = l1Index * l2Entries + i;
      if (guestCluster < countedFrom || guestCluster >= countedTo) continue;
      const guestOffset = guestCluster * clusterBytes;
      if (!isSoundL2Entry(view, at, l2Format)) {
        if (this.#options.isQuiet !== true) this.#damagedL2(view, at, tableOffset, guestOffset);
        continue;
      }
      const kind = classifyL2Entry(view, at, l2Format);
      if (kind === clusterKind.unallocated || kind === clusterKind.zeroPlain) continue;
      if (kind === clusterKind.compressed) {
        const offset = readCompressedOffset(view, at, core.clusterBits);
        const length = readCompressedLengthBytes(view, at, core.clusterBits);
        this.#visitor.reference('compressedData', offset, length, guestOffset);
        lowest = Math.min(lowest, offset);
        highest = Math.max(highest, offset + length - 1);
        if (active) this.#visitor.activeCluster?.(offset, true);
        continue;
      }
      const offset = readEntryOffset(view, at);
      // Sub-clusters may read as zeros where there is no host cluster.
      if (offset === 0 && !(l2Format.externalData && readEntryCopied(view, at))) continue;
      if (l2Format.externalData) this.#checkPlace(offset, guestOffset, tableOffset + at);
      else this.#visitor.reference('guestCluster', offset, clusterBytes, guestOffset);
      if (active) this.#visitor.activeCluster?.(offset, false);
      lowest = Math.min(lowest, offset);
      highest = Math.max(highest, offset);
    }
    this.#options.reach?.note(number, Math.floor(lowest / clusterBytes), Math.floor(highest / clusterBytes));
  }

  #damagedL2(view: DataView, at: number, tableOffset: number, guestOffset: number): void {
    try {
      checkL2Entry(view, at, this.#parts.core.l2Format, tableOffset);
    } catch (error) {
      this.#visitor.damaged(error, guestOffset);
    }
  }

  /** Clusters of a data file are not counted; what there is to see is that each stands in its place. */
  #checkPlace(hostOffset: number, guestOffset: number, entryOffset: number): void {
    try {
      checkPlace(hostOffset, guestOffset, entryOffset);
    } catch (error) {
      this.#visitor.damaged(error, guestOffset);
    }
  }

  #walkRefcountBlocks(): void {
    const { allocator, core } = this.#parts;
    for (let index = 0; index < core.refcountTable.byteLength / 8; index++) {
      try {
        const offset = allocator.blockOffset(index);
        if (offset !== 0) this.#visitor.reference('refcountBlock', offset, core.clusterBytes);
      } catch (error) {
        this.#visitor.damaged(error, undefined, 'refcountBlock');
      }
    }
  }
}

/** Whether a cluster has refcount 0. Where that can not be read, it is not known to. */
function* isUncounted(allocator: Allocator, cluster: number): Task<boolean> {
  try {
    return (yield* allocator.refcount(cluster)) === 0;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}
