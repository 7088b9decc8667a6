/** The law and the code say the same: tables against layouts, clauses against the titles of tests, lists against both. */
import { bitLayouts, constantTables, layouts } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkCoverage } from '../src/clause-coverage.ts';
import { compareTables } from '../src/layout-comparison.ts';
import { documentNames, readCoverage, readDocument } from '../src/repository.ts';

const documents = documentNames.map(readDocument);

describe.each(documents)('docs/specs/$name/SPEC.md', (document) => {
  it('has the fixed shape', () => {
    expect(document.problems).toEqual([]);
    expect(document.clauses.length).toBeGreaterThan(0);
  });

  it('has the tables of @qcow2/spec, field by field, and no others', () => {
    const ofDocument = <T extends { readonly document: string }>(tables: Readonly<Record<string, T>>) =>
      Object.fromEntries(Object.entries(tables).filter(([, table]) => table.document === document.name));
    const named = new Set(document.constants.map((table) => table.name));
    const constants = Object.entries(constantTables).filter(([name]) => named.has(name));
    const code = {
      layouts: ofDocument(layouts),
      bitLayouts: ofDocument(bitLayouts),
      constantTables: Object.fromEntries(constants),
    };
    expect(compareTables(document, code)).toEqual([]);
  });
});

describe('docs/specs', () => {
  it('has every table of constants of @qcow2/spec in exactly one document', () => {
    const names = documents.flatMap((document) => document.constants.map((table) => table.name));
    expect(names.sort()).toEqual(Object.keys(constantTables).sort());
  });

  it('has lists that say what is true: pending.md, unimplemented.md, clauses.lock', () => {
    const coverage = readCoverage(documents);
    expect([...coverage.problems, ...checkCoverage(coverage)]).toEqual([]);
  });
});
