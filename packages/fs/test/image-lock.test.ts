import { linkSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type ImageUse, openFile } from '../src/index.ts';
import { describeHolder, findHolder } from '../src/internal/lock-holder.ts';
import { LoggedCalls, LoggedNative, systemError } from './support/calls.ts';
import { scratchPaths } from './support/scratch.ts';

const path = scratchPaths();
const uses: readonly ImageUse[] = ['writer', 'reader', 'raw-writer', 'raw-reader', 'shared', 'data-writer'];

function existing(content = 'bytes'): string {
  const at = path('image');
  writeFileSync(at, content);
  return at;
}

function inUse(lock: string): unknown {
  return expect.objectContaining({ code: 'IN_USE', message: expect.stringContaining(`get ${lock} lock\n`) });
}

describe('image locks', () => {
  // Rows: who is there. Columns: who comes, in the order of `uses`.
  it.each<[ImageUse, readonly (string | undefined)[]]>([
    ['writer', ['"write"', 'shared "write"', '"write"', 'shared "resize"', undefined, '"write"']],
    ['reader', ['"write"', undefined, '"write"', undefined, undefined, '"write"']],
    ['raw-writer', ['"resize"', 'shared "write"', undefined, undefined, undefined, '"resize"']],
    ['raw-reader', ['"resize"', undefined, undefined, undefined, undefined, '"resize"']],
    [
      'data-writer',
      ['"resize"', 'shared "write"', 'shared "resize"', 'shared "resize"', undefined, '"resize"'],
    ],
    ['shared', [undefined, undefined, undefined, undefined, undefined, undefined]],
  ])('beside a %s', (there, answers) => {
    const at = existing();
    const first = openFile(at, { lock: there });
    expect(first.locked).toBe(true);
    for (const [i, use] of uses.entries()) {
      const readOnly = !use.endsWith('writer');
      const answer = answers[i];
      if (answer === undefined) openFile(at, { lock: use, readOnly }).close();
      else expect(() => openFile(at, { lock: use, readOnly }), use).toThrow(inUse(answer));
    }
    first.close();
    expect(first.locked).toBe(false);
    for (const use of uses) openFile(at, { lock: use }).close();
  });

  it('name the process that is there', () => {
    const at = existing();
    openFile(at, { lock: 'writer' });
    expect(() => openFile(at, { lock: 'reader' })).toThrow(
      `Failed to get shared "write" lock\nIs another process using the image [${at}]?\nIt is in use by this process itself.`,
    );
  });

  it('are taken before a file is emptied', () => {
    const at = existing('precious');
    const reader = openFile(at, { lock: 'reader', readOnly: true });
    expect(() => openFile(at, { create: 'truncate', lock: 'writer' })).toThrow(inUse('"write"'));
    expect(readFileSync(at, 'utf8')).toBe('precious');
    reader.close();
    const writer = openFile(at, { create: 'truncate', lock: 'writer' });
    expect([writer.sizeBytes, statSync(at).size, writer.locked]).toEqual([0, 0, true]);
  });

  it('give way to others of the same file, and stay where these are refused', () => {
    const at = existing();
    const one = openFile(at, { lock: 'reader' });
    const other = openFile(at, { lock: 'reader' });
    expect(() => one.lock('writer')).toThrow(inUse('"write"'));
    // What was held is held, and nothing more.
    expect(() => openFile(at, { lock: 'writer' })).toThrow(inUse('"write"'));
    openFile(at, { lock: 'reader' }).close();
    other.close();
    expect(one.lock('writer')).toBe(true);
    expect(() => openFile(at, { lock: 'reader' })).toThrow(inUse('shared "write"'));
    expect(one.lock('shared')).toBe(true);
    openFile(at, { lock: 'writer' }).close();
  });

  it('are none where there are no native calls', () => {
    const at = existing();
    const one = openFile(at, { lock: 'writer', calls: new LoggedCalls() });
    expect([one.locked, one.lock('writer')]).toEqual([false, false]);
    openFile(at, { lock: 'writer' }).close();
  });

  it('that fail for another reason are no quiet success, and leave nothing open', () => {
    const calls = new LoggedCalls();
    calls.native = Object.assign(new LoggedNative(), {
      isLocked: () => {
        throw systemError('ENOLCK');
      },
    });
    const at = existing();
    expect(() => openFile(at, { lock: 'writer', calls })).toThrow(
      expect.objectContaining({ code: 'READ_FAILED' }),
    );
    expect(calls.count('close')).toBe(calls.count('open'));
    openFile(at, { lock: 'writer' }).close();
  });

  it('are refused where somebody holds a byte for himself alone', () => {
    const at = existing();
    const calls = new LoggedCalls();
    const native = new LoggedNative();
    calls.native = native;
    const other = openFile(existing(), { calls });
    Object.assign(native, { lock: () => false });
    expect(() => other.lock('shared')).toThrow(inUse('a'));
    expect(other.locked).toBe(false);
    openFile(at, { lock: 'writer' }).close();
  });
});

describe('the holder of a lock', () => {
  const file = existing();
  const { dev: device, ino: inode } = statSync(file);

  /** Another /proc: one process with one open file, which is `file`. */
  function played(lock: string, name: string, processId = 17): string {
    const proc = path('proc');
    mkdirSync(join(proc, 'self'), { recursive: true });
    play(proc, lock, name, processId);
    return proc;
  }
  function play(proc: string, lock: string, name: string, processId: number): void {
    const folder = join(proc, `${processId}`);
    mkdirSync(join(folder, 'fdinfo'), { recursive: true });
    mkdirSync(join(folder, 'fd'));
    writeFileSync(join(folder, 'fdinfo/3'), `pos:\t0\nflags:\t02\n${lock}`);
    writeFileSync(join(folder, 'comm'), `${name}\n`);
  }
  const lock = (from: number | string, to: number | string, at: number | string = inode) =>
    `lock:\t1: OFDLCK  ADVISORY  READ -1 fe:00:${at} ${from} ${to}\n`;
  const search = (proc: string, byte = 101) => {
    // The played process has the very file open.
    linkSync(file, join(proc, '17/fd/3'));
    return findHolder({ device, inode }, byte, proc);
  };

  it.each([
    ['one byte', lock(101, 101), true],
    ['a range', lock(100, 103), true],
    ['all from a byte on', lock(0, 'EOF'), true],
    ['a second lock', lock(5, 5) + lock(101, 101), true],
    ['other bytes', lock(102, 103), false],
    ['another file', lock(101, 101, 1), false],
    ['no lock', '', false],
  ])('is found by %s', (_, text, found) => {
    expect(search(played(text, 'qemu-nbd'))).toEqual(found ? { processId: 17, name: 'qemu-nbd' } : undefined);
  });

  it('is not who holds the lock of a file with the same number elsewhere', () => {
    expect(findHolder({ device: device + 1, inode }, 101, played(lock(101, 101), 'x'))).toBeUndefined();
  });

  it('is not the open file that asks, which holds the byte as well', () => {
    // Whoever comes later may have the lower number: they start again where they end.
    const proc = played(lock(101, 101), 'who asks', process.pid);
    play(proc, lock(101, 101), 'who is there', process.pid + 1);
    for (const id of [process.pid, process.pid + 1]) linkSync(file, join(proc, `${id}/fd/3`));
    const found = findHolder({ device, inode, fd: 3 }, 101, proc);
    expect(found).toEqual({ processId: process.pid + 1, name: 'who is there' });
  });

  it('has a name that no terminal obeys, and may have none', () => {
    const found = search(played(lock(101, 101), `\u001b[2J${'x'.repeat(100)}`));
    expect(found?.name).toBe(`?[2J${'x'.repeat(60)}`);
    expect(describeHolder({ processId: 5, name: '' })).toBe('It is in use by a program, process 5.');
    expect(describeHolder(undefined)).toBe('');
  });

  it('is nobody where nothing can be read', () => {
    expect(findHolder({ device, inode }, 101, path('nothing'))).toBeUndefined();
  });
});
