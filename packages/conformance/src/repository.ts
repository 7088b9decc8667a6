/**
 * What the checks of clauses read from the working tree: the documents and lists of docs/specs, and the
 * sources in which titles of tests stand. Needs a clone; the published package has neither.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { type Citation, type CoverageInput, findCitations, parseList, parseLock } from './clause-coverage.ts';
import { parseSpec, type SpecDocument } from './spec-document.ts';

export const repositoryRoot = join(import.meta.dirname, '..', '..', '..');
export const specsFolder = join(repositoryRoot, 'docs', 'specs');
export const documentNames = ['qcow2', 'journal', 'luks'] as const;
export type DocumentName = (typeof documentNames)[number];

/** Folders of a package that hold no source of its own. */
const skippedFolders: ReadonlySet<string> = new Set([
  'node_modules',
  'dist',
  'fixtures',
  'vectors',
  'coverage',
]);

/** Parse docs/specs/NAME/SPEC.md. */
export function readDocument(name: DocumentName): SpecDocument {
  return parseSpec(name, readFileSync(join(specsFolder, name, 'SPEC.md'), 'utf8'));
}

/** Citations in every TypeScript source of packages and tools: suites that are exported stand outside of test files. */
export function readCitations(): Citation[] {
  const citations: Citation[] = [];
  for (const group of ['packages', 'tools']) {
    for (const path of sourcesBelow(join(repositoryRoot, group))) {
      citations.push(...findCitations(relative(repositoryRoot, path), readFileSync(path, 'utf8')));
    }
  }
  return citations;
}

/** Everything that `checkCoverage` asks for, and what in the lists has not the shape of an entry. */
export function readCoverage(
  documents: readonly SpecDocument[],
): CoverageInput & { readonly problems: string[] } {
  const pending = parseList('pending.md', readList('pending.md'));
  const unimplemented = parseList('unimplemented.md', readList('unimplemented.md'));
  return {
    clauses: documents.flatMap((document) => document.clauses),
    citations: readCitations(),
    pending: pending.entries,
    unimplemented: unimplemented.entries,
    locked: parseLock(readList('clauses.lock')),
    problems: [...pending.problems, ...unimplemented.problems],
  };
}

function readList(name: string): string {
  const path = join(specsFolder, name);
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}

function sourcesBelow(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return skippedFolders.has(entry.name) ? [] : sourcesBelow(path);
    return entry.name.endsWith('.ts') ? [path] : [];
  });
}
