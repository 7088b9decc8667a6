/**
 * The order of metadata writes without a journal, after QEMU's cache with its flush dependencies.
 *
 * Changed bytes wait in three steps; a step is written when the one before it is durable:
 *   0 `refcounts`   a cluster counts as used, in a block that the refcount table leads to or soon will
 *   1 `tables`      the refcount table leads to a new block, the header to a new refcount table
 *   2 `mappings`    L2 and L1 entries: what makes clusters reachable
 *
 * Bytes written past this (guest data, the content of new tables) are durable before step 1 as before step 2.
 * Refcounts wait for nothing: what counts as used and is not reachable harms nobody. So a commit takes two
 * flushes, data and refcounts, then mappings, and a third only where the refcount table changes.
 *
 * Crash argument. After a crash between two steps a cluster may count as used and not be reachable: a leak,
 * which check repairs. It is never reachable and free, because step 2 waits for the flush after step 1; and
 * no table is reachable before its content, because a flush covers that before step 1 and before step 2.
 * Refcounts are lowered only when the mapping that went away is durable (`afterMappings`), so the reverse
 * never happens either: a cluster handed out again while an old mapping on disk still leads to it.
 *
 * Why dependencies can not dead-lock. There is no graph of tables that wait for each other, in which a cycle could close: a
 * change names a step, steps are numbered, and a step waits for lower ones only. A commit takes what is queued when it
 * begins and goes through the steps once, so it takes three flushes at most, however the changes came about; what making
 * room for refcounts queues meanwhile (a new block, a larger table) waits for the next commit. What a commit frees is queued
 * when it is over, so the image is at rest after at most two more. Refcounts of less than a byte share bytes with
 * their neighbours; a change is the newest whole byte, taken under the write lock, so the last one holds all of them.
 *
 * A failed write or flush ends it: what of the step is on disk is not known, and a retry that succeeds would
 * say that it is. The owner keeps the failure and refuses to go on.
 */
import { type BlockDevice, isPromise, PatchMap, type Task } from '@qcow2/block-device';

/** 0: refcounts, 1: tables, 2: mappings. */
export type WriteStep = 0 | 1 | 2;

const events = ['refblock_update', 'reftable_update', 'l2_update'] as const;

export class OrderedWrites {
  readonly #device: BlockDevice;
  readonly #steps: [PatchMap, PatchMap, PatchMap] = [new PatchMap(), new PatchMap(), new PatchMap()];
  /** The steps that a flush under way is writing: their bytes are on the way, and still newer than the device's. */
  #writing: readonly PatchMap[] = [];
  #afterMappings: (() => void)[] = [];

  constructor(device: BlockDevice) {
    this.#device = device;
  }

  get isEmpty(): boolean {
    return this.#steps.every((step) => step.isEmpty) && this.#afterMappings.length === 0;
  }

  /** Bytes that wait. */
  get pendingBytes(): number {
    return this.#steps.reduce((sum, step) => sum + step.setBytes, 0);
  }

  /** Queue changed bytes. They are copied. */
  write(step: WriteStep, hostOffset: number, bytes: Uint8Array): void {
    // The newest bytes of a place wait in the last step that changed it, and earlier steps must not bring
    // back what they replaced: a place belongs to one kind of table as long as it is in use.
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
   * Write everything queued so far in order, durable on return. One flush where no mapping waits, two where
   * one does, three where the refcount table changes too. Bytes queued meanwhile wait for the next call.
   * @throws what the device throws
   */
  *flush(dataWritten: boolean): Task<void> {
    const steps = this.#steps.map((step) => {
      const taken = new PatchMap();
      taken.merge(step);
      step.clear();
      return taken;
    });
    const callbacks = this.#afterMappings;
    this.#afterMappings = [];
    this.#writing = steps;
    let unflushed = dataWritten;
    for (const [number, step] of steps.entries()) {
      if (step.isEmpty) continue;
      // Mappings wait for data and refcounts, entries of the refcount table for their blocks' content.
      if (number > 0 && unflushed) yield* this.#flushDevice('flush_data');
      for (const { offset, bytes } of step.runs()) {
        const done = this.#device.write(offset, bytes, { event: events[number]! });
        if (isPromise(done)) yield done;
      }
      unflushed = true;
    }
    if (unflushed) yield* this.#flushDevice('flush_metadata');
    this.#writing = [];
    for (const callback of callbacks) callback();
  }

  *#flushDevice(event: 'flush_data' | 'flush_metadata'): Task<void> {
    const done = this.#device.flush({ event });
    if (isPromise(done)) yield done;
  }
}
