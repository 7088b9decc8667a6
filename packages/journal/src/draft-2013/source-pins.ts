/**
 * Which places are the source of a copy that a replay may make: from its submission until a durable header has passed its
 * transaction they stay as they are [JD13-DESC-013].
 */
import type { HostCopy, Microtransaction } from '../microtransaction.ts';

/** Copies of a microtransaction, whose sources stay as they are. */
interface Pin {
  readonly copies: readonly HostCopy[];
  /** Log offset behind their transaction; undefined before it is appended. */
  endLog: number | undefined;
}

export class SourcePins {
  /** In the order of their submission. */
  #pins: Pin[] = [];

  submitted({ copies }: Microtransaction): void {
    if (copies !== undefined) this.#pins.push({ copies, endLog: undefined });
  }

  /** What was submitted first is appended first: the pins of a batch are the oldest without a place. */
  appended(taken: readonly Microtransaction[], endLog: number): void {
    let count = taken.filter(({ copies }) => copies !== undefined).length;
    for (const pin of this.#pins) {
      if (count === 0) return;
      if (pin.endLog !== undefined) continue;
      pin.endLog = endLog;
      count--;
    }
  }

  /** Transactions up to a log offset are never executed again. */
  retired(retiredLog: number): void {
    this.#pins = this.#pins.filter(({ endLog }) => endLog === undefined || endLog > retiredLog);
  }

  has(hostOffset: number, lengthBytes: number): boolean {
    const end = hostOffset + lengthBytes;
    return this.#pins.some(({ copies }) =>
      copies.some(
        ({ sourceHostOffset: source, lengthBytes: length }) => source < end && hostOffset < source + length,
      ),
    );
  }
}
