import { readFileSync, statSync } from 'node:fs';
import { isPromise } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type FileCalls, nodeCalls, type OpenFileOptions, openFile } from '../src/index.ts';
import { LoggedCalls } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const withCode = (code: string) => expect.objectContaining({ code });

function created(options: OpenFileOptions = {}) {
  const calls = new LoggedCalls();
  const device = openFile(path(), { create: 'exclusive', calls, ...options });
  calls.log.length = 0;
  return { calls, device };
}

describe('FileDevice calls', () => {
  it('one pread and one pwrite for each request, on this thread', () => {
    const { calls, device } = created();
    device.write(5, filled(100_000, 1));
    device.read(5, new Uint8Array(100_000));
    expect(calls.log).toEqual(['writeSync', 'readSync']);
  });

  it('one of each in the thread pool where it is asynchronous', async () => {
    const { calls, device } = created({ io: 'async' });
    await device.write(5, filled(100_000, 1));
    await device.read(5, new Uint8Array(100_000));
    expect(calls.log).toEqual(['write', 'read']);
  });

  it('none for requests of no bytes', () => {
    const { calls, device } = created();
    device.write(5, new Uint8Array(0));
    device.read(0, new Uint8Array(0));
    device.writeZeroes(7, 0);
    expect(calls.log).toEqual([]);
  });

  it('writes nothing beyond the range', () => {
    const { device } = created();
    device.write(0, filled(3000, 9));
    device.write(1000, filled(10, 1));
    device.writeZeroes(1500, 7);
    const expected = filled(3000, 9);
    expected.fill(1, 1000, 1010);
    expected.fill(0, 1500, 1507);
    expect(new Uint8Array(readFileSync(device.path))).toEqual(expected);
  });

  it('extends a file by zeroes without writing them', () => {
    const { calls, device } = created();
    device.write(0, filled(100, 9));
    calls.log.length = 0;
    device.writeZeroes(50, 2 ** 40);
    expect(calls.log).toEqual(['writeSync', 'truncate']);
    expect(device.sizeBytes).toBe(2 ** 40 + 50);
    expect(statSync(device.path).size).toBe(2 ** 40 + 50);
    expect(statSync(device.path).blocks).toBeLessThan(100);
  });

  it('writes long runs of zeroes in the thread pool, in pieces, and keeps overlapping requests waiting', async () => {
    const { calls, device } = created();
    const length = 6 * 1024 * 1024;
    device.write(0, filled(length, 9));
    calls.log.length = 0;
    const zeroing = device.writeZeroes(1, length - 2);
    expect(isPromise(zeroing)).toBe(true);
    const late = device.write(length - 10, filled(5, 7));
    expect(isPromise(late)).toBe(true);
    await Promise.all([zeroing, late]);
    expect(calls.count('write')).toBe(24);
    const tail = new Uint8Array(12);
    device.read(length - 12, tail);
    expect([...tail]).toEqual([0, 0, 7, 7, 7, 7, 7, 0, 0, 0, 0, 9]);
  });

  it('refuses to grow beyond its limit', () => {
    const { device } = created({ maxSizeBytes: 1000 });
    for (const attempt of [
      () => device.write(995, filled(6, 1)),
      () => device.writeZeroes(0, 1001),
      () => device.resize(1001),
    ]) {
      expect(attempt).toThrow(withCode('NO_SPACE'));
    }
    expect(statSync(device.path).size).toBe(0);
  });
});

describe('FileDevice flushes', () => {
  it('with one fdatasync each, and none where nothing was done since', () => {
    const { calls, device } = created({ flush: 'sync' });
    for (let i = 0; i < 10; i++) {
      device.write(i * 100, filled(100, 1));
      device.flush();
    }
    expect(calls.count('datasyncSync')).toBe(10);
    device.flush();
    device.flush();
    expect(calls.count('datasyncSync', 'datasync', 'synchronize')).toBe(10);
    device.writeZeroes(0, 10);
    device.flush();
    device.resize(5000);
    device.flush();
    expect(calls.count('datasyncSync')).toBe(12);
  });

  it('what was there before it was opened', () => {
    const { device } = created();
    device.write(0, filled(10, 1));
    device.close();
    const calls = new LoggedCalls();
    const again = openFile(device.path, { calls, flush: 'sync' });
    again.flush();
    expect(calls.count('datasyncSync')).toBe(1);
  });

  it('nothing of a file that is only read', () => {
    const { device } = created();
    const calls = new LoggedCalls();
    openFile(device.path, { readOnly: true, calls }).flush();
    expect(calls.count('datasyncSync', 'datasync')).toBe(0);
  });

  it('none at all where that is asked for, nor of the directory', async () => {
    const calls = new LoggedCalls();
    const device = openFile(path(), { create: 'exclusive', calls, flush: 'none' });
    device.write(0, filled(10, 1), { fua: true });
    await Promise.all([device.flush(), device.flush()]);
    device.resize(5000);
    await device.flush();
    await device.close();
    expect(calls.count('datasyncSync', 'datasync', 'synchronize')).toBe(0);
    expect(readFileSync(device.path)).toHaveLength(5000);
  });

  it('once for a write with FUA, after the write', () => {
    const { calls, device } = created({ flush: 'sync' });
    device.write(0, filled(10, 1), { fua: true });
    device.writeZeroes(0, 5, { fua: true });
    expect(calls.log).toEqual(['writeSync', 'datasyncSync', 'writeSync', 'datasyncSync']);
  });

  it('once for all that ask while one is under way, and again for what was written meanwhile', async () => {
    const { calls, device } = created({ flush: 'thread' });
    calls.gates = [];
    device.write(0, filled(10, 1));
    const first = device.flush();
    device.write(10, filled(10, 1));
    const later = [device.flush(), device.write(20, filled(1, 1), { fua: true }), device.flush()];
    expect(calls.gates.length).toBe(1);
    calls.gates[0]?.resolve();
    await first;
    await settle(() => calls.gates?.length === 2);
    calls.gates[1]?.resolve();
    await Promise.all(later);
    expect(calls.count('datasync')).toBe(2);
  });

  it('does not repeat for those who asked while one was under way and had nothing more to make durable', async () => {
    const { calls, device } = created({ flush: 'thread' });
    calls.gates = [];
    device.write(0, filled(10, 1));
    const flushes = [device.flush(), device.flush()];
    calls.gates[0]?.resolve();
    await Promise.all(flushes);
    expect(calls.count('datasync')).toBe(1);
  });

  it('again where a write in the thread pool ended after the flush began', async () => {
    const { calls, device } = created({ io: 'async' });
    const write = device.write(0, filled(10, 1));
    await device.flush();
    await write;
    await device.flush();
    expect(calls.count('datasync')).toBe(2);
  });
});

describe('FileDevice requests at once', () => {
  it('lose no write that grows the file while zeroes extend it', async () => {
    for (let round = 0; round < 20; round++) {
      const { device } = created({ io: 'async' });
      await Promise.all([device.write(90_000, filled(1000, 7)), device.writeZeroes(0, 80_000)]);
      expect(device.sizeBytes).toBe(91_000);
      expect(statSync(device.path).size).toBe(91_000);
      await device.close();
    }
  });

  it('keep the size true when a shrinking comes between', async () => {
    // Writes reach the file at once and are reported later, the worst order for who looks at the size meanwhile.
    const write: FileCalls['write'] = async (...request) => {
      const count = nodeCalls.writeSync(...request);
      await new Promise(setImmediate);
      return count;
    };
    const { device } = created({ io: 'async', calls: { ...nodeCalls, write } });
    await device.write(0, filled(100_000, 1));
    await Promise.all([
      device.write(50_000, filled(50_000, 2)),
      device.resize(10),
      device.write(60_000, filled(1000, 3)),
      device.writeZeroes(1000, 500),
    ]);
    expect(device.sizeBytes).toBe(61_000);
    const bytes = readFileSync(device.path);
    expect(bytes.length).toBe(61_000);
    expect([...bytes.subarray(0, 10)]).toEqual([...filled(10, 1)]);
    expect(bytes.subarray(10, 60_000).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(60_000).every((byte) => byte === 3)).toBe(true);
  });

  it('tell a read that waited for a shrinking that its range is gone', async () => {
    const { device } = created({ io: 'async' });
    await device.write(0, filled(100_000, 1));
    const write = device.write(0, filled(100_000, 2));
    const shrinking = device.resize(10);
    await expect(device.read(5, new Uint8Array(10))).rejects.toThrow(withCode('OUT_OF_RANGE'));
    await Promise.all([write, shrinking]);
  });

  it('are all done before the descriptor is closed, those that still wait included', async () => {
    const { calls, device } = created({ flush: 'thread' });
    calls.gates = [];
    device.write(0, filled(10, 1));
    const first = device.flush();
    device.write(0, filled(10, 2));
    const second = device.flush();
    const closing = device.close();
    expect(isPromise(closing)).toBe(true);
    expect(() => device.flush()).toThrow(withCode('CLOSED'));
    calls.gates[0]?.resolve();
    await first;
    await settle(() => calls.gates?.length === 2);
    expect(calls.count('close')).toBe(0);
    calls.gates[1]?.resolve();
    await Promise.all([second, closing, device.close()]);
    expect(calls.log.slice(-2)).toEqual(['datasync', 'close']);
  });
});

/** Turns of the microtask queue, until something is so. */
async function settle(isSo: () => boolean): Promise<void> {
  for (let turns = 0; turns < 1000 && !isSo(); turns++) await new Promise(setImmediate);
  expect(isSo()).toBe(true);
}
