/**
 * Opening: what stands at a URL, whether it is served by ranges, how large it is, and what will show that it has
 * changed. One request tells all of it, and brings the first block.
 */
import { StateError } from '@qcow2/spec';
import { HttpDevice } from './http-device.ts';
import { BlockCache } from './internal/block-cache.ts';
import { RangeFetcher, type RetryRules } from './internal/range-fetcher.ts';

export interface HttpOptions {
  /** Sent with every request, e.g. `authorization`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The unit of requests and of the cache: a power of two, 4 KiB to 16 MiB; 64 KiB if not given. */
  readonly blockBytes?: number;
  /** The most that the cache holds, at least a block; 16 MiB if not given. */
  readonly cacheBytes?: number;
  /** How often a request is made again that failed and may succeed; 5 if not given. */
  readonly retries?: number;
  /** The wait before the first repetition, doubled for each one that follows; 200 ms if not given. */
  readonly backOffMs?: number;
  /** No wait is longer, whatever the server asks for; 10 s if not given. */
  readonly maxBackOffMs?: number;
  /** How long one request may take, its body included; 30 s if not given. */
  readonly timeoutMs?: number;
  /** In place of the platform's `fetch`. */
  readonly fetch?: typeof fetch;
  /** Ends the opening, and every request of the device: they fail with ABORTED. */
  readonly signal?: AbortSignal;
}

const smallestBlock = 4096;
const largestBlock = 16 * 1024 * 1024;

/**
 * Open a file on an HTTP(S) server as a read-only BlockDevice.
 * @throws NOT_FOUND, ACCESS_DENIED; UNSUPPORTED_OPERATION where the server does not serve ranges or does not say how
 *   large the file is; READ_FAILED when it goes on failing; ABORTED; INVALID_ARGUMENT for another URL or an option out
 *   of range
 */
export async function openHttp(url: string | URL, options: HttpOptions = {}): Promise<HttpDevice> {
  const { blockBytes = 64 * 1024, cacheBytes = 16 * 1024 * 1024 } = options;
  const within = blockBytes >= smallestBlock && blockBytes <= largestBlock;
  check('blockBytes', blockBytes, within && Number.isInteger(Math.log2(blockBytes)));
  check('cacheBytes', cacheBytes, Number.isSafeInteger(cacheBytes) && cacheBytes >= blockBytes);
  const fetcher = new RangeFetcher({
    url: checkedUrl(url),
    headers: options.headers ?? {},
    fetch: options.fetch ?? ((input, init) => fetch(input, init)),
    signal: options.signal,
    rules: checkedRules(options),
  });
  const { source, bytes } = await fetcher.open(blockBytes);
  const cache = new BlockCache(Math.floor(cacheBytes / blockBytes));
  if (bytes.length > 0) cache.put(0, bytes);
  return new HttpDevice(fetcher, cache, source, blockBytes);
}

function checkedRules(options: HttpOptions): RetryRules {
  const rules = {
    retries: options.retries ?? 5,
    backOffMs: options.backOffMs ?? 200,
    maxBackOffMs: options.maxBackOffMs ?? 10_000,
    timeoutMs: options.timeoutMs ?? 30_000,
  };
  for (const [name, value] of Object.entries(rules)) {
    // Timers count in 32 bits.
    check(name, value, Number.isInteger(value) && value >= (name === 'timeoutMs' ? 1 : 0) && value < 2 ** 31);
  }
  return rules;
}

function checkedUrl(url: string | URL): URL {
  const parsed = URL.parse(String(url));
  if (parsed === null) throw new StateError('INVALID_ARGUMENT', 'not a URL');
  if (parsed.protocol !== 'http:' && parsed.protocol !== 'https:') {
    throw new StateError('INVALID_ARGUMENT', `${parsed.protocol} is not a protocol of this device`);
  }
  // `fetch` refuses them too, with the password in its message.
  if (parsed.username !== '' || parsed.password !== '') {
    throw new StateError('INVALID_ARGUMENT', 'a URL must not hold a password; send an authorization header');
  }
  return parsed;
}

function check(field: string, value: number, isGood: boolean): void {
  if (isGood) return;
  throw new StateError('INVALID_ARGUMENT', `${value} is out of range for ${field}`, { field, value });
}
