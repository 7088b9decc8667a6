/**
 * What of a damaged image's mapping can be believed. Every cluster of the file that a table leads to is asked: does anything else lead there,
 * do the refcounts know of it, is it in the file? And the other way round: what is in use, and led to by nothing?
 *
 * Why that is evidence. In a sound image a host cluster belongs to one guest cluster (snapshots share it, at the same guest offset) or to one
 * structure, and its refcount is not 0. An entry that damage has changed leads off the boundaries, out of the file, to what counts as free, or to what
 * another entry leads to: then both are in doubt, for nobody knows which is right. What an entry led to before is in use and led to by nothing, an *orphan* (so is what has more references by its refcount than are found): as
 * long as there is one that is not explained, an unmapped range may have been its place, and is no proof of zeros.
 *
 * Refcounts are evidence only where they are believable: not in an image with lazy refcounts that was not closed, and not in a sector of a block where most of what
 * is led to counts as free. There a cluster is in use when it has other bytes than zeros.
 *
 * What this can not see: a flag "reads as zeros" that damage has set or cleared, bits of sub-clusters, guest bytes themselves.
 *
 * Memory: a window of 2^24 host clusters at a time, eight bytes for each (1 TiB in clusters of 64 KiB), and the verdicts.
 */
import { type BlockDevice, readPadded, run } from '@qcow2/block-device';
import { checkL1Entry, type RefcountCodec, readEntryOffset, readRefcountBlockOffset } from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import { draftHostArea } from './draft-journal.ts';
import { looksLikeTable } from './entry-repair.ts';
import { boundJournal, isJournalValid } from './journal-binding.ts';
import type { ImageParts } from './parts.ts';
import { type Verdict, VerdictMap, verdicts } from './recovery-verdicts.ts';
import { type ReferenceKind, ReferenceWalk } from './reference-walk.ts';
import type { SalvageDevice } from './salvage-device.ts';

export interface SurveyOptions {
  /** The refcounts of the image are lost. */
  readonly withoutRefcounts: boolean;
}

export interface Survey {
  readonly verdicts: VerdictMap;
  /** Clusters that more should lead to than does; and the first of those that nothing leads to. */
  readonly orphanCount: number;
  readonly orphans: ReadonlySet<number>;
  /** Those of them that a refcount of one speaks for. */
  readonly counted: ReadonlySet<number>;
  /** Host clusters that guest clusters of the disk stand in. */
  readonly mappedCount: number;
  /** Entries in doubt, of either table. */
  readonly doubtCount: number;
  /** Orphans that a damaged entry can have led to. */
  readonly explained: number;
  /** L1 entries that can not be believed. */
  readonly badSlots: readonly number[];
  readonly goodSlots: number;
  /** Refcounts contradict most of what is led to. */
  readonly refcountsAreWrong: boolean;
  /** End of what the tables map. */
  readonly mappedEndBytes: number;
  /** References that lead beyond the end of the file. */
  readonly beyondCount: number;
}

const windowClusters = 2 ** 24;
const mostOrphans = 65_536;

/** Of a host cluster: nobody's, or a guest cluster's number plus one, or one of these. */
const owner = {
  none: 0,
  conflict: 0xffff_ffff,
  structure: 0xffff_fffe,
  compressed: 0xffff_fffd,
  clash: 0xffff_fffc,
} as const;
const guestOwners = 0xffff_fff0;

/** A refcount that is not known; larger ones than this stand for themselves and all beyond. */
const unknown = 0xffff;

/** @param parts open for reading. @param file what the image stands in, for evidence of what could not be read */
export async function surveyMapping(
  parts: ImageParts,
  file: SalvageDevice,
  options: SurveyOptions,
): Promise<Survey> {
  return await new Surveyor(parts, file, options).survey();
}

class Surveyor implements Survey {
  readonly verdicts = new VerdictMap();
  readonly orphans = new Set<number>();
  readonly counted = new Set<number>();
  readonly badSlots: number[] = [];
  orphanCount = 0;
  mappedCount = 0;
  doubtCount = 0;
  explained = 0;
  goodSlots = 0;
  mappedEndBytes = 0;
  beyondCount = 0;
  #believed = 0;
  #disbelieved = 0;
  readonly #parts: ImageParts;
  readonly #file: SalvageDevice;
  readonly #device: BlockDevice;
  readonly #options: SurveyOptions;
  readonly #rejected = new Set<number>();
  /** Something leads beyond the end of the file: it was cut off. */
  #isCut = false;
  #owners = new Uint32Array(0);
  /** References to each cluster, and what its refcount says that there are. */
  #counts = new Uint16Array(0);
  #stored = new Uint16Array(0);

  constructor(parts: ImageParts, file: SalvageDevice, options: SurveyOptions) {
    this.#parts = parts;
    this.#file = file;
    this.#device = parts.core.device;
    this.#options = options;
  }

  get refcountsAreWrong(): boolean {
    return this.#disbelieved > this.#believed;
  }

  async survey(): Promise<Survey> {
    const { core } = this.#parts;
    await this.#lookAtTables();
    await this.#walk({ see: (_active, _kind, host, length) => this.#noteCut(host, length) });
    const clusters = Math.ceil(core.device.sizeBytes / core.clusterBytes);
    for (let start = 0; start < clusters; start += windowClusters) {
      const count = Math.min(windowClusters, clusters - start);
      this.#owners = new Uint32Array(count);
      this.#counts = new Uint16Array(count);
      this.#stored = new Uint16Array(count);
      await this.#walk({
        see: (_active, kind, host, length, guest) => this.#own(start, kind, host, length, guest),
      });
      this.#ownJournal(start);
      await this.#loadRefcounts(start);
      await this.#walk({
        see: (active, kind, host, length, guest) => this.#judge(active, start, kind, host, length, guest),
      });
      await this.#findOrphans(start);
    }
    return this;
  }

  /** The L1 table and the tables that it leads to, one by one: what is no table leads nowhere. */
  async #lookAtTables(): Promise<void> {
    const { core } = this.#parts;
    const { l1, header, clusterBytes, l2Entries, clusterBits } = core;
    const bytes = new Uint8Array(clusterBytes);
    const slots = Math.min(l1.byteLength / 8, Math.ceil(header.sizeBytes / (clusterBytes * l2Entries)));
    for (let slot = 0; slot < l1.byteLength / 8; slot++) {
      const isUnread = this.#file.isUnreadable(header.l1Offset + slot * 8, 8);
      if (!isUnread && l1.getUint32(slot * 8) === 0 && l1.getUint32(slot * 8 + 4) === 0) continue;
      const table = isUnread ? undefined : soundTable(l1, slot * 8, clusterBits);
      const isThere =
        table !== undefined &&
        table >= clusterBytes &&
        core.isInside(table, clusterBytes) &&
        (await this.#readsAsTable(table, bytes));
      if (isThere) {
        if (slot < slots) this.goodSlots++;
        this.#noteUnreadEntries(table, slot);
        continue;
      }
      if (table !== undefined) {
        this.#rejected.add(table);
        if (!core.isInside(table, clusterBytes)) this.#isCut = true;
      }
      if (slot >= slots) continue;
      this.badSlots.push(slot);
      this.doubtCount++;
      this.verdicts.setRange(
        slot * l2Entries,
        l2Entries,
        isUnread ? verdicts.unreadable : verdicts.tableLost,
      );
    }
  }

  async #readsAsTable(table: number, into: Uint8Array): Promise<boolean> {
    const { core } = this.#parts;
    try {
      core.refuseNoTable(table, into.length);
    } catch (error) {
      if (error instanceof FormatError) return false;
      throw error;
    }
    await core.readPatched(table, into);
    return looksLikeTable(new DataView(into.buffer), core);
  }

  #noteUnreadEntries(table: number, slot: number): void {
    const { clusterBytes, l2EntryBytes, l2Entries } = this.#parts.core;
    if (!this.#file.isUnreadable(table, clusterBytes)) return;
    for (let entry = 0; entry < l2Entries; entry++) {
      if (!this.#file.isUnreadable(table + entry * l2EntryBytes, l2EntryBytes)) continue;
      this.verdicts.set(slot * l2Entries + entry, verdicts.unreadable);
      this.doubtCount++;
    }
  }

  /** Go through all references. What damaged entries say is told once, by the first walk. */
  async #walk({
    see,
  }: {
    see(
      active: boolean,
      kind: ReferenceKind,
      host: number,
      lengthBytes: number,
      guest: number | undefined,
    ): void;
  }): Promise<void> {
    const { core } = this.#parts;
    let active = false;
    const visitor = {
      reference: (kind: ReferenceKind, host: number, lengthBytes: number, guest?: number): boolean => {
        if (kind === 'l1Table') active = true;
        if (kind === 'snapshotL1Table' || kind === 'detachedTable' || kind === 'refcountBlock')
          active = false;
        if (kind === 'l2Table' && this.#rejected.has(host)) return false;
        if (lengthBytes > 0) see(active, kind, host, lengthBytes, guest);
        return core.isInside(host, lengthBytes);
      },
      damaged: (error: unknown, guest?: number): void => {
        if (active && guest !== undefined) this.#noteDamaged(error, guest);
      },
    };
    await run(new ReferenceWalk(this.#parts, visitor).walk());
  }

  readonly #damaged = new Set<number>();

  #noteDamaged(error: unknown, guestOffset: number): void {
    const cluster = guestOffset / this.#parts.core.clusterBytes;
    if (this.#damaged.has(cluster)) return;
    if (this.#damaged.size < mostOrphans) this.#damaged.add(cluster);
    this.verdicts.set(cluster, verdicts.entryDamaged);
    this.doubtCount++;
    // One bit out of nothing led nowhere before.
    const value = error instanceof FormatError ? error.context.value : undefined;
    const neighbours = [cluster - 1, cluster + 1].some((other) => this.#damaged.has(other));
    if (!neighbours && (typeof value !== 'bigint' || bitCount(value) > 2)) this.explained++;
  }

  #noteCut(host: number, lengthBytes: number): void {
    if (this.#parts.core.isInside(host, lengthBytes)) return;
    this.#isCut = true;
    this.beyondCount++;
  }

  #own(
    start: number,
    kind: ReferenceKind,
    host: number,
    lengthBytes: number,
    guest: number | undefined,
  ): void {
    const { clusterBytes } = this.#parts.core;
    const isGuest = kind === 'guestCluster';
    const whose = isGuest
      ? (((guest ?? 0) / clusterBytes) % guestOwners) + 1
      : kind === 'compressedData'
        ? owner.compressed
        : owner.structure;
    const first = Math.floor(host / clusterBytes) - start;
    const last = Math.floor((host + lengthBytes - 1) / clusterBytes) - start;
    for (let at = Math.max(0, first); at <= Math.min(last, this.#owners.length - 1); at++) {
      const before = this.#owners[at]!;
      const isStructure = [before, whose].some((one) => one === owner.structure || one === owner.clash);
      if (before === owner.none || before === whose) this.#owners[at] = whose;
      else this.#owners[at] = isStructure ? owner.clash : owner.conflict;
      if (this.#counts[at]! < unknown - 1) this.#counts[at]!++;
    }
  }

  #ownJournal(start: number): void {
    const { core, draftArea } = this.#parts;
    const { header } = core;
    const area =
      draftArea !== undefined
        ? draftHostArea(draftArea, core.clusterBytes)
        : isJournalValid(header)
          ? boundJournal(header)
          : undefined;
    if (area === undefined) return;
    const first = area.hostOffset / core.clusterBytes - start;
    for (let at = Math.max(0, first); at < first + area.lengthBytes / core.clusterBytes; at++) {
      if (at >= this.#owners.length) return;
      if (this.#owners[at] === owner.none) this.#owners[at] = owner.structure;
    }
  }

  /** What the refcounts say of each cluster of the window, as far as they can be believed. */
  async #loadRefcounts(start: number): Promise<void> {
    const { core } = this.#parts;
    this.#stored.fill(unknown);
    if (this.#options.withoutRefcounts) return;
    const per = core.refcountsPerBlock;
    const bytes = new Uint8Array(core.clusterBytes);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < this.#stored.length; at += per) {
      const index = Math.floor((start + at) / per);
      if (index * 8 >= core.refcountTable.byteLength) return;
      const entry = core.header.refcountTableOffset + index * 8;
      const block = readRefcountBlockOffset(core.refcountTable, index * 8);
      const isPlace = block > 0 && block % core.clusterBytes === 0 && core.isInside(block, core.clusterBytes);
      // Where the file has clusters there is a block that counts them: none is damage, or nothing to believe.
      if (!isPlace || this.#file.isUnreadable(entry, 8)) continue;
      const own = this.#owners[block / core.clusterBytes - start];
      if (own === owner.clash) continue;
      await core.readPatched(block, bytes);
      this.#believe(start, at, view, block);
    }
  }

  /** Sector by sector of a block. */
  #believe(start: number, from: number, view: DataView, block: number): void {
    const { core } = this.#parts;
    const perSector = Math.max(1, Math.floor((512 * 8) / core.refcounts.widthBits));
    for (let first = 0; first < core.refcountsPerBlock; first += perSector) {
      if (from + first >= this.#stored.length) return;
      const sectorAt = block + Math.floor((first * core.refcounts.widthBits) / 8);
      if (this.#file.isUnreadable(sectorAt, 512)) continue;
      let owned = 0;
      let ownedFree = 0;
      let isBlank = true;
      const end = Math.min(first + perSector, core.refcountsPerBlock, this.#stored.length - from);
      for (let index = first; index < end; index++) {
        const counted = storedCount(core.refcounts, view, index);
        // Lazy refcounts that were not written yet: none says nothing.
        const stored = counted === 0 && core.isMarkedDirty ? unknown : counted;
        this.#stored[from + index] = stored;
        if (stored !== 0) isBlank = false;
        const whose = this.#owners[from + index]!;
        const isJournal = whose === owner.structure && this.#isJournal(start + from + index);
        if (whose === owner.none || isJournal) continue;
        owned++;
        if (stored === 0) ownedFree++;
      }
      this.#believed += owned - ownedFree;
      this.#disbelieved += ownedFree;
      // Nothing but zeros is what a lost sector looks like, too.
      if (!isBlank && (ownedFree < 4 || ownedFree * 2 < owned)) continue;
      for (let index = first; index < end; index++) this.#stored[from + index] = unknown;
    }
  }

  #isJournal(cluster: number): boolean {
    const area = boundJournal(this.#parts.core.header);
    if (area === undefined) return false;
    const at = cluster * this.#parts.core.clusterBytes;
    return at >= area.hostOffset && at < area.hostOffset + area.lengthBytes;
  }

  #judge(
    active: boolean,
    start: number,
    kind: ReferenceKind,
    host: number,
    lengthBytes: number,
    guest: number | undefined,
  ): void {
    if (!active) return;
    const { core } = this.#parts;
    const { clusterBytes } = core;
    if (kind === 'l2Table') {
      this.#judgeTable(start, host);
      return;
    }
    if ((kind !== 'guestCluster' && kind !== 'compressedData') || guest === undefined) return;
    const first = Math.floor(host / clusterBytes) - start;
    const last = Math.floor((host + lengthBytes - 1) / clusterBytes) - start;
    const isBeyond = this.#isCut && host + lengthBytes > core.device.sizeBytes;
    if (first < 0 && last < 0) return;
    const windowEnd = this.#owners.length;
    if (first >= windowEnd) {
      // Behind the last window there is no file.
      if ((start + windowEnd) * clusterBytes >= core.device.sizeBytes)
        this.#doubt(guest, verdicts.beyondFile, true);
      return;
    }
    this.mappedCount++;
    this.mappedEndBytes = Math.max(this.mappedEndBytes, guest + clusterBytes);
    if (isBeyond) this.#doubt(guest, verdicts.beyondFile, true);
    for (let at = Math.max(0, first); at <= Math.min(last, windowEnd - 1); at++) {
      if (this.#owners[at] === owner.conflict) this.#doubt(guest, verdicts.usedTwice, false);
      else if (this.#owners[at] === owner.clash) this.#doubt(guest, verdicts.inMetadata, false);
      else if (this.#stored[at] === 0) this.#doubt(guest, verdicts.countedFree, false);
      else if (this.#stored[at] === unknown) this.verdicts.set(guest / clusterBytes, verdicts.uncounted);
    }
  }

  /** A table that counts as free is none; the range is in doubt with it. */
  #judgeTable(start: number, host: number): void {
    const { core } = this.#parts;
    const at = host / core.clusterBytes - start;
    if (at < 0 || at >= this.#owners.length) return;
    const isShared = this.#owners[at] === owner.conflict || this.#owners[at] === owner.clash;
    if (!isShared && this.#stored[at] !== 0) return;
    for (let slot = 0; slot < core.l1.byteLength / 8; slot++) {
      if (readEntryOffset(core.l1, slot * 8) !== host) continue;
      this.verdicts.setRange(slot * core.l2Entries, core.l2Entries, verdicts.tableLost);
      this.doubtCount++;
    }
  }

  #doubt(guestOffset: number, verdict: Verdict, explains: boolean): void {
    const cluster = guestOffset / this.#parts.core.clusterBytes;
    if (this.verdicts.get(cluster) === verdicts.found) {
      this.doubtCount++;
      if (explains && !this.#isCut) this.explained++;
    }
    this.verdicts.set(cluster, verdict);
  }

  async #findOrphans(start: number): Promise<void> {
    const { core } = this.#parts;
    const bytes = new Uint8Array(core.clusterBytes);
    for (let at = 0; at < this.#owners.length; at++) {
      const isOwned = this.#owners[at] !== owner.none;
      const stored = this.#stored[at]!;
      if (stored === unknown ? isOwned : stored <= this.#counts[at]! || this.#isJournal(start + at)) continue;
      const cluster = start + at;
      // Zeros that nothing leads to are no loss where zeros show.
      const asks = !isOwned && (stored === unknown || core.header.backingFileName === undefined);
      if (asks && !(await this.#holdsBytes(cluster, bytes))) continue;
      this.orphanCount++;
      if (isOwned || this.orphans.size >= mostOrphans) continue;
      this.orphans.add(cluster);
      if (stored === 1) this.counted.add(cluster);
    }
  }

  async #holdsBytes(cluster: number, into: Uint8Array): Promise<boolean> {
    const at = cluster * into.length;
    await readPadded(this.#device, at, into);
    return this.#file.isUnreadable(at, into.length) || into.some((byte) => byte !== 0);
  }
}

function soundTable(l1: DataView, at: number, clusterBits: number): number | undefined {
  try {
    checkL1Entry(l1, at, clusterBits, 0);
    return readEntryOffset(l1, at);
  } catch (error) {
    if (error instanceof FormatError) return undefined;
    throw error;
  }
}

/** One that is too large to be a refcount says at least that the cluster is not free. */
function storedCount(codec: RefcountCodec, view: DataView, index: number): number {
  try {
    return Math.min(unknown - 1, codec.get(view, index));
  } catch (error) {
    if (error instanceof FormatError) return unknown - 1;
    throw error;
  }
}

function bitCount(value: bigint): number {
  let count = 0;
  for (let rest = value; rest > 0n; rest &= rest - 1n) count++;
  return count;
}
