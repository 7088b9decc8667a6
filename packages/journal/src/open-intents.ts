/**
 * Intents: operations whose records may be more than the ring holds (JRN-INTENT-…).
 *
 * An intent stands in the log from the record that begins its operation to the record that ends it, and
 * whoever recovers finishes or undoes what is open. What it means, by kind, is the client's business; here it is a
 * number, a kind and some bytes that the client renews as the operation goes on.
 *
 * Crash argument. The tail may pass a record with an open intent only when a later durable record repeats it
 * [JRN-INTENT-004]. A round of write-back passes the records up to its cut, and waits for all that was submitted
 * up to its last step: so it is enough that, when a round begins, the newest descriptor of each open intent is
 * submitted and not durable yet (it comes to stand behind the cut), or is submitted once more. The same for the end of an
 * intent: until the record that ends it is durable, the intent is kept here, and the tail waits for it.
 * A repeated intent says as much as the newest one submitted before it, never more: the queue keeps its order.
 */
import { InvariantError, journalIntentLimits } from '@qcow2/spec';
import type { LoggedIntent, Microtransaction } from './microtransaction.ts';

interface OpenIntent {
  readonly intent: LoggedIntent;
  /** Number of the microtransaction that holds the newest descriptor of it; 0: recovery found it. */
  readonly submission: number;
  /** It is the one that ends it. */
  readonly ended: boolean;
}

export class OpenIntents {
  readonly #open = new Map<number, OpenIntent>();
  #lastId = 0;

  constructor(recovered: readonly LoggedIntent[]) {
    for (const intent of recovered) {
      this.#open.set(intent.id, { intent, submission: 0, ended: false });
      this.#lastId = Math.max(this.#lastId, intent.id);
    }
  }

  /** No operation is under way, not even one whose end is not durable. */
  get isEmpty(): boolean {
    return this.#open.size === 0;
  }

  /** How many operations have begun and not ended. */
  get count(): number {
    let count = 0;
    for (const { ended } of this.#open.values()) if (!ended) count++;
    return count;
  }

  /**
   * The id for an intent that begins now [JRN-INTENT-003].
   * @param nextSequence of the record to be appended next: what was logged and forgotten had smaller ids
   */
  newId(nextSequence: number): number {
    this.#lastId = Math.max(this.#lastId + 1, nextSequence);
    return this.#lastId;
  }

  /** A microtransaction was submitted: it begins, repeats or ends intents. */
  submitted({ intent, intentDone }: Microtransaction, submission: number): void {
    if (intent !== undefined) this.#renew(intent, submission);
    if (intentDone === undefined) return;
    const open = this.#open.get(intentDone);
    if (open === undefined || open.ended) throw new InvariantError('an intent ends that is not open');
    this.#open.set(intentDone, { ...open, submission, ended: true });
  }

  #renew(intent: LoggedIntent, submission: number): void {
    const open = this.#open.get(intent.id);
    if (open !== undefined && (open.ended || open.intent.kind !== intent.kind)) {
      throw new InvariantError('an intent is repeated after its end, or as another kind', {
        clause: 'JRN-INTENT-009',
      });
    }
    if (open === undefined && this.#open.size >= journalIntentLimits.maxOpen) {
      throw new InvariantError('too many operations at once', { clause: 'JRN-INTENT-008' });
    }
    this.#open.set(intent.id, { intent, submission, ended: false });
  }

  /** Everything up to this microtransaction is durable: what it ended is over. */
  becomeDurable(durable: number): void {
    for (const [id, { submission, ended }] of this.#open) {
      if (ended && submission <= durable) this.#open.delete(id);
    }
  }

  /** What must be submitted again when a round begins, all up to `durable` being durable. */
  toRepeat(durable: number): LoggedIntent[] {
    const repeated: LoggedIntent[] = [];
    for (const { intent, submission, ended } of this.#open.values()) {
      if (!ended && submission <= durable) repeated.push(intent);
    }
    return repeated;
  }
}
