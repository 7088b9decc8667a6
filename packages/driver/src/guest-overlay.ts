/**
 * Guest bytes that are held in memory, in front of the mapping: written and not logged yet (dirty), or
 * logged and not settled yet. Reads look here first.
 *
 * Whole 512-byte sectors, in pages of 4 KiB, by guest cluster. While any sector of a cluster is here, every
 * write to that cluster comes here too (unless it settles the cluster): the log may hold older bytes of the
 * place, and replay must not lay them over newer ones that were written in place (JRN-WB).
 *
 * Invariants: a dirty sector is valid; `dirtyBytes` is 512 times the dirty sectors; a cluster is here only
 * while it has a valid sector; `version` grows with every change, so that a settler can tell whether what it
 * wrote in place is still all there is.
 */
import type { GuestWrite } from '@qcow2/journal';
import { guestOffset as asGuestOffset } from '@qcow2/spec';

export const sectorBytes = 512;
const maxPageBytes = 4096;
/**
 * Pages are cut from slabs, in the order in which they come: one buffer to allocate and to collect instead of sixteen, and
 * what is written in one piece stands in one piece, to be logged and written in place without being joined.
 */
const slabBytes = 64 * 1024;
/** What a guest write takes in a record besides its bytes (JRN-DESC). */
export const guestWriteDescriptorBytes = 24;

interface Page {
  readonly bytes: Uint8Array;
  /** Bit n: sector n of the page. */
  valid: number;
  dirty: number;
}

/** Bytes of a cluster, from a place in it on. */
interface OverlayRun {
  readonly inCluster: number;
  bytes: Uint8Array;
}

export interface OverlayCluster {
  readonly guestCluster: number;
  readonly pages: (Page | undefined)[];
  validSectors: number;
  dirtySectors: number;
  version: number;
  /** The overlay's count of pieces when the last one came. */
  touched: number;
  /** The version that stands in place and waits for its mapping to be durable; -1: none. */
  settledVersion: number;
}

export class GuestOverlay {
  readonly #clusterBytes: number;
  readonly #pageBytes: number;
  readonly #sectorsPerPage: number;
  readonly #clusters = new Map<number, OverlayCluster>();
  /** Clusters with dirty sectors, in the order in which they became so. */
  readonly #dirty = new Set<OverlayCluster>();
  #validSectors = 0;
  #dirtySectors = 0;
  #pieces = 0;
  /** The newest slab, and how much of it is taken. A page that is dropped does not come back: views of it may be about. */
  #slab = new Uint8Array(0);
  #slabTaken = 0;

  constructor(clusterBytes: number) {
    this.#clusterBytes = clusterBytes;
    this.#pageBytes = Math.min(clusterBytes, maxPageBytes);
    this.#sectorsPerPage = this.#pageBytes / sectorBytes;
  }

  get isEmpty(): boolean {
    return this.#clusters.size === 0;
  }

  get clusterCount(): number {
    return this.#clusters.size;
  }

  get validBytes(): number {
    return this.#validSectors * sectorBytes;
  }

  get dirtyBytes(): number {
    return this.#dirtySectors * sectorBytes;
  }

  get(guestCluster: number): OverlayCluster | undefined {
    return this.#clusters.get(guestCluster);
  }

  /** All clusters in guest order. */
  sorted(): OverlayCluster[] {
    return [...this.#clusters.values()].sort((a, b) => a.guestCluster - b.guestCluster);
  }

  /** Clusters with bytes that no record holds. */
  dirtyClusters(): OverlayCluster[] {
    return [...this.#dirty];
  }

  /** The same, in guest order. */
  sortedDirty(): OverlayCluster[] {
    return [...this.#dirty].sort((a, b) => a.guestCluster - b.guestCluster);
  }

  /** One of the last `pieces` pieces went there. */
  isRecent(cluster: OverlayCluster, pieces: number): boolean {
    return this.#pieces - cluster.touched < pieces;
  }

  isFull(cluster: OverlayCluster): boolean {
    return cluster.validSectors * sectorBytes === this.#clusterBytes;
  }

  /** Lay whole sectors over a cluster; the bytes are copied. `logged`: they come from the log. */
  put(guestCluster: number, inCluster: number, bytes: Uint8Array, logged = false): OverlayCluster {
    let cluster = this.#clusters.get(guestCluster);
    if (cluster === undefined) {
      const pages = new Array<Page | undefined>(this.#clusterBytes / this.#pageBytes).fill(undefined);
      cluster = {
        guestCluster,
        pages,
        validSectors: 0,
        dirtySectors: 0,
        version: 0,
        touched: 0,
        settledVersion: -1,
      };
      this.#clusters.set(guestCluster, cluster);
    }
    cluster.version++;
    cluster.touched = ++this.#pieces;
    if (bytes.length > this.#slab.length - this.#slabTaken && bytes.length >= slabBytes / 2)
      this.#newSlab(bytes.length);
    for (let done = 0; done < bytes.length; ) {
      const at = inCluster + done;
      const start = at % this.#pageBytes;
      const length = Math.min(bytes.length - done, this.#pageBytes - start);
      const page = this.#pageOf(cluster, (at - start) / this.#pageBytes);
      page.bytes.set(bytes.subarray(done, done + length), start);
      const mask = sectorMask(start / sectorBytes, length / sectorBytes);
      this.#setMasks(cluster, page, page.valid | mask, logged ? page.dirty & ~mask : page.dirty | mask);
      done += length;
    }
    return cluster;
  }

  /** Lay what is here of the cluster over `into`, which stands at `inCluster`. Any alignment. */
  apply(cluster: OverlayCluster, inCluster: number, into: Uint8Array): void {
    const end = inCluster + into.length;
    this.#eachPage(cluster, inCluster, into.length, (page, touched, at) => {
      for (let rest = page.valid & touched; rest !== 0; ) {
        const [start, behind] = firstRun(rest);
        const from = Math.max(at + start * sectorBytes, inCluster);
        const to = Math.min(at + behind * sectorBytes, end);
        into.set(page.bytes.subarray(from - at, to - at), from - inCluster);
        rest &= -1 << behind;
      }
    });
  }

  /** Whether every byte of the range is here. */
  covers(cluster: OverlayCluster, inCluster: number, lengthBytes: number): boolean {
    let covered = 0;
    this.#eachPage(cluster, inCluster, lengthBytes, (page, touched) => {
      covered += bitCount(page.valid & touched);
    });
    const first = Math.floor(inCluster / sectorBytes);
    return covered === Math.ceil((inCluster + lengthBytes) / sectorBytes) - first;
  }

  /** Valid bytes of a cluster as runs of whole sectors, in order. Views: copy before changing. */
  runs(cluster: OverlayCluster): OverlayRun[] {
    return this.#runsOf(cluster, (page) => page.valid);
  }

  /** Runs of the sectors that `mask` has of each page; neighbours that stand in one piece in memory are one run. */
  #runsOf(cluster: OverlayCluster, mask: (page: Page) => number): OverlayRun[] {
    const runs: OverlayRun[] = [];
    for (let index = 0; index < cluster.pages.length; index++) {
      const page = cluster.pages[index];
      if (page === undefined) continue;
      for (let rest = mask(page); rest !== 0; ) {
        const [start, behind] = firstRun(rest);
        const inCluster = index * this.#pageBytes + start * sectorBytes;
        const bytes = page.bytes.subarray(start * sectorBytes, behind * sectorBytes);
        const last = runs.at(-1);
        const joined =
          last && last.inCluster + last.bytes.length === inCluster && joinedView(last.bytes, bytes);
        if (joined) last.bytes = joined;
        else runs.push({ inCluster, bytes });
        rest &= -1 << behind;
      }
    }
    return runs;
  }

  /**
   * Hand dirty sectors of a cluster over to a record, as many as `maxBytes` holds with their descriptors:
   * they count as logged. The bytes are views, valid until the next change.
   */
  takeDirty(cluster: OverlayCluster, maxBytes: number): GuestWrite[] {
    const writes: GuestWrite[] = [];
    let left = maxBytes;
    const base = cluster.guestCluster * this.#clusterBytes;
    for (const run of this.#runsOf(cluster, (page) => page.dirty)) {
      const room = Math.floor((left - guestWriteDescriptorBytes) / sectorBytes);
      if (room < 1) return writes;
      const bytes = run.bytes.subarray(0, room * sectorBytes);
      writes.push({ guestOffset: asGuestOffset(base + run.inCluster), bytes });
      this.#eachPage(cluster, run.inCluster, bytes.length, (page, touched) => {
        this.#setMasks(cluster, page, page.valid, page.dirty & ~touched);
      });
      left -= guestWriteDescriptorBytes + bytes.length;
    }
    return writes;
  }

  /** Its dirty sectors have been written in place: no record needs to hold them. */
  markClean(cluster: OverlayCluster): void {
    for (const page of cluster.pages) {
      if (page !== undefined) this.#setMasks(cluster, page, page.valid, 0);
    }
  }

  /** Forget part of a cluster, dirty or not. */
  drop(cluster: OverlayCluster, inCluster: number, lengthBytes: number): void {
    cluster.version++;
    this.#eachPage(cluster, inCluster, lengthBytes, (page, touched) => {
      this.#setMasks(cluster, page, page.valid & ~touched, page.dirty & ~touched);
    });
    if (cluster.validSectors === 0) this.#clusters.delete(cluster.guestCluster);
  }

  /** Forget the cluster if it has not changed since `version`. */
  release(cluster: OverlayCluster, version: number): void {
    if (cluster.version !== version || this.#clusters.get(cluster.guestCluster) !== cluster) return;
    this.drop(cluster, 0, this.#clusterBytes);
  }

  #pageOf(cluster: OverlayCluster, index: number): Page {
    let page = cluster.pages[index];
    if (page === undefined) {
      page = { bytes: this.#newPage(), valid: 0, dirty: 0 };
      cluster.pages[index] = page;
    }
    return page;
  }

  #newPage(): Uint8Array {
    if (this.#slab.length - this.#slabTaken < this.#pageBytes) this.#newSlab(slabBytes);
    const start = this.#slabTaken;
    this.#slabTaken += this.#pageBytes;
    return this.#slab.subarray(start, this.#slabTaken);
  }

  #newSlab(lengthBytes: number): void {
    this.#slab = new Uint8Array(lengthBytes);
    this.#slabTaken = 0;
  }

  #setMasks(cluster: OverlayCluster, page: Page, valid: number, dirty: number): void {
    const validChange = bitCount(valid) - bitCount(page.valid);
    const dirtyChange = bitCount(dirty) - bitCount(page.dirty);
    page.valid = valid;
    page.dirty = dirty;
    cluster.validSectors += validChange;
    this.#validSectors += validChange;
    if (dirtyChange === 0) return;
    const wasClean = cluster.dirtySectors === 0;
    cluster.dirtySectors += dirtyChange;
    this.#dirtySectors += dirtyChange;
    if (wasClean) this.#dirty.add(cluster);
    else if (cluster.dirtySectors === 0) this.#dirty.delete(cluster);
  }

  /**
   * Call for each page that is here and that the range touches: with the sectors of it that the range touches, as a mask, and
   * with its place in the cluster.
   */
  #eachPage(
    cluster: OverlayCluster,
    inCluster: number,
    lengthBytes: number,
    visit: (page: Page, touched: number, at: number) => void,
  ): void {
    const end = Math.ceil((inCluster + lengthBytes) / sectorBytes);
    for (let sector = Math.floor(inCluster / sectorBytes); sector < end; ) {
      const inPage = sector % this.#sectorsPerPage;
      const count = Math.min(end - sector, this.#sectorsPerPage - inPage);
      const page = cluster.pages[(sector - inPage) / this.#sectorsPerPage];
      if (page !== undefined) visit(page, sectorMask(inPage, count), (sector - inPage) * sectorBytes);
      sector += count;
    }
  }
}

/** The sectors of a page from one on. */
function sectorMask(first: number, count: number): number {
  return ((1 << count) - 1) << first;
}

/** Bits of a page's mask. */
function bitCount(mask: number): number {
  const pairs = mask - ((mask >>> 1) & 0x55);
  const quads = (pairs & 0x33) + ((pairs >>> 2) & 0x33);
  return (quads + (quads >>> 4)) & 0x0f;
}

/** The first run of set bits of a page's mask, which has some: [start, end). */
function firstRun(mask: number): [start: number, end: number] {
  const start = lowestBit(mask);
  return [start, start + lowestBit(~(mask >>> start))];
}

function lowestBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask);
}

/** Both as one view, where the second stands right behind the first in memory. */
function joinedView(first: Uint8Array, second: Uint8Array): Uint8Array | undefined {
  if (first.buffer !== second.buffer || first.byteOffset + first.length !== second.byteOffset)
    return undefined;
  return new Uint8Array(first.buffer, first.byteOffset, first.length + second.length);
}
