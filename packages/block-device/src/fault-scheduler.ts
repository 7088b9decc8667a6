/**
 * Who decides when an operation that was held back may go on. No timers: a test orders completions by hand, or
 * by a seed, and gets the same order again.
 */
import { StateError } from '@qcow2/spec';
import type { FaultRequest } from './fault-device.ts';
import { Random } from './internal/random.ts';

export interface FaultScheduler {
  /** Resolves when the operation may go on. */
  hold(request: FaultRequest): Promise<void>;
}

/** Lets everything go on in order, in the next microtask: asynchronous, and otherwise as fast as it comes. */
export class ImmediateScheduler implements FaultScheduler {
  hold(): Promise<void> {
    return Promise.resolve();
  }
}

/** Holds everything until the test lets it go. */
export class ManualScheduler implements FaultScheduler {
  readonly #held: { readonly request: FaultRequest; readonly resume: () => void }[] = [];

  /** What is held now, oldest first. */
  get held(): readonly FaultRequest[] {
    return this.#held.map(({ request }) => request);
  }

  hold(request: FaultRequest): Promise<void> {
    return new Promise((resume) => {
      this.#held.push({ request, resume });
    });
  }

  /**
   * Let one go, by its place in `held`.
   * @throws INVALID_ARGUMENT if nothing is held there
   */
  release(index = 0): void {
    const [one] = this.#held.splice(index, 1);
    if (one === undefined) throw new StateError('INVALID_ARGUMENT', 'nothing is held', { value: index });
    one.resume();
  }

  /** Let everything go that is held now, oldest first. */
  releaseAll(): void {
    for (const { resume } of this.#held.splice(0)) resume();
  }
}

/** Lets operations go on one by one in an order drawn from a seed: another interleaving for each seed. */
export class ShuffledScheduler implements FaultScheduler {
  readonly #random: Random;
  readonly #held: (() => void)[] = [];
  #running = false;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  hold(): Promise<void> {
    return new Promise((resume) => {
      this.#held.push(resume);
      if (!this.#running) void this.#releaseInTurn();
    });
  }

  async #releaseInTurn(): Promise<void> {
    this.#running = true;
    while (this.#held.length > 0) {
      // Some turns of the microtask queue, so that requests come together that were not made together.
      for (let turns = this.#random.below(12); turns >= 0; turns--) await Promise.resolve();
      const [resume] = this.#held.splice(this.#random.below(this.#held.length), 1);
      resume?.();
    }
    this.#running = false;
  }
}
