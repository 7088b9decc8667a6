import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type BitLayout, defineBits, defineLayout, type Field, type Layout } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { type CodeTables, compareTables } from './layout-comparison.ts';
import { parseSpec } from './spec-document.ts';

const text = readFileSync(join(import.meta.dirname, '..', 'test', 'fixtures', 'whole.md'), 'utf8');
const spec = parseSpec('fixture', text);

const head: Layout = defineLayout({
  name: 'fixture-head',
  document: 'qcow2',
  clause: 'FIX-001',
  sizeBytes: 16,
  fields: [
    { name: 'magic', at: 0, type: 'u32', oneOf: [0x514649fb], clause: 'FIX-001' },
    { name: 'kind', at: 4, type: 'u16', oneOf: [2, 3], clause: 'FIX-001' },
    { name: 'order', at: 6, type: 'u8', min: 9, max: 21, sinceVersion: 3, clause: 'FIX-002' },
    {
      name: 'padding',
      at: 7,
      type: 'u8',
      sinceVersion: 3,
      optional: true,
      reserved: 'must-be-zero',
      clause: 'FIX-002',
    },
    { name: 'size', at: 8, type: 'u64', optional: true, min: 1, multipleOf: 8, clause: 'FIX-002' },
  ],
});

const entry: BitLayout = defineBits({
  name: 'fixture-entry',
  document: 'qcow2',
  clause: 'FIX-002',
  widthBits: 16,
  bits: [
    { name: 'offset', bit: 0, width: 15, clause: 'FIX-002' },
    { name: 'kept', bit: 15, width: 1, reserved: 'preserved', clause: 'FIX-BIT-001' },
  ],
});

const code: CodeTables = {
  layouts: { 'fixture-head': head },
  bitLayouts: { 'fixture-entry': entry },
  constantTables: { 'fixture-limits': { most: 65536, least: 1n } },
};

function withField(name: string, change: Partial<Field>): CodeTables {
  const fields = head.fields.map((field) => (field.name === name ? { ...field, ...change } : field));
  return { ...code, layouts: { 'fixture-head': { ...head, fields } } };
}

describe('compareTables', () => {
  it('finds nothing where document and code agree', () => {
    expect(compareTables(spec, code)).toEqual([]);
  });

  it.each<[string, Partial<Field>, string]>([
    ['kind', { at: 5 }, 'byte: the document says 4, the code 5'],
    ['kind', { type: 'u32' }, 'length: the document says 2, the code 4'],
    ['kind', { type: 'bytes', lengthBytes: 2 }, 'type: the document says u16, the code bytes'],
    ['kind', { sinceVersion: 3 }, 'version: the document says nothing, the code 3'],
    ['kind', { optional: true }, 'optional: the document says false, the code true'],
    ['kind', { oneOf: [2] }, 'values: the document says 2,3, the code 2'],
    ['order', { min: 8 }, 'minimum: the document says 9, the code 8'],
    ['order', { max: 22 }, 'maximum: the document says 21, the code 22'],
    ['size', { multipleOf: 'cluster' }, 'multiple of: the document says 8, the code cluster'],
    ['padding', { reserved: 'ignored' }, 'reserved: the document says must-be-zero, the code ignored'],
    ['kind', { clause: 'FIX-002' }, 'clause: the document says FIX-001, the code FIX-002'],
  ])('finds that field %s differs: %j', (name, change, difference) => {
    expect(compareTables(spec, withField(name, change))).toContain(
      `fixture: layout fixture-head: field ${name}: ${difference}`,
    );
  });

  it('finds a field and a table that only one of the two has', () => {
    const shorter = { ...head, sizeBytes: 8, fields: head.fields.slice(0, 4) };
    const problems = compareTables(spec, {
      ...code,
      layouts: { 'fixture-head': shorter, other: head },
      bitLayouts: {},
    });
    expect(problems).toEqual([
      'fixture: layout other: the document does not have it',
      'fixture: layout fixture-head: size: the document says 16, the code 8',
      'fixture: layout fixture-head: order of fields: the document says magic kind order padding size, the code magic kind order padding',
      'fixture: layout fixture-head: field size: the code does not have it',
      'fixture: bits fixture-entry: the code does not have it',
    ]);
  });

  it('finds differences of bits and of constants', () => {
    const bits = { ...entry, widthBits: 8 as const, bits: entry.bits.map((bit) => ({ ...bit, width: 2 })) };
    const problems = compareTables(spec, {
      ...code,
      bitLayouts: { 'fixture-entry': bits },
      constantTables: { 'fixture-limits': { most: 65535, extra: 1 } },
    });
    expect(problems).toEqual([
      'fixture: bits fixture-entry: width: the document says 16, the code 8',
      'fixture: bits fixture-entry: field offset: width: the document says 15, the code 2',
      'fixture: bits fixture-entry: field kept: width: the document says 1, the code 2',
      'fixture: constants fixture-limits: constant extra: the document does not have it',
      'fixture: constants fixture-limits: constant most: value: the document says 65536, the code 65535',
      'fixture: constants fixture-limits: constant least: the code does not have it',
    ]);
  });

  it('finds a clause that does not exist', () => {
    const problems = compareTables({ ...spec, clauses: spec.clauses.slice(1) }, code);
    expect(problems).toContain('fixture: layout fixture-head: clause FIX-001 does not exist');
  });

  it('finds a table with a hole, although the code has the same hole', () => {
    const holey = parseSpec('fixture', text.replace(/^\| 4-5 .*\n/m, ''));
    const fields = head.fields.filter((field) => field.name !== 'kind');
    expect(compareTables(holey, { ...code, layouts: { 'fixture-head': { ...head, fields } } })).toEqual([
      'fixture: layout fixture-head: order begins at 6 and the field before it ends at 4',
    ]);
  });
});
