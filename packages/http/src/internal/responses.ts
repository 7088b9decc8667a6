/** What a response means: which failures may pass, how long to wait, and a body of the right length. */
import { type Qcow2Error, StorageError } from '@qcow2/spec';

/** Worth asking again, after a wait; never leaves this package. */
export class RetriableFailure extends Error {
  override readonly name = 'RetriableFailure';
  /** What the server asked for; 0 if nothing. */
  readonly waitMs: number;

  constructor(message: string, waitMs = 0) {
    super(message);
    this.waitMs = waitMs;
  }
}

/** Of a server, or of something on the way, that may be better in a moment. */
const passing: readonly number[] = [408, 425, 429, 500, 502, 503, 504];

/** The error for a status that is no answer. @param waitMs what the server asked to wait */
export function responseError(name: string, status: number, waitMs: number): Qcow2Error | RetriableFailure {
  const message = `${name}: HTTP status ${status}`;
  if (passing.includes(status)) return new RetriableFailure(message, waitMs);
  if (status === 404 || status === 410) return new StorageError('NOT_FOUND', message, { path: name });
  if (status === 401 || status === 403 || status === 407 || status === 451) {
    return new StorageError('ACCESS_DENIED', message, { path: name });
  }
  return new StorageError('READ_FAILED', message, { path: name });
}

/** `Retry-After`: seconds, or a date. @returns 0 where nothing can be made of it */
export function retryAfterMs(text: string | null, nowMs: number): number {
  if (text === null) return 0;
  const value = text.trim();
  const ms = /^\d{1,9}$/.test(value) ? Number(value) * 1000 : Date.parse(value) - nowMs;
  return Number.isNaN(ms) ? 0 : Math.max(ms, 0);
}

/**
 * The body, which must be so long and no longer: more is not read.
 * @throws RetriableFailure where it is shorter, longer, or not the file's own bytes; what `fetch` throws
 */
export async function readBody(response: Response, lengthBytes: number): Promise<Uint8Array> {
  if (lengthBytes === 0) return new Uint8Array(0);
  const encoding = response.headers.get('content-encoding');
  if (encoding !== null && encoding !== 'identity') {
    throw new RetriableFailure(`the bytes come in the encoding ${encoding}`);
  }
  const bytes = new Uint8Array(lengthBytes);
  const reader = response.body?.getReader();
  let filled = 0;
  while (reader !== undefined) {
    const { done, value } = await reader.read();
    if (done) break;
    if (value.length > lengthBytes - filled)
      throw new RetriableFailure('more bytes came than were asked for');
    bytes.set(value, filled);
    filled += value.length;
  }
  if (filled === lengthBytes) return bytes;
  throw new RetriableFailure(`${filled} of ${lengthBytes} bytes came`);
}
