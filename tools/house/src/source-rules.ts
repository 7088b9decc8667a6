/**
 * Rules about files one by one: errors with codes, sizes, rejected words, and nothing in a document or a source
 * that only holds on the machine where it was written.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Finding, finding, warning } from './finding.ts';
import { namesIn, tableAfter } from './markdown-table.ts';
import { readSyntax } from './syntax.ts';
import { filesBelow, type Workspace } from './workspace.ts';

const plainErrors = new Set(['Error', 'TypeError', 'RangeError', 'EvalError', 'AggregateError']);
const guidanceLines = 600;
const limitLines = 1000;

/** Sources throw the classes of `@qcow2/spec`, each with a code of the table; the house has a class of its own. */
export function checkErrors(workspace: Workspace): Finding[] {
  const found: Finding[] = [];
  for (const file of workspace.packages.flatMap((one) => one.sources)) {
    if (file.isTest) continue;
    for (const call of readSyntax(file.path, file.text).calls) {
      if (!plainErrors.has(call.name)) continue;
      const message = `a bare ${call.name} has no code; throw a class of @qcow2/spec`;
      found.push(finding('errors', file.path, call.line, message));
    }
  }
  return found;
}

export function checkSizes(workspace: Workspace): Finding[] {
  const found: Finding[] = [];
  for (const file of workspace.packages.flatMap((one) => one.sources)) {
    const lines = file.text.split('\n').length - 1;
    if (lines <= guidanceLines) continue;
    const message = `${lines} lines; 150 to 400 are easy to read`;
    const make = lines > limitLines && !file.isTest ? finding : warning;
    found.push(make('sizes', file.path, 0, message));
  }
  return found;
}

interface WordRule {
  readonly pattern: RegExp;
  readonly message: (word: string) => string;
  /** Starts of paths where the word has a meaning of its own. */
  readonly allowedIn?: readonly string[];
}

const machineRules: readonly WordRule[] = [
  {
    pattern: /(?<![\w.~-])\/(?:work|root|home\/\w+|Users\/\w+)\/[\w.-]+/g,
    message: (path) => `${path} is a folder of one machine`,
  },
  {
    pattern: /\bregistry\.[\w-]+\.\w+|\bhttps?:\/\/[\w.-]*(?:artifactory|nexus|verdaccio)[\w.-]*/gi,
    message: (host) => `${host}: the choice of a registry is not the repository's`,
  },
  {
    pattern: /(?<![\w./])\.\.\/(?:shared|main)\b/g,
    message: (path) => `${path} lies outside the repository`,
    allowedIn: ['packages/', 'tools/'],
  },
];

/** Files whose words are not ours, or which have to name what others may not. */
const exemptFiles = new Set(['LICENSE', 'docs/glossary.md', 'pnpm-lock.yaml']);
const textFile = /(?:\.(?:ts|md|json|yaml|sh|py|txt)|\/qcow2|^\.ci\/run)$/;

/** Words that `docs/glossary.md` rejects, and what only holds on one machine. */
export function checkWords(root: string): Finding[] {
  const glossary = readFileSync(join(root, 'docs/glossary.md'), 'utf8');
  const rules = [...machineRules, ...rejectedWords(glossary)];
  const found: Finding[] = [];
  for (const path of textFilesOf(root)) {
    const lines = readFileSync(join(root, path), 'utf8').split('\n');
    lines.forEach((text, index) => {
      for (const rule of rules) {
        if (rule.allowedIn?.some((place) => path.startsWith(place))) continue;
        for (const [word] of text.matchAll(rule.pattern)) {
          found.push(finding('words', path, index + 1, rule.message(word)));
        }
      }
    });
  }
  return found;
}

function rejectedWords(glossary: string): WordRule[] {
  return tableAfter(glossary, 'rejected-words', 'docs/glossary.md').flatMap(
    ([words = '', instead = '', places = '']) =>
      namesIn(words).map((word) => ({
        pattern: new RegExp(`\\b${word}s?\\b`, word === word.toUpperCase() ? 'g' : 'gi'),
        message: (written: string) => `"${written}": write ${instead}`,
        allowedIn: namesIn(places),
      })),
  );
}

function* textFilesOf(root: string): Generator<string> {
  for (const entry of readdirSync(root, { withFileTypes: true })) {
    if (entry.isFile() && textFile.test(`/${entry.name}`) && !exemptFiles.has(entry.name)) yield entry.name;
  }
  for (const folder of ['.changeset', '.ci', 'docs', 'packages', 'tools']) {
    for (const path of folderOrNothing(root, folder)) {
      if (textFile.test(path) && !exemptFiles.has(path) && !isOwnExample(path)) yield path;
    }
  }
}

/** The rules' own source and tests have to spell out what they reject. */
function isOwnExample(path: string): boolean {
  return path.startsWith('tools/house/') && /source-rules|planted-repository/.test(path);
}

function* folderOrNothing(root: string, folder: string): Generator<string> {
  try {
    yield* filesBelow(root, folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
