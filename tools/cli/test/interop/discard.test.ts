/** `serve --discard`: what a client discards becomes holes in the file, or does not. */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, run, scratchFolder, startServer } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'serve --discard', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());
  const folder = { cwd: scratch.path };
  const mebibyte = 2 ** 20;
  const usedBytes = (name: string): number => statSync(join(scratch.path, name)).blocks * 512;

  it.each([
    ['unmap', 'qcow2', 'on', true],
    ['on', 'qcow2', 'off', true],
    ['ignore', 'qcow2', 'on', false],
    ['off', 'qcow2', 'off', false],
    ['unmap', 'raw', '', true],
    ['ignore', 'raw', '', false],
  ])('%s, %s with journal=%s: space comes back: %s', async (mode, format, journal, comes) => {
    const name = `${mode}-${format}-${journal}`;
    const options = format === 'raw' ? [] : ['-o', `journal=${journal}`];
    must('qemu-img', ['create', '-q', '-f', 'raw', name, '16M'], folder);
    expect(qcow2(['create', '-q', '-f', format, ...options, name, '16M'], folder).status).toBe(0);
    const server = await startServer(['-t', '-k', 's', '-f', format, '--discard', mode, name], [], folder);
    const disk = 'nbd+unix:///?socket=s';
    must('qemu-io', ['-f', 'raw', '-d', 'unmap', '-c', 'write -P 9 0 12M', '-c', 'flush', disk], folder);
    const full = usedBytes(name);
    expect(full).toBeGreaterThanOrEqual(12 * mebibyte);
    must(
      'qemu-io',
      ['-f', 'raw', '-d', 'unmap', '-c', 'discard 2M 8M', '-c', 'flush', '-c', 'flush', disk],
      folder,
    );
    must('qemu-io', ['-f', 'raw', '-r', '-c', 'read -P 9 0 2M', '-c', 'read -P 9 10M 2M', disk], folder);
    expect(await server.end('SIGTERM')).toBe(0);
    const left = usedBytes(name);
    if (comes) expect(left).toBeLessThanOrEqual(full - 8 * mebibyte + 65_536);
    else expect(left).toBeGreaterThanOrEqual(full - 65_536);
    if (format === 'qcow2') expect(run('qemu-img', ['check', '-q', name], folder).status).toBe(0);
  });

  it('what a snapshot had comes back as with qemu-img, unless pass-discard-snapshot=off', () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', 'snapped', '16M'], folder);
    must('qemu-io', ['-c', 'write -P 9 0 8M', 'snapped'], folder);
    must('qemu-img', ['snapshot', '-c', 's', 'snapped'], folder);
    must('qemu-io', ['-c', 'write -P 8 0 8M', 'snapped'], folder);
    for (const [word, comes] of [
      ['', true],
      [',pass-discard-snapshot=on', true],
      [',pass-discard-snapshot=off', false],
    ] as const) {
      const left = [qcow2, (words: string[], where: typeof folder) => run('qemu-img', words, where)].map(
        (program, i) => {
          const name = `snapped-${i}`;
          must('cp', ['snapped', name], folder);
          const before = usedBytes(name);
          const list = `driver=qcow2,file.filename=${name}${word}`;
          expect(program(['snapshot', '-d', 's', '--image-opts', list], folder).stderr).toBe('');
          expect(run('qemu-img', ['check', '-q', name], folder).status).toBe(0);
          return before - usedBytes(name) >= 8 * mebibyte - 65_536;
        },
      );
      expect(left, word).toEqual([comes, comes]);
    }
  });

  it('takes no other word', () => {
    const { status, stderr } = qcow2(['serve', '--discard', 'maybe', 'x'], folder);
    expect([status, stderr]).toEqual([1, "qcow2: Invalid discard mode `maybe'\n"]);
  });
});
