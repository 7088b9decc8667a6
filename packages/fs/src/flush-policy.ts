/**
 * Where to run fdatasync: on the caller's thread, or in the thread pool.
 *
 * On a fast disk (or one whose cache is protected against power loss) fdatasync takes tens of microseconds:
 * less than the way to a pool thread and back costs under load. On a slow one it takes many milliseconds, during
 * which the caller's thread had better serve other requests. The adaptive policy follows the median of the
 * last durations; and since durations seen through the pool contain the pool's own waiting, now and then
 * one flush is run synchronously to measure the disk alone.
 */
export type FlushMode = 'sync' | 'thread' | 'adaptive';

/** Below this median, fdatasync is run synchronously. */
const syncLimitMs = 2;
/** How many durations are remembered. Odd, so that the median is one of them. */
const remembered = 9;
/** One in so many flushes is run synchronously even where the pool is the rule. */
const probeEvery = 64;

export class FlushPolicy {
  readonly #mode: FlushMode;
  readonly #durationsMs: number[] = [];
  #sinceProbe = 0;

  constructor(mode: FlushMode) {
    this.#mode = mode;
  }

  /** Where the next flush is to run. Asked once for each. */
  next(): 'sync' | 'thread' {
    if (this.#mode !== 'adaptive') return this.#mode;
    if (this.medianMs < syncLimitMs) return 'sync';
    this.#sinceProbe++;
    if (this.#sinceProbe < probeEvery) return 'thread';
    this.#sinceProbe = 0;
    return 'sync';
  }

  /** Take note of how long a flush took. */
  observe(durationMs: number): void {
    this.#durationsMs.push(durationMs);
    if (this.#durationsMs.length > remembered) this.#durationsMs.shift();
  }

  /** Of the remembered durations; 0 before the first, so that the first flush is a measurement. */
  get medianMs(): number {
    const sorted = this.#durationsMs.toSorted((a, b) => a - b);
    return sorted[Math.floor(sorted.length / 2)] ?? 0;
  }
}
