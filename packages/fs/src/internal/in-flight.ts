/**
 * Counts operations that are under way in the thread pool, so that a file descriptor is not closed under
 * one (its number could by then be another file's), nor a file shortened under a write.
 */
export class InFlight {
  #count = 0;
  readonly #waiting: (() => void)[] = [];

  enter(): void {
    this.#count++;
  }

  leave(): void {
    this.#count--;
    if (this.#count > 0) return;
    for (const wake of this.#waiting.splice(0)) wake();
  }

  get busy(): boolean {
    return this.#count > 0;
  }

  /** Nothing, or a promise that resolves when the count reaches zero (it may have risen again by then: look). */
  idle(): void | Promise<void> {
    if (this.#count === 0) return;
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}
