import {
  closeSync,
  fdatasyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from 'node:fs';
import { describe, expect, it } from 'vitest';
import { nativeSupport } from '../src/index.ts';
import { findNativeCalls, type NativeSurroundings } from '../src/native-calls.ts';
import { realNative } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const blockBytes = 4096;

function opened(at = path(), flags = 'w+'): number {
  return openSync(at, flags);
}

describe('native calls are', () => {
  const here: NativeSurroundings = {
    platform: 'linux',
    architecture: 'x64',
    wish: undefined,
    load: () => {
      throw new RangeError("Cannot find module 'koffi'\nRequire stack: …");
    },
  };

  it('there on the machines that run these tests', () => {
    expect(nativeSupport().missing).toBeUndefined();
  });

  it.each<[string, Partial<NativeSurroundings>, RegExp]>([
    ['koffi is not installed', {}, /^koffi can not be used: Cannot find module 'koffi'$/],
    ['koffi is something else', { load: () => ({}) }, /^koffi can not be used: .*load/],
    ['the C library lacks a call', { load: lackingKoffi }, /^koffi can not be used: no such function/],
    ['the system is another', { platform: 'darwin' }, /^not known for darwin$/],
    ['the machine is another', { architecture: 'ia32' }, /^not known for Linux on ia32$/],
    ['they are switched off', { wish: 'off' }, /^switched off by QCOW2_NATIVE$/],
  ])('absent, with the reason, where %s', (_, over, reason) => {
    const support = findNativeCalls({ ...here, ...over });
    expect(support.calls).toBeUndefined();
    expect(support.missing).toMatch(reason);
  });
});

function lackingKoffi() {
  return {
    load: () => ({
      func: () => {
        throw new RangeError('no such function');
      },
    }),
  };
}

describe('native calls', () => {
  const native = realNative();

  it('make holes, find them, and set space aside', async () => {
    const at = path();
    const fd = opened(at);
    writeSync(fd, new Uint8Array(8 * blockBytes).fill(7));
    fdatasyncSync(fd);
    const blocksBefore = statSync(at).blocks;
    native.allocate(fd, 'punch-hole', 2 * blockBytes, 3 * blockBytes);
    expect(native.seek(fd, 'hole', 0)).toBe(2 * blockBytes);
    expect(native.seek(fd, 'data', 2 * blockBytes)).toBe(5 * blockBytes);
    expect(native.seek(fd, 'hole', 5 * blockBytes)).toBe(8 * blockBytes);
    expect(native.seek(fd, 'data', 8 * blockBytes)).toBeUndefined();
    const expected = new Uint8Array(8 * blockBytes).fill(7).fill(0, 2 * blockBytes, 5 * blockBytes);
    expect(new Uint8Array(readFileSync(at))).toEqual(expected);
    expect(statSync(at).blocks).toBeLessThan(blocksBefore);
    await native.allocateInThread(fd, 'extend', 0, 16 * blockBytes);
    expect(statSync(at).size).toBe(16 * blockBytes);
    expect(statSync(at).blocks).toBeGreaterThanOrEqual((16 * blockBytes) / 512);
    closeSync(fd);
  });

  it('fail as calls of Node do, on this thread and in the pool', async () => {
    const fd = opened();
    expect(() => native.allocate(fd, 'punch-hole', 0, 0)).toThrow(
      expect.objectContaining({ code: 'EINVAL' }),
    );
    closeSync(fd);
    const expected = { code: 'EBADF' };
    await expect(native.allocateInThread(fd, 'extend', 0, 1)).rejects.toMatchObject(expected);
    for (const call of [
      () => native.seek(fd, 'data', 0),
      () => native.readCached(fd, new Uint8Array(1), 0),
      () => native.copyRange(fd, 0, fd, 10, 1),
      () => native.lock(fd, 'shared', 0, 1),
      () => native.unlock(fd, 0, 1),
      () => native.isLocked(fd, 'shared', 0, 1),
    ]) {
      expect(call).toThrow(expect.objectContaining(expected));
    }
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuse %d for an offset', (offset) => {
    const fd = opened();
    for (const call of [
      () => native.allocate(fd, 'extend', offset, 1),
      () => native.seek(fd, 'data', offset),
      () => native.readCached(fd, new Uint8Array(1), offset),
      () => native.copyRange(fd, offset, fd, 0, 1),
      () => native.lock(fd, 'shared', offset, 1),
    ]) {
      expect(call).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
    closeSync(fd);
  });

  it('read from the page cache into the part of a buffer that they are given', () => {
    const fd = opened();
    writeSync(
      fd,
      Uint8Array.from({ length: 100 }, (_, i) => i),
    );
    const buffer = new Uint8Array(20);
    // A file system that can not tell (tmpfs) says so, and no byte is touched.
    const count = native.readCached(fd, buffer.subarray(5, 15), 40);
    expect([10, undefined]).toContain(count);
    const expected = new Uint8Array(20);
    for (let i = 0; i < (count ?? 0); i++) expected[5 + i] = 40 + i;
    expect(buffer).toEqual(expected);
    expect(native.readCached(fd, buffer, 100)).toBe(count === undefined ? undefined : 0);
    closeSync(fd);
  });

  it('copy in the thread pool as on this thread', async () => {
    const at = path();
    const [from, to] = [opened(), opened(at)];
    writeSync(from, new Uint8Array(5000).fill(7));
    expect(await native.copyRangeInThread(from, 1000, to, 10, 6000)).toBe(4000);
    expect(await native.copyRangeInThread(from, 5000, to, 10, 6000)).toBe(0);
    expect(readFileSync(at)).toEqual(Buffer.concat([Buffer.alloc(10), Buffer.alloc(4000, 7)]));
    await expect(native.copyRangeInThread(from, 0, from, 10, 100)).rejects.toMatchObject({ code: 'EINVAL' });
    closeSync(from);
    closeSync(to);
  });

  it('copy from file to file, as far as the source goes', () => {
    const from = opened();
    const at = path();
    const to = opened(at);
    writeSync(
      from,
      Uint8Array.from({ length: 100 }, (_, i) => i),
    );
    expect(native.copyRange(from, 90, to, 3, 50)).toBe(10);
    expect(native.copyRange(from, 100, to, 3, 50)).toBe(0);
    expect([...readFileSync(at)]).toEqual([0, 0, 0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]);
    closeSync(from);
    closeSync(to);
  });

  it('lock bytes for an open file, until it is closed', () => {
    const at = path();
    const [one, other] = [opened(at), opened(at, 'r+')];
    ftruncateSync(one, 0);
    expect(native.lock(one, 'shared', 100, 2)).toBe(true);
    expect(native.lock(other, 'shared', 101, 1)).toBe(true);
    expect(native.isLocked(other, 'shared', 100, 2)).toBe(false);
    expect(native.isLocked(other, 'exclusive', 100, 1)).toBe(true);
    expect(native.isLocked(other, 'exclusive', 102, 1)).toBe(false);
    expect(native.lock(other, 'exclusive', 100, 1)).toBe(false);
    native.unlock(one, 100, 1);
    expect(native.lock(other, 'exclusive', 100, 1)).toBe(true);
    expect(native.isLocked(one, 'shared', 100, 1)).toBe(true);
    closeSync(other);
    expect(native.isLocked(one, 'exclusive', 100, 2)).toBe(false);
    closeSync(one);
  });
});
