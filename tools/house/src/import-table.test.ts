import { describe, expect, test } from 'vitest';
import { parseImportTable } from './import-table.ts';

const head = '<!-- import-table -->\n\n| package | holds | imports | runs in |\n|---|---|---|---|\n';

describe('the import table', () => {
  test('is read from the marked table, wherever others stand', () => {
    const document = `| \`x\` | y | | browser |\n${head}| \`a\` | | | browser |\n| \`b\` | | \`a\` | Node |\n\n| \`c\` | |\n`;
    expect([...parseImportTable(document).values()]).toEqual([
      { room: 'a', imports: new Set(), browser: true },
      { room: 'b', imports: new Set(['a']), browser: false },
    ]);
  });

  test('goes one way: a row that names a later one, or itself, is refused', () => {
    expect(() => parseImportTable(`${head}| \`a\` | | \`b\` | Node |\n| \`b\` | | | Node |\n`)).toThrow(
      'a imports b, which does not stand above it',
    );
    expect(() => parseImportTable(`${head}| \`a\` | | \`a\` | Node |\n`)).toThrow('does not stand above it');
  });

  test('must be there', () => {
    expect(() => parseImportTable('# Architecture\n')).toThrow('no table marked');
    expect(() => parseImportTable('<!-- import-table -->\n')).toThrow('no table follows');
  });
});
