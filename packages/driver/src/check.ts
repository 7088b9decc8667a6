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
 *
 * References are counted a window of the file at a time (`ReferencePasses`), in 48 MiB at most: beside these there are the tables that
 * are held whole, and the buffers of one L2 table and one refcount block.
 */
import { type BlockDevice, run, type Task } from '@qcow2/block-device';
import { readEntryCopied } from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import { visitActiveEntries } from './active-entries.ts';
import { draftHostArea } from './draft-journal.ts';
import type { HostArea } from './image-core.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import { openParts } from './open.ts';
import type { ImageParts } from './parts.ts';
import { compareRefcounts, compareUnreferenced, sharedBlocks } from './refcount-comparison.ts';
import { type PassObserver, ReferencePasses } from './reference-passes.ts';
import { type ReferenceKind, referenceNames } from './reference-walk.ts';
import { type ReferenceWindow, SparePieces } from './reference-window.ts';

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
  /**
   * Told now and then how much of the work is done, as so many of the file's bytes; never less than before. What it throws ends the
   * check.
   */
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
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
  return yield* checkParts(parts, options);
}

/** Check an image that is open already, and that nobody changes meanwhile. */
export function* checkParts(
  parts: ImageParts,
  options: CheckOptions = {},
  spare = new SparePieces(),
): Task<CheckReport> {
  return yield* new Checker(parts, options).check(spare);
}

class Checker implements PassObserver {
  readonly #parts: ImageParts;
  readonly #maxFindings: number;
  readonly #progress: CheckProgress;
  readonly #findings: CheckFinding[] = [];
  #corruptions = 0;
  #leaks = 0;
  #allocated = 0;
  #fragmented = 0;
  #compressed = 0;
  #lastHost = -1;
  /** The last cluster in use. */
  #last = -1;

  constructor(parts: ImageParts, { maxFindings = 1000, onProgress }: CheckOptions) {
    this.#parts = parts;
    this.#maxFindings = maxFindings;
    this.#progress = new CheckProgress(parts.core, onProgress);
  }

  *check(spare: SparePieces): Task<CheckReport> {
    const { header, clusterBytes } = this.#parts.core;
    const journal = isJournalValid(header) ? boundJournal(header) : this.#draftArea();
    const reserved = header.draftJournal === undefined ? journal : undefined;
    const passes = new ReferencePasses(this.#parts, { observer: this, spare });
    yield* passes.each((window) => this.#checkWindow(passes, window, reserved));
    const last = yield* compareUnreferenced(this.#parts, passes, {
      difference: (cluster, stored, counted) => this.#mismatch(cluster, stored, counted),
    });
    this.#progress.end();
    return {
      corruptions: this.#corruptions,
      leaks: this.#leaks,
      checkErrors: 0,
      totalClusters: Math.ceil(header.sizeBytes / clusterBytes),
      allocatedClusters: this.#allocated,
      fragmentedClusters: this.#fragmented,
      compressedClusters: this.#compressed,
      imageEndOffset: (Math.max(this.#last, last) + 1) * clusterBytes,
      findings: this.#findings,
      journal,
    };
  }

  *#checkWindow(passes: ReferencePasses, window: ReferenceWindow, journal: HostArea | undefined): Task<void> {
    if (journal !== undefined) this.#checkJournal(window, journal);
    for (const index of sharedBlocks(this.#parts, window)) {
      const hostOffset = this.#parts.allocator.blockOffset(index);
      const message = `the cluster of refcount block ${index} is used by something else as well`;
      this.#finding('error', 'OVERLAP', message, { hostOffset, clause: 'RCB-006' });
    }
    const last = yield* compareRefcounts(this.#parts, window, {
      difference: (cluster, stored, counted) => this.#mismatch(cluster, stored, counted),
    });
    this.#last = Math.max(this.#last, last);
    yield* this.#checkFlags(passes, window);
    this.#progress.window(window.end);
  }

  activeTable(): void {
    this.#progress.table();
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

  #checkJournal(window: ReferenceWindow, journal: HostArea): void {
    const { clusterBytes } = this.#parts.core;
    const first = journal.hostOffset / clusterBytes;
    const end = Math.min(window.end, first + journal.lengthBytes / clusterBytes);
    for (let cluster = Math.max(first, window.start); cluster < end; cluster++) {
      if (window.get(cluster) === 0) continue;
      this.#finding('error', 'OVERLAP', 'a cluster of the journal is used by something else', {
        hostOffset: cluster * clusterBytes,
        clause: 'JRN-BIND-015',
      });
    }
  }

  #draftArea(): HostArea | undefined {
    const { core, draftArea } = this.#parts;
    return draftArea === undefined ? undefined : draftHostArea(draftArea, core.clusterBytes);
  }

  /** Returns the refcount, which stays as it is. */
  #mismatch(cluster: number, stored: number, counted: number): number {
    const hostOffset = cluster * this.#parts.core.clusterBytes;
    const message = `cluster ${cluster} has refcount ${stored} and ${counted} reference(s)`;
    const severity = stored > counted ? 'leak' : 'error';
    this.#finding(severity, 'REFCOUNT_WRONG', message, { hostOffset, clause: 'RCB-001' });
    return stored;
  }

  /** In the active tables "copied" means: the refcount is exactly one. What leads beyond the file has none. */
  *#checkFlags(passes: ReferencePasses, window: ReferenceWindow): Task<void> {
    const { clusterBytes, device } = this.#parts.core;
    const fileClusters = Math.ceil(device.sizeBytes / clusterBytes);
    yield* visitActiveEntries(this.#parts, passes.tablesOf(window), {
      entry: ({ view, at, hostOffset, guestOffset }) => {
        const cluster = hostOffset / clusterBytes;
        const beyond = cluster >= fileClusters;
        if (beyond ? window.start > 0 : !window.has(cluster)) return false;
        const once = !beyond && window.isStoredOnce(cluster);
        const copied = readEntryCopied(view, at);
        if (copied === once) return false;
        const is = once ? 'is 1' : 'is not 1';
        const message = `the copied flag is ${copied ? 'set' : 'clear'} and the refcount ${is}`;
        const clause = guestOffset === undefined ? 'L1E-004' : 'L2E-004';
        this.#finding('error', 'BAD_FIELD', message, { hostOffset, guestOffset, clause });
        return false;
      },
    });
  }

  outside(kind: ReferenceKind, hostOffset: number, _lengthBytes: number, guestOffset?: number): void {
    const message = `${referenceNames[kind]} leads beyond the end of the file`;
    this.#finding('error', 'OUT_OF_RANGE', message, { hostOffset, guestOffset });
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

/** One half is going through all L2 tables for the first time, the other half the file, window by window. */
class CheckProgress {
  readonly #report: CheckOptions['onProgress'];
  readonly #tables: number;
  readonly #clusterBytes: number;
  readonly #fileBytes: number;
  #tablesDone = 0;

  constructor({ l1, device, clusterBytes }: ImageParts['core'], report: CheckOptions['onProgress']) {
    this.#report = report;
    let tables = 0;
    for (let at = 0; at < l1.byteLength; at += 8) if (l1.getBigUint64(at) !== 0n) tables++;
    this.#tables = Math.max(1, tables);
    this.#clusterBytes = clusterBytes;
    this.#fileBytes = device.sizeBytes;
    this.#tell(0);
  }

  table(): void {
    this.#tell(Math.min(1, ++this.#tablesDone / this.#tables));
  }

  window(endCluster: number): void {
    this.#tell(1 + Math.min(1, (endCluster * this.#clusterBytes) / this.#fileBytes));
  }

  end(): void {
    this.#tell(2);
  }

  #tell(halves: number): void {
    this.#report?.((halves / 2) * this.#fileBytes, this.#fileBytes);
  }
}
