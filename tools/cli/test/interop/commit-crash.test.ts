/** `commit` and `rebase` that do not come to their end, by a full disk or by a kill: the disk is what it was, and the next one completes it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, type Outcome, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const identical = { status: 0, stdout: 'Images are identical.\n', stderr: '' };

describeWith(['qemu-img', 'qemu-io'], 'commit and rebase, cut off', () => {
  const scratch = scratchFolder();
  beforeAll(() => {
    const cwd = join(scratch.path, 'start');
    mkdirSync(cwd);
    const create = (...args: string[]) => must(launcher, ['create', '-q', '-f', 'qcow2', ...args], { cwd });
    create('base.qcow2', '16M');
    must('qemu-io', ['-c', 'write -P 1 0 1M', 'base.qcow2'], { cwd });
    create('-o', 'journal=on,journal_size=1M', 'journalled.qcow2', '16M');
    create('other.qcow2', '16M');
    for (const base of ['base', 'journalled']) {
      create('-b', `${base}.qcow2`, '-F', 'qcow2', `on-${base}.qcow2`);
      must('qemu-io', ['-c', 'write -P 2 512k 6M', '-c', 'write -z 8M 1M', `on-${base}.qcow2`], { cwd });
    }
    must('qemu-img', ['convert', '-O', 'raw', 'on-base.qcow2', 'on-base.raw'], { cwd });
    must('qemu-img', ['convert', '-O', 'raw', 'on-journalled.qcow2', 'on-journalled.raw'], { cwd });
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  const fresh = (name: string): string => {
    const cwd = join(scratch.path, name);
    cpSync(join(scratch.path, 'start'), cwd, { recursive: true });
    return cwd;
  };
  const compare = (cwd: string, image: string): Outcome =>
    run(launcher, ['compare', image, image.replace('qcow2', 'raw')], { cwd });
  const limited = (cwd: string, blocks: number, ...args: string[]): Outcome =>
    run('bash', ['-c', `trap '' XFSZ; ulimit -f ${blocks}; exec '${launcher}' "$@"`, 'bash', ...args], {
      cwd,
    });

  it('a full disk in the middle of a commit loses nothing', () => {
    const cwd = fresh('full-commit');
    const outcome = limited(cwd, 4096, 'commit', 'on-base.qcow2');
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toMatch(
      /^qcow2: error while writing at byte \d+: .*\nqcow2: nothing is lost: 'on-base\.qcow2' shows what it showed\n$/,
    );
    expect(compare(cwd, 'on-base.qcow2')).toEqual(identical);
    expect(must(launcher, ['commit', 'on-base.qcow2'], { cwd })).toBe('Image committed.\n');
    for (const image of ['on-base.qcow2', 'base.qcow2']) {
      expect(run('qemu-img', ['compare', image, 'on-base.raw'], { cwd }), image).toEqual(identical);
      expect(run('qemu-img', ['check', '-q', image], { cwd }).status, image).toBe(0);
    }
  });

  it('a full disk in the middle of a rebase loses nothing', () => {
    const cwd = fresh('full-rebase');
    const words = ['rebase', '-b', 'other.qcow2', '-F', 'qcow2', 'on-base.qcow2'];
    // Of the base's first MiB half has to come into the overlay; there is no room for it.
    const outcome = limited(cwd, 6700, ...words);
    expect(outcome.status).toBe(1);
    expect(outcome.stderr).toContain("nothing is lost: 'on-base.qcow2' shows what it showed\n");
    expect(compare(cwd, 'on-base.qcow2')).toEqual(identical);
    must(launcher, words, { cwd });
    expect(run('qemu-img', ['compare', 'on-base.qcow2', 'on-base.raw'], { cwd })).toEqual(identical);
    expect(run('qemu-img', ['check', '-q', 'on-base.qcow2'], { cwd }).status).toBe(0);
  });

  it.each(['on-base', 'on-journalled'])('%s: a commit that is killed loses nothing', async (name) => {
    const cwd = fresh(`kill-${name}`);
    for (const afterMs of [400, 1100]) {
      const child = spawn(launcher, ['commit', '-r', '4M', `${name}.qcow2`], {
        cwd,
        stdio: 'ignore',
        env: { ...process.env, NODE_OPTIONS: '' },
      });
      const gone = once(child, 'exit');
      await sleep(afterMs);
      child.kill('SIGKILL');
      await gone;
      expect(compare(cwd, `${name}.qcow2`), `killed after ${afterMs} ms`).toEqual(identical);
    }
    must(launcher, ['commit', '-q', `${name}.qcow2`], { cwd });
    expect(compare(cwd, `${name}.qcow2`)).toEqual(identical);
    const base = `${name.replace('on-', '')}.qcow2`;
    expect(run('qemu-img', ['compare', base, `${name}.raw`], { cwd })).toEqual(identical);
    // Without a journal a kill may leave leaks, and nothing worse.
    const { status } = run('qemu-img', ['check', '-q', base], { cwd });
    expect(name === 'on-base' ? [0, 3] : [0]).toContain(status);
  });
});
