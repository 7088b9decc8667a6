/**
 * What of an entry of a table can be put right without a guess: its offset stays what it is.
 *
 *   - Reserved bits are cleared where the rest of the entry leads to a place where such a thing can be. QEMU 7.2 leaves
 *     such an entry, and refuses to read what it maps; a repair of leaks then frees what only it led to.
 *   - Bit 63 is cleared where it has no meaning: without an offset, and of a compressed cluster.
 *   - A zero cluster whose host cluster can not be, off a boundary or beyond the file, becomes one without a host cluster:
 *     the guest sees the same zeros.
 *
 * What leads off a boundary otherwise, or beyond the file, is left: nobody knows what it meant, and to the one who looks for it
 * the wrong offset says more than none.
 *
 * Nothing is changed in what is hardly a table: where a damaged L1 entry leads to guest data, that looks like a table in which nearly
 * everything is broken, or is known to be guest data by another entry that leads there (`notTables`).
 *
 * An entry is judged by itself and by the length that the file had when the repair began, so every pass over the tables
 * sees the same. Crash argument: an entry is 8 bytes in one sector, so it is the old one or the new one.
 */
import {
  checkL1Entry,
  checkRefcountTableEntry,
  classifyL2Entry,
  clearReservedL1,
  clearReservedL2,
  clearReservedRefcountTable,
  clusterKind,
  isSoundL2Entry,
  readEntryOffset,
  readRefcountBlockOffset,
  writeEntryCopied,
  writeUnallocated,
  writeZeroEntry,
} from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import type { ImageCore } from './image-core.ts';

export class EntryRepair {
  /**
   * Tables seen so far in which there is something to change, by host offset: L1 tables with their lengths, L2 tables with
   * the guest offset of their first entry.
   */
  readonly l1Tables = new Map<number, number>();
  readonly l2Tables = new Map<number, number>();
  /** Clusters that are something else than an L2 table as well: their bytes are left. Known when all have been counted. */
  readonly notTables = new Set<number>();
  readonly #core: ImageCore;
  readonly #fileEnd: number;
  /** Guest clusters up to here have lost their length only. */
  readonly #guestEnd: number;
  readonly #scratch = new DataView(new ArrayBuffer(16));

  constructor(core: ImageCore, lostBytes: number) {
    this.#core = core;
    this.#fileEnd = Math.ceil(core.device.sizeBytes / core.clusterBytes) * core.clusterBytes;
    this.#guestEnd = this.#fileEnd + lostBytes;
  }

  /** An L1 table as it will be: itself, or a copy where something changes. */
  repairedL1(table: DataView, tableOffset: number): DataView {
    let result = table;
    for (let at = 0; at < table.byteLength; at += 8) {
      if (!this.#isDamagedL1(table, at)) continue;
      if (result === table) {
        result = new DataView(table.buffer.slice(table.byteOffset, table.byteOffset + table.byteLength));
      }
      if (this.l1(result, at)) this.l1Tables.set(tableOffset, table.byteLength);
    }
    return result;
  }

  /** Returns whether the entry was changed. */
  l1(view: DataView, at: number): boolean {
    if (!this.#isDamagedL1(view, at)) return false;
    const entry = this.#copy(view, at, 8);
    clearReservedL1(entry, 0);
    const table = readEntryOffset(entry, 0);
    if (table === 0) writeUnallocated(entry, 0);
    else if (!this.#isPlace(table, this.#fileEnd)) return false;
    if (this.#isDamagedL1(entry, 0)) return false;
    view.setBigUint64(at, entry.getBigUint64(0));
    return true;
  }

  /** All entries of an L2 table, in place. */
  l2Table(view: DataView, tableOffset: number, guestOffset: number): void {
    if (!looksLikeTable(view, this.#core)) return;
    for (let at = 0; at < view.byteLength; at += this.#core.l2EntryBytes) {
      if (this.l2(view, at) && !this.l2Tables.has(tableOffset)) this.l2Tables.set(tableOffset, guestOffset);
    }
  }

  l2(view: DataView, at: number): boolean {
    const { l2Format, l2EntryBytes } = this.#core;
    if (!this.#isDamagedL2(view, at)) return this.#dropZeroCluster(view, at);
    const entry = this.#copy(view, at, l2EntryBytes);
    clearReservedL2(entry, 0, l2Format);
    if (classifyL2Entry(entry, 0, l2Format) === clusterKind.compressed) {
      writeEntryCopied(entry, 0, false);
    } else if (!l2Format.externalData) {
      if (readEntryOffset(entry, 0) === 0) writeEntryCopied(entry, 0, false);
      else if (!this.#isPlace(readEntryOffset(entry, 0), this.#guestEnd)) {
        return this.#dropZeroCluster(view, at);
      }
    }
    if (this.#isDamagedL2(entry, 0)) return false;
    view.setBigUint64(at, entry.getBigUint64(0));
    return true;
  }

  refcountTable(view: DataView, at: number): boolean {
    const { clusterBits, header } = this.#core;
    if (!damaged(() => checkRefcountTableEntry(view, at, clusterBits, header.refcountTableOffset)))
      return false;
    const entry = this.#copy(view, at, 8);
    clearReservedRefcountTable(entry, 0);
    if (!this.#isPlace(readRefcountBlockOffset(entry, 0), this.#fileEnd)) return false;
    view.setBigUint64(at, entry.getBigUint64(0));
    return true;
  }

  /** A cluster that reads as zeros needs no host cluster. */
  #dropZeroCluster(view: DataView, at: number): boolean {
    const { l2Format } = this.#core;
    if (l2Format.extended || l2Format.externalData) return false;
    if (classifyL2Entry(view, at, l2Format) !== clusterKind.zeroAllocated) return false;
    if (this.#isPlace(readEntryOffset(view, at), this.#fileEnd)) return false;
    writeZeroEntry(view, at, 0, false);
    return true;
  }

  #copy(view: DataView, at: number, bytes: number): DataView {
    for (let i = 0; i < bytes; i += 8) this.#scratch.setBigUint64(i, view.getBigUint64(at + i));
    return this.#scratch;
  }

  #isPlace(hostOffset: number, end: number): boolean {
    const { clusterBytes } = this.#core;
    return hostOffset > 0 && hostOffset % clusterBytes === 0 && hostOffset + clusterBytes <= end;
  }

  #isDamagedL1(view: DataView, at: number): boolean {
    return damaged(() => checkL1Entry(view, at, this.#core.clusterBits, 0));
  }

  #isDamagedL2(view: DataView, at: number): boolean {
    return !isSoundL2Entry(view, at, this.#core.l2Format);
  }
}

function damaged(check: () => void): boolean {
  try {
    check();
    return false;
  } catch (error) {
    if (error instanceof FormatError) return true;
    throw error;
  }
}

/** A few broken entries are damage to a table; where most of many are broken, it is none. */
export function looksLikeTable(view: DataView, { l2Format, l2EntryBytes }: ImageCore): boolean {
  let used = 0;
  let broken = 0;
  for (let at = 0; at < view.byteLength; at += l2EntryBytes) {
    if (view.getUint32(at) === 0 && view.getUint32(at + 4) === 0) continue;
    used++;
    if (!isSoundL2Entry(view, at, l2Format)) broken++;
  }
  return broken <= mostBroken || broken * 2 <= used;
}

const mostBroken = 4;
