/**
 * Making the disk larger, whatever its end has hidden so far: zeros first, size last.
 *
 * Behind the end may stand what nobody was to see: the rest of a longer backing file, the tail of the last cluster,
 * clusters that a table maps further on. All of it must read as zeros when the size says that it is the disk's.
 *
 *   1. an L1 table that reaches far enough; the header's size stays
 *   2. zero clusters in place of what is hidden, in sections that the log has room for. Where no L2 table stands, one
 *      full of zero clusters is written whole and costs the log one entry
 *   3. zeros in the cluster in which the disk ends, from its end on
 *   4. all of that durable
 *   5. the size, in one change of the header's first sector
 *
 * Crash argument. Nobody reads behind the end before 5 is durable, and 5 waits for a commit of all the rest: with a journal and
 * without, a crash finds the old disk, or the new one with its zeros. What it leaves of 1 to 3 is no leak, since the L1
 * table leads to all of it, and of no consequence to the guest. But L2 tables that nobody asked for take room, so with a
 * journal an intent stands over all (kind *grow*): recovery gives them back [JRN-INTENT-024]. The intent says how
 * far the tables may have come before they do [JRN-INTENT-023], each section its own part of the way.
 * To give back is to drop tables that lead to no cluster: a crash in between leaves the rest of them, and the intent.
 *
 * What a data file has behind the end is zeros before all this: it is written over with zeros, and made as long as the disk will be.
 *
 * Between two sections guests write, below the end. Nothing that they may ask for touches a mapping behind it, and none takes the
 * last cluster away again: a request that ends within it neither unmaps nor replaces it.
 */
import type { Task } from '@qcow2/block-device';
import { clusterKind } from '@qcow2/codec';
import { encodeGrowIntent } from '@qcow2/codec/journal/v1';
import { journalIntentKinds } from '@qcow2/spec';
import { changeDisk, l1EntriesNeeded } from './growth.ts';
import { sectorBytes } from './guest-overlay.ts';
import { lastSection, orUndo, section } from './operation.ts';
import type { ImageParts } from './parts.ts';

/**
 * Make the disk larger; the new bytes read as zeros. Durable after a flush. Holds: `operations`, and not the write lock.
 * @throws INVALID_ARGUMENT beyond the format's limits; UNSUPPORTED_FEATURE where the disk ends in a cluster that is not
 *   served; and what reading and writing throw. The disk is as it was then.
 */
export function* growDisk(parts: ImageParts, sizeBytes: number): Task<void> {
  const { core } = parts;
  l1EntriesNeeded(core.header, sizeBytes);
  const grow = new GrowOperation(parts, core.header.sizeBytes, sizeBytes);
  if (core.data.isExternal && sizeBytes > core.header.sizeBytes) {
    core.data.refuseGrowth(sizeBytes);
    yield* section(parts, () => core.data.coverGrowth(core.header.sizeBytes, sizeBytes));
  }
  if (sizeBytes <= core.header.sizeBytes || (yield* section(parts, () => grow.atOnce()))) return;
  const body = function* growTask(): Task<void> {
    yield* grow.begin();
    yield* grow.layZeros();
    yield* section(parts, () => grow.coverTail());
    // What the guest is filling, the last cluster perhaps, is mapped by it as well.
    yield* section(parts, () => parts.mapPending());
    yield* core.log.commit();
    yield* lastSection(parts, () => grow.end());
  };
  const message = 'a disk could neither be made larger nor left as it was';
  yield* orUndo(body, () => grow.undo(), message);
}

/** One operation under way, or one that recovery found. */
export class GrowOperation {
  readonly #parts: ImageParts;
  readonly #before: number;
  readonly #after: number;
  /** Guest bytes that one L2 table maps. */
  readonly #tableBytes: number;
  #reach: number;
  #intentId: number | undefined;

  /** @param found the intent that recovery found open */
  constructor(parts: ImageParts, before: number, after: number, found?: { id: number; reachBytes: number }) {
    this.#parts = parts;
    this.#before = before;
    this.#after = after;
    this.#tableBytes = parts.core.l2Entries * parts.core.clusterBytes;
    this.#reach = found?.reachBytes ?? before;
    this.#intentId = found?.id;
  }

  /** Where nothing is hidden the size alone changes. Returns whether it did. Holds: the write lock. */
  *atOnce(): Task<boolean> {
    if (!(yield* this.#hidesNothing())) return false;
    yield* this.#change(this.#after);
    return true;
  }

  /** The intent, and an L1 table that reaches far enough. */
  *begin(): Task<void> {
    yield* section(this.#parts, () => this.#begin());
  }

  *#begin(): Task<void> {
    this.#intentId = this.#parts.core.log.newIntentId?.();
    this.#sayReach(this.#before);
    yield* this.#change(this.#before);
  }

  /** Every whole cluster behind the end reads as zeros. */
  *layZeros(): Task<void> {
    const { core } = this.#parts;
    const end = Math.ceil(this.#after / core.clusterBytes) * core.clusterBytes;
    let at = Math.ceil(this.#before / core.clusterBytes) * core.clusterBytes;
    while (at < end) {
      const tableEnd = at - (at % this.#tableBytes) + this.#tableBytes;
      const from = at;
      if (!this.#hasTable(from) && !this.#shows(from)) at = tableEnd;
      else at = yield* section(this.#parts, () => this.#zeroSection(from, Math.min(end, tableEnd)));
    }
  }

  /**
   * The part of the last cluster that lies behind the end reads as zeros, where it can be told that it does not: by
   * zeros in the cluster, which the image takes a copy of first where it is not its own. Holds: the write lock.
   */
  *coverTail(): Task<void> {
    const { core, overlay, writer, clusterWriter } = this.#parts;
    const inCluster = this.#before % core.clusterBytes;
    if (inCluster === 0) return;
    const cluster = (this.#before - inCluster) / core.clusterBytes;
    if (yield* this.#tailIsZero()) return;
    // The sector that the end divides may be in the log: it is written as guests write.
    const rest = (sectorBytes - (this.#before % sectorBytes)) % sectorBytes;
    if (rest > 0) yield* writer.write(this.#before, new Uint8Array(rest));
    const held = overlay.get(cluster);
    if (held !== undefined) yield* clusterWriter.settle(held);
    const from = inCluster + rest;
    if (from === core.clusterBytes) return;
    yield* clusterWriter.writePart(cluster, {
      inCluster: from,
      bytes: new Uint8Array(core.clusterBytes - from),
    });
  }

  /** The size changes, and the operation is over. Holds: the write lock. */
  *end(): Task<void> {
    yield* this.#change(this.#after, this.#intentId);
  }

  /** Give back the tables that lead to no cluster, as far as the operation may have come. Durable on return. */
  *undo(): Task<void> {
    const { core, clusterWriter } = this.#parts;
    const first = Math.ceil(this.#before / this.#tableBytes);
    const end = Math.min(Math.ceil(this.#reach / this.#tableBytes), core.header.l1Entries);
    for (let index = first; index < end; index++) {
      yield* section(this.#parts, () => clusterWriter.l2.removeEmpty(index));
    }
    if (this.#intentId !== undefined) core.log.submit({ ...nothing, intentDone: this.#intentId });
    yield* core.log.commit();
  }

  *#change(sizeBytes: number, intentDone?: number): Task<void> {
    const { core, allocator, clusterWriter } = this.#parts;
    const needed = l1EntriesNeeded(core.header, this.#after);
    if (sizeBytes === core.header.sizeBytes && needed <= core.header.l1Entries) return;
    const change = { sizeBytes, reachBytes: this.#after, intentDone };
    yield* changeDisk(core, allocator, clusterWriter.update(), change);
  }

  /** Into the log, before any change that it speaks of. Holds: the write lock. */
  #sayReach(reachBytes: number): void {
    this.#reach = Math.min(reachBytes, this.#after);
    if (this.#intentId === undefined) return;
    const body = encodeGrowIntent({
      sizeBeforeBytes: this.#before,
      sizeAfterBytes: this.#after,
      reachBytes: this.#reach,
    });
    const intent = { id: this.#intentId, kind: journalIntentKinds.grow, body };
    this.#parts.core.log.submit({ ...nothing, intent });
  }

  /** Zeros from `at` on, within one L2 table. Returns how far. Holds: the write lock. */
  *#zeroSection(at: number, end: number): Task<number> {
    const { core, writer, clusterWriter } = this.#parts;
    const whole = core.header.version > 2 && !this.#hasTable(at);
    const to = whole ? end : Math.min(end, at + this.#parts.pieceBytes);
    this.#sayReach(to);
    if (whole) {
      const shown = Math.min(to, this.#backingBytes());
      const count = Math.ceil((shown - at) / core.clusterBytes);
      yield* clusterWriter.l2.addZeros(at / core.clusterBytes, count);
    } else {
      yield* writer.zero(at, to - at, { unmap: true, discard: false });
    }
    return to;
  }

  /** Everything from the end to the new size reads as zeros already. */
  *#hidesNothing(): Task<boolean> {
    const { core, mappings } = this.#parts;
    if (this.#shows(this.#before) || !(yield* this.#tailIsZero())) return false;
    const end = Math.ceil(this.#after / core.clusterBytes);
    for (let cluster = Math.ceil(this.#before / core.clusterBytes); cluster < end; ) {
      if (!this.#hasTable(cluster * core.clusterBytes)) {
        cluster = (Math.floor(cluster / core.l2Entries) + 1) * core.l2Entries;
        continue;
      }
      if (!readsAsZeros((yield* mappings.lookup(cluster)).kind)) return false;
      cluster++;
    }
    return true;
  }

  *#tailIsZero(): Task<boolean> {
    const { core, mappings, overlay, pending } = this.#parts;
    if (this.#before % core.clusterBytes === 0) return true;
    // In a data file it was written over with zeros before; where that is not mapped the backing file shows.
    if (core.data.isExternal && !this.#shows(this.#before)) return true;
    const cluster = Math.floor(this.#before / core.clusterBytes);
    if (pending.get(cluster) !== undefined) return false;
    // Guests write whole sectors below the end: only the one that the end divides may hold something behind it.
    if (this.#before % sectorBytes !== 0 && overlay.get(cluster) !== undefined) return false;
    const { kind } = yield* mappings.lookup(cluster);
    return readsAsZeros(kind) && !(kind === clusterKind.unallocated && this.#shows(this.#before));
  }

  #hasTable(guestOffset: number): boolean {
    return this.#parts.mappings.l2TableOffset(guestOffset / this.#parts.core.clusterBytes) !== 0;
  }

  /** Where nothing is mapped at a guest offset the backing file shows. */
  #shows(guestOffset: number): boolean {
    return guestOffset < this.#backingBytes();
  }

  #backingBytes(): number {
    return this.#parts.core.backing?.sizeBytes ?? 0;
  }
}

/** A change of the log that changes no byte of the image. */
const nothing = { writes: [], revokes: [], settled: [], required: true, afterData: false } as const;

/** Where nothing shows from below. */
function readsAsZeros(kind: number): boolean {
  return (
    kind === clusterKind.unallocated || kind === clusterKind.zeroPlain || kind === clusterKind.zeroAllocated
  );
}
