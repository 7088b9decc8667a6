/**
 * Requests for ranges of one file, made again where that may help, and the watch over the file being the same one.
 *
 * Invariants:
 *  - Bytes are handed out only from a response that says that they are the ones that were asked for, of a file
 *    of the size, and with the tag, that it had when it was opened. So no two reads mix two files.
 *  - No response makes this hold more bytes than were asked for, whatever it says or sends.
 *  - Once the file has changed, every later request fails without being made.
 *  - A wait ends when the device is closed.
 *
 * A strong ETag pins a file. A weak one does not say that bytes are equal, so the date of the last change stands in, with
 * seconds for its grain; where there is neither, its size. `If-Range` asks the server to compare: then what has changed comes
 * as a whole (200), and is not read.
 */
import { InvariantError, Qcow2Error, StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import { type ContentRange, parseContentRange } from './content-range.ts';
import { RetriableFailure, readBody, responseError, retryAfterMs } from './responses.ts';

export interface RetryRules {
  readonly retries: number;
  readonly backOffMs: number;
  readonly maxBackOffMs: number;
  readonly timeoutMs: number;
}

export interface FetcherSettings {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly fetch: typeof fetch;
  readonly signal: AbortSignal | undefined;
  readonly rules: RetryRules;
}

/** What was opened. */
export interface Source {
  readonly sizeBytes: number;
  readonly pinnedBy: 'etag' | 'last-modified' | 'size';
}

/** The value of `If-Range`, and the header that must say the same in every response. */
interface Pin {
  readonly header: 'etag' | 'last-modified';
  readonly value: string;
}

export class RangeFetcher {
  /** The URL for messages: without its query, which may hold a secret. */
  readonly name: string;
  readonly #settings: FetcherSettings;
  readonly #closed = new AbortController();
  #source: (Source & { readonly pin: Pin | undefined }) | undefined;
  #changed: Qcow2Error | undefined;

  constructor(settings: FetcherSettings) {
    this.#settings = settings;
    this.name = `${settings.url.origin}${settings.url.pathname}`;
  }

  /** Ask for the first bytes, and learn what the file is. @throws as `openHttp` */
  async open(lengthBytes: number): Promise<{ readonly source: Source; readonly bytes: Uint8Array }> {
    const bytes = await this.#persist(() => this.#openOnce(lengthBytes));
    if (this.#source === undefined) throw this.#failure('INVARIANT');
    return { source: this.#source, bytes };
  }

  /**
   * Fetch a range that lies within the file.
   * @returns its bytes, which belong to the caller
   * @throws SOURCE_CHANGED from the first sign of it on; READ_FAILED, NOT_FOUND, ACCESS_DENIED, ABORTED, CLOSED
   */
  fetch(offset: number, lengthBytes: number): Promise<Uint8Array> {
    return this.#persist(() => this.#fetchOnce(offset, lengthBytes));
  }

  /** Once the file has changed: how that showed. */
  get changed(): Qcow2Error | undefined {
    return this.#changed;
  }

  /** Give up everything that is under way. */
  close(): void {
    this.#closed.abort();
  }

  async #openOnce(lengthBytes: number): Promise<Uint8Array> {
    const { response, stop } = await this.#request(0, lengthBytes, undefined);
    try {
      if (response.status !== 206 && response.status !== 416) throw this.#refusal(response);
      const said = parseContentRange(response.headers.get('content-range'));
      const size = said?.sizeBytes;
      if (size === undefined) throw this.#unsupported('does not say how large the file is');
      const wanted = Math.min(lengthBytes, size);
      this.#checkRange(said, 0, wanted);
      const pin = pinOf(response.headers);
      this.#source = { sizeBytes: size, pinnedBy: pin?.header ?? 'size', pin };
      return await readBody(response, wanted);
    } finally {
      stop();
    }
  }

  async #fetchOnce(offset: number, lengthBytes: number): Promise<Uint8Array> {
    const source = this.#source;
    if (source === undefined) throw this.#failure('INVARIANT');
    if (this.#changed !== undefined) throw this.#changed;
    const { response, stop } = await this.#request(offset, lengthBytes, source.pin);
    try {
      // Asked with `If-Range`, a server sends a changed file whole; a shorter one has no such range.
      if (response.status === 200 || response.status === 412 || response.status === 416) {
        throw this.#hasChanged(`it answered ${response.status} where a range was asked for`);
      }
      if (response.status !== 206) throw this.#refusal(response);
      const said = parseContentRange(response.headers.get('content-range'));
      if (said?.sizeBytes !== undefined && said.sizeBytes !== source.sizeBytes) {
        throw this.#hasChanged(`it has ${said.sizeBytes} bytes, not ${source.sizeBytes}`);
      }
      const { pin } = source;
      if (pin !== undefined && response.headers.get(pin.header) !== pin.value) {
        throw this.#hasChanged(`its ${pin.header} is another`);
      }
      this.#checkRange(said, offset, lengthBytes);
      return await readBody(response, lengthBytes);
    } finally {
      stop();
    }
  }

  /** One request. `stop` ends it, whatever of its body was read. */
  async #request(offset: number, lengthBytes: number, pin: Pin | undefined) {
    const { url, headers, fetch, signal, rules } = this.#settings;
    this.#checkWanted();
    const own = new AbortController();
    const signals = [own.signal, this.#closed.signal, AbortSignal.timeout(rules.timeoutMs)];
    if (signal !== undefined) signals.push(signal);
    const response = await fetch(url, {
      headers: {
        ...headers,
        // Ranges count the bytes that are sent: they must be the file's own.
        'accept-encoding': 'identity',
        range: `bytes=${offset}-${offset + lengthBytes - 1}`,
        ...(pin === undefined ? {} : { 'if-range': pin.value }),
      },
      // A copy on the way may be of another time than what was opened.
      cache: 'no-store',
      signal: AbortSignal.any(signals),
    });
    return { response, stop: () => own.abort() };
  }

  /** Again and again, with longer and longer waits, as long as the failure is one that may pass. */
  async #persist(attempt: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const { retries } = this.#settings.rules;
    for (let failures = 0; ; failures++) {
      try {
        return await attempt();
      } catch (error) {
        this.#checkWanted();
        if (isOurs(error)) throw error;
        if (failures >= retries) {
          const message = `${this.name}: failed ${failures + 1} times, at last: ${reasonOf(error)}`;
          throw new StorageError('READ_FAILED', message, { path: this.name }, error);
        }
        const askedMs = error instanceof RetriableFailure ? error.waitMs : 0;
        await this.#pause(Math.max(askedMs, this.#settings.rules.backOffMs * 2 ** failures));
      }
    }
  }

  /** Somewhat more or less, so that many clients that failed together do not come back together. */
  async #pause(ms: number): Promise<void> {
    const waitMs = Math.min(ms, this.#settings.rules.maxBackOffMs) * (0.75 + Math.random() / 4);
    const over = Promise.withResolvers<void>();
    const wake = (): void => over.resolve();
    const timer = setTimeout(wake, waitMs);
    const signals = [this.#closed.signal, this.#settings.signal];
    for (const signal of signals) signal?.addEventListener('abort', wake);
    await over.promise;
    for (const signal of signals) signal?.removeEventListener('abort', wake);
    clearTimeout(timer);
    this.#checkWanted();
  }

  /** @throws CLOSED, ABORTED */
  #checkWanted(): void {
    if (this.#closed.signal.aborted) throw this.#failure('CLOSED');
    if (this.#settings.signal?.aborted === true) throw this.#failure('ABORTED');
  }

  #checkRange(said: ContentRange | undefined, offset: number, lengthBytes: number): void {
    const range = said?.range;
    if (lengthBytes === 0 && range === undefined) return;
    if (range?.offset === offset && range.lengthBytes === lengthBytes) return;
    throw this.#unsupported('answers with other ranges than it is asked for');
  }

  #hasChanged(how: string): Qcow2Error {
    const message = `${this.name} is not the file that was opened: ${how}`;
    this.#changed ??= new StorageError('SOURCE_CHANGED', message, { path: this.name });
    return this.#changed;
  }

  #refusal(response: Response): Error {
    if (response.status === 200) return this.#unsupported('serves no ranges');
    const waitMs = retryAfterMs(response.headers.get('retry-after'), Date.now());
    return responseError(this.name, response.status, waitMs);
  }

  #unsupported(what: string): UnsupportedFeatureError {
    const message = `the server of ${this.name} ${what}`;
    return new UnsupportedFeatureError('UNSUPPORTED_OPERATION', message, { path: this.name });
  }

  #failure(code: 'CLOSED' | 'ABORTED' | 'INVARIANT'): Qcow2Error {
    const path = this.name;
    if (code === 'INVARIANT') return new InvariantError(`${path} was not opened`, { path });
    return new StateError(code, `${path} is ${code.toLowerCase()}`, { path });
  }
}

function pinOf(headers: Headers): Pin | undefined {
  const tag = headers.get('etag');
  if (tag !== null && /^"[^"]*"$/.test(tag)) return { header: 'etag', value: tag };
  const date = headers.get('last-modified');
  return date === null ? undefined : { header: 'last-modified', value: date };
}

function isOurs(error: unknown): boolean {
  return error instanceof Qcow2Error;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  // What fetch throws says little; what lies below it says more.
  return error.cause instanceof Error ? error.cause.message : error.message;
}
