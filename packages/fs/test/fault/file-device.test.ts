/** What the device makes of failing, interrupted and short system calls. */
import { readFileSync, truncateSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openFile } from '../../src/index.ts';
import { type CallName, LoggedCalls, systemError } from '../support/calls.ts';
import { scratchPaths } from '../support/scratch.ts';

const path = scratchPaths();
const filled = (length: number, value: number) => new Uint8Array(length).fill(value);
const withCode = (code: string, rest: object = {}) => expect.objectContaining({ code, ...rest });

/** A file of 100 ones, with calls that can be made to fail. */
async function prepared(io: 'sync' | 'async') {
  const calls = new LoggedCalls();
  const device = openFile(path(), {
    create: 'exclusive',
    calls,
    io,
    flush: io === 'sync' ? 'sync' : 'thread',
  });
  await device.write(0, filled(100, 1));
  calls.log.length = 0;
  return { calls, device };
}

/** Fails the given calls with the errno, `times` times. */
function failing(
  calls: LoggedCalls,
  names: readonly CallName[],
  errno: string,
  times = Number.POSITIVE_INFINITY,
): void {
  let left = times;
  calls.before = (call) => {
    if (names.includes(call) && left-- > 0) throw systemError(errno);
  };
}

/** What a request throws or rejects with; undefined if it does neither. */
async function failureOf(request: () => unknown): Promise<unknown> {
  try {
    await request();
  } catch (error) {
    return error;
  }
  return undefined;
}

for (const io of ['sync', 'async'] as const) {
  describe(`FileDevice, ${io}`, () => {
    it('refuses writes and flushes after a failed fdatasync, never repeats it, and still reads', async () => {
      const { calls, device } = await prepared(io);
      failing(calls, ['datasyncSync', 'datasync'], 'EIO', 1);
      expect(await failureOf(() => device.flush())).toEqual(
        withCode('FLUSH_FAILED', { cause: withCode('EIO'), context: { path: device.path } }),
      );
      const refused = withCode('FAILED_EARLIER', { cause: withCode('EIO') });
      for (const request of [
        () => device.flush(),
        () => device.write(0, filled(1, 2)),
        () => device.writeZeroes(0, 1),
        () => device.discard(0, 1),
        () => device.resize(1),
      ]) {
        expect(await failureOf(request)).toEqual(refused);
      }
      const into = new Uint8Array(100);
      await device.read(0, into);
      expect(into).toEqual(filled(100, 1));
      expect(calls.count('datasyncSync', 'datasync')).toBe(1);
      await device.close();
    });

    it('fails a write with FUA whose fdatasync fails', async () => {
      const { calls, device } = await prepared(io);
      failing(calls, ['datasyncSync', 'datasync'], 'ENOSPC');
      expect(await failureOf(() => device.write(0, filled(1, 2), { fua: true }))).toEqual(
        withCode('FLUSH_FAILED'),
      );
      expect(await failureOf(() => device.flush())).toEqual(withCode('FAILED_EARLIER'));
    });

    it('repeats calls that were interrupted, and finishes short ones', async () => {
      const { calls, device } = await prepared(io);
      calls.mostBytes = 7;
      for (const errno of ['EINTR', 'EAGAIN']) {
        failing(calls, ['readSync', 'writeSync', 'read', 'write'], errno, 3);
        await device.write(50, filled(100, 2));
        failing(calls, ['readSync', 'writeSync', 'read', 'write'], errno, 3);
        const into = new Uint8Array(150);
        await device.read(0, into);
        expect([...into]).toEqual([...filled(50, 1), ...filled(100, 2)]);
      }
    });

    it('gives up where there is no progress', async () => {
      const { calls, device } = await prepared(io);
      calls.mostBytes = 0;
      expect(await failureOf(() => device.write(0, filled(10, 2)))).toEqual(withCode('WRITE_FAILED'));
      calls.mostBytes = 10;
      failing(calls, ['readSync', 'read'], 'EAGAIN');
      expect(await failureOf(() => device.read(0, filled(10, 2)))).toEqual(withCode('READ_FAILED'));
      expect(calls.log.length).toBeLessThan(5000);
    });

    it('reports a disk that fills up in mid-write, with the size that the file has then', async () => {
      const { calls, device } = await prepared(io);
      calls.mostBytes = 30;
      let left = 2;
      calls.before = (call) => {
        if ((call === 'writeSync' || call === 'write') && left-- === 0) throw systemError('ENOSPC');
      };
      expect(await failureOf(() => device.write(90, filled(100, 2)))).toEqual(
        withCode('NO_SPACE', { context: { path: device.path, hostOffset: 150, lengthBytes: 40 } }),
      );
      expect(device.sizeBytes).toBe(150);
      expect(readFileSync(device.path).length).toBe(150);
      // What did get written has to be made durable like anything else.
      await device.flush();
      expect(calls.count('datasyncSync', 'datasync')).toBe(1);
      await device.write(0, filled(10, 3));
    });

    it('reports failed reads and resizes with what they were about', async () => {
      const { calls, device } = await prepared(io);
      failing(calls, ['readSync', 'read', 'truncate'], 'EIO');
      expect(await failureOf(() => device.read(20, filled(5, 0)))).toEqual(
        withCode('READ_FAILED', { context: { path: device.path, hostOffset: 20, lengthBytes: 5 } }),
      );
      expect(await failureOf(() => device.resize(10))).toEqual(withCode('WRITE_FAILED'));
      expect(await failureOf(() => device.writeZeroes(50, 100))).toEqual(withCode('WRITE_FAILED'));
      expect(device.sizeBytes).toBe(100);
    });

    it('notices that someone else has cut the file', async () => {
      const { device } = await prepared(io);
      truncateSync(device.path, 50);
      expect(await failureOf(() => device.read(40, filled(20, 0)))).toEqual(withCode('SHORT_READ'));
    });

    it('reports a failed close once, and is closed all the same', async () => {
      const { calls, device } = await prepared(io);
      failing(calls, ['close'], 'EIO');
      expect(await failureOf(() => device.close())).toEqual(withCode('WRITE_FAILED'));
      expect(await failureOf(() => device.close())).toBe(undefined);
      expect(await failureOf(() => device.read(0, filled(1, 0)))).toEqual(withCode('CLOSED'));
    });
  });
}

describe('FileDevice, flush in the thread pool', () => {
  it('refuses what waited for a flush that failed', async () => {
    const calls = new LoggedCalls();
    const device = openFile(path(), { create: 'exclusive', calls, flush: 'thread' });
    calls.gates = [];
    device.write(0, filled(10, 1));
    const first = failureOf(() => device.flush());
    device.write(0, filled(10, 2));
    const second = failureOf(() => device.flush());
    failing(calls, ['datasync'], 'EIO');
    calls.gates[0]?.resolve();
    expect(await first).toEqual(withCode('FLUSH_FAILED'));
    expect(await second).toEqual(withCode('FAILED_EARLIER'));
    expect(calls.count('datasync')).toBe(1);
  });
});
