/**
 * `create` beside the real qemu-img: the same arguments through both, in folders of their own with the same
 * files in them. What they print is compared as it is; what they made is compared by what qemu-img says about it.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { createCases } from '../support/create-cases.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img'], 'create beside qemu-img', () => {
  const scratch = scratchFolder();
  const folders = [join(scratch.path, 'ours'), join(scratch.path, 'theirs')] as const;
  beforeAll(() => {
    for (const folder of folders) prepare(folder);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  it('finds a wrong option before it touches the file that stands there', () => {
    const file = join(folders[0], 'precious.qcow2');
    for (const options of [
      'cluster_size=3000',
      'journal=on,compat=0.10',
      'data_file=json:x',
      'journal=on,journal_size=2G',
    ]) {
      writeFileSync(file, 'precious');
      const outcome = qcow2(['create', '-q', '-f', 'qcow2', '-o', options, file, '1M']);
      expect(outcome.status).toBe(1);
      expect(outcome.stderr).toMatch(/^qcow2: .*precious\.qcow2: /);
      expect(existsSync(file) && readFileSync(file, 'utf8'), options).toBe('precious');
    }
    rmSync(file);
  });

  it('makes a journalled image that qemu-img finds whole', () => {
    const file = join(folders[0], 'journalled.qcow2');
    const options = 'journal=on,journal_size=1M,journal_block_size=512,cluster_size=4k';
    const made = qcow2(['create', '-f', 'qcow2', '-o', options, file, '64M']);
    expect(made.stdout).toMatch(/ journal=on journal_size=1048576 journal_block_size=512\n$/);
    expect(run('qemu-img', ['check', '-q', file])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(qcow2(['journal', 'info', '--output=json', file]).stdout).toContain('"block-size": 512');
    rmSync(file);
  });

  for (const each of createCases) {
    it(parityCase(each).title, () => {
      const { ours, theirs } = parityCase(each).runBoth(...folders);
      if (each.deviation === undefined) expect(ours).toEqual(theirs);
      else expect(ours).not.toEqual(theirs);
      if (each.deviation === undefined) expect(described(folders[0])).toEqual(described(folders[1]));
      for (const folder of folders) clear(folder);
    });
  }
});

const kept = new Set(['base.qcow2', 'base.raw', 'sub']);

function prepare(folder: string): void {
  mkdirSync(join(folder, 'sub'), { recursive: true });
  must('qemu-img', ['create', '-q', '-f', 'qcow2', 'base.qcow2', '64M'], { cwd: folder });
  must('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', '33M'], { cwd: folder });
}

/** What was made, as qemu-img sees it; and that qemu-img finds nothing wrong with it. */
function described(folder: string): unknown[] {
  return filesMade(folder).map((file) => {
    const info = JSON.parse(must('qemu-img', ['info', '--output=json', `./${file}`], { cwd: folder }));
    // How many blocks a file takes on its disk depends on the order of writes, not on the image.
    const { 'actual-size': _, ...rest } = info;
    const check =
      rest.format === 'qcow2' ? run('qemu-img', ['check', '-q', `./${file}`], { cwd: folder }) : undefined;
    return { ...rest, check };
  });
}

function filesMade(folder: string): string[] {
  const inSub = readdirSync(join(folder, 'sub')).map((file) => `sub/${file}`);
  const made = [...readdirSync(folder).filter((file) => !kept.has(file)), ...inSub];
  return made.filter((file) => existsSync(join(folder, file))).sort();
}

function clear(folder: string): void {
  for (const file of filesMade(folder)) must('rm', ['--', `./${file}`], { cwd: folder });
  prepare(folder);
}
