import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseRange, parseSpec } from './spec-document.ts';

const fixture = (name: string) =>
  parseSpec('fixture', readFileSync(join(import.meta.dirname, '..', 'test', 'fixtures', name), 'utf8'));

describe('parseSpec', () => {
  const whole = fixture('whole.md');

  it('reads title, version and clauses, sentences that go on included', () => {
    expect(whole.problems).toEqual([]);
    expect([whole.title, whole.version]).toEqual(['A format for tests', '1.2']);
    expect(whole.clauses).toEqual([
      { id: 'FIX-001', level: 'MUST', text: 'The head begins with the magic.', line: 7 },
      {
        id: 'FIX-002',
        level: 'MUST',
        text: 'The size is a multiple of 8, and the sentence goes on in two more lines.',
        line: 8,
      },
      { id: 'FIX-BIT-001', level: 'SHOULD', text: 'Bits that nobody gave a name are kept.', line: 11 },
      { id: 'FIX-BIT-002', level: 'NOTE', text: 'A note binds nobody.', line: 12 },
    ]);
  });

  it('reads field tables', () => {
    const plain = { sinceVersion: undefined, optional: false, reserved: undefined, clause: 'FIX-001' };
    expect(whole.layouts).toEqual([
      {
        name: 'fixture-head',
        sizeBytes: 16,
        line: 14,
        fields: [
          {
            ...plain,
            name: 'magic',
            at: 0,
            lengthBytes: 4,
            type: 'u32',
            range: { oneOf: [0x514649fb] },
            line: 18,
          },
          { ...plain, name: 'kind', at: 4, lengthBytes: 2, type: 'u16', range: { oneOf: [2, 3] }, line: 19 },
          {
            ...plain,
            name: 'order',
            at: 6,
            lengthBytes: 1,
            type: 'u8',
            sinceVersion: 3,
            range: { min: 9, max: 21 },
            clause: 'FIX-002',
            line: 20,
          },
          {
            name: 'padding',
            at: 7,
            lengthBytes: 1,
            type: 'u8',
            sinceVersion: 3,
            optional: true,
            range: {},
            reserved: 'must-be-zero',
            clause: 'FIX-002',
            line: 21,
          },
          {
            ...plain,
            name: 'size',
            at: 8,
            lengthBytes: 8,
            type: 'u64',
            optional: true,
            range: { min: 1, multipleOf: 8 },
            clause: 'FIX-002',
            line: 22,
          },
        ],
      },
    ]);
  });

  it('reads bit tables and constants', () => {
    expect(whole.bits).toEqual([
      {
        name: 'fixture-entry',
        widthBits: 16,
        line: 24,
        bits: [
          { name: 'offset', bit: 0, width: 15, reserved: undefined, clause: 'FIX-002', line: 27 },
          { name: 'kept', bit: 15, width: 1, reserved: 'preserved', clause: 'FIX-BIT-001', line: 28 },
        ],
      },
    ]);
    expect(whole.constants).toEqual([
      {
        name: 'fixture-limits',
        line: 30,
        constants: [
          { name: 'most', value: 0x10000n, clause: 'FIX-002', line: 33 },
          { name: 'least', value: 1n, clause: 'FIX-002', line: 34 },
        ],
      },
    ]);
  });

  it('reports all that has not the shape, with its line, and goes on', () => {
    expect(fixture('broken.md').problems).toEqual([
      'fixture:1: the first line is not a title',
      'fixture:2: no line `Version: N.N` below the title',
      'fixture:3: looks like a clause and has not the shape of one',
      'fixture:5: clause FIX-002 stands in line 4 already',
      'fixture:7: a table comment that has not the shape of one',
      'fixture:10: the columns are not | bytes | field | type | present | range | reserved | clause |',
      'fixture:17: bytes "3-0"',
      'fixture:18: type "u16" in 4 bytes',
      'fixture:19: present "later"',
      'fixture:20: range "about 4"',
      'fixture:21: reserved "kept"',
      'fixture:22: clause "FIX-2"',
      'fixture:23: name "a b"',
      'fixture:24: 3 cells in a table of 7 columns',
      'fixture:31: a second table of the bits twice',
      'fixture:34: bits "x"',
      'fixture:39: value "many"',
      'fixture:40: no list `## Changes`',
    ]);
  });
});

describe('parseRange', () => {
  it.each([
    ['', {}],
    ['= 4', { oneOf: [4] }],
    ['{0x2, 3,4}', { oneOf: [2, 3, 4] }],
    ['0..63', { min: 0, max: 63 }],
    ['1..', { min: 1 }],
    ['..8', { max: 8 }],
    ['multiple of 0x200', { multipleOf: 512 }],
    ['1..16, multiple of cluster', { min: 1, max: 16, multipleOf: 'cluster' }],
    ['{2, 3}, multiple of 1', { oneOf: [2, 3], multipleOf: 1 }],
  ])('%j', (text, rule) => {
    expect(parseRange(text)).toEqual(rule);
  });

  it.each(['..', '4', '= four', '9 to 21', '1..2..3', 'multiple of', '{}', '1..,'])(
    'does not know %j',
    (text) => {
      expect(parseRange(text)).toBeUndefined();
    },
  );
});
