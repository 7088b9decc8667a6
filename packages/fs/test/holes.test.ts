/** Space of files: what is given back, what is kept, and what happens where the file system can do neither. */
import { readFileSync, readSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { isPromise } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type OpenFileOptions, openFile } from '../src/index.ts';
import { LoggedCalls, LoggedNative, systemError } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const kib = 1024;
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const withCode = (code: string) => expect.objectContaining({ code });

function created(sizeBytes: number, options: OpenFileOptions = {}) {
  const calls = new LoggedCalls();
  const native = new LoggedNative();
  calls.native = native;
  const at = path();
  writeFileSync(at, filled(sizeBytes, 9));
  const device = openFile(at, { calls, flush: 'sync', ...options });
  return { calls, native, device, content: () => new Uint8Array(readFileSync(at)) };
}

describe('discard', () => {
  it('makes a hole of the whole blocks, and of the last one with the end of the file', () => {
    const { native, device, content } = created(100_000);
    device.discard(5000, 20_000);
    device.discard(95_000, 5000);
    device.discard(50_000, 100);
    device.discard(60_000, 0);
    expect(native.log).toEqual(['punch-hole 8192+16384', 'punch-hole 98304+4096']);
    const expected = filled(100_000, 9).fill(0, 8192, 24_576).fill(0, 98_304);
    expect(content()).toEqual(expected);
    expect(device.extents(0, 100_000)).toEqual([
      { offset: 0, lengthBytes: 8192, kind: 'data' },
      { offset: 8192, lengthBytes: 16_384, kind: 'hole' },
      { offset: 24_576, lengthBytes: 73_728, kind: 'data' },
      { offset: 98_304, lengthBytes: 1696, kind: 'hole' },
    ]);
  });

  it('keeps what a write puts behind the end of the file meanwhile', async () => {
    const { device, content } = created(1000, { io: 'async' });
    await Promise.all([device.write(1000, filled(500, 3)), device.discard(0, 1000)]);
    expect(device.sizeBytes).toBe(1500);
    expect(content().subarray(1000)).toEqual(filled(500, 3));
  });

  it('of a long range runs in the thread pool, and what overlaps waits', async () => {
    const { native, device } = created(8 * 1024 * kib);
    const discarding = device.discard(0, 8 * 1024 * kib);
    const late = device.write(0, filled(10, 4));
    await Promise.all([discarding, late]);
    expect(native.log).toEqual(['punch-hole 0+8388608 in the pool']);
    const head = new Uint8Array(12);
    device.read(0, head);
    expect([...head]).toEqual([4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 0, 0]);
  });

  it('is durable with a flush, or with FUA', () => {
    const { calls, device } = created(100_000);
    device.flush();
    calls.log.length = 0;
    device.discard(0, 8192);
    device.flush();
    device.discard(8192, 8192, { fua: true });
    expect(calls.log).toEqual(['datasyncSync', 'datasyncSync']);
  });

  it('is not claimed any more where the file system refused it, and does nothing', () => {
    const { native, device, content } = created(100_000);
    native.lacking.add('punch-hole');
    expect(device.capabilities.discard).toBe(true);
    device.discard(0, 50_000);
    expect(device.capabilities).toMatchObject({ discard: false, writeZeroes: true, extents: true });
    device.discard(0, 50_000);
    expect(native.log).toHaveLength(1);
    expect(content()).toEqual(filled(100_000, 9));
  });

  it('does nothing where it is not wanted', () => {
    const { native, device, content } = created(100_000, { discard: 'ignore' });
    expect(device.capabilities).toMatchObject({ discard: false, writeZeroes: true, extents: true });
    device.discard(0, 50_000);
    expect(native.log).toEqual([]);
    expect(content()).toEqual(filled(100_000, 9));
  });

  it('says what failed, and tries again after an interruption', () => {
    const { native, device } = created(100_000);
    let interruptions = 3;
    native.before = () => {
      if (interruptions-- > 0) throw systemError('EINTR');
    };
    device.discard(0, 50_000);
    expect(native.log).toHaveLength(4);
    native.before = () => {
      throw systemError('EIO');
    };
    expect(() => device.discard(0, 50_000)).toThrow(withCode('WRITE_FAILED'));
    native.before = () => {
      throw systemError('EINTR');
    };
    expect(() => device.discard(0, 50_000)).toThrow(withCode('WRITE_FAILED'));
  });
});

describe('writeZeroes', () => {
  const runs = [
    [true, 'punch-hole'],
    [false, 'zero-range'],
  ] as const;

  it.each(runs)('of a long range with mayUnmap %s is a %s', (mayUnmap, change) => {
    const { calls, native, device, content } = created(200_000);
    device.writeZeroes(1, 100_000, { mayUnmap });
    expect(native.log).toEqual([`${change} 1+100000`]);
    expect(calls.count('writeSync')).toBe(0);
    expect(content()).toEqual(filled(200_000, 9).fill(0, 1, 100_001));
  });

  it.each(runs)('of a short range is written, with mayUnmap %s', (mayUnmap) => {
    const { native, device, content } = created(100_000);
    device.writeZeroes(10, 64 * kib - 1, { mayUnmap });
    expect(native.log).toEqual([]);
    expect(content()).toEqual(filled(100_000, 9).fill(0, 10, 10 + 64 * kib - 1));
  });

  it('keeps the space by other means where there are no zeroed ranges', () => {
    const { native, device, content } = created(200_000);
    native.lacking.add('zero-range');
    const { blocks } = statSync(device.path);
    device.writeZeroes(0, 131_072);
    device.writeZeroes(0, 131_072);
    expect(native.log).toEqual([
      'zero-range 0+131072',
      ...['punch-hole 0+131072', 'keep-size 0+131072'],
      ...['punch-hole 0+131072', 'keep-size 0+131072'],
    ]);
    expect(device.capabilities.writeZeroes).toBe(true);
    expect(content()).toEqual(filled(200_000, 9).fill(0, 0, 131_072));
    expect(statSync(device.path).blocks).toBeGreaterThanOrEqual(blocks - 8);
  });

  it.each(runs)('is written where the file system can do nothing of it, with mayUnmap %s', (mayUnmap) => {
    const { calls, native, device, content } = created(300_000);
    for (const change of ['punch-hole', 'zero-range'] as const) native.lacking.add(change);
    device.writeZeroes(5, 280_000, { mayUnmap });
    expect(device.capabilities.writeZeroes).toBe(false);
    expect(calls.count('writeSync')).toBe(2);
    expect(content()).toEqual(filled(300_000, 9).fill(0, 5, 280_005));
  });

  it('beyond the end of the file makes a hole of what is inside, and extends it', () => {
    const { native, device, content } = created(200_000);
    device.writeZeroes(100_000, 300_000, { mayUnmap: true });
    expect(native.log).toEqual(['punch-hole 100000+100000']);
    expect(device.sizeBytes).toBe(400_000);
    const expected = new Uint8Array(400_000).fill(9, 0, 100_000);
    expect(content()).toEqual(expected);
  });
});

describe('extents', () => {
  it('of a sparse file are what the file system says, and no more than were asked for', () => {
    const { device } = created(0);
    device.resize(2 ** 40);
    device.write(2 ** 39, filled(4096, 1));
    expect(device.extents(0, 2 ** 40)).toEqual([
      { offset: 0, lengthBytes: 2 ** 39, kind: 'hole' },
      { offset: 2 ** 39, lengthBytes: 4096, kind: 'data' },
      { offset: 2 ** 39 + 4096, lengthBytes: 2 ** 39 - 4096, kind: 'hole' },
    ]);
    expect(device.extents(2 ** 39 + 7, 9)).toEqual([{ offset: 2 ** 39 + 7, lengthBytes: 9, kind: 'data' }]);
  });

  it('of a file in many pieces are a part of the answer', () => {
    const { device } = created(0);
    const stride = 2 * 4096;
    device.resize(2000 * stride);
    for (let i = 0; i < 2000; i++) device.write(i * stride, filled(10, 1));
    let answers = 0;
    let pieces = 0;
    for (let at = 0; at < device.sizeBytes; answers++) {
      const part = device.extents(at, device.sizeBytes - at);
      expect(part.length).toBeLessThanOrEqual(1024);
      for (const { offset, lengthBytes, kind } of part) {
        expect({ offset, kind }).toEqual({ offset: at, kind: pieces % 2 === 0 ? 'data' : 'hole' });
        at += lengthBytes;
        pieces++;
      }
    }
    expect({ answers, pieces }).toEqual({ answers: 4, pieces: 4000 });
  });

  it('that can not be had are an error', () => {
    const { native, device } = created(10);
    Object.assign(native, {
      seek: () => {
        throw systemError('EIO');
      },
    });
    expect(() => device.extents(0, 10)).toThrow(withCode('READ_FAILED'));
  });
});

describe('preallocate', () => {
  it('sets space aside, inside the file and beyond its end, and changes no byte', async () => {
    const { device, content } = created(5000);
    await device.preallocate(1000, 2 ** 20);
    expect(device.sizeBytes).toBe(2 ** 20 + 1000);
    expect(statSync(device.path).size).toBe(2 ** 20 + 1000);
    expect(statSync(device.path).blocks * 512).toBeGreaterThanOrEqual(2 ** 20);
    expect(content().subarray(0, 5010)).toEqual(new Uint8Array(5010).fill(9, 0, 5000));
    await device.preallocate(0, 0);
  });

  it('is refused where it can not be had', async () => {
    const { native, device } = created(5000);
    native.lacking.add('extend');
    await expect(device.preallocate(0, 10_000)).rejects.toThrow(withCode('UNSUPPORTED_OPERATION'));
    const plain = openFile(path(), { create: 'exclusive', calls: new LoggedCalls() });
    expect(() => plain.preallocate(0, 10_000)).toThrow(withCode('UNSUPPORTED_OPERATION'));
    expect(device.sizeBytes).toBe(5000);
  });

  it('keeps the size true where space ran out half way', async () => {
    const { native, device } = created(5000);
    native.before = () => {
      // As ext4 does: what there was is set aside, and the file is longer.
      truncateSync(device.path, 9000);
      throw systemError('ENOSPC');
    };
    await expect(device.preallocate(0, 2 ** 20)).rejects.toThrow(withCode('NO_SPACE'));
    expect(device.sizeBytes).toBe(9000);
    const limited = created(5000, { maxSizeBytes: 6000 }).device;
    expect(() => limited.preallocate(0, 6001)).toThrow(withCode('NO_SPACE'));
  });
});

describe('reads from the page cache', () => {
  /** A cache that holds the first bytes of whatever is asked for. */
  function cachedBytes(native: LoggedNative, mostBytes: number): LoggedNative {
    const readCached: LoggedNative['readCached'] = (fd, into, offset) =>
      mostBytes === 0 ? undefined : readSync(fd, into, 0, Math.min(into.length, mostBytes), offset);
    return Object.assign(native, { readCached });
  }

  it.each([
    ['all of it is there', 1e6, []],
    ['some of it is there', 100, ['read']],
    ['nothing is there', 0, ['read']],
  ] as const)('go to the pool for the rest: %s', async (_, mostBytes, expected) => {
    const { calls, device } = created(100_000);
    calls.native = cachedBytes(new LoggedNative(), mostBytes);
    const again = openFile(device.path, { calls, io: 'cached' });
    calls.log.length = 0;
    const into = new Uint8Array(50_000);
    const reading = again.read(10, into);
    expect(isPromise(reading)).toBe(expected.length > 0);
    await reading;
    expect(into).toEqual(filled(50_000, 9));
    expect(calls.log).toEqual(expected);
  });

  it('all go through the pool where nobody can tell', async () => {
    const { calls, device } = created(1000);
    calls.native = undefined;
    const again = openFile(device.path, { calls, io: 'cached' });
    calls.log.length = 0;
    await again.read(0, new Uint8Array(10));
    expect(calls.log).toEqual(['read']);
  });
});
