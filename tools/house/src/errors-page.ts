/**
 * `docs/errors.md`, made from the code table of `@qcow2/spec`. Run with `--write` it writes the page; the
 * rules compare the page with what would be written.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type ErrorClass, type ErrorCodeEntry, errorCodes, nbdErrno } from '@qcow2/spec';
import { type Finding, finding } from './finding.ts';

const pagePath = 'docs/errors.md';

const classes: readonly { readonly class: ErrorClass; readonly name: string; readonly text: string }[] = [
  { class: 'format', name: 'FormatError', text: 'Bytes that someone wrote are not what the clause says.' },
  {
    class: 'unsupported',
    name: 'UnsupportedFeatureError',
    text: 'The image or the request is legal, and is not served here.',
  },
  { class: 'storage', name: 'StorageError', text: 'The device below failed.' },
  { class: 'state', name: 'StateError', text: 'The request does not fit the state of the object.' },
  {
    class: 'invariant',
    name: 'InvariantError',
    text: 'A bug of ours. The image takes no more writes; please report it.',
  },
];

export function renderErrorsPage(codes: Readonly<Record<string, ErrorCodeEntry>> = errorCodes): string {
  const parts = [
    '# Errors',
    '',
    '<!-- Made from packages/spec/src/errors.ts by `pnpm errors-page`; edit it there. -->',
    '',
    'Every error thrown on purpose is a `Qcow2Error` with a stable `code`, a `context` (host offset, field, clause,',
    'whatever is known of the place) and, where something below failed, that failure as `cause`. Messages are free',
    'to change. The class says what a caller can do; the last column is the error number that an NBD client sees.',
    '',
  ];
  for (const one of classes) {
    parts.push(`## ${one.name}`, '', one.text, '', '| code | meaning | NBD |', '|---|---|---|');
    for (const [code, entry] of Object.entries(codes)) {
      if (entry.class !== one.class) continue;
      parts.push(`| \`${code}\` | ${entry.meaning} | ${entry.nbd} (${nbdErrno[entry.nbd]}) |`);
    }
    parts.push('');
  }
  return parts.join('\n');
}

export function checkErrorsPage(root: string): Finding[] {
  const stale = finding('errors-page', pagePath, 0, 'is not what errors.ts says; run pnpm errors-page');
  try {
    return readFileSync(join(root, pagePath), 'utf8') === renderErrorsPage() ? [] : [stale];
  } catch {
    return [stale];
  }
}

if (import.meta.main && process.argv.includes('--write')) {
  writeFileSync(join(import.meta.dirname, '../../..', pagePath), renderErrorsPage());
}
