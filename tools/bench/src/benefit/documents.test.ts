import { describe, expect, it } from 'vitest';
import { BenchmarkFailure } from '../failure.ts';
import { documentsOf, filledPage, page, readDocument, storedResult } from './documents.ts';

describe('docs/benefit.md', () => {
  const documents = documentsOf(storedResult(), readDocument(page));

  it.each([...documents.keys()])('%s says what the stored result says', (name) => {
    expect(readDocument(name)).toBe(documents.get(name));
  });

  it('shows every chart', () => {
    const charts = [...documents.keys()].filter((name) => name.endsWith('.svg'));
    expect(charts.length).toBeGreaterThan(0);
    for (const chart of charts) expect(readDocument(page)).toContain(`](${chart})`);
  });
});

describe('places for figures', () => {
  const text =
    'a\n<!-- figures: one -->\nold\n<!-- end of figures -->\nb\n<!-- figures: two -->\n<!-- end of figures -->\n';

  it('are filled, again and again, and what stands between them is left alone', () => {
    const sections = new Map([
      ['one', '1 $& $1'],
      ['two', '2'],
    ]);
    const filled = filledPage(text, sections);
    expect(filled).toBe(
      'a\n<!-- figures: one -->\n\n1 $& $1\n\n<!-- end of figures -->\nb\n<!-- figures: two -->\n\n2\n\n<!-- end of figures -->\n',
    );
    expect(filledPage(filled, sections)).toBe(filled);
  });

  it('are refused where nothing belongs to them, and missed where something does', () => {
    expect(() => filledPage(text, new Map([['one', '1']]))).toThrow(BenchmarkFailure);
    const three = new Map(['one', 'two', 'three'].map((name) => [name, name]));
    expect(() => filledPage(text, three)).toThrow(/no place for three/);
  });
});
