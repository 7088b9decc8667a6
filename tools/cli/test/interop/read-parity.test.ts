/**
 * `info` and `check` beside the real qemu-img: the same arguments through both in the same folder, and the
 * outputs compared as they are, exit code included. Where we mean to differ, the case names the entry of
 * docs/deviations.md, and fails when the difference is gone.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { scratchFolder } from '../support/command.ts';
import { makeZoo } from '../support/image-zoo.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';
import { checkCases, infoCases, programCases } from '../support/read-cases.ts';

describeWith(['qemu-img', 'qemu-io'], 'info and check beside qemu-img', () => {
  const scratch = scratchFolder();
  beforeAll(() => makeZoo(scratch.path));
  afterAll(() => scratch.remove());

  for (const each of [...programCases, ...infoCases, ...checkCases]) {
    it(parityCase(each).title, () => {
      const { ours, theirs } = parityCase(each).runBoth(scratch.path, scratch.path);
      if (each.deviation === undefined) expect(ours).toEqual(theirs);
      else expect(ours).not.toEqual(theirs);
    });
  }
});
