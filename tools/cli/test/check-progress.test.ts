/** How far `check` and `dd` are, for programs and for people. No other program is needed. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { scratchFolder } from './support/command.ts';
import { runHere } from './support/run-here.ts';

const folder = scratchFolder();
afterAll(() => folder.remove());
const at = (name: string): string => join(folder.path, name);

const run = (...words: string[]) => runHere(words);

describe('progress', () => {
  it('of a check goes beside its report', async () => {
    await run('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', at('disk.qcow2'), '64M');
    const fileBytes = readFileSync(at('disk.qcow2')).length;
    for (const words of [['check'], ['check', '-r', 'all']]) {
      const plain = await run(...words, '--output=json', at('disk.qcow2'));
      const shown = await run(...words, '--output=json', '--progress=json', at('disk.qcow2'));
      expect(shown.out).toBe(plain.out);
      const lines = shown.err
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line));
      expect(lines.at(-1)).toMatchObject({ done: fileBytes, total: fileBytes, percent: 100 });
      expect((await run(...words, '-q', '-p', at('disk.qcow2'))).err).toBe('');
    }
  });

  it('of dd counts what is copied', async () => {
    const operands = [`if=${at('disk.qcow2')}`, `of=${at('part.raw')}`, 'bs=1M', 'skip=1', 'count=3'];
    const { status, out } = await run('dd', '--progress=json', '-O', 'raw', ...operands);
    expect(status).toBe(0);
    expect(JSON.parse(out.trim().split('\n').at(-1)!)).toMatchObject({ done: 2 << 20, total: 2 << 20 });
    expect((await run('dd', '-p', '-O', 'raw', ...operands)).out).toContain('(100.00/100%)');
  });
});
