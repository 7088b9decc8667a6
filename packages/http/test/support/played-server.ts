/** A server of one file, as `fetch` would show it: ranges, conditions, and whatever a test lets go wrong. */

export interface PlayedRequest {
  readonly range: string | null;
  readonly ifRange: string | null;
}

/** What happens in place of an answer, or to one. */
export type Mishap = (response: Response, request: Request) => Response | Promise<Response>;

export class PlayedServer {
  bytes: Uint8Array<ArrayBuffer>;
  /** Headers of every response, an ETag first of all. */
  headers: Record<string, string> = { etag: '"1"' };
  readonly requests: PlayedRequest[] = [];
  /** One for each of the next requests; undefined where all goes well. */
  readonly mishaps: (Mishap | undefined)[] = [];
  /** Requests wait for this, if a test sets it. */
  gate: Promise<void> | undefined;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
  }

  readonly fetch: typeof fetch = async (input, init) => {
    const request = new Request(input, init);
    const { signal } = request;
    const [range, ifRange] = [request.headers.get('range'), request.headers.get('if-range')];
    this.requests.push({ range, ifRange });
    await Promise.race([this.gate, aborted(signal)]);
    await new Promise((resolve) => setTimeout(resolve, 0));
    signal.throwIfAborted();
    const mishap = this.mishaps.shift();
    const response = this.#answer(range, ifRange);
    return mishap === undefined ? response : await mishap(response, request);
  };

  #answer(range: string | null, ifRange: string | null): Response {
    const size = this.bytes.length;
    const [, first = '', last = ''] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    const { etag, 'last-modified': date } = this.headers;
    if (range === null || (ifRange !== null && ifRange !== etag && ifRange !== date)) {
      return new Response(this.bytes, { status: 200, headers: this.headers });
    }
    if (Number(first) >= size) {
      const headers = { ...this.headers, 'content-range': `bytes */${size}` };
      return new Response(null, { status: 416, headers });
    }
    const end = Math.min(Number(last) + 1, size);
    const headers = { ...this.headers, 'content-range': `bytes ${first}-${end - 1}/${size}` };
    return new Response(this.bytes.slice(Number(first), end), { status: 206, headers });
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

export const status =
  (code: number, headers: Record<string, string> = {}): Mishap =>
  () =>
    new Response('no', { status: code, headers });

export const networkFailure: Mishap = () => {
  throw new TypeError('fetch failed', { cause: new RangeError('connection reset') });
};

/** Header fields in place of those of the response. */
export const withHeaders =
  (headers: Record<string, string>): Mishap =>
  (response) => {
    const changed = new Headers(response.headers);
    for (const [name, value] of Object.entries(headers)) changed.set(name, value);
    return new Response(response.body, { status: response.status, headers: changed });
  };

/** The body in another length: cut off, or with something after it. */
export const bodyOf =
  (change: (bytes: Uint8Array) => Uint8Array<ArrayBuffer>): Mishap =>
  async (response) =>
    new Response(change(new Uint8Array(await response.arrayBuffer())), {
      status: response.status,
      headers: response.headers,
    });

/** A body that goes on without an end. */
export const endlessBody: Mishap = (response) => {
  const body = new ReadableStream<Uint8Array>({
    pull: (controller) => controller.enqueue(new Uint8Array(65_536)),
  });
  return new Response(body, { status: response.status, headers: response.headers });
};

/** Nothing comes until the request is given up. */
export const silence: Mishap = (_response, { signal }) =>
  new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
