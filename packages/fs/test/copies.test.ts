/** Copies from file to file by the kernel: what is copied, what refuses, and that durability follows as after a write. */
import { readFileSync } from 'node:fs';
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { openFile } from '../src/index.ts';
import { LoggedCalls, LoggedNative } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const content = Uint8Array.from({ length: 3_000_000 }, (_, at) => 1 + (at % 251));

function files() {
  const native = new LoggedNative();
  const calls = new LoggedCalls();
  calls.native = native;
  const source = openFile(path(), { create: 'exclusive', io: 'async' });
  const target = openFile(path(), { create: 'exclusive', calls, flush: 'sync' });
  return { native, calls, source, target };
}

describe('FileDevice copies', () => {
  it('what stands in another file, in one call in the pool, and grows as for a write', async () => {
    const { native, calls, source, target } = files();
    await source.write(0, content);
    await target.flush();
    calls.log.length = 0;
    const range = { device: source, offset: 100, lengthBytes: 2_000_000 };
    expect(await target.copyFrom(range, 50)).toBe(2_000_000);
    expect(native.log).toEqual(['copy 100 to 50+2000000']);
    expect(calls.log).toEqual([]);
    expect(target.sizeBytes).toBe(2_000_050);
    const file = readFileSync(target.path);
    expect(Buffer.compare(file.subarray(50), content.subarray(100, 2_000_100))).toBe(0);
    await target.flush();
    expect(calls.count('datasyncSync')).toBe(1);
  });

  it.each(['EXDEV', 'EOPNOTSUPP', 'EINVAL', 'ENOSYS', 'EIO', 'ENOSPC'])(
    'none where the kernel says %s, and changes nothing',
    async (code) => {
      const { native, source, target } = files();
      await source.write(0, content);
      await target.write(0, content.subarray(7, 5007));
      native.refusesCopies = code;
      expect(await target.copyFrom({ device: source, offset: 0, lengthBytes: 9000 }, 10)).toBe(0);
      expect(Buffer.compare(readFileSync(target.path), content.subarray(7, 5007))).toBe(0);
      // Whoever writes in its place can.
      await target.write(0, content);
    },
  );

  it('none from itself, from what is no file, from one that is being written to, and without native calls', async () => {
    const { native, source, target } = files();
    await source.write(0, content);
    await target.write(0, content);
    const range = { device: source as BlockDevice, offset: 0, lengthBytes: 9000 };
    expect(await target.copyFrom({ ...range, device: target }, 10_000)).toBe(0);
    expect(await target.copyFrom({ ...range, device: new MemoryDevice({ sizeBytes: 9000 }) }, 0)).toBe(0);
    const writing = source.write(5000, content.subarray(0, 1000));
    expect(await target.copyFrom(range, 0)).toBe(0);
    await writing;
    expect(native.log).toEqual([]);
    expect(await target.copyFrom(range, 0)).toBe(9000);
    const without = openFile(path(), { create: 'exclusive', calls: new LoggedCalls() });
    expect(await without.copyFrom(range, 0)).toBe(0);
    expect(without.sizeBytes).toBe(0);
  });

  it('two files to each other, without waiting for ever', async () => {
    const { source: one, target: other } = files();
    await one.write(0, content);
    await other.write(0, content);
    const lengthBytes = 1_000_000;
    const both = [
      one.copyFrom({ device: other, offset: 0, lengthBytes }, 0),
      other.copyFrom({ device: one, offset: 0, lengthBytes }, 0),
    ];
    for (const copied of await Promise.all(both)) expect([0, lengthBytes]).toContain(copied);
    expect(Buffer.compare(readFileSync(one.path), readFileSync(other.path))).toBe(0);
  });

  it('is waited for by close, of either file', async () => {
    const { source, target } = files();
    await source.write(0, content);
    const copying = target.copyFrom({ device: source, offset: 0, lengthBytes: content.length }, 0);
    await Promise.all([source.close(), target.close()]);
    expect(await copying).toBe(content.length);
    expect(Buffer.compare(readFileSync(target.path), content)).toBe(0);
  });
});
