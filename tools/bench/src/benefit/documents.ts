/**
 * `docs/benefit.md` and its charts, and the result that they are made from. Words stand in the document as they are written;
 * between `<!-- figures: NAME -->` and `<!-- end of figures -->` stands what is generated.
 */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BenchmarkFailure } from '../failure.ts';
import type { Machine } from '../machine.ts';
import { chartFiles } from './charts.ts';
import { type BenefitResult, BenefitView, storedText } from './result.ts';
import { documentSections } from './tables.ts';

/** The same from `src` and from `dist`. */
const docs = join(import.meta.dirname, '../../../../docs');
const place = /(<!-- figures: ([\w-]+) -->\n)[\s\S]*?(<!-- end of figures -->)/g;

const unknownMachine: Machine = {
  date: '',
  system: '',
  processor: '',
  cores: 0,
  fileSystem: '',
  load: 0,
  node: '',
  qemu: '',
  fio: '',
};

/** Paths in `docs`, and what stands there. */
export type Documents = ReadonlyMap<string, string>;

export const page = 'benefit.md';
const store = 'benefit/result.json';

/** What the documents say when they are made of this result. @throws BenchmarkFailure for a place without figures */
export function documentsOf(result: BenefitResult, pageText: string): Documents {
  const view = new BenefitView(result);
  const charts = [...chartFiles(view)].map(([name, text]): [string, string] => [`benefit/${name}`, text]);
  return new Map([
    [page, filledPage(pageText, documentSections(view))],
    [store, storedText(result)],
    ...charts,
  ]);
}

/** @throws BenchmarkFailure for a place that nothing belongs to, or something that has no place */
export function filledPage(text: string, sections: ReadonlyMap<string, string>): string {
  const left = new Set(sections.keys());
  const filled = text.replaceAll(place, (_, begin: string, name: string, end: string) => {
    const content = sections.get(name);
    if (content === undefined)
      throw new BenchmarkFailure(`${page} has a place for ${name}, which there is not`);
    left.delete(name);
    return `${begin}\n${content}\n\n${end}`;
  });
  if (left.size > 0) throw new BenchmarkFailure(`${page} has no place for ${[...left].join(', ')}`);
  return filled;
}

export function storedResult(): BenefitResult {
  return JSON.parse(readFileSync(join(docs, store), 'utf8')) as BenefitResult;
}

export function readDocument(name: string): string {
  return readFileSync(join(docs, name), 'utf8');
}

/** @throws BenchmarkFailure where the page has lost a place: better said before a long run than after it */
export function checkPage(): void {
  const [machine, quick, rounds, seconds] = [unknownMachine, true, 0, 0];
  const nothing = { machine, quick, rounds, seconds, without: [], cells: [], replay: [], failures: [] };
  documentsOf(nothing, readDocument(page));
}

export function writeDocuments(result: BenefitResult): void {
  mkdirSync(join(docs, 'benefit'), { recursive: true });
  for (const [name, text] of documentsOf(result, readDocument(page))) writeFileSync(join(docs, name), text);
}
