/**
 * The changes that do not stand in place yet, and how far each has come:
 *
 *   submitted  in the queue, in order; nothing on disk
 *   logged     in a record that has been appended, not flushed
 *   durable    its record is durable; may be written in place from here on
 *   draining   being written in place by the round of write-back under way
 *
 * Newer bytes lie over older ones in this order from the bottom up, so `patch` shows the image as it is meant
 * now. Nothing here waits: each step is one change of state between two waits of the engine.
 */
import { PatchMap } from '@qcow2/block-device';
import { type Batch, collectBatch } from './batch.ts';
import { descriptorBytesBound, type Microtransaction } from './microtransaction.ts';

/** A submitted microtransaction and what must have happened before it may be logged. */
export interface Submitted {
  readonly transaction: Microtransaction;
  /** The flush that must have completed: the first that began after the submission. 0: none. */
  readonly afterFlush: number;
  /** Last record when it was submitted: what "settled" refers to. */
  readonly throughSequence: number;
}

export class PendingChanges {
  #queue: Submitted[] = [];
  #queuedBytes = 0;
  #submitted = 0;
  #durable = 0;
  /** Logged and waiting for the flush that makes them durable. */
  #loggedWaiting: Submitted[] = [];
  readonly #inFlight = new PatchMap();
  #active: PatchMap;
  #draining: PatchMap | undefined;

  /** @param recovered host writes of durable records, as recovery found them */
  constructor(recovered: PatchMap) {
    this.#active = recovered;
  }

  /** What the queue takes in records, at most. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get hasQueued(): boolean {
    return this.#queue.length > 0;
  }

  /** Microtransactions so far; they become durable in the order in which they were submitted. */
  get submitted(): number {
    return this.#submitted;
  }

  get durable(): number {
    return this.#durable;
  }

  /** Host bytes that are logged, durable and not in place. */
  get undrainedBytes(): number {
    return this.#active.setBytes + (this.#draining?.setBytes ?? 0);
  }

  /** Nothing is queued or durable and not in place. */
  get isEmpty(): boolean {
    return this.#queue.length === 0 && this.#active.isEmpty && this.#draining === undefined;
  }

  submit(change: Submitted): void {
    this.#submitted++;
    this.#queuedBytes += descriptorBytesBound(change.transaction);
    this.#queue.push(change);
  }

  /** How many at the head of the queue, up to submission `last`, may be logged once `flush` has completed. */
  eligible(flush: number, last = Number.POSITIVE_INFINITY): number {
    const queue = this.#queue;
    const limit = Math.min(queue.length, last - (this.#submitted - queue.length));
    let count = 0;
    while (count < limit && queue[count]!.afterFlush <= flush) count++;
    return count;
  }

  /** Something of the queue must be logged by the commit under way. */
  get hasRequired(): boolean {
    return this.#queue.some(({ transaction }) => transaction.required);
  }

  /** Something of it waits for a later flush than `flush`, itself or through one before it. */
  hasBlockedRequired(flush: number): boolean {
    const queue = this.#queue;
    for (let i = this.eligible(flush); i < queue.length; i++) {
      if (queue[i]!.transaction.required) return true;
    }
    return false;
  }

  /** Take as many of the first `eligible` as fit `maxBytes` out of the queue: they count as logged from now on. */
  takeBatch(eligible: number, maxBytes: number): Batch {
    const batch = collectBatch(this.#queue, eligible, maxBytes);
    const taken = this.#queue.slice(0, batch.count);
    this.#queue = this.#queue.slice(batch.count);
    for (const { transaction } of taken) {
      this.#queuedBytes -= descriptorBytesBound(transaction);
      // A record before this one, under the same flush, may have written what this one revokes.
      for (const range of transaction.revokes ?? [])
        this.#inFlight.delete(range.hostOffset, range.lengthBytes);
    }
    this.#inFlight.merge(batch.hostWrites);
    this.#loggedWaiting.push(...taken);
    return batch;
  }

  /** A flush begins: what it covers, to be handed to `becomeDurable` when it has completed. */
  beginFlush(): readonly Submitted[] {
    const logged = this.#loggedWaiting;
    this.#loggedWaiting = [];
    return logged;
  }

  becomeDurable(logged: readonly Submitted[]): void {
    for (const { transaction } of logged) {
      for (const range of transaction.revokes ?? []) {
        this.#active.delete(range.hostOffset, range.lengthBytes);
        this.#draining?.delete(range.hostOffset, range.lengthBytes);
      }
    }
    this.#active.merge(this.#inFlight);
    this.#inFlight.clear();
    this.#durable += logged.length;
    for (const { transaction } of logged) transaction.onDurable?.();
  }

  /** A round of write-back begins: what is durable now is what it writes in place. */
  beginDraining(): PatchMap {
    this.#draining = this.#active;
    this.#active = new PatchMap();
    return this.#draining;
  }

  /** All that the round had to write is in place and flushed. */
  endDraining(): void {
    this.#draining = undefined;
  }

  /** Lay over `into`, read from `hostOffset` of the device, every host write that does not stand there yet. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#draining?.apply(hostOffset, into);
    this.#active.apply(hostOffset, into);
    this.#inFlight.apply(hostOffset, into);
    for (const { transaction } of this.#queue) {
      for (const write of transaction.hostWrites ?? [])
        overlap(write.hostOffset, write.bytes, hostOffset, into);
    }
  }
}

/** Copy the part of `bytes` (standing at `at`) that overlaps `into` (standing at `start`). */
function overlap(at: number, bytes: Uint8Array, start: number, into: Uint8Array): void {
  const from = Math.max(at, start);
  const to = Math.min(at + bytes.length, start + into.length);
  if (from < to) into.set(bytes.subarray(from - at, to - at), from - start);
}
