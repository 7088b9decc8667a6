/** The face of a FileHandle: what a handle of Node's does with a file, ours does with a device of the same bytes. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type BlockDevice, FaultDevice, MemoryDevice, ReadOnlyDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { ImageHandle, openFile } from '../src/index.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const pattern = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251);
const digest = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');
const withCode = (code: string) => expect.objectContaining({ code });

const growing = (bytes: Uint8Array) => MemoryDevice.fromBytes(bytes);
/** As an image: its size is fixed. */
const fixed = (bytes: Uint8Array) => {
  const device = MemoryDevice.fromBytes(bytes);
  return Object.defineProperty(device, 'capabilities', {
    value: { ...device.capabilities, growable: false },
  }) as BlockDevice;
};

/** What code needs that takes either. */
type Either = Pick<
  FileHandle,
  | 'readv'
  | 'writev'
  | 'sync'
  | 'datasync'
  | 'truncate'
  | 'close'
  | 'readFile'
  | 'createReadStream'
  | 'createWriteStream'
> &
  Pick<ImageHandle, 'read' | 'write' | 'writeFile'>;

/** @param body is given a handle, and a way to others for the same bytes */
async function both(
  content: Uint8Array,
  body: (handle: Either, another: () => Promise<Either>) => Promise<unknown>,
): Promise<void> {
  const at = path();
  writeFileSync(at, content);
  const file = await open(at, 'r+');
  const device = growing(content);
  // The streams are Node's streams, and not its file streams.
  const ofFile = async () => (await open(at, 'r+')) as unknown as Either;
  const ofDevice = async () => new ImageHandle(device, { closeDevice: false }) as unknown as Either;
  const outcomes = [await body(file as unknown as Either, ofFile), await body(await ofDevice(), ofDevice)];
  expect(outcomes[1]).toEqual(outcomes[0]);
  await file.close();
  const [fromFile, fromDevice] = [openFile(at), device].map((one) => {
    const bytes = new Uint8Array(one.sizeBytes);
    one.read(0, bytes);
    return bytes;
  });
  // Not element by element: there may be millions.
  expect(Buffer.compare(fromDevice!, fromFile!)).toBe(0);
}

describe('as a handle of Node, a handle of a device', () => {
  it('reads in every form', () =>
    both(pattern(1000), async (handle) => {
      const found: unknown[] = [];
      const keep = ({ bytesRead, buffer }: { bytesRead: number; buffer: NodeJS.ArrayBufferView }) =>
        found.push([
          bytesRead,
          buffer.constructor.name,
          Buffer.from(buffer.buffer as ArrayBuffer).toString('hex'),
        ]);
      keep(await handle.read(new Uint8Array(10)));
      keep(await handle.read(new Uint8Array(10), 2));
      keep(await handle.read(new Uint8Array(10), 2, 3));
      keep(await handle.read(new Uint8Array(10), 2, 3, 500));
      keep(await handle.read(new Uint8Array(10), null, null, null));
      keep(await handle.read(new Uint8Array(10), { offset: 1, length: 4, position: 7 }));
      keep(await handle.read({ buffer: new Uint16Array(5), position: 40 }));
      keep(await handle.read(new DataView(new ArrayBuffer(12), 4, 4), 0, 4, 995));
      keep(await handle.read(new Uint8Array(10), 0, 10, 995));
      keep(await handle.read(new Uint8Array(10), 0, 10, 1000));
      keep(await handle.read(new Uint8Array(10), 0, 10, 5000));
      keep(await handle.read(new Uint8Array(10), 0, 10, 3n as unknown as number));
      keep(await handle.read(new Uint8Array(10), 0, 10, -1));
      found.push((await handle.read()).bytesRead, (await handle.read({})).bytesRead);
      return found;
    }));

  it('writes in every form', () =>
    both(pattern(100), async (handle) => {
      const counts = [
        await handle.write(Uint8Array.of(1, 2, 3)),
        await handle.write(Uint8Array.of(1, 2, 3), 1),
        await handle.write(Uint8Array.of(1, 2, 3), 1, 1, 50),
        await handle.write(Uint8Array.of(1, 2, 3), { offset: 2, position: 60 }),
        await handle.write(new Uint16Array([1, 2]), { position: 70 }),
        await handle.write('grüße', 80),
        await handle.write('6869', null, 'hex'),
        await handle.write('more'),
        await handle.write(new Uint8Array(0)),
        await handle.write('beyond', 200),
      ];
      return counts.map(({ bytesWritten }) => bytesWritten);
    }));

  it('reads and writes several buffers', () =>
    both(pattern(100), async (handle) => {
      const buffers = [new Uint8Array(10), new Uint8Array(20), new Uint8Array(30)];
      const found = [
        (await handle.readv(buffers)).bytesRead,
        (await handle.readv(buffers, 70)).bytesRead,
        (await handle.writev([Uint8Array.of(1), Uint8Array.of(2, 3)], 5)).bytesWritten,
        (await handle.writev([Uint8Array.of(4), Uint8Array.of(5, 6)])).bytesWritten,
      ];
      return [found, buffers];
    }));

  it('reads and writes all of it, from where it stands', () =>
    both(pattern(3_000_000), async (handle) => {
      await handle.read(new Uint8Array(5));
      const rest = await handle.readFile();
      const none = await handle.readFile({ encoding: 'utf8' });
      await handle.writeFile('at the end');
      await handle.writeFile([Buffer.from('and '), 'more'], 'utf8');
      await handle.truncate(3_000_005);
      await handle.sync();
      await handle.datasync();
      return [Buffer.compare(rest, pattern(3_000_000).subarray(5)), none];
    }));

  it('streams, both ways', () =>
    both(pattern(500_000), async (_, another) => {
      // A handle for each stream: one of Node's never closes when a stream has left it open.
      const found: unknown[] = [];
      for (const options of [
        {},
        { start: 0 },
        { start: 100_000, end: 100_000 },
        { start: 100_000, end: 399_999, highWaterMark: 1000 },
        { start: 499_990, end: 600_000, encoding: 'hex' },
        { start: 700_000 },
      ] as const) {
        const parts: (string | Buffer)[] = [];
        for await (const part of (await another()).createReadStream(options)) parts.push(part);
        found.push(
          parts.map((part) => part.length),
          digest(Buffer.concat(parts.map((part) => Buffer.from(part)))),
        );
      }
      await pipeline(
        Readable.from([Buffer.from('streamed'), 'text']),
        (await another()).createWriteStream({ start: 499_995, flush: true }),
      );
      return found;
    }));
});

describe('a handle of a device', () => {
  const opened = (bytes = pattern(1000)) => new ImageHandle(growing(bytes));

  it('gives each of several reads at once a part of its own', async () => {
    const handle = new ImageHandle(new FaultDevice(growing(pattern(100)), { mode: 'async' }));
    const buffers = Array.from({ length: 5 }, () => new Uint8Array(25));
    const reads = await Promise.all(buffers.map((buffer) => handle.read(buffer)));
    expect(reads.map(({ bytesRead }) => bytesRead)).toEqual([25, 25, 25, 25, 0]);
    expect(Buffer.concat(buffers.slice(0, 4))).toEqual(Buffer.from(pattern(100)));
  });

  it('tells its size, and that it is a file', async () => {
    const stats = await opened().stat();
    expect([stats.size, stats.blksize > 0, stats.isFile(), stats.isDirectory()]).toEqual([
      1000,
      true,
      true,
      false,
    ]);
  });

  it('writes as far as there is room on a device of fixed size, and then no more', async () => {
    const handle = new ImageHandle(fixed(pattern(100)));
    expect((await handle.write(new Uint8Array(10), 0, 10, 95)).bytesWritten).toBe(5);
    await expect(handle.write(new Uint8Array(10), 0, 10, 100)).rejects.toThrow(withCode('NO_SPACE'));
    expect((await handle.write(new Uint8Array(0), 0, 0, 100)).bytesWritten).toBe(0);
    await expect(handle.writeFile(new Uint8Array(101))).rejects.toThrow(withCode('NO_SPACE'));
    const stream = handle.createWriteStream({ start: 90, autoClose: false });
    await expect(pipeline(Readable.from([new Uint8Array(11)]), stream)).rejects.toThrow(withCode('NO_SPACE'));
  });

  it.each([
    ['a place that is none', { position: 0.5 }],
    ['an offset beyond the buffer', { offset: 11 }],
    ['a length beyond the buffer', { offset: 5, length: 6 }],
    ['a length below zero', { length: -1 }],
  ])('refuses %s', async (_, options) => {
    const handle = opened();
    const refused = withCode('INVALID_ARGUMENT');
    await expect(handle.read(new Uint8Array(10), options)).rejects.toThrow(refused);
    await expect(handle.write(new Uint8Array(10), options)).rejects.toThrow(refused);
  });

  it('refuses what is no buffer, no text, no encoding, no place of a stream', async () => {
    const handle = opened();
    const refused = withCode('INVALID_ARGUMENT');
    const wrong = 5 as unknown as Uint8Array;
    await expect(handle.read({ buffer: wrong })).rejects.toThrow(refused);
    await expect(handle.write(wrong)).rejects.toThrow(refused);
    await expect(handle.write('x', 0, 'klingon' as BufferEncoding)).rejects.toThrow(refused);
    expect(() => handle.createReadStream({ start: -1 })).toThrow(refused);
    expect(() => handle.createReadStream({ end: 0.5 })).toThrow(refused);
    expect(() => handle.createWriteStream({ start: Number.NaN })).toThrow(refused);
    expect(() => handle.readableWebStream({ start: -1 })).toThrow(refused);
    const writer = handle.writableWebStream().getWriter();
    await expect(writer.write(5)).rejects.toThrow(refused);
  });

  it('refuses to read at once what is too large for it', async () => {
    const handle = new ImageHandle(new MemoryDevice({ sizeBytes: 2 ** 40 }));
    await expect(handle.readFile()).rejects.toThrow(withCode('INVALID_ARGUMENT'));
  });

  it('lets the errors of its device through', async () => {
    const handle = new ImageHandle(new ReadOnlyDevice(growing(pattern(10))));
    await expect(handle.write('x')).rejects.toThrow(withCode('READ_ONLY'));
    await expect(handle.truncate(5)).rejects.toThrow(withCode('READ_ONLY'));
    const failing = new FaultDevice(growing(pattern(10)), {
      rules: [{ operation: 'read', fault: { kind: 'fail', errno: 'EIO' } }],
    });
    const stream = new ImageHandle(failing).createReadStream().resume();
    await expect(once(stream, 'end')).rejects.toThrow(withCode('READ_FAILED'));
  });

  it('streams to the web and from there', async () => {
    const handle = opened(pattern(200_000));
    const bytes = new Uint8Array(await new Response(handle.readableWebStream() as BodyInit).arrayBuffer());
    expect(digest(bytes)).toBe(digest(pattern(200_000)));
    const tail: Uint8Array[] = [];
    for await (const part of handle.readableWebStream({ start: 199_990 })) tail.push(part as Uint8Array);
    expect(Buffer.concat(tail)).toEqual(Buffer.from(pattern(200_000).subarray(199_990)));
    const writer = handle.writableWebStream({ start: 199_995 }).getWriter();
    await writer.write('text');
    await writer.write(Uint8Array.of(1, 2));
    await writer.write(Uint8Array.of(3).buffer);
    await writer.close();
    expect((await handle.stat()).size).toBe(200_002);
    // Bring your own buffer.
    const reader = handle.readableWebStream({ start: 199_995, autoClose: true }).getReader({ mode: 'byob' });
    const first = await reader.read(new Uint8Array(7));
    expect(Buffer.from(first.value!)).toEqual(Buffer.from('text\u0001\u0002\u0003'));
    expect((await reader.read(new Uint8Array(7))).done).toBe(true);
    await expect(handle.stat()).rejects.toThrow(withCode('CLOSED'));
  });

  it('is fit for what is built on streams', async () => {
    const handle = opened(Buffer.from('one\ntwo\nthree'));
    const lines: string[] = [];
    for await (const line of createInterface({ input: handle.createReadStream() })) lines.push(line);
    expect(lines).toEqual(['one', 'two', 'three']);
  });
});

describe('the end of a handle', () => {
  it('comes after what is under way, and closes the device, once', async () => {
    const device = new FaultDevice(growing(pattern(100)), { mode: 'async' });
    const handle = new ImageHandle(device);
    const into = new Uint8Array(100);
    const reading = handle.read(into);
    const closing = handle.close();
    expect(handle.close()).toBe(closing);
    await expect(handle.read(into)).rejects.toThrow(withCode('CLOSED'));
    await closing;
    expect((await reading).bytesRead).toBe(100);
    expect(into).toEqual(pattern(100));
    await expect((async () => device.read(0, into))()).rejects.toThrow(withCode('CLOSED'));
    for (const request of [
      () => handle.write('x'),
      () => handle.stat(),
      () => handle.sync(),
      () => handle.truncate(),
      () => handle.readFile(),
    ]) {
      await expect(request()).rejects.toThrow(withCode('CLOSED'));
    }
    expect(() => handle.createReadStream()).toThrow(withCode('CLOSED'));
  });

  it('comes with the block that uses it, and may leave the device open', async () => {
    const device = growing(pattern(10));
    {
      await using handle = new ImageHandle(device, { closeDevice: false });
      await handle.write('x');
    }
    device.read(0, new Uint8Array(1));
    {
      await using handle = new ImageHandle(device);
      await handle.sync();
    }
    expect(() => device.read(0, new Uint8Array(1))).toThrow(withCode('CLOSED'));
  });

  it('comes with its stream, unless told otherwise', async () => {
    for (const autoClose of [true, false]) {
      const reading = new ImageHandle(growing(pattern(10)));
      await pipeline(
        reading.createReadStream({ autoClose }),
        new Writable({ write: (_c, _e, done) => done() }),
      );
      const writing = new ImageHandle(growing(pattern(10)));
      await pipeline(Readable.from(['x']), writing.createWriteStream({ autoClose }));
      for (const handle of [reading, writing]) {
        const open = await handle.stat().then(
          () => true,
          () => false,
        );
        expect(open).toBe(!autoClose);
      }
    }
  });

  it('is not the end of an operation that a signal ends', async () => {
    const stop = new AbortController();
    const handle = new ImageHandle(new FaultDevice(growing(pattern(3_000_000)), { mode: 'async' }));
    const reading = expect(handle.readFile({ signal: stop.signal })).rejects.toThrow(withCode('ABORTED'));
    stop.abort();
    await reading;
    await expect(handle.writeFile('x', { signal: stop.signal })).rejects.toThrow(withCode('ABORTED'));
    const stream = handle.createReadStream({ signal: stop.signal, autoClose: false });
    await expect(once(stream, 'end')).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
    expect((await handle.stat()).size).toBe(3_000_000);
  });
});
