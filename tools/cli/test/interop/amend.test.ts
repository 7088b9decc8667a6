/** `amend` beside qemu-img: the same options for two copies of an image, one after the other; words, exit codes, and what the images are then. */
import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, run, scratchFolder } from '../support/command.ts';
import { parityCase } from '../support/parity.ts';
import { describeWith } from '../support/peers.ts';

const stories: Readonly<Record<string, readonly (readonly string[])[]>> = {
  'disk.qcow2': [
    ['-o', 'help', '-f', 'qcow2'],
    ['-o', 'lazy_refcounts=on'],
    ['-o', 'size=3M'],
    ['-o', 'lazy_refcounts=off,size=2M'],
    ['-o', 'compat=0.10,lazy_refcounts=on'],
    ['-o', 'compat=0.10'],
    ['-o', 'refcount_bits=8'],
    ['-o', 'refcount_bits=7'],
    ['-o', 'compat=1.1,refcount_bits=8'],
    ['-o', 'refcount_bits=16'],
    ['-o', 'lazy_refcounts=on'],
    ['-o', 'size=1'],
    ['-o', 'size=5X'],
    ['-o', 'lazy_refcounts=maybe'],
    ['-o', 'compat=2.0'],
    ['-o', 'foo=1'],
    ['-o', 'cluster_size=4k'],
    ['-o', 'backing_file=x'],
    ['-o', 'data_file=x'],
    ['-o', 'data_file_raw=on'],
    ['-o', 'encrypt.state=active'],
    [],
    ['-o', 'compat=1.1,lazy_refcounts=on'],
    ['-o', 'data_file_raw=off'],
  ],
  'over.qcow2': [
    ['-o', 'backing_file=base.raw,backing_fmt=raw'],
    ['-o', 'compat=0.10'],
    ['-o', 'compat=v3'],
    ['-o', 'size=8M'],
  ],
  'old.qcow2': [
    ['-o', 'lazy_refcounts=on'],
    ['-o', 'compat=1.1'],
  ],
  'wide.qcow2': [
    ['-o', 'compat=0.10'],
    ['-o', 'refcount_bits=32'],
    ['-o', 'refcount_bits=64,size=5M,lazy_refcounts=on'],
    ['-o', 'compat=0.10,refcount_bits=8'],
    ['-o', 'refcount_bits=0'],
    ['-o', 'refcount_bits=128'],
    ['-o', 'refcount_bits=1'],
    ['-o', 'compat=0.10,refcount_bits=16'],
    ['-o', 'refcount_bits=4'],
    ['-o', 'compat=1.1,refcount_bits=4'],
  ],
  'shared.qcow2': [
    ['-o', 'refcount_bits=1,size=8M'],
    ['-o', 'refcount_bits=2'],
    ['-o', 'refcount_bits=1'],
    ['-o', 'refcount_bits=64'],
  ],
  'frozen.qcow2': [
    ['-o', 'refcount_bits=8'],
    ['-o', 'compat=0.10,refcount_bits=16'],
    ['-o', 'compat=1.1'],
    ['-o', 'size=5M'],
    ['-o', 'compat=0.10'],
  ],
  'bitmap.qcow2': [['-o', 'refcount_bits=8']],
  'extended.qcow2': [
    ['-o', 'compat=0.10'],
    ['-o', 'size=9M'],
  ],
  'data.qcow2': [
    ['-o', 'lazy_refcounts=on'],
    ['-o', 'data_file_raw=on'],
    ['-o', 'data_file=other.data'],
    ['-o', 'data_file=guest.data,data_file_raw=off'],
    ['-o', 'data_file_raw=off'],
    ['-o', 'data_file_raw=on'],
    ['-o', 'data_file=other.data,refcount_bits=8,lazy_refcounts=off'],
    ['-o', 'compat=0.10'],
    ['-o', 'refcount_bits=16'],
    ['-o', 'compat=0.10,refcount_bits=16'],
  ],
  'disk.raw': [['-o', 'size=9M', '-f', 'raw']],
};

describeWith(['qemu-img', 'qemu-io'], 'amend beside qemu-img', () => {
  const scratch = scratchFolder();
  const [ours, theirs] = ['ours', 'theirs'].map((name) => join(scratch.path, name)) as [string, string];
  afterAll(() => scratch.remove());
  beforeAll(() => {
    for (const cwd of [ours, theirs]) {
      mkdirSync(cwd);
      const create = (name: string, ...words: string[]) =>
        must('qemu-img', ['create', '-q', '-f', 'qcow2', ...words, `${name}.qcow2`, '4M'], { cwd });
      must('qemu-img', ['create', '-q', '-f', 'raw', 'base.raw', '4M'], { cwd });
      must('qemu-img', ['create', '-q', '-f', 'raw', 'disk.raw', '4M'], { cwd });
      must('qemu-io', ['-f', 'raw', '-c', 'write -P 5 0 4M', 'base.raw'], { cwd });
      // Of qemu-img every refcount of a block takes its time when their width changes: small blocks.
      const small = ['-o', 'cluster_size=4k'];
      create('disk', ...small);
      create('over', '-b', 'base.raw', '-F', 'raw');
      create('old', '-o', 'compat=0.10');
      create('wide', '-o', 'cluster_size=4k,refcount_bits=32');
      create('extended', '-o', 'extended_l2=on');
      create('data', '-o', 'data_file=guest.data,data_file_raw=on');
      must('qemu-io', ['-c', 'write -P 5 0 4M', 'data.qcow2'], { cwd });
      copyFileSync(join(cwd, 'guest.data'), join(cwd, 'other.data'));
      create('shared', ...small);
      create('bitmap', ...small);
      must('qemu-img', ['bitmap', '--add', 'bitmap.qcow2', 'b'], { cwd });
      for (const name of ['disk', 'over', 'extended', 'shared', 'bitmap'])
        must(
          'qemu-io',
          ['-c', 'write -P 1 0 256k', '-c', 'write -z 64k 128k', '-c', 'write -z 1M 64k', `${name}.qcow2`],
          { cwd },
        );
      must('qemu-img', ['snapshot', '-c', 's', 'shared.qcow2'], { cwd });
      create('frozen', ...small);
      must('qemu-io', ['-c', 'write -P 3 0 256k', 'frozen.qcow2'], { cwd });
      must('qemu-img', ['snapshot', '-c', 's', 'frozen.qcow2'], { cwd });
      must('qemu-io', ['-c', 'write -z 64k 64k', '-c', 'write -P 4 1M 8k', 'frozen.qcow2'], { cwd });
    }
  }, hookLimitMs);

  it.each(Object.keys(stories))('%s', { timeout: hookLimitMs }, (name) => {
    for (const words of stories[name]!) {
      const step = parityCase({ args: ['amend', ...words, name] });
      const outcome = step.runBoth(ours, theirs);
      expect(outcome.ours, words.join(' ')).toEqual(outcome.theirs);
      if (name.endsWith('.raw')) continue;
      const facts = [ours, theirs].map((cwd) => {
        const info = JSON.parse(must('qemu-img', ['info', '--output=json', name], { cwd }));
        return { size: info['virtual-size'], specific: info['format-specific'] };
      });
      expect(facts[0], words.join(' ')).toEqual(facts[1]);
      // QEMU looks for a data file where it is called.
      if (name === 'data.qcow2') must('qemu-io', ['-c', 'read -P 5 0 4M', name], { cwd: ours });
      else must('qemu-img', ['compare', '-q', join(ours, name), join(theirs, name)]);
      expect(run('qemu-img', ['check', '-q', name], { cwd: ours }), words.join(' ')).toEqual({
        status: 0,
        stdout: '',
        stderr: '',
      });
    }
  });

  it('the name of a data file is taken as it is, and may be none', { timeout: hookLimitMs }, () => {
    for (const name of ['gone.data', '']) {
      const facts = [ours, theirs].map((cwd) => {
        must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'data_file=named.data', 'named.qcow2', '1M'], {
          cwd,
        });
        const words = ['amend', '-o', `data_file=${name}`, 'named.qcow2'];
        const { status, stderr } = cwd === ours ? qcow2(words, { cwd }) : run('qemu-img', words, { cwd });
        const info = JSON.parse(must('qemu-img', ['info', '--output=json', 'named.qcow2'], { cwd }));
        return { status, stderr, specific: info['format-specific'] };
      });
      expect(facts[0]).toEqual(facts[1]);
      expect(facts[0]).toMatchObject({ status: 0, stderr: '' });
      expect(facts[0]?.specific.data['data-file']).toBe(name === '' ? undefined : name);
      // Nobody knows where its data is.
      expect(qcow2(['amend', '-o', 'lazy_refcounts=on', 'named.qcow2'], { cwd: ours }).status).toBe(1);
    }
  });

  it('what is not served is refused by name, and changes nothing', () => {
    const cwd = ours;
    must(
      launcher,
      ['create', '-q', '-f', 'qcow2', '-o', 'journal=on,journal_size=1M', 'journal.qcow2', '1M'],
      { cwd },
    );
    copyFileSync(join(cwd, 'extended.qcow2'), join(cwd, 'snapshot.qcow2'));
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'snapshot.qcow2', '1M'], { cwd });
    must('qemu-io', ['-c', 'write -z 0 64k', 'snapshot.qcow2'], { cwd });
    must('qemu-img', ['snapshot', '-c', 's', 'snapshot.qcow2'], { cwd });
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'marked.qcow2', '1M'], { cwd });
    must('qemu-img', ['bitmap', '--add', 'marked.qcow2', 'b'], { cwd });
    for (const [name, list, message] of [
      ['journal', 'compat=0.10', 'a version 2 image has no journal (disable it first)'],
      ['snapshot', 'compat=0.10', 'a version 2 image has no snapshots with zero clusters'],
      ['marked', 'compat=0.10', 'a version 2 image has no bitmaps (remove them first)'],
    ] as const) {
      const { status, stderr } = qcow2(['amend', '-o', list, `${name}.qcow2`], { cwd });
      expect(status, list).toBe(1);
      expect(stderr.replace(' a journal', ' journal')).toContain(message);
      expect(JSON.parse(must('qemu-img', ['info', '--output=json', `${name}.qcow2`], { cwd }))).toMatchObject(
        {
          'format-specific': { data: { compat: '1.1', 'refcount-bits': 16 } },
        },
      );
    }
  });
});
