/** `measure -o journal=…`: an image of that kind, written in full, is as long as was said; without a journal the figures are QEMU's (parity table). */
import { statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { hookLimitMs, launcher, must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const options = [
  'journal=on,journal_size=1M',
  'journal=on,journal_size=64k,cluster_size=4k',
  'journal=on',
  'journal=draft-2013,journal_size=1M',
] as const;

describeWith(['qemu-io'], 'measure of images with a journal', () => {
  const scratch = scratchFolder();
  const cwd = scratch.path;
  afterAll(() => scratch.remove());
  beforeAll(() => {
    const bytes = new Uint8Array(6 << 20);
    bytes.fill(1, 0, 2 << 20);
    writeFileSync(join(cwd, 'half.raw'), '');
    truncateSync(join(cwd, 'half.raw'), bytes.length);
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 1 0 2M', 'half.raw'], { cwd });
    writeFileSync(join(cwd, 'full.raw'), bytes.fill(1));
  }, hookLimitMs);

  it.each(options)('%s', (list) => {
    const [required, full] = ['half.raw', 'full.raw'].map((name) =>
      JSON.parse(must(launcher, ['measure', '--output=json', '-O', 'qcow2', '-o', list, name], { cwd })),
    );
    expect(required['fully-allocated']).toBe(full.required);
    for (const [name, measured] of [
      ['half.raw', required],
      ['full.raw', full],
    ] as const) {
      must(launcher, ['convert', '-O', 'qcow2', '-o', list, name, 'made.qcow2'], { cwd });
      const { size } = statSync(join(cwd, 'made.qcow2'));
      expect(size, name).toBeLessThanOrEqual(measured.required);
      expect(size, name).toBeGreaterThan(measured.required * 0.97);
    }
  });

  it('refuses what create refuses', () => {
    for (const list of [
      'journal=maybe',
      'journal_size=1M',
      'journal=on,journal_size=2G',
      'journal=on,compat=0.10',
    ]) {
      const [measured, made] = [
        qcow2(['measure', '-O', 'qcow2', '-o', list, '--size', '1M'], { cwd }),
        qcow2(['create', '-q', '-f', 'qcow2', '-o', list, 'x.qcow2', '1M'], { cwd }),
      ];
      expect(measured.status, list).toBe(1);
      expect(`qcow2: x.qcow2: ${measured.stderr.replace(/^qcow2: /, '')}`, list).toBe(made.stderr);
    }
  });
});
