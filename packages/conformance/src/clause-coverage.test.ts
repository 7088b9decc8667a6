import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type CoverageInput, checkCoverage, findCitations, parseList, parseLock } from './clause-coverage.ts';
import type { Clause, ClauseLevel } from './spec-document.ts';

const clause = (id: string, level: ClauseLevel = 'MUST'): Clause => ({ id, level, text: '', line: 1 });
const cite = (id: string) => ({ id, place: 'a.test.ts:1' });
const entry = (id: string) => ({ id, reason: 'not yet' });

const whole: CoverageInput = {
  clauses: [clause('FIX-001'), clause('FIX-002'), clause('FIX-003', 'SHOULD'), clause('FIX-004')],
  citations: [cite('FIX-001'), cite('FIX-003')],
  pending: [entry('FIX-002'), entry('FIX-004')],
  unimplemented: [entry('FIX-004'), entry('FIX-003')],
  locked: ['FIX-001', 'FIX-002', 'FIX-003', 'FIX-004'],
};

describe('findCitations', () => {
  it('reads the titles of tests and nothing else', () => {
    const source = readFileSync(join(import.meta.dirname, '..', 'test', 'fixtures', 'titles.txt'), 'utf8');
    expect(findCitations('titles.txt', source).map(({ id, place }) => `${id} ${place}`)).toEqual([
      'FIX-001 titles.txt:3',
      'FIX-002 titles.txt:4',
      'FIX-003 titles.txt:4',
      'FIX-004 titles.txt:4',
      'FIX-005 titles.txt:9',
      'FIX-006 titles.txt:11',
      'FIX-007 titles.txt:12',
      'FIX-008 titles.txt:13',
    ]);
  });
});

describe('lists', () => {
  it('are read entry by entry, and what is none is reported', () => {
    const { entries, problems } = parseList(
      'pending.md',
      '# Pending\n\n- FIX-001: because\n- FIX-002 because\n- FIX-003:\n',
    );
    expect(entries).toEqual([{ id: 'FIX-001', reason: 'because' }]);
    expect(problems).toEqual([
      'pending.md:4: not of the shape "- ID: reason"',
      'pending.md:5: not of the shape "- ID: reason"',
    ]);
    expect(parseLock('# ids\nA-001\n\nB-001\n')).toEqual(['A-001', 'B-001']);
  });
});

describe('checkCoverage', () => {
  it('finds nothing where the lists are true', () => {
    expect(checkCoverage(whole)).toEqual([]);
  });

  it.each<[string, Partial<CoverageInput>, string]>([
    [
      'an unproven MUST',
      { pending: [entry('FIX-004')] },
      'FIX-002: no test cites it, and pending.md does not list it',
    ],
    [
      'a pending clause that is proven',
      { citations: [...whole.citations, cite('FIX-002')] },
      'FIX-002: pending.md lists it, and a.test.ts:1 cites it',
    ],
    [
      'an unknown clause in a title',
      { citations: [...whole.citations, cite('FIX-099')] },
      'FIX-099: cited in a.test.ts:1, and no document has such a clause',
    ],
    [
      'an unknown clause in pending.md',
      { pending: [...whole.pending, entry('FIX-099')] },
      'FIX-099: pending.md lists it, and no document has such a clause',
    ],
    [
      'a SHOULD in pending.md',
      { pending: [...whole.pending, entry('FIX-003')] },
      'FIX-003: pending.md lists it, and it is no MUST',
    ],
    [
      'an entry that stands twice',
      { pending: [...whole.pending, entry('FIX-002')] },
      'FIX-002: twice in pending.md',
    ],
    [
      'an unknown clause in unimplemented.md',
      { unimplemented: [entry('FIX-099')] },
      'FIX-099: unimplemented.md lists it, and no document has such a clause',
    ],
    [
      'an unimplemented MUST that is not pending',
      { unimplemented: [entry('FIX-001')] },
      'FIX-001: unimplemented.md lists it, and pending.md does not',
    ],
    [
      'a clause that stands twice',
      { clauses: [...whole.clauses, clause('FIX-001')] },
      'FIX-001: twice in clauses',
    ],
    [
      'an id that vanished',
      { locked: ['FIX-000', ...whole.locked] },
      'FIX-000: given once, and gone from the documents',
    ],
    ['an id that is not in the lock', { locked: whole.locked.slice(1) }, 'FIX-001: not in clauses.lock'],
    ['a lock out of order', { locked: whole.locked.toReversed() }, 'clauses.lock is not sorted'],
  ])('finds %s', (_, change, problem) => {
    expect(checkCoverage({ ...whole, ...change })).toEqual([problem]);
  });
});
