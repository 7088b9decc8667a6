/**
 * What the guest may see after a crash, per 512-byte guest sector (G1 and G2 of the journal's guarantees):
 * what was last made durable, or something that was written later; nothing else.
 *
 * The oracle keeps, for each sector, the writes that could be its content, each with the interval in which
 * it was under way. A write may be there after a crash as soon as it has started. It must be there, or
 * something that is not older, once a flush has completed that began after the write was done: then every
 * write goes that was over before such a write began. Writes that overlap in time may end up either way.
 *
 * A write to part of a sector is kept as the whole sectors that it may produce. While one of those is among
 * the candidates, the sector may also be a mixture, each byte from some candidate: the guest asked for
 * less than a sector, and only bytes were promised. The mixture ends with the next flush.
 *
 * A kill of the process (the machine goes on) leaves each write that was not durable in or out for good.
 *
 * The disk's size is kept in the same way: the sizes that it may have, each with the growth that leads to it. What
 * growth uncovers is zeros until it is written. A sector beyond the size that is found is not asked about; one that
 * was made durable forbids the sizes that would hide it.
 *
 * What takes the place of all of the disk (a snapshot that is applied, a smaller size) is one write of every sector and of the
 * size, durable when it is done. Which snapshots there are is kept as the lists of names that there may be.
 *
 * What the disk stands on is kept as what it may say of that. Where that says that a change has come so far, so has what was written before it.
 *
 * What bitmaps may say is `bitmap-oracle.ts`'s; which writes each sector may hold it asks here.
 *
 * A discard adds zeros to what a sector may be and takes nothing away: "anything it held, or zeros".
 */
import {
  backingBytes,
  bitmapListBytes,
  decodeBacking,
  decodeBitmapList,
  decodeSnapshotList,
  snapshotListBytes,
} from './attached-lists.ts';
import {
  afterKill,
  atRest,
  type BitmapLists,
  type BitmapPromise,
  bitmapViolation,
  type ExpectedBitmap,
  type SectorWrites,
  withWrite,
} from './bitmap-oracle.ts';
import { Sector, sectorBytes, sectorOf, zeroSector } from './sector.ts';
import type { BitmapState } from './system-under-test.ts';

/** One guest write, as the oracle remembers it. Times are the oracle's own counter. */
interface GuestWrite {
  readonly startedAt: number;
  endedAt: number;
  /** A later flush makes it durable: false for a discard, and for a write that a killed process may have taken along. */
  supersedes: boolean;
}

interface Candidate {
  readonly write: GuestWrite;
  readonly sector: Sector;
  readonly partial: boolean;
}

interface SizeCandidate {
  readonly write: GuestWrite;
  readonly sizeBytes: number;
}

/** What the disk may stand on; with `since`, as it is found there what ended before that time of the oracle is durable. */
interface AllowedBacking {
  readonly named: string;
  readonly since?: number;
}

export type WriteToken = GuestWrite;

/** A read under way, and what each of its sectors held since it began. */
export interface ReadToken {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly held: Map<number, readonly Sector[]>;
}

/** What each sector may hold at one moment; a copy that later events do not change. */
export interface AllowedContent {
  /** A number that is the same for equal states of one oracle and different for others. */
  readonly version: number;
  /**
   * Undefined where all is as allowed, else the first sector that is not.
   * @param dangers what stood there before recovery (`Repair`)
   */
  firstViolation(content: Uint8Array, dangers?: readonly string[]): GuestViolation | undefined;
}

export type GuestViolation =
  | {
      readonly kind: 'content';
      readonly guestSector: number;
      readonly found: Sector;
      readonly allowed: readonly Sector[];
    }
  | { readonly kind: 'bitmaps'; readonly message: string }
  | { readonly kind: 'backing'; readonly found: string; readonly allowed: readonly string[] }
  | { readonly kind: 'dangers'; readonly found: readonly string[] }
  | {
      readonly kind: 'snapshots';
      readonly found: string;
      readonly allowed: readonly string[];
    }
  | { readonly kind: 'size'; readonly foundBytes: number; readonly allowedBytes: readonly number[] };

export class GuestOracle {
  readonly #candidates: (readonly Candidate[])[] = [];
  /** What the sector holds if nothing crashes; several after a discard or writes that overlap in time. */
  readonly #current: (readonly Sector[])[] = [];
  #sizes: readonly SizeCandidate[];
  readonly #reads = new Set<ReadToken>();
  /** Lists of snapshots that there may be; undefined: the system has none. */
  #snapshots: readonly string[] | undefined;
  /** Undefined: the system stands on nothing that can be changed. */
  #backings: readonly AllowedBacking[] | undefined;
  /** Lists of bitmaps that there may be, and how the system keeps them right; undefined: it has none. */
  #bitmaps: { readonly promise: BitmapPromise; readonly lists: BitmapLists } | undefined;
  /** What is dangerous in the image, by damage. */
  #dangers: readonly string[] = [];
  /** Changes under way, and when the newest one began. */
  #underWay = 0;
  #newestChange = -1;
  #now = 0;
  #version = 0;

  /** @param initial the guest's content, durable; a multiple of 512 bytes */
  constructor(initial: Uint8Array) {
    const write: GuestWrite = { startedAt: -1, endedAt: -1, supersedes: true };
    this.#sizes = [{ write, sizeBytes: initial.length }];
    for (let offset = 0; offset < initial.length; offset += sectorBytes) {
      const sector = sectorOf(initial.slice(offset, offset + sectorBytes));
      this.#candidates.push([{ write, sector, partial: false }]);
      this.#current.push([sector]);
    }
  }

  /** A write is about to be asked for. `bytes` undefined writes zeros. */
  beginWrite(offset: number, lengthBytes: number, bytes: Uint8Array | undefined): WriteToken {
    this.#beginChange();
    const write: GuestWrite = { startedAt: this.#now++, endedAt: Infinity, supersedes: true };
    this.#forEachSector(offset, lengthBytes, (index, start, from, count) => {
      const part = bytes?.subarray(from, from + count) ?? zeroSector.bytes.subarray(0, count);
      const partial = count < sectorBytes;
      const sectors = partial
        ? this.#current[index]!.map((sector) => sector.patched(start, part))
        : [sectorOf(part.slice())];
      // A write under way may still land after this one.
      const under = this.#candidates[index]!.filter((other) => other.write.endedAt === Infinity);
      this.#current[index] = [...sectors, ...under.map(({ sector }) => sector)];
      this.#add(index, write, sectors, partial);
    });
    return write;
  }

  beginDiscard(offset: number, lengthBytes: number): WriteToken {
    this.#beginChange();
    const write: GuestWrite = { startedAt: this.#now++, endedAt: Infinity, supersedes: false };
    this.#forEachSector(offset, lengthBytes, (index, start, _from, count) => {
      const zeros = zeroSector.bytes.subarray(0, count);
      const partial = count < sectorBytes;
      const sectors = partial
        ? this.#current[index]!.map((sector) => sector.patched(start, zeros))
        : [zeroSector];
      this.#add(index, write, sectors, partial);
      this.#current[index] = [...this.#current[index]!, ...sectors];
    });
    return write;
  }

  /**
   * The disk, whose size is seen to be `before`, is about to be made larger. What an earlier growth may have led to
   * and did not (the process was killed, and this is what was found then) is forgotten: it begins as zeros again.
   */
  beginGrow(before: number, sizeBytes: number): WriteToken {
    const write: GuestWrite = { startedAt: this.#now++, endedAt: Infinity, supersedes: true };
    const made: GuestWrite = { startedAt: -1, endedAt: -1, supersedes: true };
    for (let index = before / sectorBytes; index < sizeBytes / sectorBytes; index++) {
      this.#candidates[index] = [{ write: made, sector: zeroSector, partial: false }];
      this.#current[index] = [zeroSector];
    }
    this.#sizes = [...this.#sizes.filter((one) => one.sizeBytes <= before), { write, sizeBytes }];
    this.#version++;
    return write;
  }

  /**
   * The disk, whose size is seen to be `before`, is about to get another one that is durable when it is done, and what was written
   * before as well. Nothing else is under way.
   */
  beginResize(before: number, sizeBytes: number): WriteToken {
    if (sizeBytes > before) return this.beginGrow(before, sizeBytes);
    const write: GuestWrite = { startedAt: this.#now++, endedAt: Infinity, supersedes: true };
    this.#sizes = [...this.#sizes, { write, sizeBytes }];
    this.#version++;
    return write;
  }

  endResize(token: WriteToken, sizeBytes: number): void {
    this.#forgetBehind(sizeBytes);
    this.endGrow(token);
    this.#settle((write) => write === token || write.endedAt < token.startedAt);
  }

  /** A read is about to be asked for. */
  beginRead(offset: number, lengthBytes: number): ReadToken {
    const held = new Map<number, readonly Sector[]>();
    const read: ReadToken = { offset, lengthBytes, held };
    this.#forEachSector(offset, lengthBytes, (index) => {
      const list = this.#candidates[index]!;
      // What a write under way is to replace can be seen yet.
      const isChanging = list.some(({ write }) => write.endedAt === Infinity);
      held.set(index, isChanging ? list.map(({ sector }) => sector) : this.#current[index]!);
    });
    this.#reads.add(read);
    return read;
  }

  /** @returns the first sector that held at no time meanwhile what was read of it */
  endRead(read: ReadToken, content: Uint8Array): { sector: number; bytes: Uint8Array } | undefined {
    this.#reads.delete(read);
    let bad: { sector: number; bytes: Uint8Array } | undefined;
    this.#forEachSector(read.offset, read.lengthBytes, (index, start, from, count) => {
      const bytes = content.subarray(from, from + count);
      const list = read.held.get(index)!.map((sector) => sector.bytes.subarray(start, start + count));
      if (bad !== undefined || list.some((one) => equalBytes(one, bytes))) return;
      // It may have seen part of a write that was under way.
      const mixed = list.length > 1 && bytes.every((byte, at) => list.some((one) => one[at] === byte));
      if (!mixed) bad = { sector: index, bytes };
    });
    return bad;
  }

  endGrow(token: WriteToken): void {
    token.endedAt = this.#now++;
  }

  /** The disk is about to hold this, and nothing else; its size may be another one. Nothing else is under way. */
  beginReplace(content: Uint8Array): WriteToken {
    const write: GuestWrite = { startedAt: this.#now++, endedAt: Infinity, supersedes: true };
    const before = this.#current.length;
    for (let offset = 0; offset < content.length; offset += sectorBytes) {
      const index = offset / sectorBytes;
      const sector = sectorOf(content.slice(offset, offset + sectorBytes));
      const isNew = index >= before;
      const others = isNew ? [] : this.#candidates[index]!;
      this.#candidates[index] = [...others, { write, sector, partial: false }];
      this.#current[index] = isNew ? [sector] : [...this.#current[index]!, sector];
    }
    this.#sizes = [...this.#sizes, { write, sizeBytes: content.length }];
    this.#version++;
    return write;
  }

  /** It is done, and durable. */
  endReplace(token: WriteToken): void {
    token.endedAt = this.#now++;
    const size = this.#sizes.find(({ write }) => write === token)?.sizeBytes ?? 0;
    for (let index = 0; index < size / sectorBytes; index++) {
      this.#current[index] = this.#current[index]!.slice(-1);
    }
    this.#forgetBehind(size);
    this.#settle((write) => write === token);
  }

  /** Behind the end of the disk nothing is left that a later size would have to show. */
  #forgetBehind(sizeBytes: number): void {
    const made: GuestWrite = { startedAt: -1, endedAt: -1, supersedes: true };
    for (let index = sizeBytes / sectorBytes; index < this.#candidates.length; index++) {
      this.#candidates[index] = [{ write: made, sector: zeroSector, partial: false }];
      this.#current[index] = [zeroSector];
    }
  }

  /** From now on the system is asked for its snapshots: these, or where a change of them is under way, either list. */
  allowSnapshots(...lists: readonly (readonly string[])[]): void {
    this.#snapshots = lists.map((names) => names.join('\n'));
    this.#version++;
  }

  /** From now on the system is asked what it stands on: one of these. */
  allowBacking(...backings: readonly AllowedBacking[]): void {
    this.#backings = backings;
    this.#version++;
  }

  get backings(): readonly AllowedBacking[] {
    return this.#backings ?? [];
  }

  /** From now on this much may be dangerous in the image, and nothing else. */
  allowDangers(dangers: readonly string[]): void {
    this.#dangers = dangers;
    this.#version++;
  }

  get dangers(): readonly string[] {
    return this.#dangers;
  }

  /** From now on the system is asked for its bitmaps: these, or where a change of them is under way, either list. */
  allowBitmaps(promise: BitmapPromise, ...lists: BitmapLists): void {
    this.#bitmaps = { promise, lists };
    this.#version++;
  }

  /** The bitmaps as they are, while no change of them is under way. */
  get bitmaps(): readonly ExpectedBitmap[] {
    return this.#bitmaps?.lists[0] ?? [];
  }

  /** A time between what was asked for before and what comes. */
  mark(): number {
    return this.#now++;
  }

  /** The image has come to rest, durably: nothing was changed meanwhile, or what was changed is newer than rest again. */
  endRest(startedAt: number): void {
    if (this.#underWay === 0 && this.#newestChange < startedAt) this.#changeBitmaps(atRest);
  }

  #beginChange(): void {
    this.#underWay++;
    this.#newestChange = this.#now;
    this.#changeBitmaps(withWrite);
  }

  /** What the next process found when this one was killed. */
  findBitmaps(found: readonly BitmapState[]): void {
    this.#changeBitmaps((bitmaps) => afterKill(bitmaps, found));
  }

  /** What a living system must not say of its bitmaps now, in words. */
  misreadBitmaps(content: Uint8Array, found: readonly BitmapState[]): string | undefined {
    if (this.#bitmaps === undefined) return undefined;
    const { lists, promise } = this.#bitmaps;
    return bitmapViolation(lists, found, sectorWrites(this.#candidates, content), promise, true);
  }

  #changeBitmaps(change: (bitmaps: readonly ExpectedBitmap[]) => readonly ExpectedBitmap[]): void {
    if (this.#bitmaps === undefined) return;
    this.#bitmaps = { ...this.#bitmaps, lists: this.#bitmaps.lists.map(change) };
    this.#version++;
  }

  /** The write or discard is acknowledged. With `durable` (FUA) it is a flush of itself. */
  endWrite(token: WriteToken, durable: boolean): void {
    this.#underWay--;
    token.endedAt = this.#now++;
    if (durable) this.#settle((write) => write === token);
  }

  /** A flush is about to be asked for; pass the answer to `endFlush`. */
  beginFlush(): number {
    return this.#now++;
  }

  endFlush(startedAt: number): void {
    this.#settle((write) => write.endedAt < startedAt);
  }

  /**
   * The process was killed and the system opened again, with the device as it was: each write that was not
   * made durable is there or not, and no later flush brings it back.
   */
  kill(): void {
    const killedAt = this.#now++;
    if (this.#sizes.length > 1) for (const { write } of this.#sizes) settleByKill(write, killedAt);
    this.#candidates.forEach((list, index) => {
      if (list.length < 2) return;
      for (const { write } of list) settleByKill(write, killedAt);
      this.#current[index] = list.map(({ sector }) => sector);
    });
  }

  /** The first sector that a living system must not show now: nothing is under way, and nothing has crashed. */
  firstMisread(content: Uint8Array): number | undefined {
    for (let index = 0; index * sectorBytes < content.length; index++) {
      const found = content.subarray(index * sectorBytes, (index + 1) * sectorBytes);
      const list = this.#current[index] ?? [];
      if (list.some((sector) => equalBytes(sector.bytes, found))) continue;
      // Several writes to parts of it that overlapped in time, or were cut short by a kill: any mixture of them.
      const mixed =
        list.length > 1 && found.every((byte, at) => list.some(({ bytes }) => bytes[at] === byte));
      if (!mixed) return index;
    }
    return undefined;
  }

  allowed(): AllowedContent {
    const candidates = this.#candidates.slice();
    const allowedBytes = this.#sizes.map(({ sizeBytes }) => sizeBytes);
    const snapshots = this.#snapshots;
    const backings = this.#backings;
    const bitmaps = this.#bitmaps;
    const known = this.#dangers;
    const snapshotBytes = snapshots === undefined ? 0 : snapshotListBytes;
    const listBytes =
      snapshotBytes +
      (backings === undefined ? 0 : backingBytes) +
      (bitmaps === undefined ? 0 : bitmapListBytes);
    return {
      version: this.#version,
      firstViolation: (content, dangers = []) => {
        const added = addedDangers(known, dangers);
        if (added.length > 0) return { kind: 'dangers', found: added };
        const diskBytes = content.length - listBytes;
        if (!allowedBytes.includes(diskBytes)) return { kind: 'size', foundBytes: diskBytes, allowedBytes };
        const disk = content.subarray(0, diskBytes);
        if (snapshots !== undefined) {
          const list = content.subarray(diskBytes, diskBytes + snapshotListBytes);
          const found = decodeSnapshotList(list).join('\n');
          if (!snapshots.includes(found)) return { kind: 'snapshots', found, allowed: snapshots };
        }
        const at = diskBytes + snapshotBytes;
        const named = backings && decodeBacking(content.subarray(at, at + backingBytes));
        const ways: readonly Partial<AllowedBacking>[] = backings?.filter((one) => one.named === named) ?? [
          {},
        ];
        if (ways.length === 0) {
          return { kind: 'backing', found: named ?? '', allowed: backings!.map((one) => one.named) };
        }
        const violation = firstOfAll(ways.map(({ since }) => firstViolation(candidates, disk, since)));
        if (violation !== undefined || bitmaps === undefined) return violation;
        const found = decodeBitmapList(content.subarray(-bitmapListBytes));
        const { lists, promise } = bitmaps;
        const message = bitmapViolation(lists, found, sectorWrites(candidates, disk), promise);
        return message === undefined ? undefined : { kind: 'bitmaps', message };
      },
    };
  }

  #add(index: number, write: GuestWrite, sectors: readonly Sector[], partial: boolean): void {
    this.#version++;
    const added = sectors.map((sector) => ({ write, sector, partial }));
    for (const { held } of this.#reads) {
      const before = held.get(index);
      if (before !== undefined) held.set(index, [...before, ...sectors]);
    }
    this.#candidates[index] = [...this.#candidates[index]!, ...added];
  }

  /** Drop every candidate that was over before a write began that is durable now. */
  #settle(isDurable: (write: GuestWrite) => boolean): void {
    this.#settleSize(isDurable);
    this.#candidates.forEach((list, index) => {
      const kept = withDurable(list, isDurable);
      const settled = kept.every(({ write }) => write === kept[0]!.write);
      const mixtureEnds = settled && kept.some(({ partial }) => partial);
      if (kept.length === list.length && !mixtureEnds) return;
      this.#candidates[index] = settled ? kept.map((one) => ({ ...one, partial: false })) : kept;
      this.#version++;
    });
  }

  #settleSize(isDurable: (write: GuestWrite) => boolean): void {
    const newestStart = newestDurable(this.#sizes, isDurable);
    // A durable write far out needs a disk that reaches as far.
    let neededBytes = 0;
    this.#candidates.forEach((list, index) => {
      if (list.some(({ write }) => write.startedAt >= 0 && write.supersedes && isDurable(write))) {
        neededBytes = (index + 1) * sectorBytes;
      }
    });
    const kept = this.#sizes.filter(
      ({ write, sizeBytes }) => write.endedAt >= newestStart && sizeBytes >= neededBytes,
    );
    if (kept.length === this.#sizes.length) return;
    this.#sizes = kept;
    this.#version++;
  }

  #forEachSector(
    offset: number,
    lengthBytes: number,
    visit: (index: number, start: number, from: number, count: number) => void,
  ): void {
    for (let done = 0; done < lengthBytes; ) {
      const index = Math.floor((offset + done) / sectorBytes);
      const start = offset + done - index * sectorBytes;
      const count = Math.min(lengthBytes - done, sectorBytes - start);
      visit(index, start, done, count);
      done += count;
    }
  }
}

/** Start of the newest write that is durable for certain, -1 if there is none. */
function newestDurable(
  list: readonly { readonly write: GuestWrite }[],
  isDurable: (write: GuestWrite) => boolean,
): number {
  let newest = -1;
  for (const { write } of list) {
    if (write.supersedes && isDurable(write)) newest = Math.max(newest, write.startedAt);
  }
  return newest;
}

/** What is left of a list when these are durable: whatever was over before the newest of them began is gone. */
function withDurable<T extends { readonly write: GuestWrite }>(
  list: readonly T[],
  isDurable: (write: GuestWrite) => boolean,
): readonly T[] {
  const newestStart = newestDurable(list, isDurable);
  return list.filter(({ write }) => write.endedAt >= newestStart);
}

/** In or out for good: nothing that comes later makes it durable, or takes its place. */
function settleByKill(write: GuestWrite, killedAt: number): void {
  write.endedAt = Math.min(write.endedAt, killedAt);
  write.supersedes = false;
}

/** Undefined where one of them is, as each of these is a way in which things may be. */
function firstOfAll(violations: readonly (GuestViolation | undefined)[]): GuestViolation | undefined {
  return violations.includes(undefined) ? undefined : violations[0];
}

/** @param since what ended before is durable */
function firstViolation(
  candidates: readonly (readonly Candidate[])[],
  content: Uint8Array,
  since = -1,
): GuestViolation | undefined {
  for (let index = 0; index * sectorBytes < content.length; index++) {
    const found = content.subarray(index * sectorBytes, (index + 1) * sectorBytes);
    const list = withDurable(candidates[index]!, ({ endedAt }) => endedAt < since);
    if (!isAllowed(list, found)) {
      return {
        kind: 'content',
        guestSector: index,
        found: new Sector(found.slice()),
        allowed: list.map(({ sector }) => sector),
      };
    }
  }
  return undefined;
}

/** What is dangerous, and was not before. */
export function addedDangers(before: readonly string[], now: readonly string[]): readonly string[] {
  return now.filter((one) => !before.includes(one));
}

/** What there is to know of the sectors of a content for the sake of bitmaps. */
function sectorWrites(candidates: readonly (readonly Candidate[])[], content: Uint8Array): SectorWrites {
  return {
    mayBeOlder: (sector, since) => {
      const older = candidates[sector]!.filter(({ write }) => write.startedAt < since);
      return isAllowed(older, content.subarray(sector * sectorBytes, (sector + 1) * sectorBytes));
    },
    isWritten: (sector, since) => candidates[sector]!.some(({ write }) => write.startedAt >= since),
  };
}

function isAllowed(list: readonly Candidate[], found: Uint8Array): boolean {
  if (list.some(({ sector }) => equalBytes(sector.bytes, found))) return true;
  if (!list.some(({ partial }) => partial)) return false;
  return found.every((byte, at) => list.some(({ sector }) => sector.bytes[at] === byte));
}

function equalBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}
