/**
 * What each of the two record designs writes for a flushed guest write, in bytes and places, without a driver
 * around it: the question of ADR 5, apart from how well either is programmed.
 *
 *   physical  the cluster is allocated at the flush; the record holds the payload by host offset, and for
 *             a new cluster its L2 entry, its refcount and a fill of the rest
 *   logical   the record holds the payload by guest offset; a cluster is allocated when it is written
 *             back, and its L2 entry, refcount and "settled" ride in the record of a later flush
 *
 * Common to both: a record is a whole number of blocks. A page that the log does not hold and whose cluster is
 * allocated is written in place, and not logged. From a quarter of the ring in use on, write-back puts in
 * place what the log holds: data in runs, changed metadata in runs, and at the end a header slot; in steps in
 * proportion to the log's growth, so that no flush pays for many.
 *
 * A guest write is one page of 4 KiB; clusters have 16 pages.
 */

export type RecordDesign = 'physical' | 'logical';

export interface HostRun {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** What is to be written before the one fdatasync of a flush. */
export interface CommitStep {
  /** Length of the record; 0: none. */
  readonly recordBytes: number;
  readonly inPlace: readonly HostRun[];
}

export interface CommitModelOptions {
  readonly design: RecordDesign;
  readonly blockBytes: number;
  readonly ringBytes: number;
  /** Where things stand in the file. The slot takes 512 bytes; L2 entries 8 for each guest cluster. */
  readonly slotOffset: number;
  readonly l2Offset: number;
  readonly refcountOffset: number;
  /** Clusters are allocated from here on, one after the other. */
  readonly dataOffset: number;
}

export const pageBytes = 4096;
export const clusterBytes = 65536;
const pagesPerCluster = clusterBytes / pageBytes;

/** Sizes of a record's parts (JRN-REC, JRN-DESC). */
const partBytes = { header: 80, payloadWrite: 24, l2Entry: 24, refcount: 24, fill: 32, settled: 32 } as const;
const slotBytes = 512;
/** Share of the ring from which write-back runs. */
const writeBackAt = 0.25;

interface Round {
  readonly clusters: number[];
  readonly metadata: HostRun[];
  readonly items: number;
  /** In use when it began: what is free when it ends. */
  readonly usedBytes: number;
}

export class CommitModel {
  readonly #options: CommitModelOptions;
  /** Pages that the log holds and that are not in place, by guest cluster. */
  readonly #held = new Map<number, Set<number>>();
  /** Host cluster of each guest cluster that has one. */
  readonly #allocated = new Map<number, number>();
  /** Changed metadata that may be written in place, by offset. */
  #metadata = new Map<number, number>();
  /** Settled clusters whose deltas ride in the next record. */
  #riding: { readonly guestCluster: number; readonly fresh: boolean }[] = [];
  #usedBytes = 0;
  #round: Round | undefined;
  #owed = 0;

  constructor(options: CommitModelOptions) {
    this.#options = options;
  }

  /** A page is written and flushed. */
  commit(guestPage: number): CommitStep {
    const guestCluster = Math.floor(guestPage / pagesPerCluster);
    const page = guestPage % pagesPerCluster;
    const inPlace: HostRun[] = [];
    let descriptorBytes = this.#takeRiding();
    let payloadBytes = 0;
    const host = this.#allocated.get(guestCluster);
    if (host !== undefined && !this.#held.has(guestCluster)) {
      inPlace.push(this.#pageRun(host, page, 1));
    } else {
      if (this.#options.design === 'physical' && host === undefined) {
        this.#allocate(guestCluster);
        descriptorBytes += partBytes.l2Entry + partBytes.refcount + partBytes.fill;
      }
      descriptorBytes += partBytes.payloadWrite;
      payloadBytes = pageBytes;
      const pages = this.#held.get(guestCluster);
      if (pages === undefined) this.#held.set(guestCluster, new Set([page]));
      else pages.add(page);
    }
    const { blockBytes } = this.#options;
    const bytes = descriptorBytes + payloadBytes;
    const recordBytes = bytes === 0 ? 0 : Math.ceil((partBytes.header + bytes) / blockBytes) * blockBytes;
    this.#usedBytes += recordBytes;
    this.#writeBack(recordBytes, inPlace);
    return { recordBytes, inPlace };
  }

  /** Descriptors of what was settled before the last flush. Its metadata may be written in place after this one. */
  #takeRiding(): number {
    let bytes = 0;
    for (const { guestCluster, fresh } of this.#riding) {
      bytes += partBytes.settled;
      if (!fresh) continue;
      bytes += partBytes.l2Entry + partBytes.refcount;
      this.#noteMetadata(guestCluster);
    }
    this.#riding = [];
    return bytes;
  }

  #allocate(guestCluster: number): number {
    const host = this.#allocated.size;
    this.#allocated.set(guestCluster, host);
    if (this.#options.design === 'physical') this.#noteMetadata(guestCluster);
    return host;
  }

  #noteMetadata(guestCluster: number): void {
    const { l2Offset, refcountOffset } = this.#options;
    this.#metadata.set(l2Offset + guestCluster * 8, 8);
    this.#metadata.set(refcountOffset + this.#allocated.get(guestCluster)! * 2, 2);
  }

  #writeBack(grownBytes: number, inPlace: HostRun[]): void {
    const atBytes = this.#options.ringBytes * writeBackAt;
    this.#round ??= this.#usedBytes < atBytes ? undefined : this.#beginRound();
    const round = this.#round;
    if (round === undefined) return;
    // A round ends when the log has grown by half of what starts one: well before the next is due.
    this.#owed += (round.items * Math.max(grownBytes, this.#options.blockBytes)) / (atBytes / 2);
    for (; this.#owed >= 1 && round.clusters.length > 0; this.#owed--) {
      this.#settle(round.clusters.shift()!, inPlace);
    }
    for (; this.#owed >= 1 && round.metadata.length > 0; this.#owed--) inPlace.push(round.metadata.shift()!);
    if (round.clusters.length + round.metadata.length > 0) return;
    inPlace.push({ offset: this.#options.slotOffset, lengthBytes: slotBytes });
    this.#usedBytes -= round.usedBytes;
    this.#round = undefined;
    this.#owed = 0;
  }

  #beginRound(): Round {
    const clusters = [...this.#held.keys()].sort((a, b) => a - b);
    const metadata = mergedRuns(this.#metadata);
    this.#metadata = new Map();
    return { clusters, metadata, items: clusters.length + metadata.length, usedBytes: this.#usedBytes };
  }

  /** Put the cluster's held pages in place, in runs. */
  #settle(guestCluster: number, inPlace: HostRun[]): void {
    const pages = [...(this.#held.get(guestCluster) ?? [])].sort((a, b) => a - b);
    this.#held.delete(guestCluster);
    const before = this.#allocated.get(guestCluster);
    const host = before ?? this.#allocate(guestCluster);
    if (this.#options.design === 'logical') this.#riding.push({ guestCluster, fresh: before === undefined });
    for (let i = 0; i < pages.length; ) {
      let count = 1;
      while (pages[i + count] === pages[i]! + count) count++;
      inPlace.push(this.#pageRun(host, pages[i]!, count));
      i += count;
    }
  }

  #pageRun(host: number, page: number, count: number): HostRun {
    const offset = this.#options.dataOffset + host * clusterBytes + page * pageBytes;
    return { offset, lengthBytes: count * pageBytes };
  }
}

function mergedRuns(bytesAt: ReadonlyMap<number, number>): HostRun[] {
  const runs: { offset: number; lengthBytes: number }[] = [];
  for (const [offset, lengthBytes] of [...bytesAt].sort(([a], [b]) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && last.offset + last.lengthBytes === offset) last.lengthBytes += lengthBytes;
    else runs.push({ offset, lengthBytes });
  }
  return runs;
}
