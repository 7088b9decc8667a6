/**
 * The import table: who may import whom, and which packages run in a browser. `docs/architecture.md` holds
 * it, and this module reads it from there, so that the document is the law and can not grow old.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { HouseError } from './finding.ts';
import { namesIn, tableAfter } from './markdown-table.ts';

export interface ImportRow {
  readonly room: string;
  /** Rooms whose public entries its sources may import. */
  readonly imports: ReadonlySet<string>;
  /** No `node:` modules and no globals of Node. */
  readonly browser: boolean;
}

export type ImportTable = ReadonlyMap<string, ImportRow>;

const documentPath = 'docs/architecture.md';

export function loadImportTable(root: string): ImportTable {
  return parseImportTable(readFileSync(join(root, documentPath), 'utf8'));
}

/** @throws HouseError where a row names a room that does not stand above it: imports go one way */
export function parseImportTable(document: string): ImportTable {
  const table = new Map<string, ImportRow>();
  for (const row of tableAfter(document, 'import-table', documentPath)) {
    const [room] = namesIn(row[0] ?? '');
    const imports = namesIn(row[2] ?? '');
    if (room === undefined) throw new HouseError(`${documentPath}: a row of the import table has no name`);
    for (const name of imports) {
      if (!table.has(name)) {
        throw new HouseError(`${documentPath}: ${room} imports ${name}, which does not stand above it`);
      }
    }
    table.set(room, { room, imports: new Set(imports), browser: row[3] === 'browser' });
  }
  return table;
}
