/**
 * Effects of transactions that do not stand in place yet, by how far their transactions have come:
 *
 *   logged     appended; the header does not commit it yet
 *   committed  durably committed; may be executed in place from here on
 *   draining   being executed by the round under way
 *
 * Newer bytes lie over older ones in this order from the bottom up. Nothing here waits: each step is one change of
 * state between two waits of the engine.
 */
import { PatchMap } from '@qcow2/block-device';
import type { DraftBatch } from './batch.ts';
import { CopyList, type PendingCopy } from './copy-list.ts';

export interface DrainingEffects {
  readonly writes: PatchMap;
  readonly copies: CopyList;
}

export class PendingEffects {
  readonly #logged = { writes: new PatchMap(), copies: new CopyList() };
  #committed = { writes: new PatchMap(), copies: new CopyList() };
  #draining: DrainingEffects | undefined;

  /** Host bytes committed and not yet in place. */
  get pendingBytes(): number {
    return this.#committed.writes.setBytes + (this.#draining?.writes.setBytes ?? 0);
  }

  /** Nothing is committed and in no round. */
  get isAllDraining(): boolean {
    return this.#committed.writes.isEmpty && this.#committed.copies.isEmpty;
  }

  /** The batch is being appended. */
  addLogged({ writes, copies }: DraftBatch): void {
    this.#logged.writes.merge(writes);
    this.#logged.copies.merge(copies);
  }

  /** The batch that was logged is durably committed. */
  becomeCommitted(batch: DraftBatch): void {
    for (const { hostOffset, lengthBytes } of batch.revokes) {
      this.#deleteWrites(hostOffset, lengthBytes);
      this.#deleteCopies(hostOffset, lengthBytes);
    }
    // A copy to a place replaces what was to be written there, and the other way round.
    for (const { targetHostOffset, lengthBytes } of this.#logged.copies.all()) {
      this.#deleteWrites(targetHostOffset, lengthBytes);
    }
    for (const { offset, bytes } of this.#logged.writes.runs()) this.#deleteCopies(offset, bytes.length);
    this.#committed.writes.merge(this.#logged.writes);
    this.#committed.copies.merge(this.#logged.copies);
    this.#logged.writes.clear();
    this.#logged.copies.clear();
  }

  /** A round begins: what is committed now is what it executes. */
  beginDraining(): DrainingEffects {
    this.#draining = this.#committed;
    this.#committed = { writes: new PatchMap(), copies: new CopyList() };
    return this.#draining;
  }

  /** All that the round had to do stands in place and is flushed. */
  endDraining(): void {
    this.#draining = undefined;
  }

  /** Lay over `into` every host write of these that does not stand in place. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.patchCommitted(hostOffset, into);
    this.#logged.writes.apply(hostOffset, into);
  }

  /** The same, of what is committed: what an execution in place may read. */
  patchCommitted(hostOffset: number, into: Uint8Array): void {
    this.#draining?.writes.apply(hostOffset, into);
    this.#committed.writes.apply(hostOffset, into);
  }

  addCopiesTo(list: CopyList): void {
    for (const copies of this.#copyLists()) list.merge(copies);
  }

  /** The copies to the range are made, or not wanted any more. */
  deleteCopies(hostOffset: number, lengthBytes: number): void {
    for (const copies of this.#copyLists()) copies.delete(hostOffset, lengthBytes);
  }

  /** A copy of the round is made. */
  drained({ targetHostOffset, lengthBytes }: PendingCopy): void {
    this.#draining?.copies.delete(targetHostOffset, lengthBytes);
  }

  #copyLists(): CopyList[] {
    const draining = this.#draining === undefined ? [] : [this.#draining.copies];
    return [...draining, this.#committed.copies, this.#logged.copies];
  }

  #deleteWrites(hostOffset: number, lengthBytes: number): void {
    this.#committed.writes.delete(hostOffset, lengthBytes);
    this.#draining?.writes.delete(hostOffset, lengthBytes);
  }

  #deleteCopies(hostOffset: number, lengthBytes: number): void {
    this.#committed.copies.delete(hostOffset, lengthBytes);
    this.#draining?.copies.delete(hostOffset, lengthBytes);
  }
}
