import { isPromise } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type HttpOptions, openHttp } from '../src/index.ts';
import {
  bodyOf,
  endlessBody,
  type Mishap,
  networkFailure,
  PlayedServer,
  silence,
  status,
  withHeaders,
} from './support/played-server.ts';

const block = 4096;
const withCode = (code: string) => expect.objectContaining({ code });
const pattern = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251);

async function opened(sizeBytes = 100 * block, options: HttpOptions = {}, server?: PlayedServer) {
  const played = server ?? new PlayedServer(pattern(sizeBytes));
  const device = await openHttp('https://played/disk?secret=1', {
    fetch: played.fetch,
    blockBytes: block,
    cacheBytes: 10 * block,
    backOffMs: 0,
    ...options,
  });
  const read = async (offset: number, lengthBytes: number) => {
    const into = new Uint8Array(lengthBytes);
    await device.read(offset, into);
    return into;
  };
  const ranges = () => played.requests.splice(0).map(({ range }) => range?.replace('bytes=', ''));
  ranges();
  return { server: played, device, read, ranges };
}

describe('opening', () => {
  it('takes one request, and its bytes are read without another', async () => {
    const server = new PlayedServer(pattern(10_000));
    const device = await openHttp('http://played/disk', { fetch: server.fetch, blockBytes: block });
    expect(device.sizeBytes).toBe(10_000);
    const into = new Uint8Array(block);
    expect(isPromise(device.read(0, into))).toBe(false);
    expect(into).toEqual(pattern(block));
    expect(server.requests).toEqual([{ range: 'bytes=0-4095', ifRange: null }]);
  });

  it('finds an empty file empty', async () => {
    const { device, ranges } = await opened(0);
    expect(device.sizeBytes).toBe(0);
    await device.read(0, new Uint8Array(0));
    expect(ranges()).toEqual([]);
  });

  it('says what pins the file: the tag, the date, or the size', async () => {
    const pins: [Record<string, string>, string, string | null][] = [
      [{ etag: '"a"', 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT' }, 'etag', '"a"'],
      [
        { etag: 'W/"a"', 'last-modified': 'Mon, 01 Jan 2024 00:00:00 GMT' },
        'last-modified',
        'Mon, 01 Jan 2024 00:00:00 GMT',
      ],
      [{ etag: 'W/"a"' }, 'size', null],
      [{}, 'size', null],
    ];
    for (const [headers, pinnedBy, ifRange] of pins) {
      const server = new PlayedServer(pattern(10 * block));
      server.headers = headers;
      const { device, read } = await opened(0, {}, server);
      expect(device.pinnedBy).toBe(pinnedBy);
      await read(block, 1);
      expect(server.requests).toEqual([{ range: 'bytes=4096-8191', ifRange }]);
    }
  });

  it.each<[string, Mishap, string]>([
    ['a file that is not there', status(404), 'NOT_FOUND'],
    ['a file that is gone', status(410), 'NOT_FOUND'],
    ['a file that is not for us', status(403), 'ACCESS_DENIED'],
    ['a request that wants a password', status(401), 'ACCESS_DENIED'],
    ['a strange status', status(418), 'READ_FAILED'],
    ['a server without ranges', status(200), 'UNSUPPORTED_OPERATION'],
    [
      'a server that does not know the size',
      withHeaders({ 'content-range': 'bytes 0-4095/*' }),
      'UNSUPPORTED_OPERATION',
    ],
    [
      'a server that says nothing of the range',
      withHeaders({ 'content-range': '' }),
      'UNSUPPORTED_OPERATION',
    ],
    [
      'a server that sends another range',
      withHeaders({ 'content-range': 'bytes 1-4096/409600' }),
      'UNSUPPORTED_OPERATION',
    ],
    [
      'a size beyond 2^53',
      withHeaders({ 'content-range': 'bytes 0-4095/9999999999999999' }),
      'UNSUPPORTED_OPERATION',
    ],
  ])('refuses %s at once', async (_, mishap, code) => {
    const server = new PlayedServer(pattern(100 * block));
    server.mishaps.push(mishap);
    await expect(opened(0, {}, server)).rejects.toThrow(withCode(code));
    expect(server.requests).toHaveLength(1);
  });

  it('refuses other URLs and options out of range, and shows no password', async () => {
    const refused = withCode('INVALID_ARGUMENT');
    await expect(openHttp('disk.qcow2')).rejects.toThrow(refused);
    await expect(openHttp('file:///disk')).rejects.toThrow(refused);
    const failure = await openHttp('http://me:hunter2@played/').catch((error: unknown) => String(error));
    expect(failure).toContain('must not hold a password');
    expect(failure).not.toContain('hunter2');
    for (const options of [
      { blockBytes: 5000 },
      { blockBytes: 2048 },
      { blockBytes: 2 ** 25 },
      { cacheBytes: block - 1 },
      { retries: -1 },
      { timeoutMs: 0 },
      { backOffMs: 2 ** 31 },
      { maxBackOffMs: Number.NaN },
    ]) {
      await expect(opened(1, options)).rejects.toThrow(refused);
    }
  });
});

describe('reads', () => {
  it('fetch whole blocks, neighbours with one request, what is there with none', async () => {
    const { read, ranges } = await opened();
    expect(await read(3 * block - 1, 2)).toEqual(pattern(100 * block).subarray(3 * block - 1, 3 * block + 1));
    expect(ranges()).toEqual(['8192-16383']);
    await read(block, 4 * block);
    expect(ranges()).toEqual(['4096-8191', '16384-20479']);
    await read(0, 5 * block);
    expect(ranges()).toEqual([]);
  });

  it('end at the end of the file', async () => {
    const { read, ranges } = await opened(2 * block + 100);
    expect(await read(2 * block, 100)).toEqual(pattern(2 * block + 100).subarray(2 * block));
    expect(ranges()).toEqual(['8192-8291']);
  });

  it('larger than a request and than the cache come in pieces, and the cache keeps its bound', async () => {
    const size = 3 * 2 ** 20 + 17;
    const { read, ranges } = await opened(size);
    expect(await read(0, size)).toEqual(pattern(size));
    expect(ranges()).toEqual(['4096-1052671', '1052672-2101247', '2101248-3145744']);
    await read(0, 1);
    expect(ranges()).toEqual(['0-4095']);
  });

  it('of one block at one time share a request', async () => {
    const { server, read, ranges } = await opened();
    const gate = Promise.withResolvers<void>();
    server.gate = gate.promise;
    const reads = [read(5 * block, 10), read(5 * block + 50, 10), read(4 * block, 3 * block)];
    gate.resolve();
    const [first, second, third] = await Promise.all(reads);
    expect(first).toEqual(pattern(100 * block).subarray(5 * block, 5 * block + 10));
    expect(second).toEqual(pattern(100 * block).subarray(5 * block + 50, 5 * block + 60));
    expect(third).toEqual(pattern(100 * block).subarray(4 * block, 7 * block));
    expect(ranges()).toEqual(['20480-24575', '16384-20479', '24576-28671']);
  });
});

describe('failures that may pass', () => {
  const failures: [string, Mishap][] = [
    ['the line', networkFailure],
    ['a busy server', status(503)],
    ['too many requests', status(429)],
    ['a body cut short', bodyOf((bytes) => bytes.slice(10))],
    ['a body that is too long', bodyOf((bytes) => Uint8Array.of(...bytes, 1))],
    ['a body without an end', endlessBody],
    ['an encoding', withHeaders({ 'content-encoding': 'gzip' })],
  ];

  it.each(failures)('are tried again: %s', async (_, mishap) => {
    const { server, read, ranges } = await opened();
    server.mishaps.push(mishap, mishap);
    expect(await read(block, 10)).toEqual(pattern(100 * block).subarray(block, block + 10));
    expect(ranges()).toEqual(['4096-8191', '4096-8191', '4096-8191']);
  });

  it.each(failures)('are an error in the end: %s', async (_, mishap) => {
    const { server, read, ranges } = await opened(100 * block, { retries: 2 });
    server.mishaps.push(mishap, mishap, mishap);
    await expect(read(block, 10)).rejects.toThrow(withCode('READ_FAILED'));
    expect(ranges()).toHaveLength(3);
    // Nothing of it stays behind.
    expect(await read(block, 10)).toEqual(pattern(100 * block).subarray(block, block + 10));
  });

  it('are tried again when nothing came for too long', async () => {
    const { server, read, ranges } = await opened(100 * block, { timeoutMs: 20 });
    server.mishaps.push(silence);
    expect(await read(block, 10)).toEqual(pattern(100 * block).subarray(block, block + 10));
    expect(ranges()).toHaveLength(2);
  });

  it('name the file without its query', async () => {
    const { server, read } = await opened(100 * block, { retries: 0 });
    server.mishaps.push(networkFailure);
    const failure = await read(block, 1).catch((error: unknown) => String(error));
    expect(failure).toMatch(/https:\/\/played\/disk: failed 1 times, at last: connection reset/);
    expect(failure).not.toContain('secret');
  });

  it('wait longer each time, as long as the server asks, and never longer than allowed', async () => {
    const waits: number[] = [];
    const timers = globalThis.setTimeout;
    globalThis.setTimeout = ((wake: () => void, ms: number) => {
      if (ms > 0) waits.push(ms);
      return timers(wake, 0);
    }) as typeof setTimeout;
    try {
      const { server, read } = await opened(100 * block, { backOffMs: 100, maxBackOffMs: 1000, retries: 7 });
      server.mishaps.push(networkFailure, networkFailure, status(503, { 'retry-after': '1' }));
      server.mishaps.push(status(503, { 'retry-after': '3600' }), status(503, { 'retry-after': 'soon' }));
      await read(block, 1);
    } finally {
      globalThis.setTimeout = timers;
    }
    const bounds = [100, 200, 1000, 1000, 1000];
    expect(waits).toHaveLength(bounds.length);
    for (const [i, bound] of bounds.entries()) {
      expect(waits[i]).toBeLessThanOrEqual(bound);
      expect(waits[i]).toBeGreaterThanOrEqual(bound * 0.75);
    }
  });
});

describe('a file that changes', () => {
  const changes: [string, (server: PlayedServer) => void][] = [
    ['another tag', (server) => Object.assign(server, { headers: { etag: '"2"' } })],
    ['a weak tag', (server) => Object.assign(server, { headers: { etag: 'W/"1"' } })],
    ['no tag', (server) => Object.assign(server, { headers: {} })],
    ['a larger file', (server) => Object.assign(server, { bytes: pattern(101 * block) })],
    ['a smaller file', (server) => Object.assign(server, { bytes: pattern(2 * block) })],
    ['an empty file', (server) => Object.assign(server, { bytes: new Uint8Array(0) })],
    ['a server that minds no condition', (server) => server.mishaps.push(withHeaders({ etag: '"2"' }))],
    ['a condition that failed', (server) => server.mishaps.push(status(412))],
  ];

  it.each(changes)('is an error from there on, with no request more: %s', async (_, change) => {
    const { server, device, read, ranges } = await opened();
    await read(0, 10);
    change(server);
    await expect(read(50 * block, 10)).rejects.toThrow(withCode('SOURCE_CHANGED'));
    expect(ranges()).toHaveLength(1);
    // Also for what is in the cache: who read on would mix two files.
    expect(() => device.read(0, new Uint8Array(10))).toThrow(withCode('SOURCE_CHANGED'));
    expect(() => device.read(60 * block, new Uint8Array(10))).toThrow(withCode('SOURCE_CHANGED'));
    expect(ranges()).toEqual([]);
  });

  it('shows by its size where nothing else tells', async () => {
    const server = new PlayedServer(pattern(100 * block));
    server.headers = {};
    const { read } = await opened(0, {}, server);
    await read(5 * block, 1);
    server.bytes = pattern(99 * block);
    await expect(read(6 * block, 1)).rejects.toThrow(withCode('SOURCE_CHANGED'));
  });

  it('that is gone is an error of its own', async () => {
    const { server, read } = await opened();
    server.mishaps.push(status(404));
    await expect(read(block, 1)).rejects.toThrow(withCode('NOT_FOUND'));
  });
});

describe('the end', () => {
  it('gives up what is under way: a request, and a wait', async () => {
    for (const mishap of [silence, status(503, { 'retry-after': '10' })]) {
      const { server, device, read } = await opened();
      server.mishaps.push(mishap);
      const reading = read(block, 10);
      const expected = expect(reading).rejects.toThrow(withCode('CLOSED'));
      await new Promise((resolve) => setTimeout(resolve, 10));
      device.close();
      await expected;
    }
  });

  it('comes when the caller says so, during opening as well', async () => {
    const stop = new AbortController();
    const server = new PlayedServer(pattern(100 * block));
    server.mishaps.push(silence);
    const opening = expect(opened(0, { signal: stop.signal }, server)).rejects.toThrow(withCode('ABORTED'));
    await new Promise((resolve) => setTimeout(resolve, 10));
    stop.abort();
    await opening;
    const later = new AbortController();
    const { read } = await opened(100 * block, { signal: later.signal });
    later.abort();
    await expect(read(block, 10)).rejects.toThrow(withCode('ABORTED'));
  });
});
