/**
 * `convert`, `commit` and `rebase` on a disk that becomes full, and ended by Ctrl-C: what was there before is there afterwards, and the next run completes
 * it. The disk is a small tmpfs where this may be mounted; elsewhere no file may become larger, which the program meets in the same calls.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, type Outcome, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const identical = { status: 0, stdout: 'Images are identical.\n', stderr: '' };
const images = ['base', 'top', 'journalled', 'on-journalled', 'other'] as const;

describeWith(['qemu-img', 'qemu-io'], 'on a full disk, and interrupted', () => {
  const scratch = scratchFolder();
  const start = join(scratch.path, 'start');
  const mounted: string[] = [];
  beforeAll(() => {
    mkdirSync(start);
    const cwd = start;
    const create = (...args: string[]) => must(launcher, ['create', '-q', '-f', 'qcow2', ...args], { cwd });
    create('base.qcow2', '64M');
    create('-o', 'journal=on,journal_size=1M', 'journalled.qcow2', '64M');
    create('other.qcow2', '64M');
    for (const base of ['base', 'journalled']) {
      must('qemu-io', ['-c', 'write -P 1 0 40M', `${base}.qcow2`], { cwd });
      const top = base === 'base' ? 'top' : 'on-journalled';
      const options = base === 'base' ? [] : ['-o', 'journal=on,journal_size=1M'];
      create(...options, '-b', `${base}.qcow2`, '-F', 'qcow2', `${top}.qcow2`);
      must('qemu-io', ['-c', 'write -P 2 44M 12M', '-c', 'write -P 3 512k 64k', `${top}.qcow2`], { cwd });
      must('qemu-img', ['convert', '-O', 'raw', `${top}.qcow2`, join(scratch.path, `${top}.raw`)], { cwd });
    }
  }, hookLimitMs);
  afterAll(() => {
    for (const folder of mounted) spawnSync('umount', [folder]);
    scratch.remove();
  });

  /** A folder with the images and `freeBytes` of room, more or less, and what runs there with no more than that. */
  const smallDisk = (name: string, freeBytes: number) => {
    const cwd = join(scratch.path, name);
    mkdirSync(cwd);
    const used = images.reduce(
      (sum, image) => sum + Number(must('du', ['-B1', `${image}.qcow2`], { cwd: start }).split('\t')[0]),
      0,
    );
    const size = `size=${used + freeBytes}`;
    const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', size, 'tmpfs', cwd]).status === 0;
    if (isMounted) mounted.push(cwd);
    must('cp', ['--sparse=always', ...images.map((image) => join(start, `${image}.qcow2`)), cwd]);
    // In blocks of 1024 bytes: the largest file that there is, and half of the room.
    const largest = Math.max(...images.map((image) => statSync(join(start, `${image}.qcow2`)).size));
    const limit = Math.ceil((largest + freeBytes / 2) / 1024);
    const limited = (...args: string[]): Outcome =>
      isMounted
        ? run(launcher, args, { cwd })
        : run('bash', ['-c', `trap '' XFSZ; ulimit -f ${limit}; exec '${launcher}' "$@"`, 'bash', ...args], {
            cwd,
          });
    const moreRoom = (): void => {
      if (isMounted) must('mount', ['-o', 'remount,size=400M', cwd]);
    };
    return { cwd, limited, moreRoom };
  };
  const shows = (cwd: string, image: string, disk: string): Outcome =>
    qcow2(['compare', `${image}.qcow2`, join(scratch.path, `${disk}.raw`)], { cwd });

  it.each([
    ['commit', 'top', 'base'],
    ['commit', 'on-journalled', 'journalled'],
    ['rebase', 'top', 'other'],
    ['rebase', 'on-journalled', 'other'],
  ])('%s of %s: a full disk loses nothing', { timeout: hookLimitMs }, (command, top, base) => {
    const { cwd, limited, moreRoom } = smallDisk(`full-${command}-${top}`, 4 << 20);
    const words =
      command === 'commit'
        ? ['commit', `${top}.qcow2`]
        : ['rebase', '-b', `${base}.qcow2`, '-F', 'qcow2', `${top}.qcow2`];
    const outcome = limited(...words);
    expect(outcome.status, outcome.stderr).toBe(1);
    expect(outcome.stderr).toContain(`nothing is lost: '${top}.qcow2' shows what it showed\n`);
    moreRoom();
    expect(shows(cwd, top, top)).toEqual(identical);
    must(launcher, words, { cwd });
    expect(shows(cwd, top, top)).toEqual(identical);
    if (command === 'commit') expect(shows(cwd, base, top)).toEqual(identical);
    for (const image of [top, base]) expect(qcow2(['check', '-q', `${image}.qcow2`], { cwd }).status).toBe(0);
  });

  it('convert: a full disk leaves the source as it is, and says that the target is incomplete', () => {
    const { cwd, limited, moreRoom } = smallDisk('full-convert', 4 << 20);
    const outcome = limited('convert', '-O', 'qcow2', 'top.qcow2', 'copy.qcow2');
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toContain("'copy.qcow2' is incomplete\n");
    for (const image of ['top', 'base']) {
      expect(
        readFileSync(join(cwd, `${image}.qcow2`)).equals(readFileSync(join(start, `${image}.qcow2`))),
      ).toBe(true);
    }
    moreRoom();
    must(launcher, ['convert', '-O', 'qcow2', 'top.qcow2', 'copy.qcow2'], { cwd });
    expect(shows(cwd, 'copy', 'top')).toEqual(identical);
  });

  it.each([
    ['commit', 'top', 'base'],
    ['commit', 'on-journalled', 'journalled'],
    ['rebase', 'top', 'other'],
    ['rebase', 'on-journalled', 'other'],
  ])('%s of %s: Ctrl-C loses nothing', { timeout: hookLimitMs }, async (command, top, base) => {
    const cwd = join(scratch.path, `cut-${command}-${top}`);
    cpSync(start, cwd, { recursive: true });
    const words = command === 'commit' ? ['-r', '8M'] : ['-b', `${base}.qcow2`, '-F', 'qcow2'];
    const child = spawn(launcher, [command, ...words, '--progress=json', `${top}.qcow2`], {
      cwd,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    // The first line comes when the copy is about to begin.
    const ended = once(child, 'close');
    await once(child.stdout, 'data');
    child.kill('SIGINT');
    child.stdout.resume();
    const [code] = await ended;
    expect({ code, said }).toEqual({
      code: 1,
      said: `qcow2: interrupted\nqcow2: nothing is lost: '${top}.qcow2' shows what it showed\n`,
    });
    expect(shows(cwd, top, top)).toEqual(identical);
    const again = command === 'commit' ? [] : words;
    must(launcher, [command, ...again, `${top}.qcow2`], { cwd });
    expect(shows(cwd, top, top)).toEqual(identical);
    for (const image of [top, base]) expect(qcow2(['check', '-q', `${image}.qcow2`], { cwd }).status).toBe(0);
  });
});
