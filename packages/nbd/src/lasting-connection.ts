/**
 * A connection that is made again when it is lost. Requests wait for that, up to a time, and are then sent once more as they were.
 *
 * What a server may do twice: a request without an answer was done, or not, or in part, and its caller still waits. Doing it again, with the
 * same bytes to the same place, leaves what once would have. A request that was answered is not sent again. So what was answered and not
 * flushed is the server's to keep until it is there again, as with QEMU: one that ends in order, or that writes to a file in place, does.
 * Who can not rely on that does without.
 *
 * A server that comes back with another export, or that breaks the protocol, is not asked again.
 */
import { FormatError, type Qcow2Error, StateError, StorageError } from '@qcow2/spec';
import type { ClientRequest } from './client-connection.ts';
import type { AwaitedReply } from './reply-parser.ts';

/** What a device asks. */
export interface RequestPath {
  /** @throws CONNECTION_LOST, ABORTED */
  send(request: ClientRequest): Promise<AwaitedReply>;
  close(): Promise<void>;
}

/** Between two attempts to connect: at first, and at most. */
const firstPauseMs = 20;
const longestPauseMs = 1000;
/** The longest that a timer of the system takes. */
const longestTimerMs = 2 ** 31 - 1;

/** While there is no connection. */
interface Outage {
  readonly reason: StorageError;
  /** The next connection. Rejects when requests are not to wait any longer. */
  readonly next: Promise<RequestPath>;
  end(): void;
}

export class LastingConnection implements RequestPath {
  readonly #connect: () => Promise<RequestPath>;
  readonly #delayMs: number;
  readonly #ending = new AbortController();
  #path: RequestPath;
  #outage: Outage | undefined;
  /** Nothing will come of it any more. */
  #failure: Qcow2Error | undefined;

  /**
   * @param connect another connection to the same export. @throws CONNECT_FAILED: it is tried again; whatever else it throws is the end
   * @param delayMs how long requests wait for it
   */
  constructor(path: RequestPath, connect: () => Promise<RequestPath>, delayMs: number) {
    this.#path = path;
    this.#connect = connect;
    this.#delayMs = Math.min(delayMs, longestTimerMs);
  }

  async send(request: ClientRequest): Promise<AwaitedReply> {
    let waitsUntil: number | undefined;
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const path = this.#outage === undefined ? this.#path : await this.#outage.next;
      try {
        return await path.send(request);
      } catch (error) {
        if (!isLost(error) || this.#ending.signal.aborted) throw error;
        // A server that takes connections and lets them go does not make it wait for ever.
        waitsUntil ??= performance.now() + this.#delayMs;
        if (performance.now() > waitsUntil) throw error;
        if (this.#outage === undefined && path === this.#path) this.#outage = this.#begin(error);
      }
    }
  }

  async close(): Promise<void> {
    this.#failure ??= new StateError('CLOSED', 'the connection is closed');
    this.#ending.abort();
    this.#outage?.end();
    await this.#path.close();
  }

  #begin(reason: StorageError): Outage {
    const { promise: next, resolve, reject } = Promise.withResolvers<RequestPath>();
    next.catch(() => undefined); // seen by those who wait
    const end = (): void => reject(this.#failure ?? reason);
    const timer = setTimeout(end, this.#delayMs);
    const outage = { reason, next, end };
    this.#again().then(
      (path) => {
        clearTimeout(timer);
        this.#path = path;
        this.#outage = undefined;
        resolve(path);
      },
      (error: unknown) => {
        clearTimeout(timer);
        if (!this.#ending.signal.aborted) this.#failure = asLost(error);
        end();
      },
    );
    return outage;
  }

  /** Goes on when nobody waits any more: later requests find it. */
  async #again(): Promise<RequestPath> {
    const { signal } = this.#ending;
    for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
      await pause(pauseMs, signal);
      if (signal.aborted) throw this.#failure;
      try {
        const path = await this.#connect();
        if (!signal.aborted) return path;
        await path.close();
        throw this.#failure;
      } catch (error) {
        if (!isNotReached(error)) throw error;
      }
    }
  }
}

/**
 * Try until it works, or the time is up; once where there is none.
 * @throws what the last attempt did; at once for another reason than CONNECT_FAILED
 */
export async function untilConnected<T>(
  connect: () => Promise<T>,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<T> {
  const until = performance.now() + timeoutMs;
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(2 * pauseMs, longestPauseMs)) {
    try {
      return await connect();
    } catch (error) {
      const leftMs = until - performance.now();
      if (!isNotReached(error) || leftMs <= 0) throw error;
      await pause(Math.min(pauseMs, leftMs), signal);
    }
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  if (signal?.aborted === true) return Promise.resolve();
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener('abort', end, { once: true });
  });
}

function isNotReached(error: unknown): boolean {
  const isRefused = error instanceof StorageError && error.code === 'CONNECT_FAILED';
  return isRefused && !(error.cause instanceof FormatError);
}

function isLost(error: unknown): error is StorageError {
  const isGone = error instanceof StorageError && error.code === 'CONNECTION_LOST';
  return isGone && !(error.cause instanceof FormatError);
}

function asLost(error: unknown): Qcow2Error {
  if (error instanceof StateError) return error;
  const why = error instanceof Error ? error.message : String(error);
  return new StorageError('CONNECTION_LOST', `the NBD server is not had again: ${why}`, {}, error);
}
