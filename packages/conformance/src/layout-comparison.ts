/**
 * Compares the tables of a SPEC.md with the layouts of `@qcow2/spec`, in both directions: what only one of
 * the two has is a problem as much as what they say differently.
 */
import type { BitField, BitLayout, Field, Layout } from '@qcow2/spec';
import type {
  BitRow,
  BitTable,
  ConstantTable,
  FieldRow,
  LayoutTable,
  SpecDocument,
} from './spec-document.ts';

/** Named values as `@qcow2/spec` exports them. */
export type Constants = Readonly<Record<string, number | bigint>>;

/** The code's side: what stands in one document. */
export interface CodeTables {
  readonly layouts: Readonly<Record<string, Layout>>;
  readonly bitLayouts: Readonly<Record<string, BitLayout>>;
  readonly constantTables: Readonly<Record<string, Constants>>;
}

/** Every difference, as `DOCUMENT: TABLE: what`; empty where the two agree. */
export function compareTables(spec: SpecDocument, code: CodeTables): string[] {
  const known = new Set(spec.clauses.map((clause) => clause.id));
  const unknownClause = (clause: string): string[] =>
    known.has(clause) ? [] : [`clause ${clause} does not exist`];
  const problems = [
    ...match(spec.layouts, code.layouts, 'layout', (table, layout) => [
      ...compareLayout(table, layout),
      ...unknownClause(layout.clause),
      ...table.fields.flatMap((row) => unknownClause(row.clause)),
    ]),
    ...match(spec.bits, code.bitLayouts, 'bits', (table, layout) => [
      ...compareBitLayout(table, layout),
      ...unknownClause(layout.clause),
      ...table.bits.flatMap((row) => unknownClause(row.clause)),
    ]),
    ...match(spec.constants, code.constantTables, 'constants', (table, constants) => [
      ...compareConstants(table, constants),
      ...table.constants.flatMap((row) => unknownClause(row.clause)),
    ]),
  ];
  return problems.map((problem) => `${spec.name}: ${problem}`);
}

/** Pair by name what the document and the code have. */
function match<T extends { readonly name: string }, C>(
  tables: readonly T[],
  code: Readonly<Record<string, C>>,
  kind: string,
  compare: (table: T, value: C) => string[],
): string[] {
  const named = new Map(tables.map((table) => [table.name, table]));
  const missing = Object.keys(code).filter((name) => !named.has(name));
  return [
    ...missing.map((name) => `${kind} ${name}: the document does not have it`),
    ...tables.flatMap((table) => {
      const value = code[table.name];
      const differences = value === undefined ? ['the code does not have it'] : compare(table, value);
      return differences.map((difference) => `${kind} ${table.name}: ${difference}`);
    }),
  ];
}

function compareLayout(table: LayoutTable, layout: Layout): string[] {
  const fields = Object.fromEntries(layout.fields.map((field) => [field.name, field]));
  return [
    ...differs('name', table.name, layout.name),
    ...differs('size', table.sizeBytes, layout.sizeBytes),
    ...differs('order of fields', names(table.fields), names(layout.fields)),
    ...match(table.fields, fields, 'field', compareField),
    ...gaps(
      table.fields.map(({ name, at, lengthBytes }) => ({ name, at, length: lengthBytes })),
      table.sizeBytes,
    ),
  ];
}

const fieldWidths = { u8: 1, u16: 2, u32: 4, u64: 8, mask64: 8 } as const;

function compareField(row: FieldRow, field: Field): string[] {
  const lengthBytes = field.type === 'bytes' ? field.lengthBytes : fieldWidths[field.type];
  return [
    ...differs('byte', row.at, field.at),
    ...differs('length', row.lengthBytes, lengthBytes),
    ...differs('type', row.type, field.type),
    ...differs('version', row.sinceVersion, field.sinceVersion),
    ...differs('optional', row.optional, field.optional ?? false),
    ...differs('minimum', row.range.min, field.min),
    ...differs('maximum', row.range.max, field.max),
    ...differs('values', row.range.oneOf?.join(), field.oneOf?.join()),
    ...differs('multiple of', row.range.multipleOf, field.multipleOf),
    ...differs('reserved', row.reserved, field.reserved),
    ...differs('clause', row.clause, field.clause),
  ];
}

function compareBitLayout(table: BitTable, layout: BitLayout): string[] {
  const bits = Object.fromEntries(layout.bits.map((field) => [field.name, field]));
  return [
    ...differs('name', table.name, layout.name),
    ...differs('width', table.widthBits, layout.widthBits),
    ...differs('order of fields', names(table.bits), names(layout.bits)),
    ...match(table.bits, bits, 'field', compareBits),
    ...gaps(
      table.bits.map(({ name, bit, width }) => ({ name, at: bit, length: width })),
      table.widthBits,
    ),
  ];
}

function compareBits(row: BitRow, field: BitField): string[] {
  return [
    ...differs('bit', row.bit, field.bit),
    ...differs('width', row.width, field.width),
    ...differs('reserved', row.reserved, field.reserved),
    ...differs('clause', row.clause, field.clause),
  ];
}

function compareConstants(table: ConstantTable, constants: Constants): string[] {
  return match(table.constants, constants, 'constant', (row, value) =>
    differs('value', row.value, BigInt(value)),
  );
}

/** A structure is described whole: its fields touch, and end where it ends. */
function gaps(fields: readonly { name: string; at: number; length: number }[], size: number): string[] {
  const problems: string[] = [];
  let next = 0;
  for (const { name, at, length } of fields) {
    if (at !== next) problems.push(`${name} begins at ${at} and the field before it ends at ${next}`);
    next = at + length;
  }
  if (next !== size) problems.push(`the fields end at ${next} of ${size}`);
  return problems;
}

function names(fields: readonly { readonly name: string }[]): string {
  return fields.map((field) => field.name).join(' ');
}

type Value = string | number | bigint | boolean | undefined;

function differs(what: string, inDocument: Value, inCode: Value): string[] {
  return inDocument === inCode
    ? []
    : [`${what}: the document says ${show(inDocument)}, the code ${show(inCode)}`];
}

function show(value: Value): string {
  return value === undefined ? 'nothing' : `${value}`;
}
