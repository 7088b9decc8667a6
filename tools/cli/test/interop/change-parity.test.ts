/**
 * `snapshot` and `resize` beside the real qemu-img: the same story in two folders, each step's text and exit code
 * compared, and after it what both images are.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { changeStories } from '../support/change-cases.ts';
import { hookLimitMs, must, run, scratchFolder } from '../support/command.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'snapshot and resize beside qemu-img', () => {
  const scratch = scratchFolder();
  const [ours, theirs] = ['ours', 'theirs'].map((name) => join(scratch.path, name)) as [string, string];
  beforeAll(() => {
    for (const folder of [ours, theirs]) {
      mkdirSync(folder);
      must('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '10M'], { cwd: folder });
      must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'v2.qcow2', '10M'], {
        cwd: folder,
      });
      must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=1', 'one.qcow2', '1M'], {
        cwd: folder,
      });
      must('qemu-img', ['create', '-q', '-f', 'qcow2', 'pre.qcow2', '1M'], { cwd: folder });
      for (const image of ['disk.qcow2', 'v2.qcow2', 'one.qcow2']) {
        must('qemu-io', ['-c', 'write -P 1 64k 300k', image], { cwd: folder });
      }
      writeFileSync(join(folder, 'disk.raw'), new Uint8Array(65536));
    }
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  for (const [name, story] of Object.entries(changeStories)) {
    it(name, () => {
      for (const each of story) {
        const step = parityCase(each);
        const outcome = step.runBoth(ours, theirs);
        const both = [outcome.ours, outcome.theirs].map(withoutDates);
        if (each.deviation === undefined) expect(both[0], step.title).toEqual(both[1]);
        else expect(both[0], step.title).not.toEqual(both[1]);
      }
      for (const image of ['disk.qcow2', 'v2.qcow2', 'one.qcow2']) {
        const facts = [ours, theirs].map((folder) => {
          const info = JSON.parse(must('qemu-img', ['info', '--output=json', image], { cwd: folder }));
          return {
            size: info['virtual-size'],
            names: info.snapshots?.map((one: { name: string; id: string }) => [one.id, one.name]),
          };
        });
        expect(facts[0], image).toEqual(facts[1]);
        must('qemu-img', ['compare', '-q', join(ours, image), join(theirs, image)]);
        expect(run('qemu-img', ['check', '-q', image], { cwd: ours }).status, image).toBe(0);
      }
    });
  }
});

/** The two have not done it in the same second. */
function withoutDates<T extends { readonly stdout: string }>(outcome: T): T {
  return { ...outcome, stdout: outcome.stdout.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE') };
}
