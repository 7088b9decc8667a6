/**
 * Host writes of transactions that do not stand in place yet, by how far their transactions have come:
 *
 *   logged     appended; the header does not commit it yet
 *   committed  durably committed; may be executed in place from here on
 *   draining   being executed by the round under way
 *
 * Newer bytes lie over older ones in this order from the bottom up. Nothing here waits: each step is one change of
 * state between two waits of the engine. Which copies are not made yet is for the client to know.
 */
import { PatchMap } from '@qcow2/block-device';
import type { DraftBatch } from './batch.ts';

export class PendingEffects {
  readonly #logged = new PatchMap();
  #committed = new PatchMap();
  #draining: PatchMap | undefined;

  /** Host bytes committed and not yet in place. */
  get pendingBytes(): number {
    return this.#committed.setBytes + (this.#draining?.setBytes ?? 0);
  }

  /** Nothing is committed and in no round. */
  get isAllDraining(): boolean {
    return this.#committed.isEmpty;
  }

  /** The batch is being appended. */
  addLogged({ writes }: DraftBatch): void {
    this.#logged.merge(writes);
  }

  /** The batch that was logged is durably committed. */
  becomeCommitted(batch: DraftBatch): void {
    for (const { hostOffset, lengthBytes } of batch.revokes) {
      this.#delete(hostOffset, lengthBytes);
    }
    // A copy to a place replaces what was to be written there.
    for (const { targetHostOffset, lengthBytes } of batch.copies.all()) {
      this.#delete(targetHostOffset, lengthBytes);
    }
    this.#committed.merge(this.#logged);
    this.#logged.clear();
  }

  /** A round begins: what is committed now is what it writes in place. */
  beginDraining(): PatchMap {
    this.#draining = this.#committed;
    this.#committed = new PatchMap();
    return this.#draining;
  }

  /** All that the round had to write stands in place and is flushed. */
  endDraining(): void {
    this.#draining = undefined;
  }

  /** Lay over `into` every host write of these that does not stand in place. */
  patch(hostOffset: number, into: Uint8Array): void {
    this.#draining?.apply(hostOffset, into);
    this.#committed.apply(hostOffset, into);
    this.#logged.apply(hostOffset, into);
  }

  #delete(hostOffset: number, lengthBytes: number): void {
    this.#committed.delete(hostOffset, lengthBytes);
    this.#draining?.delete(hostOffset, lengthBytes);
  }
}
