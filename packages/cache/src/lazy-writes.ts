/**
 * The order of metadata writes with lazy refcounts: none but where a crash would show something that never was.
 *
 * While the image is marked as dirty, its refcounts mean nothing: they are rebuilt from the tables at the next open. So
 * they stay in memory (up to `maxDeferredBytes`, then they are written with no order at all), and a mapping does
 * not wait for them. What it waits for is decided for each commit, from what its changes say:
 *
 *   one flush     every new mapping leads to a cluster that reads as zeros without its bytes, and the guest saw zeros
 *                 there before. Data, tables and mappings go out together.
 *   two flushes   some bytes must be there before a mapping leads to them (`ordered`), or the file may not
 *                 reach as far as the clusters in use (`reachBytes`): data, flush, tables and mappings, flush.
 *   two flushes   the image is not marked yet: the mark, and the data with it, flush, mappings, flush.
 *
 * Crash argument, for a crash between any two writes of a commit, and any subset of them (ADR 4, 12):
 *  - refcounts: the mark is durable before the first mapping is written, and stays until `settle` has made the refcounts
 *    durable that belong to every durable mapping. Whatever else is there of them, repair makes right.
 *  - a mapping without its bytes: shows zeros where zeros were, in a commit of one flush; does not exist in others.
 *  - a new L2 table: in a cluster that reads as zeros it is an empty table with any of its entries, each of which
 *    is argued above; elsewhere, and where it is a copy, its change is `ordered`.
 *  - a new refcount block or table, a larger L1 table: always ordered, content before pointer.
 *  - freed clusters: handed out again only after the flush that made their mapping's end durable (`afterMappings`).
 *
 * As with ordered writes a failed write or flush ends it.
 */
import { type BlockDevice, isPromise, PatchMap, type Task } from '@qcow2/block-device';
import type { WriteStep } from './ordered-writes.ts';

/** Refcount bytes that wait in memory before they are written without need. */
const maxDeferredBytes = 512 * 1024;

const events = ['refblock_update', 'reftable_update', 'l2_update'] as const;

/** Sets or clears the mark "dirty" in the image's header. Durable after the next flush. */
export type WriteMark = (dirty: boolean) => Task<void>;

export interface LazyFlush {
  /** Something was written past this since the last flush. */
  readonly dataWritten: boolean;
  /** What was written must be durable before the mappings that wait. */
  readonly ordered: boolean;
  /** The clusters in use end here; a mapping beyond the durable end of the file would lead nowhere. */
  readonly reachBytes: number;
}

export class LazyWrites {
  readonly #device: BlockDevice;
  readonly #writeMark: WriteMark;
  readonly #steps: [PatchMap, PatchMap, PatchMap] = [new PatchMap(), new PatchMap(), new PatchMap()];
  /** On their way to the device, and still newer than what is there. */
  #writing: readonly PatchMap[] = [];
  #afterMappings: (() => void)[] = [];
  #marked = false;
  /** The file is this long, whatever happens. */
  #durableBytes = 0;

  constructor(device: BlockDevice, writeMark: WriteMark) {
    this.#device = device;
    this.#writeMark = writeMark;
  }

  /** Nothing waits, refcounts included, and the image is not marked. */
  get isEmpty(): boolean {
    return !this.#marked && !this.hasMappings && this.#steps[0].isEmpty;
  }

  /** Something waits for a commit. */
  get hasMappings(): boolean {
    return !this.#steps[1].isEmpty || !this.#steps[2].isEmpty || this.#afterMappings.length > 0;
  }

  /** Bytes that wait. */
  get pendingBytes(): number {
    return this.#steps.reduce((sum, step) => sum + step.setBytes, 0);
  }

  /** Queue changed bytes. They are copied. */
  write(step: WriteStep, hostOffset: number, bytes: Uint8Array): void {
    this.#steps[step].set(hostOffset, bytes);
  }

  /** Call back, synchronously, when every mapping queued so far is durable. */
  afterMappings(callback: () => void): void {
    this.#afterMappings.push(callback);
  }

  /** A range was freed: what waits for it is not to be written any more. */
  forget(hostOffset: number, lengthBytes: number): void {
    for (const step of this.#steps) step.delete(hostOffset, lengthBytes);
  }

  /** Lay what waits over bytes that were read from the device. */
  patch(hostOffset: number, into: Uint8Array): void {
    for (const step of this.#writing) step.apply(hostOffset, into);
    for (const step of this.#steps) step.apply(hostOffset, into);
  }

  /**
   * Make durable everything written and every mapping queued so far; refcounts may stay behind.
   * @throws what the device throws
   */
  *flush(what: LazyFlush): Task<void> {
    const [refcounts, tables, mappings] = this.#steps;
    const changes = !tables.isEmpty || !mappings.isEmpty;
    const taken = [
      changes && refcounts.setBytes >= maxDeferredBytes ? take(refcounts) : new PatchMap(),
      take(tables),
      take(mappings),
    ];
    const callbacks = this.#afterMappings;
    this.#afterMappings = [];
    this.#writing = taken;
    let unflushed = what.dataWritten;
    let first = what.ordered || what.reachBytes > this.#durableBytes || !taken[1]!.isEmpty;
    if (changes && !this.#marked) {
      yield* this.#writeMark(true);
      this.#marked = true;
      unflushed = true;
      first = true;
    }
    if (changes && unflushed && first) yield* this.#flushDevice('flush_data');
    for (const [step, patches] of taken.entries()) yield* this.#writeAll(step as WriteStep, patches);
    if (changes || unflushed) yield* this.#flushDevice('flush_metadata');
    this.#writing = [];
    for (const callback of callbacks) callback();
  }

  /**
   * Write the refcounts, and take the mark away where no mapping came meanwhile. Durable on return; look at
   * `isEmpty` for whether all is done.
   */
  *settle(): Task<void> {
    if (this.hasMappings) return;
    const refcounts = take(this.#steps[0]);
    if (!refcounts.isEmpty) {
      this.#writing = [refcounts];
      yield* this.#writeAll(0, refcounts);
      yield* this.#flushDevice('flush_metadata');
      this.#writing = [];
    }
    if (!this.#marked) return;
    yield* this.#writeMark(false);
    yield* this.#flushDevice('flush_metadata');
    this.#marked = false;
  }

  *#writeAll(step: WriteStep, patches: PatchMap): Task<void> {
    for (const { offset, bytes } of patches.runs()) {
      const done = this.#device.write(offset, bytes, { event: events[step] });
      if (isPromise(done)) yield done;
    }
  }

  *#flushDevice(event: 'flush_data' | 'flush_metadata'): Task<void> {
    const lengthBytes = this.#device.sizeBytes;
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
    this.#durableBytes = lengthBytes;
  }
}

/** Everything in a map, which is empty then. */
function take(map: PatchMap): PatchMap {
  const taken = new PatchMap();
  taken.merge(map);
  map.clear();
  return taken;
}
