/**
 * The durable half of a file device: when fdatasync is called, where, and what follows from its failure.
 *
 * Invariants:
 *  - A flush covers every write that was done when it was asked for: it makes (or waits for) an fdatasync that
 *    starts after that, or there was nothing to make durable.
 *  - At most one fdatasync is under way. Flushes that come meanwhile share the next one, which starts after all
 *    of them were asked for.
 *  - A failed fdatasync is never repeated: the kernel may have marked the lost pages clean and would report
 *    success. Everything that would change the file is refused from then on.
 *  - In the mode `none` a flush is done as soon as it is asked for, and makes nothing durable.
 */
import { StateError } from '@qcow2/spec';
import { fileError } from '../file-error.ts';
import { type FlushMode, FlushPolicy } from '../flush-policy.ts';
import type { FileCalls } from '../system-calls.ts';
import type { InFlight } from './in-flight.ts';

export class DataSync {
  readonly #path: string;
  readonly #fd: number;
  readonly #calls: FileCalls;
  readonly #inFlight: InFlight;
  readonly #policy: FlushPolicy;
  readonly #never: boolean;
  /** Something may not be durable: at first, whatever was written before the file was opened here. */
  #dirty = true;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #syncs = 0;
  #failure: { readonly cause: unknown } | undefined;

  constructor(path: string, fd: number, calls: FileCalls, mode: FlushMode, inFlight: InFlight) {
    this.#path = path;
    this.#fd = fd;
    this.#calls = calls;
    this.#inFlight = inFlight;
    this.#policy = new FlushPolicy(mode);
    this.#never = mode === 'none';
  }

  /** Times that fdatasync was called. */
  get syncs(): number {
    return this.#syncs;
  }

  /** Something has been written, or may have been: called when a write ends, well or badly. */
  touch(): void {
    this.#dirty = true;
  }

  /** @throws FAILED_EARLIER once a flush has failed */
  checkHealthy(): void {
    if (this.#failure === undefined) return;
    const path = this.#path;
    throw new StateError('FAILED_EARLIER', `${path}: an earlier flush failed`, { path }, this.#failure.cause);
  }

  /** @throws FLUSH_FAILED, FAILED_EARLIER */
  flush(): void | Promise<void> {
    this.checkHealthy();
    if (this.#never) return;
    if (this.#running !== undefined) {
      this.#next ??= this.#after(this.#running);
      return this.#next;
    }
    if (!this.#dirty) return;
    // Before the call: what is written while it runs need not be covered by it.
    this.#dirty = false;
    this.#syncs += 1;
    return this.#policy.next() === 'thread' ? this.#inThread() : this.#now();
  }

  #now(): void {
    const startedMs = performance.now();
    try {
      this.#calls.datasyncSync(this.#fd);
    } catch (error) {
      throw this.#fail(error);
    }
    this.#policy.observe('sync', startedMs, performance.now());
  }

  #inThread(): Promise<void> {
    this.#running = this.#inThreadTracked();
    return this.#running;
  }

  async #inThreadTracked(): Promise<void> {
    const startedMs = performance.now();
    this.#inFlight.enter();
    try {
      await this.#calls.datasync(this.#fd);
      this.#policy.observe('thread', startedMs, performance.now());
    } catch (error) {
      throw this.#fail(error);
    } finally {
      this.#running = undefined;
      this.#inFlight.leave();
    }
  }

  async #after(earlier: Promise<void>): Promise<void> {
    // Counted from now on: the descriptor must not be closed between the two flushes.
    this.#inFlight.enter();
    try {
      // How the earlier one ended is for those to hear who asked for it; this one looks at what is left.
      await earlier.catch(() => undefined);
      this.#next = undefined;
      await this.flush();
    } finally {
      this.#inFlight.leave();
    }
  }

  #fail(cause: unknown): Error {
    this.#failure = { cause };
    return fileError(cause, 'flush', { path: this.#path });
  }
}
