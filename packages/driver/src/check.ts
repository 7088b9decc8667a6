/**
 * Checking an image: every reference counted, compared with the refcounts on disk. Read-only, always; a
 * dirty journal is replayed into memory, so the report is about the image as recovery will leave it.
 *
 * Terms and figures are those of `qemu-img check`: an *error* is something that can lose data (a cluster that
 * is used more often than its refcount says, a wrong flag, a reference that leads nowhere), a *leak* only
 * costs space (a refcount that is too high).
 *
 * The clusters of a valid journal have refcount 0 and are referenced by the header extension alone: they are
 * no leak, and a reference to one of them from anywhere else is an error.
 */
import { type BlockDevice, run, type Task, wait } from '@qcow2/block-device';
import {
  checkL1Entry,
  checkL2Entry,
  classifyL2Entry,
  clusterKind,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeEncryptionHeaderPointer,
  decodeSnapshotTable,
  findHeaderExtension,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
} from '@qcow2/codec';
import { FormatError, headerExtensionTypes } from '@qcow2/spec';

import { draftHostArea } from './draft-journal.ts';
import type { HostArea } from './image-core.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import { openParts } from './open.ts';
import type { ImageParts } from './parts.ts';
import { ReferenceCounts } from './reference-counts.ts';

export interface CheckFinding {
  readonly severity: 'error' | 'leak';
  readonly code: string;
  readonly message: string;
  readonly hostOffset?: number | undefined;
  readonly guestOffset?: number | undefined;
  readonly clause?: string | undefined;
}

export interface CheckReport {
  readonly corruptions: number;
  readonly leaks: number;
  /** Tables that could not be read at all. */
  readonly checkErrors: number;
  /** Guest clusters of the disk, and how many have a host cluster. */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  /** Allocated clusters that do not follow, in the file, the one before in their L2 table. */
  readonly fragmentedClusters: number;
  readonly compressedClusters: number;
  /** Behind the last cluster in use. */
  readonly imageEndOffset: number;
  /** The first of them, at most `maxFindings`. */
  readonly findings: readonly CheckFinding[];
  readonly journal: { readonly hostOffset: number; readonly lengthBytes: number } | undefined;
}

export interface CheckOptions {
  /** Default 1000. */
  readonly maxFindings?: number;
}

/**
 * Check an image. Nothing is written.
 * @throws FormatError, UNSUPPORTED_FEATURE where the image can not be opened at all
 */
export async function checkImage(device: BlockDevice, options: CheckOptions = {}): Promise<CheckReport> {
  return await run(check(device, options));
}

function* check(device: BlockDevice, options: CheckOptions): Task<CheckReport> {
  const parts = yield* openParts(device, { readOnly: true, backing: 'none' });
  return yield* new Checker(parts, options.maxFindings ?? 1000).check();
}

class Checker {
  readonly #parts: ImageParts;
  readonly #maxFindings: number;
  readonly #counts: ReferenceCounts;
  readonly #findings: CheckFinding[] = [];
  #corruptions = 0;
  #leaks = 0;
  #checkErrors = 0;
  #allocated = 0;
  #fragmented = 0;
  #compressed = 0;
  #lastHost = -1;

  constructor(parts: ImageParts, maxFindings: number) {
    this.#parts = parts;
    this.#maxFindings = maxFindings;
    this.#counts = new ReferenceCounts(parts.core.clusterBytes, parts.core.device.sizeBytes);
  }

  *check(): Task<CheckReport> {
    const { core, snapshots } = this.#parts;
    const { header, clusterBytes } = core;
    this.#reference(0, clusterBytes, 'the header');
    this.#reference(header.refcountTableOffset, core.refcountTable.byteLength, 'the refcount table');
    if (header.snapshotCount > 0) {
      this.#reference(header.snapshotsOffset, yield* this.#snapshotTableBytes(), 'the snapshot table');
    }
    yield* this.#countExtensions();
    yield* this.#countL1(header.l1Offset, core.l1, true);
    for (const snapshot of snapshots) {
      // Nothing is allocated for what the file does not have.
      if (!this.#inFile(snapshot.l1Offset, snapshot.l1Entries * 8)) {
        this.#reference(snapshot.l1Offset, snapshot.l1Entries * 8, 'the L1 table of a snapshot');
        continue;
      }
      const l1 = new Uint8Array(snapshot.l1Entries * 8);
      yield* wait(core.readPatched(snapshot.l1Offset, l1));
      yield* this.#countL1(snapshot.l1Offset, new DataView(l1.buffer), false);
    }
    this.#countRefcountBlocks();
    const journal = isJournalValid(header) ? boundJournal(header) : this.#draftArea();
    if (journal !== undefined) this.#checkJournal(journal);
    if (header.draftJournal !== undefined && journal !== undefined) {
      yield* this.#countDraft(journal, header.draftJournal.sealed);
    }
    const imageEndOffset = yield* this.#compare();
    yield* this.#checkCopiedFlags();
    return {
      corruptions: this.#corruptions,
      leaks: this.#leaks,
      checkErrors: this.#checkErrors,
      totalClusters: Math.ceil(header.sizeBytes / clusterBytes),
      allocatedClusters: this.#allocated,
      fragmentedClusters: this.#fragmented,
      compressedClusters: this.#compressed,
      imageEndOffset,
      findings: this.#findings,
      journal,
    };
  }

  /** Length of the snapshot table: it ends with the last entry, which `decodeSnapshotTable` has found. */
  *#snapshotTableBytes(): Task<number> {
    const { core } = this.#parts;
    const available = Math.max(0, Math.min(core.device.sizeBytes - core.header.snapshotsOffset, 1 << 26));
    const bytes = new Uint8Array(available);
    yield* wait(core.readPatched(core.header.snapshotsOffset, bytes));
    const table = decodeSnapshotTable(bytes, core.header.snapshotCount, {
      hostOffset: core.header.snapshotsOffset,
      clusterBytes: core.clusterBytes,
    });
    return table.lengthBytes;
  }

  *#countExtensions(): Task<void> {
    const { core } = this.#parts;
    const { extensions } = core.header;
    const { clusterBytes } = core;
    const encryption = findHeaderExtension(extensions, headerExtensionTypes.fullDiskEncryption);
    if (encryption !== undefined) {
      const pointer = decodeEncryptionHeaderPointer(encryption, { clusterBytes });
      this.#reference(pointer.headerOffset, pointer.headerLengthBytes, 'the encryption header');
    }
    const bitmaps = findHeaderExtension(extensions, headerExtensionTypes.bitmaps);
    if (bitmaps === undefined || (core.header.autoclearFeatures & 1n) === 0n) return;
    const extension = decodeBitmapsExtension(bitmaps, { clusterBytes });
    const { directoryOffset, directoryLengthBytes } = extension;
    if (!this.#reference(directoryOffset, directoryLengthBytes, 'the bitmap directory')) return;
    const bytes = new Uint8Array(extension.directoryLengthBytes);
    yield* wait(core.readPatched(extension.directoryOffset, bytes));
    const entries = decodeBitmapDirectory(bytes, extension.bitmapCount, {
      hostOffset: extension.directoryOffset,
      clusterBytes,
    });
    for (const entry of entries) yield* this.#countBitmapTable(entry.tableOffset, entry.tableEntries);
  }

  *#countBitmapTable(tableOffset: number, tableEntries: number): Task<void> {
    const { core } = this.#parts;
    if (!this.#reference(tableOffset, tableEntries * 8, 'a bitmap table')) return;
    const bytes = new Uint8Array(tableEntries * 8);
    yield* wait(core.readPatched(tableOffset, bytes));
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < tableEntries; i++) {
      const offset = readEntryOffset(view, i * 8);
      if (offset !== 0) this.#reference(offset, core.clusterBytes, 'a bitmap');
    }
  }

  *#countL1(l1Offset: number, l1: DataView, active: boolean): Task<void> {
    const { core } = this.#parts;
    this.#reference(l1Offset, l1.byteLength, active ? 'the L1 table' : 'the L1 table of a snapshot');
    for (let index = 0; index < l1.byteLength / 8; index++) {
      try {
        checkL1Entry(l1, index * 8, core.clusterBits, l1Offset);
      } catch (error) {
        this.#damaged(error);
        continue;
      }
      const table = readEntryOffset(l1, index * 8);
      if (table === 0) continue;
      if (!this.#reference(table, core.clusterBytes, 'an L2 table')) continue;
      yield* this.#countL2(table, index, active);
    }
  }

  *#countL2(tableOffset: number, l1Index: number, active: boolean): Task<void> {
    const { core } = this.#parts;
    const { clusterBytes, l2EntryBytes, l2Entries, l2Format } = core;
    const bytes = new Uint8Array(clusterBytes);
    yield* wait(core.readPatched(tableOffset, bytes));
    const view = new DataView(bytes.buffer);
    // Clusters of different tables are not counted as neighbours.
    this.#lastHost = -1;
    for (let i = 0; i < l2Entries; i++) {
      const at = i * l2EntryBytes;
      const guestOffset = (l1Index * l2Entries + i) * clusterBytes;
      try {
        checkL2Entry(view, at, l2Format, tableOffset);
      } catch (error) {
        this.#damaged(error, guestOffset);
        continue;
      }
      const kind = classifyL2Entry(view, at, l2Format);
      if (kind === clusterKind.unallocated || kind === clusterKind.zeroPlain) continue;
      if (kind === clusterKind.compressed) {
        const offset = readCompressedOffset(view, at, core.clusterBits);
        const length = readCompressedLengthBytes(view, at, core.clusterBits);
        this.#reference(offset, length, 'compressed data', guestOffset);
        if (active) {
          this.#allocated++;
          this.#compressed++;
          this.#fragmented++;
        }
        continue;
      }
      const offset = readEntryOffset(view, at);
      if (!l2Format.externalData) this.#reference(offset, clusterBytes, 'a guest cluster', guestOffset);
      if (!active) continue;
      this.#allocated++;
      if (this.#lastHost >= 0 && offset !== this.#lastHost + clusterBytes) this.#fragmented++;
      this.#lastHost = offset;
    }
  }

  #countRefcountBlocks(): void {
    const { allocator, core } = this.#parts;
    for (let index = 0; index < core.refcountTable.byteLength / 8; index++) {
      try {
        const offset = allocator.blockOffset(index);
        if (offset !== 0) this.#reference(offset, core.clusterBytes, 'a refcount block');
      } catch (error) {
        this.#damaged(error);
      }
    }
  }

  #checkJournal(journal: { hostOffset: number; lengthBytes: number }): void {
    const { clusterBytes } = this.#parts.core;
    const end = journal.hostOffset + journal.lengthBytes;
    for (let at = journal.hostOffset; at < end; at += clusterBytes) {
      if (this.#counts.get(at / clusterBytes) === 0) continue;
      this.#finding('error', 'OVERLAP', 'a cluster of the journal is used by something else', {
        hostOffset: at,
        clause: 'JRN-BIND-015',
      });
    }
  }

  #draftArea(): HostArea | undefined {
    const { core, draftArea } = this.#parts;
    return draftArea === undefined ? undefined : draftHostArea(draftArea, core.clusterBytes);
  }

  /** The draft's journal refers to its clusters; what a crash left uncounted of a new one is no error [JD13-BIND-007]. */
  *#countDraft(journal: HostArea, sealed: boolean): Task<void> {
    const { core, allocator } = this.#parts;
    const end = journal.hostOffset + journal.lengthBytes;
    for (let at = journal.hostOffset; at < end; at += core.clusterBytes) {
      const counted = (yield* allocator.refcount(at / core.clusterBytes)) > 0;
      if (counted || !sealed) this.#reference(at, core.clusterBytes, 'the journal');
    }
  }

  /** What was counted against what the refcount blocks say. Returns the end of what is in use. */
  *#compare(): Task<number> {
    const { core, allocator } = this.#parts;
    const { clusterBytes } = core;
    let last = -1;
    const blocks = core.refcountTable.byteLength / 8;
    for (let block = 0; block < blocks; block++) {
      const first = block * core.refcountsPerBlock;
      let hasBlock = false;
      try {
        hasBlock = allocator.blockOffset(block) !== 0;
      } catch {
        // Counted as damage above.
      }
      if (!hasBlock) continue;
      try {
        last = Math.max(last, yield* this.#compareBlock(first));
      } catch (error) {
        this.#damaged(error);
      }
    }
    // What is left was referenced where no refcount block reaches.
    for (const [cluster, counted] of this.#counts.rest()) {
      last = Math.max(last, cluster);
      this.#mismatch(cluster, 0, counted);
    }
    return (last + 1) * clusterBytes;
  }

  /** One refcount block, slice by slice; slices in which nothing is counted on either side are passed over. */
  *#compareBlock(first: number): Task<number> {
    const { core, allocator } = this.#parts;
    const perSlice = (core.refcountCache.sliceBytes * 8) / core.refcounts.widthBits;
    let last = -1;
    for (let at = 0; at < core.refcountsPerBlock; at += perSlice) {
      const slice = yield* core.refcountCache.load(allocator.refcountOffset(first + at));
      if (!this.#counts.any(first + at, perSlice) && isZero(slice.bytes)) continue;
      for (let index = 0; index < perSlice; index++) {
        const cluster = first + at + index;
        const stored = core.refcounts.get(slice.view, index);
        const counted = this.#counts.take(cluster);
        if (stored > 0 || counted > 0) last = cluster;
        if (stored !== counted) this.#mismatch(cluster, stored, counted);
      }
    }
    return last;
  }

  #mismatch(cluster: number, stored: number, counted: number): void {
    const hostOffset = cluster * this.#parts.core.clusterBytes;
    const message = `cluster ${cluster} has refcount ${stored} and ${counted} reference(s)`;
    const severity = stored > counted ? 'leak' : 'error';
    this.#finding(severity, 'REFCOUNT_WRONG', message, { hostOffset, clause: 'RCB-001' });
  }

  /** In the active tables "copied" means: the refcount is exactly one. */
  *#checkCopiedFlags(): Task<void> {
    const { core } = this.#parts;
    for (let index = 0; index < core.l1.byteLength / 8; index++) {
      const table = readEntryOffset(core.l1, index * 8);
      if (table === 0 || table % core.clusterBytes !== 0 || table >= core.device.sizeBytes) continue;
      yield* this.#checkFlag(table, readEntryCopied(core.l1, index * 8), 'L1E-004');
      if (core.l2Format.externalData) continue;
      const bytes = new Uint8Array(core.clusterBytes);
      yield* wait(core.readPatched(table, bytes));
      const view = new DataView(bytes.buffer);
      for (let i = 0; i < core.l2Entries; i++) {
        const at = i * core.l2EntryBytes;
        const kind = classifyL2Entry(view, at, core.l2Format);
        const offset = kind === clusterKind.compressed ? 0 : readEntryOffset(view, at);
        if (offset === 0 || offset % core.clusterBytes !== 0) continue;
        const guestOffset = (index * core.l2Entries + i) * core.clusterBytes;
        yield* this.#checkFlag(offset, readEntryCopied(view, at), 'L2E-004', guestOffset);
      }
    }
  }

  *#checkFlag(hostOffset: number, copied: boolean, clause: string, guestOffset?: number): Task<void> {
    const { allocator, core } = this.#parts;
    let refcount: number;
    try {
      refcount = yield* allocator.refcount(hostOffset / core.clusterBytes);
    } catch (error) {
      // A refcount block that can not be read was found before.
      if (error instanceof FormatError) return;
      throw error;
    }
    if (copied === (refcount === 1)) return;
    const message = `the copied flag is ${copied ? 'set' : 'clear'} and the refcount is ${refcount}`;
    this.#finding('error', 'BAD_FIELD', message, { hostOffset, guestOffset, clause });
  }

  /** Count a range. False where it can not be. */
  #reference(offset: number, lengthBytes: number, what: string, guestOffset?: number): boolean {
    if (lengthBytes === 0) return true;
    const { clusterBytes } = this.#parts.core;
    if (!this.#inFile(offset, lengthBytes)) {
      const message = `${what} leads beyond the end of the file`;
      this.#finding('error', 'OUT_OF_RANGE', message, { hostOffset: offset, guestOffset });
      return false;
    }
    const first = Math.floor(offset / clusterBytes);
    const last = Math.floor((offset + lengthBytes - 1) / clusterBytes);
    for (let cluster = first; cluster <= last; cluster++) this.#counts.add(cluster);
    return true;
  }

  /** The file's last cluster may be incomplete. */
  #inFile(offset: number, lengthBytes: number): boolean {
    const { clusterBytes, device } = this.#parts.core;
    return offset + lengthBytes <= Math.ceil(device.sizeBytes / clusterBytes) * clusterBytes;
  }

  #damaged(error: unknown, guestOffset?: number): void {
    if (!(error instanceof FormatError)) throw error;
    const { hostOffset, clause } = error.context;
    this.#finding('error', error.code, error.message, { hostOffset, guestOffset, clause });
  }

  #finding(
    severity: CheckFinding['severity'],
    code: string,
    message: string,
    where: Pick<CheckFinding, 'hostOffset' | 'guestOffset' | 'clause'>,
  ): void {
    if (severity === 'error') this.#corruptions++;
    else this.#leaks++;
    if (this.#findings.length < this.#maxFindings) this.#findings.push({ severity, code, message, ...where });
  }
}

function isZero(bytes: Uint8Array): boolean {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return words.every((word) => word === 0);
}
