/**
 * `info` and `check` beside the real qemu-img: the same arguments through both in the same folder, and the
 * outputs compared as they are, exit code included. Where we mean to differ, the case names the entry of
 * docs/deviations.md, and fails when the difference is gone.
 */
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, qcow2, run, scratchFolder } from '../support/command.ts';
import { makeZoo } from '../support/image-zoo.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';
import { checkCases, infoCases, programCases } from '../support/read-cases.ts';

describeWith(['qemu-img', 'qemu-io'], 'info and check beside qemu-img', () => {
  const scratch = scratchFolder();
  beforeAll(() => makeZoo(scratch.path), hookLimitMs);
  afterAll(() => scratch.remove());

  it('knows that it was called through a link named qemu-img', () => {
    const link = join(scratch.path, 'qemu-img');
    symlinkSync(join(import.meta.dirname, '../../dist/main.js'), link);
    expect(run(process.execPath, [link, '--version']).stdout).toMatch(/^qemu-img version 7\.2\.0 \(qcow2 /);
    expect(run(process.execPath, [link, 'nothing']).stderr).toMatch(
      /^qemu-img: Command not found: nothing\nTry 'qemu-img /,
    );
    expect(qcow2(['nothing']).stderr).toMatch(/^qcow2: Command not found: nothing\nTry 'qcow2 /);
  });

  for (const each of [...programCases, ...infoCases, ...checkCases]) {
    it(parityCase(each).title, () => {
      const { ours, theirs } = parityCase(each).runBoth(scratch.path, scratch.path);
      if (each.deviation === undefined) expect(ours).toEqual(theirs);
      else expect(ours).not.toEqual(theirs);
    });
  }
});
