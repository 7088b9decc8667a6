/**
 * Giving back the memory of what is cached and nobody uses: while a cache holds something, a timer drops from time to time
 * what was not used since the time before. So an entry is gone after one to two intervals, and an idle image costs no timer.
 *
 * What is cached is never dirty (`TableCache`, `DecompressedClusters`), so cleaning writes nothing, waits for nothing, and can come at any moment.
 */

/** A cache that knows what was used since it was last asked. */
export interface Cleanable {
  readonly isEmpty: boolean;
  /** Drop what nobody used since the call before. */
  dropUnused(): void;
}

export class CacheCleaner {
  readonly #caches: readonly Cleanable[];
  readonly #intervalMs: number;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** From when the image is open, until it is closed. */
  #running = false;

  /** @param intervalMs 0: never */
  constructor(caches: readonly Cleanable[], intervalMs: number) {
    this.#caches = caches;
    this.#intervalMs = intervalMs;
  }

  /** The image is open. */
  start(): void {
    this.#running = true;
    if (this.#caches.some((cache) => !cache.isEmpty)) this.noteFilled();
  }

  /** Something has come into a cache. */
  noteFilled(): void {
    if (this.#intervalMs <= 0 || !this.#running || this.#timer !== undefined) return;
    const timer = setTimeout(() => this.#clean(), this.#intervalMs);
    this.#timer = timer;
    // In Node a timer keeps the process alive unless told not to; in a browser it is a number.
    if (typeof timer === 'object') (timer as { unref?(): void }).unref?.();
  }

  /** The image is closed: no more timers. */
  stop(): void {
    this.#running = false;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #clean(): void {
    this.#timer = undefined;
    for (const cache of this.#caches) cache.dropUnused();
    if (this.#caches.some((cache) => !cache.isEmpty)) this.noteFilled();
  }
}
