import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openFile, syncDirectory } from '../src/index.ts';
import { LoggedCalls, playedDisk, systemError } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const withCode = (code: string, rest: object = {}) => expect.objectContaining({ code, ...rest });

function existing(bytes = 'content'): string {
  const at = path();
  writeFileSync(at, bytes);
  return at;
}

describe('openFile', () => {
  it('opens what is there, and by default creates nothing', () => {
    const device = openFile(existing());
    expect(device.sizeBytes).toBe(7);
    expect(device.capabilities).toMatchObject({ write: true, growable: true, resize: true });
    device.close();
    const missing = path();
    expect(() => openFile(missing)).toThrow(
      withCode('NOT_FOUND', { context: { path: missing }, cause: withCode('ENOENT') }),
    );
  });

  it('creates: exclusively, or emptying what is there', () => {
    const at = path();
    openFile(at, { create: 'exclusive', mode: 0o600 }).close();
    expect(statSync(at).mode & 0o777).toBe(0o600);
    writeFileSync(at, 'content');
    expect(() => openFile(at, { create: 'exclusive' })).toThrow(
      withCode('ACCESS_DENIED', { cause: withCode('EEXIST') }),
    );
    expect(readFileSync(at, 'utf8')).toBe('content');
    const emptied = openFile(at, { create: 'truncate' });
    expect(emptied.sizeBytes).toBe(0);
    expect(statSync(at).size).toBe(0);
    emptied.close();
  });

  it('makes the directory entry of a created file durable, and leaves directories alone otherwise', () => {
    const calls = new LoggedCalls();
    const at = path();
    openFile(at, { create: 'exclusive', calls }).close();
    expect(calls.count('synchronize')).toBe(1);
    openFile(at, { calls }).close();
    expect(calls.count('synchronize')).toBe(1);
    expect(calls.count('open')).toBe(calls.count('close'));
  });

  it('refuses directories, FIFOs and things without an end, without waiting and without a change', () => {
    const directory = path('directory');
    mkdirSync(directory);
    const fifo = path('fifo');
    execFileSync('sh', ['-c', 'mkfifo "$0"', fifo]);
    for (const at of [directory, fifo, '/dev/zero']) {
      for (const readOnly of [true, false]) {
        const calls = new LoggedCalls();
        expect(() => openFile(at, { readOnly, calls })).toThrow(withCode('INVALID_ARGUMENT'));
        expect(calls.count('open') - calls.count('close')).toBe(at === directory && !readOnly ? 1 : 0);
      }
    }
    expect(() => openFile(fifo, { create: 'truncate' })).toThrow(/fifo/);
  });

  it('refuses to create what is then read-only', () => {
    expect(() => openFile(path(), { readOnly: true, create: 'exclusive' })).toThrow(
      withCode('INVALID_ARGUMENT'),
    );
  });

  it('lets the descriptor go when something fails after opening', () => {
    for (const failing of ['status', 'truncate', 'synchronize'] as const) {
      const calls = new LoggedCalls();
      calls.before = (call) => {
        if (call === failing) throw systemError('EIO');
      };
      expect(() => openFile(existing(), { create: 'truncate', calls })).toThrow();
      expect(calls.count('close')).toBe(calls.count('open'));
    }
  });
});

describe('openFile of disks', () => {
  const block = { kind: 'block-device', sizeBytes: 0, device: 5, inode: 6 } as const;

  it('finds their size by looking for the end, whatever the end answers', () => {
    for (const sizeBytes of [0, 1, 512, 1_000_003, 2 ** 31, 2 ** 44 + 512]) {
      expect(openFile('/disk', { calls: playedDisk(block, sizeBytes) }).sizeBytes).toBe(sizeBytes);
      expect(openFile('/disk', { calls: playedDisk(block, sizeBytes, 'EINVAL') }).sizeBytes).toBe(sizeBytes);
    }
    const raw = { kind: 'character-device', sizeBytes: 0, device: 5, inode: 7 } as const;
    expect(openFile('/disk', { calls: playedDisk(raw, 4096) }).sizeBytes).toBe(4096);
  });

  it('reports other failures of looking', () => {
    expect(() => openFile('/disk', { calls: playedDisk(block, 4096, 'EIO') })).toThrow(
      withCode('READ_FAILED'),
    );
  });

  it('does not truncate, grow or resize them', () => {
    const device = openFile('/disk', { calls: playedDisk(block, 4096) });
    expect(device.capabilities).toMatchObject({ write: true, growable: false, resize: false });
    expect(() => device.write(4095, new Uint8Array(2))).toThrow(withCode('OUT_OF_RANGE'));
    expect(() => device.resize(1)).toThrow(withCode('UNSUPPORTED_OPERATION'));
    device.write(4095, Uint8Array.of(7));
    const into = new Uint8Array(1);
    device.read(4095, into);
    expect(into[0]).toBe(7);
  });
});

describe('syncDirectory', () => {
  it('makes one fsync of the directory', () => {
    const calls = new LoggedCalls();
    syncDirectory(dirname(existing()), calls);
    expect(calls.log).toEqual(['open', 'synchronize', 'close']);
  });

  it('fails where there is none, or where its fsync fails; not where directories can not be synced', () => {
    expect(() => syncDirectory(path())).toThrow(withCode('NOT_FOUND'));
    for (const [errno, outcome] of [
      ['EIO', 'FLUSH_FAILED'],
      ['EINVAL', undefined],
    ] as const) {
      const calls = new LoggedCalls();
      calls.before = (call) => {
        if (call === 'synchronize') throw systemError(errno);
      };
      const sync = () => syncDirectory(dirname(path()), calls);
      if (outcome === undefined) sync();
      else expect(sync).toThrow(withCode(outcome));
      expect(calls.count('close')).toBe(1);
    }
  });
});
