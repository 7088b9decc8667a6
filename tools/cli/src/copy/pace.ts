/** `-r`: no more than so many bytes a second, counted from the beginning. */
import { setTimeout as sleep } from 'node:timers/promises';

export class Pace {
  readonly #bytesPerSecond: number;
  readonly #beganMs = performance.now();
  #bytes = 0;

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Wait until so many bytes more may be moved. */
  async take(lengthBytes: number): Promise<void> {
    const dueMs = this.#beganMs + (this.#bytes / this.#bytesPerSecond) * 1000;
    this.#bytes += lengthBytes;
    const waitMs = dueMs - performance.now();
    if (waitMs > 0) await sleep(waitMs);
  }
}
