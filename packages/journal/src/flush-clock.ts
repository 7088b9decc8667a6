/**
 * The device's flushes, numbered in the order in which they begin. A flush covers what was written before it
 * began, so "durable" is always asked as "has the first flush that began after it completed?".
 *
 * Flushes run one at a time: the engine's mutex sees to it.
 */
export class FlushClock {
  #started = 0;
  #completed = 0;
  #owed = false;

  /** Number of the first flush that begins from now on. */
  get next(): number {
    return this.#started + 1;
  }

  /** Number of the last flush that has completed. */
  get completed(): number {
    return this.#completed;
  }

  /** Something was written that no flush covers yet. */
  get isOwed(): boolean {
    return this.#owed;
  }

  noteWrite(): void {
    this.#owed = true;
  }

  /** A flush begins. Returns its number. */
  start(): number {
    this.#owed = false;
    return ++this.#started;
  }

  complete(flush: number): void {
    this.#completed = flush;
  }
}
