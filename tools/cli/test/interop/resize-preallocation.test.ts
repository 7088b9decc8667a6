/** `resize --preallocation` beside qemu-img: what the images are afterwards, and what the files take. */
import { copyFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const images = ['plain', 'over', 'subclusters', 'over-subclusters', 'old', 'data'] as const;
const modes = ['metadata', 'falloc', 'full'] as const;

describeWith(['qemu-img', 'qemu-io'], 'resize --preallocation', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  afterAll(() => scratch.remove());

  beforeAll(() => {
    const create = (name: string, ...words: string[]) =>
      must('qemu-img', ['create', '-q', '-f', 'qcow2', ...words, `${name}.qcow2`, '1M'], { cwd });
    must('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', '1500k'], { cwd });
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 5 0 1500k', 'base.raw'], { cwd });
    const below = ['-b', 'base.raw', '-F', 'raw'];
    create('plain');
    create('over', ...below);
    create('subclusters', '-o', 'extended_l2=on');
    create('over-subclusters', '-o', 'extended_l2=on', ...below);
    create('old', '-o', 'compat=0.10');
    create('data', '-o', 'data_file=data.raw');
    for (const name of images) must('qemu-io', ['-c', 'write -P 1 960k 64k', `${name}.qcow2`], { cwd });
    must(
      launcher,
      ['create', '-q', '-f', 'qcow2', '-o', 'journal=on,journal_size=1M', 'journalled.qcow2', '1M'],
      { cwd },
    );
  }, hookLimitMs);

  /** Ranges of the disk, and what each is; where in the file is each program's own affair. */
  const mapOf = (name: string): unknown => {
    const joined: { start: number; length: number; is: string }[] = [];
    for (const { start, length, depth, present, zero, data } of JSON.parse(
      must('qemu-img', ['map', '--output=json', name], { cwd }),
    )) {
      const is = JSON.stringify({ depth, present, zero, data });
      const last = joined.at(-1);
      // Neighbours in the disk may be neighbours in the file or not.
      if (last?.is === is) last.length += length;
      else joined.push({ start, length, is });
    }
    return joined;
  };
  const blocksOf = (name: string): number => statSync(join(cwd, name)).blocks;

  it.each(images)('%s: places, zeros and content as of qemu-img', { timeout: hookLimitMs }, (name) => {
    for (const mode of modes) {
      if (name !== 'data') copyFileSync(join(cwd, `${name}.qcow2`), join(cwd, 'ours.qcow2'));
      const ours = name === 'data' ? `ours-${mode}.qcow2` : 'ours.qcow2';
      if (name === 'data') {
        must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', `data_file=ours-${mode}.raw`, ours, '1M'], {
          cwd,
        });
      }
      const theirs = name === 'data' ? `theirs-${mode}.qcow2` : 'theirs.qcow2';
      if (name === 'data') {
        must(
          'qemu-img',
          ['create', '-q', '-f', 'qcow2', '-o', `data_file=theirs-${mode}.raw`, theirs, '1M'],
          { cwd },
        );
      } else copyFileSync(join(cwd, `${name}.qcow2`), join(cwd, theirs));
      const words = ['resize', '-q', `--preallocation=${mode}`];
      must(launcher, [...words, ours, '2M'], { cwd });
      must('qemu-img', [...words, theirs, '2M'], { cwd });
      expect(run('qemu-img', ['compare', ours, theirs], { cwd }).stdout, mode).toBe(
        'Images are identical.\n',
      );
      expect(run('qemu-img', ['check', '-q', ours], { cwd }), mode).toEqual({
        status: 0,
        stdout: '',
        stderr: '',
      });
      expect(mapOf(ours), mode).toEqual(mapOf(theirs));
      const holder = name === 'data' ? [`ours-${mode}.raw`, `theirs-${mode}.raw`] : [ours, theirs];
      // In units of 512 bytes: what was set aside is there, whatever tables take.
      if (mode !== 'metadata') expect(blocksOf(holder[0]!)).toBeGreaterThanOrEqual((1 << 20) / 512);
    }
  });

  it.each(modes)('with a journal: %s', (mode) => {
    copyFileSync(join(cwd, 'journalled.qcow2'), join(cwd, 'ours.qcow2'));
    must(launcher, ['resize', '-q', `--preallocation=${mode}`, 'ours.qcow2', '20M'], { cwd });
    expect(run('qemu-img', ['check', '-q', 'ours.qcow2'], { cwd })).toEqual({
      status: 0,
      stdout: '',
      stderr: '',
    });
    const check = JSON.parse(must('qemu-img', ['check', '--output=json', 'ours.qcow2'], { cwd }));
    expect(check['allocated-clusters']).toBe((19 << 20) / 65536);
    if (mode !== 'metadata') expect(blocksOf('ours.qcow2')).toBeGreaterThanOrEqual((19 << 20) / 512);
  });

  it.each(['plain.qcow2', 'journalled.qcow2', 'base.raw'])(
    '%s: without the space the disk keeps its size',
    (name) => {
      copyFileSync(join(cwd, name), join(cwd, `small-${name}`));
      const format = name.endsWith('.raw') ? ['-f', 'raw'] : [];
      const before = must('qemu-img', ['info', '--output=json', ...format, `small-${name}`], { cwd });
      const limited = `trap '' XFSZ; ulimit -f 8192; exec '${launcher}' "$@"`;
      const words = ['resize', ...format, '--preallocation=falloc', `small-${name}`, '40M'];
      const outcome = run('bash', ['-c', limited, 'bash', ...words], { cwd });
      expect(outcome.status).toBe(1);
      const size = JSON.parse(
        must('qemu-img', ['info', '--output=json', ...format, `small-${name}`], { cwd }),
      );
      expect(size['virtual-size']).toBe(JSON.parse(before)['virtual-size']);
      if (format.length === 0)
        expect(run('qemu-img', ['check', '-q', `small-${name}`], { cwd }).status).toBe(0);
    },
  );
});
