import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { checkDecisions } from './decision-rules.ts';

const made: string[] = [];
afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true });
});

function found(files: Readonly<Record<string, string>>): string[] {
  const root = mkdtempSync(join(tmpdir(), 'qcow2-house-'));
  made.push(root);
  mkdirSync(join(root, 'docs/adr'), { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(root, 'docs/adr', name), text);
  return checkDecisions(root).map(({ path, message }) => `${path}: ${message}`);
}

describe('decisions', () => {
  it('have a number each, in name and title', () => {
    expect(found({ '0001-a.md': '# 1. A\n', '0012-b.md': '# 12. B\n' })).toEqual([]);
  });

  it('do not share one', () => {
    expect(found({ '0001-a.md': '# 1. A\n', '0001-b.md': '# 1. B\n' })).toEqual([
      'docs/adr/0001-b.md: 0001-a.md has this number, too',
    ]);
  });

  it('are not called otherwise', () => {
    expect(found({ '0002-a.md': '# 3. A\n', 'notes.md': '' })).toEqual([
      "docs/adr/0002-a.md: the title must begin with '# 2. '",
      'docs/adr/notes.md: the name is not that of a decision: 0001-what-it-says.md',
    ]);
  });
});
