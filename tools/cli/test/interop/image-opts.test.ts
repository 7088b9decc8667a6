/** `serve --image-opts`: what the real qemu-nbd says to the same options, and that those that are served have an effect. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith, python } from '../support/peers.ts';

const file = 'driver=qcow2,file.driver=file,file.filename=disk.qcow2';

/** Lists that both refuse, in the same words. */
const refused = [
  ...[
    'cache-size=1M,l2-cache-size=1M,refcount-cache-size=1M',
    'cache-size=64k,l2-cache-size=1M',
    'cache-size=64k,refcount-cache-size=1M',
    'l2-cache-entry-size=1000',
    'l2-cache-entry-size=256',
    'l2-cache-entry-size=128k',
    'l2-cache-size=abc',
    'l2-cache-size=-1',
    'l2-cache-size=16E',
    'refcount-cache-size=8000P',
    'cache-clean-interval=4294967296',
    'cache-clean-interval=abc',
    'lazy-refcounts=maybe',
    'bogus=1',
    'file.bogus=1',
  ].map((options) => `${file},${options}`),
  'driver=qcow2,file.filename=old.qcow2,lazy-refcounts=on',
  'driver=raw,file.filename=disk.qcow2,l2-cache-size=1M',
  'driver=qcow2',
  'driver=nonsense,file.filename=disk.qcow2',
  'driver=qcow2,file.driver=nonsense,file.filename=disk.qcow2',
  'driver=qcow2,file=disk.qcow2',
  'disk.qcow2',
  'filename=disk.qcow2',
  'driver=qcow2,file.filename=missing.qcow2',
];

/** And that both take. */
const taken = [
  file,
  'file.filename=disk.qcow2',
  ...[
    'l2-cache-size=8E',
    'l2-cache-size=1T',
    'cache-size=1M,l2-cache-size=512k,l2-cache-entry-size=512',
    'cache-size=1M,refcount-cache-size=1M',
    'cache-size=0',
    'cache-clean-interval=0',
    'cache-clean-interval=4294967295',
    'lazy-refcounts=on',
    'lazy-refcounts=off',
  ].map((options) => `${file},${options}`),
];

describeWith(['qemu-img', 'qemu-nbd', 'qemu-io', 'python3-libnbd'], 'serve --image-opts', () => {
  const scratch = scratchFolder();
  const inFolder = { cwd: scratch.path };
  const socket = join(scratch.path, 'sock');

  beforeAll(() => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '1G'], inFolder);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'old.qcow2', '1G'], inFolder);
  }, hookLimitMs);
  afterAll(() => scratch.remove());

  it.each(refused)('refuses %s as qemu-nbd does', (list) => {
    const theirs = run('timeout', ['10', 'qemu-nbd', '-k', socket, '--image-opts', list], inFolder);
    const ours = qcow2(['serve', '-k', socket, '--image-opts', list], inFolder);
    expect(theirs.status).toBe(1);
    expect(ours.status).toBe(1);
    expect(ours.stderr.replaceAll(/^qcow2: /gm, '').trimEnd()).toBe(
      theirs.stderr.replaceAll(/^qemu-nbd: /gm, '').trimEnd(),
    );
  });

  it('takes a format by the list alone, as qemu-nbd', () => {
    const words = ['-k', socket, '-f', 'qcow2', '--image-opts', file];
    const theirs = run('timeout', ['10', 'qemu-nbd', ...words], inFolder);
    const ours = qcow2(['serve', ...words], inFolder);
    expect(ours.stderr).toBe(theirs.stderr.replace('qemu-nbd: ', 'qcow2: '));
  });

  it.each(taken)('takes %s, as QEMU', async (list) => {
    expect(run('qemu-img', ['info', '--image-opts', list], inFolder).status).toBe(0);
    const ours = await startServer(['-t', '-k', socket, '--image-opts', absolute(list)]);
    const script = `import nbd\nh = nbd.NBD()\nh.connect_unix("${socket}")\nh.pwrite(b"x" * 512, 0)\nh.flush()`;
    must(python, ['-c', script]);
    expect(isDirty()).toBe(list.includes('lazy-refcounts=on'));
    expect(await ours.end('SIGTERM')).toBe(0);
    expect(isDirty()).toBe(false);
    expect(run('qemu-img', ['check', '-q', 'disk.qcow2'], inFolder).status).toBe(0);
    // Not allocated again for the next one.
    must('qemu-io', ['-c', 'discard 0 64k', 'disk.qcow2'], inFolder);
  });

  /** `serve` runs in the folder of the tests. */
  function absolute(list: string): string {
    return list.replace('disk.qcow2', join(scratch.path, 'disk.qcow2'));
  }

  function isDirty(): boolean {
    const words = ['info', '-U', '--output=json', 'disk.qcow2'];
    return JSON.parse(must('qemu-img', words, inFolder))['dirty-flag'] === true;
  }
});
