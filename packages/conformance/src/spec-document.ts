/**
 * Reads a SPEC.md of docs/specs: its clauses, field tables, bit tables and constants, all of one fixed
 * shape (docs/specs/README.md). What does not have the shape is not guessed at: it becomes a problem, with its
 * line, and every problem of a document is reported at once.
 */
import type { FieldType, ReservedRule } from '@qcow2/spec';

export type ClauseLevel = 'MUST' | 'SHOULD' | 'NOTE';

export interface Clause {
  readonly id: string;
  readonly level: ClauseLevel;
  /** The sentence, its lines joined by single spaces. */
  readonly text: string;
  readonly line: number;
}

/** A field's range as the table's column says it. */
export interface RangeRule {
  readonly min?: number;
  readonly max?: number;
  readonly oneOf?: readonly number[];
  readonly multipleOf?: number | 'cluster';
}

export interface FieldRow {
  readonly name: string;
  readonly at: number;
  readonly lengthBytes: number;
  readonly type: FieldType;
  readonly sinceVersion: number | undefined;
  readonly optional: boolean;
  readonly range: RangeRule;
  readonly reserved: ReservedRule | undefined;
  readonly clause: string;
  readonly line: number;
}

export interface LayoutTable {
  readonly name: string;
  readonly sizeBytes: number;
  readonly fields: readonly FieldRow[];
  readonly line: number;
}

export interface BitRow {
  readonly name: string;
  readonly bit: number;
  readonly width: number;
  readonly reserved: ReservedRule | undefined;
  readonly clause: string;
  readonly line: number;
}

export interface BitTable {
  readonly name: string;
  readonly widthBits: number;
  readonly bits: readonly BitRow[];
  readonly line: number;
}

export interface ConstantRow {
  readonly name: string;
  readonly value: bigint;
  readonly clause: string;
  readonly line: number;
}

export interface ConstantTable {
  readonly name: string;
  readonly constants: readonly ConstantRow[];
  readonly line: number;
}

export interface SpecDocument {
  /** `qcow2` or `journal`: the folder in docs/specs. */
  readonly name: string;
  readonly title: string;
  readonly version: string;
  readonly clauses: readonly Clause[];
  readonly layouts: readonly LayoutTable[];
  readonly bits: readonly BitTable[];
  readonly constants: readonly ConstantTable[];
  /** What does not have the shape, as `NAME:LINE: what`. */
  readonly problems: readonly string[];
}

/** `HDR-012`, `JRN-COMMIT-004`, `L2E-001`. */
export const clauseIdPattern = '[A-Z][A-Z0-9]*(?:-[A-Z][A-Z0-9]*)?-\\d{3}';

const clauseStart = new RegExp(`^- \\*\\*(${clauseIdPattern})\\*\\* \\((MUST|SHOULD|NOTE)\\) (.*\\S)\\s*$`);
const looksLikeClause = /^\s*[-*] \*\*[A-Z]/;
const looksLikeTable = /^<!--\s*(layout|bits|constants)\b/;
const tableHead =
  /^<!-- (?:layout: (?<layout>[a-z0-9-]+), size (?<size>\d+)|bits: (?<bits>[a-z0-9-]+), width (?<width>8|16|32|64)|constants: (?<constants>[a-z0-9-]+)) -->$/;
const isClauseId = new RegExp(`^${clauseIdPattern}$`);

const columns = {
  layout: ['bytes', 'field', 'type', 'present', 'range', 'reserved', 'clause'],
  bits: ['bits', 'field', 'reserved', 'clause'],
  constants: ['name', 'value', 'clause'],
} as const;

const typeWidths: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, u64: 8, mask64: 8 };

interface Row {
  readonly line: number;
  readonly cells: readonly string[];
}

/** Reading one document: where a line has not the shape, `problem` notes it and reading goes on. */
class Reader {
  readonly name: string;
  readonly lines: readonly string[];
  private readonly problems: { readonly index: number; readonly what: string }[] = [];

  constructor(name: string, text: string) {
    this.name = name;
    this.lines = text.split(/\r?\n/);
  }

  /** `index` counts from 0, as in `lines`. */
  problem(index: number, what: string): void {
    this.problems.push({ index, what });
  }

  sortedProblems(): string[] {
    return this.problems
      .sort((a, b) => a.index - b.index)
      .map(({ index, what }) => `${this.name}:${index + 1}: ${what}`);
  }
}

/** Parse the text of a SPEC.md. Never throws: look at `problems`. */
export function parseSpec(name: string, text: string): SpecDocument {
  const reader = new Reader(name, text);
  const title = /^# (.+)$/.exec(reader.lines[0] ?? '')?.[1];
  if (title === undefined) reader.problem(0, 'the first line is not a title');
  const versionLine = reader.lines.slice(1, 6).find((line) => line.startsWith('Version: '));
  const version = /^Version: (\d+\.\d+)$/.exec(versionLine ?? '')?.[1];
  if (version === undefined) reader.problem(1, 'no line `Version: N.N` below the title');
  checkChanges(reader, version);
  const clauses = readClauses(reader);
  const tables = readTables(reader);
  return {
    name,
    title: title ?? '',
    version: version ?? '',
    clauses,
    ...tables,
    problems: reader.sortedProblems(),
  };
}

/** The list `## Changes` at the end names the version that the document has. */
function checkChanges(reader: Reader, version: string | undefined): void {
  const start = reader.lines.findIndex((line) => /^## Changes\s*$/.test(line));
  if (start < 0) {
    reader.problem(reader.lines.length - 1, 'no list `## Changes`');
  } else if (version !== undefined && !reader.lines.slice(start).some((line) => line.includes(version))) {
    reader.problem(start, `the changes do not name version ${version}`);
  }
}

function readClauses(reader: Reader): Clause[] {
  const clauses: Clause[] = [];
  const seen = new Map<string, number>();
  reader.lines.forEach((line, index) => {
    const match = clauseStart.exec(line);
    if (match === null) {
      if (looksLikeClause.test(line))
        reader.problem(index, 'looks like a clause and has not the shape of one');
      return;
    }
    const [, id = '', level, first = ''] = match;
    const earlier = seen.get(id);
    if (earlier !== undefined) reader.problem(index, `clause ${id} stands in line ${earlier} already`);
    seen.set(id, index + 1);
    const text = [first, ...continuation(reader.lines, index + 1)].join(' ');
    clauses.push({ id, level: level as ClauseLevel, text, line: index + 1 });
  });
  return clauses;
}

/** The indented lines that follow a list item. */
function continuation(lines: readonly string[], from: number): string[] {
  const rest: string[] = [];
  for (let i = from; /^\s+\S/.test(lines[i] ?? ''); i++) rest.push((lines[i] ?? '').trim());
  return rest;
}

function readTables(reader: Reader): Pick<SpecDocument, 'layouts' | 'bits' | 'constants'> {
  const layouts: LayoutTable[] = [];
  const bits: BitTable[] = [];
  const constants: ConstantTable[] = [];
  const names = new Set<string>();
  reader.lines.forEach((text, index) => {
    if (!looksLikeTable.test(text)) return;
    const groups = tableHead.exec(text.trimEnd())?.groups;
    if (groups === undefined) {
      reader.problem(index, 'a table comment that has not the shape of one');
      return;
    }
    const line = index + 1;
    const name = groups.layout ?? groups.bits ?? groups.constants ?? '';
    const kind = groups.layout !== undefined ? 'layout' : groups.bits !== undefined ? 'bits' : 'constants';
    if (names.has(`${kind} ${name}`)) reader.problem(index, `a second table of the ${kind} ${name}`);
    names.add(`${kind} ${name}`);
    const rows = readRows(reader, index + 1, columns[kind]);
    if (kind === 'layout') {
      const fields = rows.flatMap((row) => readField(reader, row) ?? []);
      layouts.push({ name, sizeBytes: Number(groups.size), fields, line });
    } else if (kind === 'bits') {
      const found = rows.flatMap((row) => readBits(reader, row) ?? []);
      bits.push({ name, widthBits: Number(groups.width), bits: found, line });
    } else {
      constants.push({ name, constants: rows.flatMap((row) => readConstant(reader, row) ?? []), line });
    }
  });
  return { layouts, bits, constants };
}

/** The rows of the table that begins at `start` (blank lines before it are allowed). */
function readRows(reader: Reader, start: number, expected: readonly string[]): Row[] {
  let index = start;
  while (index < reader.lines.length && reader.lines[index]?.trim() === '') index++;
  const head = splitRow(reader.lines[index] ?? '');
  if (head.join('|') !== expected.join('|')) {
    reader.problem(index, `the columns are not | ${expected.join(' | ')} |`);
    return [];
  }
  if (!/^\|(?:\s*:?-+:?\s*\|)+\s*$/.test(reader.lines[index + 1] ?? '')) {
    reader.problem(index + 1, 'no line of dashes below the columns');
    return [];
  }
  const rows: Row[] = [];
  for (let i = index + 2; (reader.lines[i] ?? '').startsWith('|'); i++) {
    const cells = splitRow(reader.lines[i] ?? '');
    if (cells.length === expected.length) rows.push({ line: i + 1, cells });
    else reader.problem(i, `${cells.length} cells in a table of ${expected.length} columns`);
  }
  if (rows.length === 0) reader.problem(index, 'a table without rows');
  return rows;
}

function splitRow(line: string): string[] {
  return line
    .trim()
    .replace(/^\|/, '')
    .replace(/\|$/, '')
    .split('|')
    .map((cell) => cell.trim().replace(/^`(.*)`$/, '$1'));
}

function readField(reader: Reader, { line, cells }: Row): FieldRow | undefined {
  const [bytes = '', name = '', type = '', present = '', range = '', reserved = '', clause = ''] = cells;
  const span = parseSpan(bytes);
  if (span === undefined) return void reader.problem(line - 1, `bytes "${bytes}"`);
  const [at, last] = span;
  const lengthBytes = last - at + 1;
  if (type !== 'bytes' && typeWidths[type] !== lengthBytes) {
    return void reader.problem(line - 1, `type "${type}" in ${lengthBytes} bytes`);
  }
  const presence = parsePresence(present);
  if (presence === undefined) return void reader.problem(line - 1, `present "${present}"`);
  const rangeRule = parseRange(range);
  if (rangeRule === undefined) return void reader.problem(line - 1, `range "${range}"`);
  const common = readCommon(reader, line, name, reserved, clause);
  if (common === undefined) return undefined;
  return { ...common, at, lengthBytes, type: type as FieldType, ...presence, range: rangeRule };
}

function readBits(reader: Reader, { line, cells }: Row): BitRow | undefined {
  const [bits = '', name = '', reserved = '', clause = ''] = cells;
  const span = parseSpan(bits);
  if (span === undefined) return void reader.problem(line - 1, `bits "${bits}"`);
  const common = readCommon(reader, line, name, reserved, clause);
  if (common === undefined) return undefined;
  return { ...common, bit: span[0], width: span[1] - span[0] + 1 };
}

function readConstant(reader: Reader, { line, cells }: Row): ConstantRow | undefined {
  const [name = '', value = '', clause = ''] = cells;
  const number = parseInteger(value);
  if (number === undefined) return void reader.problem(line - 1, `value "${value}"`);
  const common = readCommon(reader, line, name, '', clause);
  return common === undefined ? undefined : { name, value: number, clause, line };
}

/** What the rows of all tables have: a name, a reserved rule, a clause id. */
function readCommon(reader: Reader, line: number, name: string, reserved: string, clause: string) {
  if (!/^[a-zA-Z][a-zA-Z0-9]*$/.test(name)) return void reader.problem(line - 1, `name "${name}"`);
  if (!isClauseId.test(clause)) return void reader.problem(line - 1, `clause "${clause}"`);
  const rule = parseReserved(reserved);
  if (rule === 'unknown') return void reader.problem(line - 1, `reserved "${reserved}"`);
  return { name, reserved: rule, clause, line };
}

function parseReserved(text: string): ReservedRule | undefined | 'unknown' {
  if (text === '') return undefined;
  if (text === 'must be zero') return 'must-be-zero';
  return text === 'ignored' || text === 'preserved' ? text : 'unknown';
}

/** `0-3` or `100`: first and last, inclusive. */
function parseSpan(text: string): readonly [number, number] | undefined {
  const match = /^(\d+)(?:-(\d+))?$/.exec(text);
  if (match === null) return undefined;
  const first = Number(match[1]);
  const last = Number(match[2] ?? match[1]);
  return last < first ? undefined : [first, last];
}

function parsePresence(text: string): { sinceVersion: number | undefined; optional: boolean } | undefined {
  const match = /^(?:v(\d+))?(?:, )?(optional)?$/.exec(text);
  if (match === null || text.startsWith(',') || text.endsWith(', ')) return undefined;
  return {
    sinceVersion: match[1] === undefined ? undefined : Number(match[1]),
    optional: match[2] !== undefined,
  };
}

/** The rules of a range column, or undefined where one of them is not known. */
export function parseRange(text: string): RangeRule | undefined {
  if (text === '') return {};
  // Commas stand between rules, and inside a set.
  const parts = text.split(/,\s*(?![^{]*\})/);
  const rules = parts.map(parseRangePart);
  if (rules.some((rule) => rule === undefined)) return undefined;
  return Object.assign({}, ...rules);
}

function parseRangePart(text: string): RangeRule | undefined {
  if (text === 'multiple of cluster') return { multipleOf: 'cluster' };
  const multiple = /^multiple of (\S+)$/.exec(text)?.[1];
  if (multiple !== undefined) return withNumbers([multiple], ([multipleOf = 0]) => ({ multipleOf }));
  const single = /^= (\S+)$/.exec(text)?.[1];
  if (single !== undefined) return withNumbers([single], (oneOf) => ({ oneOf }));
  const set = /^\{(.+)\}$/.exec(text)?.[1];
  if (set !== undefined) return withNumbers(set.split(/,\s*/), (oneOf) => ({ oneOf }));
  const interval = /^(\w*)\.\.(\w*)$/.exec(text);
  if (interval === null || text === '..') return undefined;
  const [, low = '', high = ''] = interval;
  return withNumbers([low || '0', high || '0'], ([min = 0, max = 0]) => ({
    ...(low === '' ? {} : { min }),
    ...(high === '' ? {} : { max }),
  }));
}

function withNumbers(texts: readonly string[], make: (values: number[]) => RangeRule): RangeRule | undefined {
  const values = texts.map(parseInteger);
  return values.every((value) => value !== undefined) ? make(values.map(Number)) : undefined;
}

/** Decimal or hexadecimal, with `_` between digits allowed. */
function parseInteger(text: string): bigint | undefined {
  return /^(?:0x[0-9a-fA-F_]+|\d[\d_]*)$/.test(text) ? BigInt(text.replaceAll('_', '')) : undefined;
}
