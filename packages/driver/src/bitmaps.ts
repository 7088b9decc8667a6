/**
 * The bitmaps of an open image: what the directory says, and which of them our writes keep current.
 *
 * A write is noted before it is made (`note`): the bits of its range are set in memory, in every bitmap that is enabled.
 * Where the file does not cover the place yet, that is put right first (`cover`), durably, and then it is noted again:
 *
 *   with a journal   the bits of a stretch around the place are set in the file, by the log. They say too much until the exact
 *                    ones take their place (`store`); a crash leaves what the log had, so every change is in the bitmap
 *   without          the bitmaps are marked as in use, once [BMP-004]. A crash leaves the mark, and nobody believes them [BMD-005]
 *
 * `store` hands the exact bits to the log; the image at rest has them in place. ADR 25 holds the choice.
 *
 * Crash argument. With a journal no guest byte is written to a stretch that is not durably covered, and the exact bits are
 * a change of the log like any other, handed over with the write lock held, when everything that was written so far is in
 * them. Without one the mark is durable before the first byte, and is taken away in a commit after the one that had the bits.
 *
 * A bitmap that can not be kept (its table is damaged, its granularity not served) is marked as in use before the first write
 * in both cases. One that was found in use stays as it is: it is listed, and its content is not looked at.
 */
import { Mutex, type Task, wait } from '@qcow2/block-device';
import {
  type BitmapDirectoryEntry,
  bitmapEntryBytes,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  findHeaderExtension,
  readBitmapAllOnes,
  readEntryOffset,
  writeBitmapTableEntry,
} from '@qcow2/codec';
import {
  autoclearFeatures,
  bitmapFlags,
  FormatError,
  headerExtensionTypes,
  Qcow2Error,
  StateError,
  UnsupportedFeatureError,
} from '@qcow2/spec';
import {
  bitmapBits,
  bitmapPageBytes,
  bitmapRefusal,
  loadBitmapTable,
  readBits,
  runEnd,
  setBits,
} from './bitmap-table.ts';
import type { HostArea, ImageCore } from './image-core.ts';
import { type BitmapPage, LiveBitmap } from './live-bitmap.ts';
import { exclusively, section } from './operation.ts';
import type { ImageParts } from './parts.ts';

/** Pages of bits that are held before they are stored without waiting for rest. */
const mostPages = 4096;
/** Guests that go on writing meanwhile may keep a bitmap from coming to rest. */
const storeRounds = 3;
/** Of a directory entry's flags, within its head (BMD-004). */
const flagsAt = 12;

export interface BitmapInfo {
  readonly name: string;
  readonly granularityBytes: number;
  /** Writes are recorded in it. */
  readonly enabled: boolean;
  /** It was not saved by who had it in use: its content is worth nothing. It can be removed. */
  readonly inconsistent: boolean;
  /** Bytes of the disk that it says are dirty; undefined where its content can not be used. */
  readonly dirtyBytes: number | undefined;
}

export interface DirtyRange {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** One bitmap of the directory. */
export interface BitmapSlot {
  /** As it is in the file, with what waits in the log. */
  readonly entry: BitmapDirectoryEntry;
  /** Of its head, within the directory. */
  readonly at: number;
  readonly inconsistent: boolean;
  /** Its table does not stand in a place of its own: what it holds is somebody else's. */
  readonly misplaced: FormatError | undefined;
  /** Set while our writes keep it current. */
  live: LiveBitmap | undefined;
}

export class ImageBitmaps {
  readonly #parts: ImageParts;
  readonly #storing = new Mutex();
  #slots: readonly BitmapSlot[] = [];
  #directory: HostArea | undefined;
  #loaded = false;
  #tracked: readonly LiveBitmap[] = [];
  /** Enabled, and not to be kept. */
  #lost: readonly BitmapSlot[] = [];
  /** What has to be marked as in use is, durably. */
  #ready = false;
  /** Counts whenever `#ready` is taken back. */
  #turn = 0;

  constructor(parts: ImageParts) {
    this.#parts = parts;
  }

  get slots(): readonly BitmapSlot[] {
    return this.#slots;
  }

  /** Where the directory stands; undefined without bitmaps. */
  get directory(): HostArea | undefined {
    return this.#directory;
  }

  /** Nothing of the bitmaps is newer in memory, and no mark of ours stands in the file. */
  get isAtRest(): boolean {
    return !this.#hasMarks && this.#pageCount === 0;
  }

  /** No bitmap is enabled: writes need not be noted. */
  get isEmpty(): boolean {
    return this.#tracked.length + this.#lost.length === 0;
  }

  /** So many bits are in memory that they are stored without waiting for rest. */
  get isFull(): boolean {
    return this.#tracked.length > 0 && this.#pageCount > mostPages;
  }

  /** Another log has taken over, at rest. */
  restart(): void {
    this.#ready = false;
    this.#turn++;
  }

  /** Read the directory, and for a writer the tables of what is to be kept current. @throws FormatError */
  *load(): Task<void> {
    const { core } = this.#parts;
    const { header, clusterBytes } = core;
    this.#loaded = true;
    const data = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
    if (data === undefined || !hasBitmaps(core)) return;
    const { directoryOffset, directoryLengthBytes, bitmapCount } = decodeBitmapsExtension(data, {
      clusterBytes,
    });
    core.refuseOutside(directoryOffset, directoryLengthBytes);
    core.refuseBits(directoryOffset, directoryLengthBytes);
    const bytes = new Uint8Array(directoryLengthBytes);
    yield* wait(core.readPatched(directoryOffset, bytes, { event: 'bitmap_load' }));
    const where = { hostOffset: directoryOffset, clusterBytes };
    const entries = decodeBitmapDirectory(bytes, bitmapCount, where);
    const area = { hostOffset: directoryOffset, lengthBytes: directoryLengthBytes };
    yield* this.adopt(entries, area);
    // Who was killed may have left the mark where only a flush makes it stay, and what is written from now on is not in the bitmap.
    if (core.readOnly || !this.#slots.some(({ inconsistent }) => inconsistent)) return;
    yield* wait(core.device.flush({ event: 'flush_metadata' }));
  }

  /** The directory is another from now on; bitmaps that are in the old one too go on. Holds: the write lock. */
  *adopt(entries: readonly BitmapDirectoryEntry[], directory: HostArea | undefined): Task<void> {
    const { core } = this.#parts;
    core.bitmapAreas = [];
    const before = new Map(this.#slots.map((slot) => [slot.entry.name, slot]));
    const slots: BitmapSlot[] = [];
    let at = 0;
    for (const entry of entries) {
      const old = before.get(entry.name);
      const inUse = (entry.flags & bitmapFlags.inUse) !== 0;
      const inconsistent = old === undefined ? inUse : old.inconsistent;
      const misplaced = this.#misplacement(entry, directory, entries);
      slots.push({ entry: old?.entry ?? entry, at, inconsistent, misplaced, live: old?.live });
      at += bitmapEntryBytes(entry);
    }
    const tables = entries.map(tableArea);
    this.#slots = slots;
    this.#directory = directory;
    core.bitmapAreas = directory === undefined ? [] : [directory, ...tables];
    if (!core.readOnly) yield* this.track();
  }

  #misplacement(
    entry: BitmapDirectoryEntry,
    directory: HostArea | undefined,
    all: readonly BitmapDirectoryEntry[],
  ): FormatError | undefined {
    const area = tableArea(entry);
    const others = [directory, ...all.filter((other) => other !== entry).map(tableArea)];
    try {
      this.#parts.core.refuseBits(area.hostOffset, area.lengthBytes);
    } catch (error) {
      if (error instanceof FormatError) return error;
      throw error;
    }
    if (!others.some((other) => other !== undefined && overlap(area, other))) return undefined;
    return new FormatError('OVERLAP', `the table of bitmap '${entry.name}' stands on another`, {
      ...area,
      clause: 'BMT-001',
    });
  }

  /** What is kept current follows from the flags. Holds: the write lock. */
  *track(): Task<void> {
    const tracked: LiveBitmap[] = [];
    const lost: BitmapSlot[] = [];
    for (const slot of this.#slots) {
      const wanted = isEnabled(slot) && !slot.inconsistent;
      if (!wanted) slot.live = undefined;
      else slot.live ??= yield* this.#tryLoad(slot);
      if (slot.live !== undefined) tracked.push(slot.live);
      else if (wanted) lost.push(slot);
    }
    this.#tracked = tracked;
    this.#lost = lost;
    this.restart();
  }

  *#tryLoad({ entry, misplaced }: BitmapSlot): Task<LiveBitmap | undefined> {
    const { core } = this.#parts;
    if (misplaced !== undefined || bitmapRefusal(core, entry) !== undefined) return undefined;
    try {
      return new LiveBitmap(core, entry, yield* loadBitmapTable(core, entry));
    } catch (error) {
      if (error instanceof Qcow2Error && error.code !== 'READ_FAILED') return undefined;
      throw error;
    }
  }

  /** @throws UNSUPPORTED_OPERATION where bitmaps would speak of a disk that is replaced as a whole */
  refuseOtherDisk(): void {
    if (this.#slots.length === 0) return;
    // QEMU's words.
    const message = 'Device has active dirty bitmaps';
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { clause: 'BMT-005' });
  }

  /** A bitmap by its name. @throws INVALID_ARGUMENT where there is none */
  slot(name: string): BitmapSlot {
    const slot = this.#slots.find(({ entry }) => entry.name === name);
    if (slot !== undefined) return slot;
    throw new StateError('INVALID_ARGUMENT', 'there is no such bitmap', { field: 'bitmap', value: name });
  }

  /**
   * A range of the disk is about to change: its bits are set. False where `cover` is needed first. Waits for nothing; the
   * caller holds the write lock, or nobody does and nothing waits until the write is handed to the device.
   */
  note(offset: number, lengthBytes: number): boolean {
    if (this.isEmpty || lengthBytes === 0) return true;
    if (!this.#ready) return false;
    for (const live of this.#tracked) if (!live.note(offset, lengthBytes)) return false;
    return true;
  }

  /** The file covers a range of the disk from now on, durably. Takes the write lock. */
  *cover(offset: number, lengthBytes: number): Task<void> {
    const parts = this.#parts;
    yield* this.#markInUse();
    const taken: { live: LiveBitmap; page: BitmapPage; first: number; last: number }[] = [];
    for (const live of this.#tracked) {
      for (const { page: index, first, end } of live.ranges(offset, lengthBytes)) {
        const perStretch = live.stretchBytes * 8;
        const range = { first: Math.floor(first / perStretch), last: Math.floor((end - 1) / perStretch) };
        yield* section(
          parts,
          function* coverPart(this: ImageBitmaps) {
            if (!this.#tracked.includes(live)) return;
            const page = yield* live.load(index);
            if (this.#marksUse) page.covered.fill(1, range.first, range.last + 1);
            else if (page.covered.indexOf(0, range.first) <= range.last) {
              yield* this.#setAhead(live, page, range.first, range.last);
              taken.push({ live, page, ...range });
            }
          }.bind(this),
        );
      }
    }
    if (taken.length === 0) return;
    yield* parts.core.log.commit();
    for (const { live, page, first, last } of taken) {
      // Stored meanwhile: what the file says is exact again, and this is done once more.
      if (live.pages.get(page.index) === page) page.covered.fill(1, first, last + 1);
    }
  }

  /** Without a journal a bitmap in use is marked so. */
  get #marksUse(): boolean {
    return this.#parts.core.log.lateFrees;
  }

  /** A mark of ours stands in the file. It stays where bitmaps are added or changed beside it, until they are stored. */
  get #hasMarks(): boolean {
    return (
      this.#marksUse &&
      this.#slots.some(({ live, entry }) => live !== undefined && (entry.flags & bitmapFlags.inUse) !== 0)
    );
  }

  get #pageCount(): number {
    return this.#tracked.reduce((sum, { pages }) => sum + pages.size, 0);
  }

  *#markInUse(): Task<void> {
    const { core } = this.#parts;
    while (!this.#ready) {
      const turn = this.#turn;
      const marked = yield* section(this.#parts, () => this.#submitMarks());
      // Others may have submitted the marks, and not have made them durable.
      if (marked) yield* core.log.commit();
      if (this.#turn === turn) this.#ready = true;
    }
  }

  *#submitMarks(): Task<boolean> {
    const marked = this.#marksUse ? this.#slots.filter(({ live }) => live !== undefined) : [];
    const slots = [...marked, ...this.#lost];
    for (const slot of slots) yield* this.setFlags(slot, slot.entry.flags | bitmapFlags.inUse);
    return slots.length > 0;
  }

  /** Holds: the write lock. Not durable on return. */
  *setFlags(slot: BitmapSlot, flags: number, intentDone?: number): Task<void> {
    if (slot.entry.flags === flags || this.#directory === undefined) return;
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, flags);
    const update = this.#parts.clusterWriter.update();
    update.writeBytes(2, this.#directory.hostOffset + slot.at + flagsAt, bytes);
    yield* update.submit({ required: true, afterData: false, intentDone });
    slot.entry.flags = flags;
  }

  *#setAhead(live: LiveBitmap, page: BitmapPage, first: number, last: number): Task<void> {
    const from = first * live.stretchBytes;
    const bytes = page.bits.slice(from, (last + 1) * live.stretchBytes);
    setBits(bytes, 0, Math.min(bytes.length * 8, live.bitsIn(page.index) - from * 8));
    yield* this.#writeBits(live, page.index * live.pageBytes + from, bytes);
  }

  /** Bits of one cluster, through the log; it gets its cluster where it has none. */
  *#writeBits(live: LiveBitmap, at: number, bytes: Uint8Array): Task<void> {
    const { core, allocator, clusterWriter } = this.#parts;
    const { clusterBytes } = core;
    const inCluster = at % clusterBytes;
    const index = (at - inCluster) / clusterBytes;
    const update = clusterWriter.update();
    const offset = readEntryOffset(live.table, index * 8);
    if (offset !== 0) {
      update.writeBytes(2, offset + inCluster, bytes);
      yield* update.submit({ required: true, afterData: false });
      return;
    }
    const content = new Uint8Array(clusterBytes);
    if (readBitmapAllOnes(live.table, index * 8)) {
      const bits = bitmapBits(core, live.granularityBits) - index * clusterBytes * 8;
      setBits(content, 0, Math.min(content.length * 8, bits));
    }
    content.set(bytes, inCluster);
    const { first } = yield* allocator.allocate();
    try {
      yield* core.writeInPlace(first * clusterBytes, content, 'bitmap_update');
      const entry = new Uint8Array(8);
      writeBitmapTableEntry(new DataView(entry.buffer), 0, first * clusterBytes, false);
      update.addReference(first);
      update.writeBytes(2, live.entry.tableOffset + index * 8, entry);
      yield* update.submit({ required: true, afterData: true });
    } catch (error) {
      allocator.unreserve(first, 1);
      throw error;
    }
    writeBitmapTableEntry(live.table, index * 8, first * clusterBytes, false);
  }

  /**
   * The file says exactly what the bitmaps do, when the log has been brought in place; without a journal the marks are gone
   * with it, unless guests go on writing. Takes the write lock.
   */
  *store(): Task<void> {
    if (this.#tracked.length > 0) yield* this.#storing.exclusive(() => this.#store());
  }

  *#store(): Task<void> {
    const parts = this.#parts;
    for (let round = 0; round < storeRounds; round++) {
      for (const live of this.#tracked) {
        for (const page of [...live.pages.values()]) {
          yield* section(parts, () => this.#storePage(live, page));
        }
      }
      if (!this.#hasMarks) return;
      yield* parts.core.log.commit();
      if (yield* section(parts, () => this.#clearMarks())) return;
    }
  }

  *#storePage(live: LiveBitmap, page: BitmapPage): Task<void> {
    if (live.pages.get(page.index) !== page) return;
    const { covered, bits } = page;
    for (let first = covered.indexOf(1); first !== -1; ) {
      const hole = covered.indexOf(0, first);
      const end = hole === -1 ? covered.length : hole;
      const from = first * live.stretchBytes;
      yield* this.#writeBits(
        live,
        page.index * live.pageBytes + from,
        bits.slice(from, end * live.stretchBytes),
      );
      first = hole === -1 ? -1 : covered.indexOf(1, hole);
    }
    live.pages.delete(page.index);
  }

  *#clearMarks(): Task<boolean> {
    if (this.#pageCount > 0) return false;
    this.restart();
    for (const slot of this.#slots) {
      if (slot.live !== undefined) yield* this.setFlags(slot, slot.entry.flags & ~bitmapFlags.inUse);
    }
    return true;
  }

  /** All bitmaps, in the order of the directory. Takes the write lock. @throws FormatError for a damaged directory */
  *list(): Task<readonly BitmapInfo[]> {
    return yield* this.#alone(() => this.#list());
  }

  *#list(): Task<readonly BitmapInfo[]> {
    const infos: BitmapInfo[] = [];
    for (const slot of this.#slots) {
      const { entry, inconsistent } = slot;
      infos.push({
        name: entry.name,
        granularityBytes: 2 ** entry.granularityBits,
        enabled: isEnabled(slot),
        inconsistent,
        dirtyBytes: yield* this.#tryDirtyBytes(slot),
      });
    }
    return infos;
  }

  *#tryDirtyBytes(slot: BitmapSlot): Task<number | undefined> {
    if (this.refusal(slot) !== undefined) return undefined;
    try {
      return yield* this.#dirtyBytes(slot);
    } catch (error) {
      if (error instanceof FormatError) return undefined;
      throw error;
    }
  }

  *#dirtyBytes(slot: BitmapSlot): Task<number> {
    const { sizeBytes } = this.#parts.core.header;
    let sum = 0;
    for (let offset = 0; offset < sizeBytes; ) {
      const { ranges, end } = yield* this.dirtyPart(slot, offset, sizeBytes);
      for (const { lengthBytes } of ranges) sum += lengthBytes;
      offset = end;
    }
    return sum;
  }

  /** What a bitmap says is dirty of a range, in order, neighbours joined. Takes the write lock. */
  *dirtyRanges(name: string, offset: number, lengthBytes: number): Task<readonly DirtyRange[]> {
    return yield* this.#alone(() => this.#dirtyRanges(name, offset, lengthBytes));
  }

  *#dirtyRanges(name: string, offset: number, lengthBytes: number): Task<readonly DirtyRange[]> {
    const slot = this.slot(name);
    const refusal = this.refusal(slot);
    if (refusal !== undefined) throw refusal;
    const found: DirtyRange[] = [];
    for (let at = offset; at < offset + lengthBytes; ) {
      const { ranges, end } = yield* this.dirtyPart(slot, at, offset + lengthBytes);
      for (const range of ranges) {
        const last = found.at(-1);
        if (last === undefined || last.offset + last.lengthBytes !== range.offset) found.push(range);
        else found[found.length - 1] = { ...last, lengthBytes: last.lengthBytes + range.lengthBytes };
      }
      at = end;
    }
    return found;
  }

  /** Why the content of a bitmap can not be used now; undefined: it can. */
  refusal(slot: BitmapSlot): Qcow2Error | undefined {
    if (!slot.inconsistent) return slot.misplaced ?? bitmapRefusal(this.#parts.core, slot.entry);
    const message = `Bitmap '${slot.entry.name}' is inconsistent and cannot be used`;
    return new StateError('INVALID_ARGUMENT', message, { field: 'bitmap', clause: 'BMD-005' });
  }

  /** What is dirty from `offset` on, in one page of bits, and where that ends. Holds: the write lock. */
  *dirtyPart(slot: BitmapSlot, offset: number, until: number): Task<{ ranges: DirtyRange[]; end: number }> {
    const { core } = this.#parts;
    const unit = 2 ** slot.entry.granularityBits;
    const pageBytes = bitmapPageBytes(core.clusterBytes);
    const bit = Math.floor(offset / unit);
    const page = Math.floor(bit / (pageBytes * 8));
    const base = page * pageBytes * 8;
    const endBit = Math.min(base + pageBytes * 8, Math.ceil(until / unit));
    const bits = yield* this.readPage(slot, page);
    const ranges: DirtyRange[] = [];
    for (let at = bit - base; at < endBit - base; ) {
      const next = runEnd(bits, at, endBit - base);
      if ((bits[at >> 3]! & (1 << (at & 7))) !== 0) {
        const start = Math.max(offset, (base + at) * unit);
        ranges.push({ offset: start, lengthBytes: Math.min(until, (base + next) * unit) - start });
      }
      at = next;
    }
    return { ranges, end: Math.min(until, endBit * unit) };
  }

  /** The exact bits of a page. Not to be changed. Holds: the write lock. */
  *readPage(slot: BitmapSlot, index: number): Task<Uint8Array> {
    const { core } = this.#parts;
    const held = slot.live?.pages.get(index);
    if (held !== undefined) return held.bits;
    const table = slot.live?.table ?? (yield* this.#table(slot));
    const bits = new Uint8Array(bitmapPageBytes(core.clusterBytes));
    yield* readBits(core, table, index * bits.length, bits);
    return bits;
  }

  /** Of a bitmap that is not kept current; the last one that was asked for stays at hand. */
  *#table({ entry }: BitmapSlot): Task<DataView> {
    if (this.#lastTable?.offset === entry.tableOffset) return this.#lastTable.table;
    const table = yield* loadBitmapTable(this.#parts.core, entry);
    this.#lastTable = { offset: entry.tableOffset, table };
    return table;
  }

  #lastTable: { readonly offset: number; readonly table: DataView } | undefined;

  /** Nothing of the bitmaps or their tables is what it was. */
  forgetTables(): void {
    this.#lastTable = undefined;
  }

  *#alone<T>(body: () => Task<T>): Task<T> {
    const parts = this.#parts;
    return yield* exclusively(
      parts,
      () => parts.core.log.commit(),
      function* alone(this: ImageBitmaps) {
        if (!this.#loaded) yield* this.load();
        this.forgetTables();
        return yield* body();
      }.bind(this),
    );
  }
}

function tableArea({ tableOffset, tableEntries }: BitmapDirectoryEntry): HostArea {
  return { hostOffset: tableOffset, lengthBytes: tableEntries * 8 };
}

function overlap(a: HostArea, b: HostArea): boolean {
  return a.hostOffset < b.hostOffset + b.lengthBytes && b.hostOffset < a.hostOffset + a.lengthBytes;
}

export function hasBitmaps({ header }: ImageCore): boolean {
  return (header.autoclearFeatures & autoclearFeatures.bitmaps) !== 0n;
}

function isEnabled({ entry }: BitmapSlot): boolean {
  return (entry.flags & bitmapFlags.auto) !== 0;
}
