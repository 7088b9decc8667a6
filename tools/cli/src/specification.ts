/**
 * The clauses of the specification, as `docs/specs` has them: the sentences that code and tests cite. They come with the command; in a
 * clone that is not bundled they are read where they are written.
 */
import { readFileSync } from 'node:fs';
import type { Layout } from '@qcow2/spec';
import { CommandFailure } from './failures.ts';

export type SpecificationDocument = Layout['document'];

export const documents: readonly SpecificationDocument[] = ['qcow2', 'journal', 'luks'];

export interface SpecificationClause {
  readonly document: SpecificationDocument;
  /** `HDR-008`. */
  readonly id: string;
  readonly level: 'MUST' | 'SHOULD' | 'NOTE';
  readonly text: string;
  /** Where it stands: a `file:` URL, with its line as the fragment. */
  readonly link: string;
}

/** By the clauses' ids, in the order of the documents. @throws CommandFailure where the documents can not be read */
export function readClauses(): Map<string, SpecificationClause> {
  const clauses = new Map<string, SpecificationClause>();
  for (const document of documents) {
    for (const clause of clausesOf(document, readDocument(document))) clauses.set(clause.id, clause);
  }
  return clauses;
}

interface DocumentText {
  readonly url: URL;
  readonly text: string;
}

function readDocument(document: SpecificationDocument): DocumentText {
  const places = [`./specs/${document}.md`, `../../../docs/specs/${document}/SPEC.md`];
  for (const place of places) {
    const url = new URL(place, import.meta.url);
    try {
      return { url, text: readFileSync(url, 'utf8') };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  throw new CommandFailure(`the specification '${document}' did not come with this program`);
}

/** A list item, its further lines indented: the shape that docs/specs/README.md gives. */
const clauseItem = /^- \*\*([A-Z\d-]+-\d{3})\*\* \((MUST|SHOULD|NOTE)\) (.*(?:\n[ \t]+\S.*)*)/gm;

function* clausesOf(
  document: SpecificationDocument,
  { url, text }: DocumentText,
): Iterable<SpecificationClause> {
  let line = 1;
  let counted = 0;
  for (const match of text.matchAll(clauseItem)) {
    const [, id = '', level, sentence = ''] = match;
    line += text.slice(counted, match.index).split('\n').length - 1;
    counted = match.index;
    yield {
      document,
      id,
      level: level as SpecificationClause['level'],
      text: sentence.replace(/\s+/g, ' ').trim(),
      link: `${url.href}#L${line}`,
    };
  }
}
