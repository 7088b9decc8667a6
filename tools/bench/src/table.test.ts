import { describe, expect, it } from 'vitest';
import { compactTable, countText, ratioText, tableText } from './table.ts';

describe('tables', () => {
  it('pads columns to one width', () => {
    expect(
      tableText(
        ['case', 'ours'],
        [
          ['read', '12'],
          ['a longer one', '3,456'],
        ],
      ),
    ).toBe(
      [
        '| case         |  ours |',
        '|--------------|------:|',
        '| read         |    12 |',
        '| a longer one | 3,456 |',
      ].join('\n'),
    );
  });

  it('leaves cells as they are in a document', () => {
    expect(compactTable(['case', 'ours'], [['a longer one', '']])).toBe(
      ['| case | ours |', '|---|--:|', '| a longer one |  |'].join('\n'),
    );
  });

  it('shows a ratio with its spread', () => {
    expect(ratioText({ median: 1.4251, min: 1, max: 2.5 })).toBe('1.43 [1.00–2.50]');
  });

  it('shows counts without digits that mean nothing', () => {
    expect([0.5, 99.994, 1234.5, Number.NaN].map(countText)).toEqual(['0.50', '99.99', '1,235', '–']);
  });
});
