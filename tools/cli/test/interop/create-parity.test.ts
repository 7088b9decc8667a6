/**
 * `create` beside the real qemu-img: the same arguments through both, in folders of their own with the same
 * files in them. What they print is compared as it is; what they made is compared by what qemu-img says about it.
 */
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, run, scratchFolder } from '../support/command.ts';
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
