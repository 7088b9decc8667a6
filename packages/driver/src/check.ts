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
import { classifyL2Entry, clusterKind, readEntryCopied, readEntryOffset } from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import { draftHostArea } from './draft-journal.ts';
import type { HostArea } from './image-core.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import { openParts } from './open.ts';
import type { ImageParts } from './parts.ts';
import { ReferenceCounts } from './reference-counts.ts';
import {
  type ReferenceKind,
  type ReferenceVisitor,
  ReferenceWalk,
  referenceNames,
} from './reference-walk.ts';

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

class Checker implements ReferenceVisitor {
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
    const { header, clusterBytes } = this.#parts.core;
    yield* new ReferenceWalk(this.#parts, this).walk();
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

  activeTable(): void {
    // Clusters of different tables are not counted as neighbours.
    this.#lastHost = -1;
  }

  activeCluster(hostOffset: number, compressed: boolean): void {
    this.#allocated++;
    if (compressed) {
      this.#compressed++;
      this.#fragmented++;
      return;
    }
    if (this.#lastHost >= 0 && hostOffset !== this.#lastHost + this.#parts.core.clusterBytes)
      this.#fragmented++;
    this.#lastHost = hostOffset;
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
      if (counted || !sealed) this.reference('journal', at, core.clusterBytes);
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
        this.damaged(error);
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
  reference(kind: ReferenceKind, offset: number, lengthBytes: number, guestOffset?: number): boolean {
    if (lengthBytes === 0) return true;
    const { clusterBytes } = this.#parts.core;
    if (!this.#inFile(offset, lengthBytes)) {
      const message = `${referenceNames[kind]} leads beyond the end of the file`;
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

  damaged(error: unknown, guestOffset?: number): void {
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
