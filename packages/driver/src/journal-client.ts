/**
 * The image as the journal engine's client: what is gathered, how it settles, and the dirty bit.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import type { FillSink, GuestSink, GuestWrite, JournalClient } from '@qcow2/journal';
import { cryptMethods, FormatError, incompatibleFeatures } from '@qcow2/spec';
import type { Allocator } from './allocator.ts';
import type { ClusterWriter } from './cluster-writer.ts';
import type { GuestCipher } from './encryption.ts';
import {
  type GuestOverlay,
  guestWriteDescriptorBytes,
  type OverlayCluster,
  sectorBytes,
} from './guest-overlay.ts';
import type { ImageCore } from './image-core.ts';
import { servedIntentKinds } from './intent-handlers.ts';
import { loggedCipherText, loggedPlainText } from './logged-bytes.ts';
import type { PendingFills } from './pending-fills.ts';

/** Clusters written by so many of the last pieces are likely to be written next. */
const recentWrites = 16;

/** Byte offset of the incompatible feature mask in the header (HDR-015). */
const incompatibleAt = 72;
const sectorsPerGroup = 8;

export class ImageJournalClient implements JournalClient {
  readonly #core: ImageCore;
  readonly #overlay: GuestOverlay;
  readonly #writer: ClusterWriter;
  readonly #allocator: Allocator;
  #round: OverlayCluster[] = [];
  /** Host clusters with parts to be brought in, and the time up to which they were logged when the round began. */
  #fills: { hostCluster: number; bytes: number }[] = [];
  #fillsUntil = 0;
  /** What the commit under way has to log, last to be taken first. */
  #commit: OverlayCluster[] = [];

  constructor(core: ImageCore, overlay: GuestOverlay, writer: ClusterWriter, allocator: Allocator) {
    this.#core = core;
    this.#overlay = overlay;
    this.#writer = writer;
    this.#allocator = allocator;
  }

  get unloggedGuestBytes(): number {
    return this.#overlay.dirtyBytes;
  }

  beginCommit(): void {
    this.#commit = this.#overlay.dirtyClusters();
  }

  hasCommitWrites(): boolean {
    // Taken, settled or dropped meanwhile: nothing of it is dirty any more.
    while (this.#commit.at(-1)?.dirtySectors === 0) this.#commit.pop();
    return this.#commit.length > 0;
  }

  takeGuestWrites(maxBytes: number): readonly GuestWrite[] {
    const writes: GuestWrite[] = [];
    for (let left = maxBytes; this.hasCommitWrites(); ) {
      const cluster = this.#commit.at(-1)!;
      const taken = this.#overlay.takeDirty(cluster, left);
      for (const { bytes } of taken) left -= guestWriteDescriptorBytes + bytes.length;
      writes.push(...loggedCipherText(this.#core.cipher, taken));
      if (cluster.dirtySectors > 0) break;
    }
    return writes;
  }

  *settleUnlogged(): Task<void> {
    yield* this.#core.writeLock.exclusive(() => this.settleUnloggedLocked());
  }

  /** As `settleUnlogged`, for a caller that holds the write lock. */
  *settleUnloggedLocked(): Task<void> {
    for (const cluster of this.#overlay.sortedDirty()) yield* this.#writer.settle(cluster, 'leave-rest');
  }

  beginRound(): void {
    const { fills } = this.#core;
    this.#round = this.#overlay.sorted().reverse();
    this.#fills = fills.unfilled().reverse();
    this.#fillsUntil = fills.now;
  }

  get roundPieces(): number {
    return this.#round.length + this.#fills.length;
  }

  *stepRound(pieces: number, maxBytes: number): Task<void> {
    yield* this.#core.writeLock.exclusive(() => this.#stepLocked(pieces, maxBytes));
  }

  *#stepLocked(pieces: number, maxBytes: number): Task<void> {
    const before = this.#core.data.guestBytesWritten;
    let filled = 0;
    for (let left = pieces; left > 0; left--) {
      if (this.#core.data.guestBytesWritten - before + filled >= maxBytes) return;
      const cluster = this.#round.pop();
      if (cluster !== undefined) {
        // Dropped or settled since the round began: nothing of it is left to do.
        if (this.#overlay.get(cluster.guestCluster) !== cluster) continue;
        // Where the guest is at work, the next round may find the cluster whole.
        const rest = this.#overlay.isRecent(cluster, this.#recentWrites) ? 'leave-rest' : 'bring-rest';
        yield* this.#writer.settle(cluster, rest);
        continue;
      }
      const fill = this.#fills.pop();
      if (fill === undefined) return;
      filled += fill.bytes;
      yield* this.#writer.finishFill(fill.hostCluster, this.#fillsUntil);
    }
  }

  /** So many clusters may be left for a later round at most: their changes must fit the log. */
  get #recentWrites(): number {
    return Math.min(recentWrites, Math.floor(this.#core.log.changeBytes / 1024));
  }

  *markDirty(): Task<void> {
    this.#core.header.incompatibleFeatures |= incompatibleFeatures.journalDirty;
    yield* writeIncompatibleFeatures(this.#core.device, this.#core.header.incompatibleFeatures);
  }

  *markClean(): Task<void> {
    this.#core.header.incompatibleFeatures &= ~incompatibleFeatures.journalDirty;
    yield* writeIncompatibleFeatures(this.#core.device, this.#core.header.incompatibleFeatures);
  }

  *beforeFlush(): Task<void> {
    if (!this.#allocator.fileIsShort) return;
    // Under the lock: a resize must not come late and cut off what a write has added meanwhile.
    yield* this.#core.writeLock.exclusive(() => this.#allocator.extendFile());
  }
}

/** One write within the header's first sector, durable on return. */
function* writeIncompatibleFeatures(device: BlockDevice, mask: bigint): Task<void> {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, mask);
  yield* wait(device.write(incompatibleAt, bytes, { event: 'dirty_bit' }));
  yield* wait(device.flush({ event: 'flush_metadata' }));
}

/** Gathers replayed guest writes into an overlay; remembers which record each sector came from. */
export class OverlaySink implements GuestSink {
  readonly intentKinds = servedIntentKinds;
  readonly #overlay: GuestOverlay;
  readonly #clusterBytes: number;
  readonly #sequences = new SectorSequences();
  readonly #cipher: GuestCipher | undefined;

  readonly fills?: FillSink;

  /**
   * Where an encrypted image has no cipher, what is gathered is cipher text, and nobody may read it.
   * @param fills undefined: a log that has copies or fills is refused
   */
  constructor(core: ImageCore, overlay: GuestOverlay, fills: PendingFills | undefined) {
    this.#overlay = overlay;
    this.#cipher = core.cipher;
    this.#clusterBytes = core.clusterBytes;
    const isEncrypted = core.header.cryptMethod !== cryptMethods.none;
    if (fills === undefined) return;
    this.fills = {
      copy: (target, hostOffset, length, at) => {
        if (isEncrypted) throw copyOfCipherText(at);
        fills.add(target, length, { kind: 'copy', hostOffset }, at);
      },
      fillFromBacking: (target, guestOffset, length, at) =>
        fills.add(target, length, { kind: 'backing', guestOffset }, at),
      cancel: (hostOffset, length, kind, at) => fills.cancel(hostOffset, length, kind, at),
    };
  }

  guestWrite(guestOffset: number, logged: Uint8Array, sequence: number): void {
    const bytes = loggedPlainText(this.#cipher, guestOffset, logged);
    for (let done = 0; done < bytes.length; ) {
      const at = guestOffset + done;
      const inCluster = at % this.#clusterBytes;
      const length = Math.min(bytes.length - done, this.#clusterBytes - inCluster);
      const piece = bytes.subarray(done, done + length);
      this.#overlay.put((at - inCluster) / this.#clusterBytes, inCluster, piece, true);
      done += length;
    }
    this.#sequences.set(guestOffset / sectorBytes, bytes.length / sectorBytes, sequence);
  }

  guestSettled(guestOffset: number, lengthBytes: number, throughSequence: number): void {
    const end = guestOffset + lengthBytes;
    for (const cluster of this.#clustersIn(guestOffset, end)) {
      const start = cluster.guestCluster * this.#clusterBytes;
      const from = Math.max(start, guestOffset);
      const to = Math.min(start + this.#clusterBytes, end);
      for (let at = from; at < to; at += sectorBytes) {
        const sequence = this.#sequences.get(at / sectorBytes);
        if (sequence === 0 || sequence > throughSequence) continue;
        this.#overlay.drop(cluster, at - start, sectorBytes);
        this.#sequences.set(at / sectorBytes, 1, 0);
      }
    }
  }

  /** Clusters of the overlay in a range: by the range or by the overlay, whichever is shorter. */
  #clustersIn(from: number, to: number): OverlayCluster[] {
    const first = Math.floor(from / this.#clusterBytes);
    const last = Math.ceil(to / this.#clusterBytes);
    if (last - first > this.#overlay.clusterCount) return this.#overlay.sorted();
    const found: OverlayCluster[] = [];
    for (let guestCluster = first; guestCluster < last; guestCluster++) {
      const cluster = this.#overlay.get(guestCluster);
      if (cluster !== undefined) found.push(cluster);
    }
    return found;
  }
}

function copyOfCipherText(at: number): FormatError {
  const context = { hostOffset: at, clause: 'JRN-COPY-011' };
  return new FormatError('BAD_FIELD', 'the journal of an encrypted image holds a copy', context);
}

/**
 * Which record each guest sector came from, 0 for none. By groups of sectors: most are written whole by one record,
 * and then take one number.
 */
class SectorSequences {
  readonly #groups = new Map<number, number | Float64Array>();

  get(sector: number): number {
    const group = this.#groups.get(Math.floor(sector / sectorsPerGroup));
    return typeof group === 'object' ? group[sector % sectorsPerGroup]! : (group ?? 0);
  }

  set(first: number, count: number, sequence: number): void {
    for (let sector = first; sector < first + count; ) {
      const inGroup = sector % sectorsPerGroup;
      const index = (sector - inGroup) / sectorsPerGroup;
      const length = Math.min(first + count - sector, sectorsPerGroup - inGroup);
      if (length === sectorsPerGroup) this.#groups.set(index, sequence);
      else this.#apart(index).fill(sequence, inGroup, inGroup + length);
      sector += length;
    }
  }

  #apart(index: number): Float64Array {
    const group = this.#groups.get(index);
    if (typeof group === 'object') return group;
    const apart = new Float64Array(sectorsPerGroup).fill(group ?? 0);
    this.#groups.set(index, apart);
    return apart;
  }
}
