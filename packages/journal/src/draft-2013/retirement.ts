/**
 * Who is told that no replay executes a microtransaction any more: a durable header has passed its transaction. Until then the
 * source of a copy that it holds stays as it is [JD13-DESC-013].
 */
import type { Microtransaction } from '../microtransaction.ts';

export class Retirement {
  /** In the order of the log. */
  #waiting: { readonly endLog: number; readonly tell: () => void }[] = [];

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  /** The microtransactions stand in transactions that end at this log offset. */
  appended(taken: readonly Microtransaction[], endLog: number): void {
    for (const { onRetired } of taken) {
      if (onRetired !== undefined) this.#waiting.push({ endLog, tell: onRetired });
    }
  }

  /** A durable header has passed the transactions up to this log offset. */
  passed(retiredLog: number): void {
    let count = 0;
    while (count < this.#waiting.length && this.#waiting[count]!.endLog <= retiredLog) count++;
    if (count === 0) return;
    const passed = this.#waiting.slice(0, count);
    this.#waiting = this.#waiting.slice(count);
    for (const { tell } of passed) tell();
  }
}
