/**
 * Which clause is proven by which test, and whether the lists in docs/specs that say so are true:
 * `pending.md` (MUST clauses that no test cites yet), `unimplemented.md` (clauses that no code serves yet) and `clauses.lock`
 * (every id ever given). A list that says too much is as wrong as one that says too little.
 */
import { type Clause, clauseIdPattern } from './spec-document.ts';

/** A clause id in the title of a test. */
export interface Citation {
  readonly id: string;
  /** File and line of the title. */
  readonly place: string;
}

/** `- HDR-099: reason` */
export interface ListEntry {
  readonly id: string;
  readonly reason: string;
}

export interface CoverageInput {
  readonly clauses: readonly Clause[];
  readonly citations: readonly Citation[];
  readonly pending: readonly ListEntry[];
  readonly unimplemented: readonly ListEntry[];
  /** Ids of clauses.lock. */
  readonly locked: readonly string[];
}

const citation = new RegExp(`\\[(${clauseIdPattern}(?:, ${clauseIdPattern})*)\\]`, 'g');

/** The clauses cited by titles of `it(…)`, `test(…)` and their `.each(…)(…)` in the source of a test file. */
export function findCitations(path: string, source: string): Citation[] {
  return findTitles(source).flatMap(({ title, at }) => {
    const place = `${path}:${source.slice(0, at).split('\n').length}`;
    return [...title.matchAll(citation)].flatMap((match) =>
      (match[1] ?? '').split(', ').map((id) => ({ id, place })),
    );
  });
}

interface Title {
  readonly title: string;
  readonly at: number;
}

function findTitles(source: string): Title[] {
  const titles: Title[] = [];
  for (const call of source.matchAll(/(?<![\w.$])(?:it|test)((?:\.\w+)*)(?:<[^>()]*>)?\(/g)) {
    let open = call.index + call[0].length - 1;
    if (/\.(?:each|for|runIf|skipIf)$/.test(call[1] ?? '')) {
      // The table stands in the first parentheses, the title in those that follow.
      const next = source.slice(closing(source, open) + 1).search(/\S/);
      open = closing(source, open) + 1 + next;
      if (source[open] !== '(') continue;
    }
    const at = open + 1 + Math.max(0, source.slice(open + 1).search(/\S/));
    const quote = source[at] ?? '';
    if (!`'"\``.includes(quote)) continue;
    titles.push({ title: source.slice(at + 1, endOfString(source, at)), at });
  }
  return titles;
}

/** Position of the parenthesis that closes the one at `open`; strings and comments in between are stepped over. */
function closing(source: string, open: number): number {
  let depth = 0;
  for (let i = open; i < source.length; i++) {
    const char = source[i] ?? '';
    if (`'"\``.includes(char)) i = endOfString(source, i);
    else if (source.startsWith('//', i)) i = endOfComment(source, '\n', i);
    else if (source.startsWith('/*', i)) i = endOfComment(source, '*/', i);
    else if (char === '(') depth++;
    else if (char === ')' && --depth === 0) return i;
  }
  return source.length;
}

function endOfComment(source: string, end: string, start: number): number {
  const at = source.indexOf(end, start + 2);
  return at < 0 ? source.length : at + end.length - 1;
}

function endOfString(source: string, start: number): number {
  for (let i = start + 1; i < source.length; i++) {
    if (source[i] === '\\') i++;
    else if (source[i] === source[start]) return i;
  }
  return source.length;
}

/** Entries of a list file; a line that begins like one and is none becomes a problem. */
export function parseList(name: string, text: string): { entries: ListEntry[]; problems: string[] } {
  const entries: ListEntry[] = [];
  const problems: string[] = [];
  const shape = new RegExp(`^- (${clauseIdPattern}): (.*\\S)\\s*$`);
  text.split(/\r?\n/).forEach((line, index) => {
    const match = shape.exec(line);
    if (match !== null) entries.push({ id: match[1] ?? '', reason: match[2] ?? '' });
    else if (line.startsWith('- ')) problems.push(`${name}:${index + 1}: not of the shape "- ID: reason"`);
  });
  return { entries, problems };
}

/** Ids of clauses.lock, one to a line. */
export function parseLock(text: string): string[] {
  return text.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#'));
}

/** Everything that is not as the lists say; empty where all is well. */
export function checkCoverage(input: CoverageInput): string[] {
  const clauses = new Map(input.clauses.map((clause) => [clause.id, clause]));
  const cited = new Map(input.citations.map(({ id, place }) => [id, place]));
  const pending = new Set(input.pending.map((entry) => entry.id));
  return [
    ...duplicates('clauses', input.clauses),
    ...duplicates('pending.md', input.pending),
    ...duplicates('unimplemented.md', input.unimplemented),
    ...input.citations
      .filter(({ id }) => !clauses.has(id))
      .map(({ id, place }) => `${id}: cited in ${place}, and no document has such a clause`),
    ...unproven(input).map((clause) => `${clause.id}: no test cites it, and pending.md does not list it`),
    ...input.pending.flatMap(({ id }) => pendingFaults(id, clauses.get(id), cited.get(id))),
    ...input.unimplemented.flatMap(({ id }) => unimplementedFaults(id, clauses.get(id), pending.has(id))),
    ...lockFaults(input.locked, clauses),
  ];
}

/** MUST clauses that no test cites and that are not pending. */
export function unproven(input: CoverageInput): Clause[] {
  const cited = new Set(input.citations.map(({ id }) => id));
  const pending = new Set(input.pending.map(({ id }) => id));
  return input.clauses.filter(({ id, level }) => level === 'MUST' && !cited.has(id) && !pending.has(id));
}

function pendingFaults(id: string, clause: Clause | undefined, citedIn: string | undefined): string[] {
  if (clause === undefined) return [`${id}: pending.md lists it, and no document has such a clause`];
  if (clause.level !== 'MUST') return [`${id}: pending.md lists it, and it is no MUST`];
  return citedIn === undefined ? [] : [`${id}: pending.md lists it, and ${citedIn} cites it`];
}

function unimplementedFaults(id: string, clause: Clause | undefined, isPending: boolean): string[] {
  if (clause === undefined) return [`${id}: unimplemented.md lists it, and no document has such a clause`];
  if (clause.level === 'MUST' && !isPending)
    return [`${id}: unimplemented.md lists it, and pending.md does not`];
  return [];
}

function lockFaults(locked: readonly string[], clauses: ReadonlyMap<string, Clause>): string[] {
  const known = new Set(locked);
  return [
    ...(sorted(locked).join() === locked.join() ? [] : ['clauses.lock is not sorted']),
    ...duplicates(
      'clauses.lock',
      locked.map((id) => ({ id })),
    ),
    ...locked.filter((id) => !clauses.has(id)).map((id) => `${id}: given once, and gone from the documents`),
    ...[...clauses.keys()].filter((id) => !known.has(id)).map((id) => `${id}: not in clauses.lock`),
  ];
}

function duplicates(list: string, entries: readonly { readonly id: string }[]): string[] {
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const { id } of entries) (seen.has(id) ? twice : seen).add(id);
  return [...twice].map((id) => `${id}: twice in ${list}`);
}

/** In the order of code units, the same on every machine. */
export function sorted(ids: Iterable<string>): string[] {
  return [...ids].sort();
}
