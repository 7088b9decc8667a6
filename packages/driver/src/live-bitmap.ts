/**
 * A bitmap that our writes keep current: the precise bits of the places that were written to, in memory, and what of
 * the file already covers them.
 *
 * Two things are known of each stretch of bits (`stretchBytes` of them, 16 MiB of disk or less):
 *
 *   the bits      in a page of memory, exact: what the file had at rest, and every write since
 *   covered       the file durably says more than that, whatever happens: with a journal all bits of the stretch are set
 *                 there; without one the bitmap is marked as in use, so that nobody believes it
 *
 * Invariant: a bit is set in memory only in a stretch that is covered; so a crash at any moment leaves a file that says at least
 * what changed, or says that it does not know. A write to a stretch that is covered costs no I/O, one to bits that are set nothing at all.
 *
 * A page is forgotten whole when its bits have been handed to the log (`ImageBitmaps.store`); whoever holds one across
 * a wait looks whether it is still there.
 */
import type { Task } from '@qcow2/block-device';
import type { BitmapDirectoryEntry } from '@qcow2/codec';
import { bitmapBits, bitmapPageBytes, readBits, runEnd, setBits } from './bitmap-table.ts';
import type { ImageCore } from './image-core.ts';

/** Disk that is said to be dirty ahead of the writes, and bytes of bits for it, at most. */
const stretchDiskBytes = 16 * 1024 * 1024;
const stretchBytesAtMost = 256;

export interface BitmapPage {
  readonly index: number;
  readonly bits: Uint8Array;
  /** One for each stretch. */
  readonly covered: Uint8Array;
}

/** Part of one page, in bits of the page. */
export interface PageRange {
  readonly page: number;
  readonly first: number;
  readonly end: number;
}

export class LiveBitmap {
  readonly entry: BitmapDirectoryEntry;
  readonly granularityBits: number;
  readonly pageBytes: number;
  readonly stretchBytes: number;
  readonly pages = new Map<number, BitmapPage>();
  table: DataView;
  readonly #core: ImageCore;

  constructor(core: ImageCore, entry: BitmapDirectoryEntry, table: DataView) {
    const { granularityBits } = entry;
    this.#core = core;
    this.entry = entry;
    this.granularityBits = granularityBits;
    this.table = table;
    this.pageBytes = bitmapPageBytes(core.clusterBytes);
    const wanted = stretchDiskBytes / 2 ** granularityBits / 8;
    this.stretchBytes = Math.max(1, Math.min(this.pageBytes, stretchBytesAtMost, wanted));
  }

  /** Set the bits of a range of the disk. False: some are neither set nor covered, and only others may have been. */
  note(offset: number, lengthBytes: number): boolean {
    const perPage = this.pageBytes * 8;
    const unit = 2 ** this.granularityBits;
    const end = Math.floor((offset + lengthBytes - 1) / unit) + 1;
    for (let bit = Math.floor(offset / unit); bit < end; ) {
      const inPage = bit % perPage;
      const page = this.pages.get((bit - inPage) / perPage);
      if (page === undefined) return false;
      const until = Math.min(perPage, inPage + end - bit);
      if (!this.#isCovered(page, inPage, until)) return false;
      setBits(page.bits, inPage, until);
      bit += until - inPage;
    }
    return true;
  }

  #isCovered({ bits, covered }: BitmapPage, first: number, end: number): boolean {
    if ((bits[first >> 3]! & (1 << (first & 7))) !== 0 && runEnd(bits, first, end) === end) return true;
    const perStretch = this.stretchBytes * 8;
    const last = Math.floor((end - 1) / perStretch);
    for (let i = Math.floor(first / perStretch); i <= last; i++) if (covered[i] !== 1) return false;
    return true;
  }

  /** The parts of pages that a range of the disk has. */
  *ranges(offset: number, lengthBytes: number): Generator<PageRange> {
    const perPage = this.pageBytes * 8;
    const unit = 2 ** this.granularityBits;
    const end = Math.floor((offset + lengthBytes - 1) / unit) + 1;
    for (let bit = Math.floor(offset / unit); bit < end; ) {
      const inPage = bit % perPage;
      const until = Math.min(perPage, inPage + end - bit);
      yield { page: (bit - inPage) / perPage, first: inPage, end: until };
      bit += until - inPage;
    }
  }

  /** The page, read from the file where it is not held: exact then. Holds: the write lock. */
  *load(index: number): Task<BitmapPage> {
    const held = this.pages.get(index);
    if (held !== undefined) return held;
    const page = {
      index,
      bits: new Uint8Array(this.pageBytes),
      covered: new Uint8Array(this.pageBytes / this.stretchBytes),
    };
    yield* readBits(this.#core, this.table, index * this.pageBytes, page.bits);
    this.pages.set(index, page);
    return page;
  }

  /** Bits of the page that the disk has: those behind its end are never set [BMP-003]. */
  bitsIn(index: number): number {
    const perPage = this.pageBytes * 8;
    return Math.min(perPage, bitmapBits(this.#core, this.granularityBits) - index * perPage);
  }
}
