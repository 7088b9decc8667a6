/**
 * Brings docs/specs/clauses.lock and docs/specs/pending.md up to date with the documents and the tests. Run by hand:
 *
 *     pnpm --filter @qcow2/conformance clauses
 *
 * New ids enter the lock; none ever leaves it. Clauses that a test now cites leave pending.md; unproven ones
 * that it does not list enter it with a reason that somebody has to write: the check of the lists does not pass before.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sorted, unproven } from '../clause-coverage.ts';
import { documentNames, readCoverage, readDocument, specsFolder } from '../repository.ts';

const coverage = readCoverage(documentNames.map(readDocument));
updateLock();
updatePending();

function updateLock(): void {
  const ids = sorted(new Set([...coverage.locked, ...coverage.clauses.map((clause) => clause.id)]));
  const head =
    '# Every clause id that was ever given. An id is never used again: lines are added, none is removed.\n';
  writeFileSync(join(specsFolder, 'clauses.lock'), `${head}${ids.join('\n')}\n`);
}

function updatePending(): void {
  const path = join(specsFolder, 'pending.md');
  const cited = new Set(coverage.citations.map(({ id }) => id));
  const lines = readFileSync(path, 'utf8').split('\n');
  const head = lines.filter((line) => !line.startsWith('- ')).join('\n');
  const kept = lines.filter((line) => line.startsWith('- ') && !cited.has(/^- (\S+):/.exec(line)?.[1] ?? ''));
  const added = unproven(coverage).map(({ id }) => `- ${id}:`);
  process.stdout.write(`${added.length} clauses entered pending.md and need a reason\n`);
  writeFileSync(path, `${head.trimEnd()}\n\n${sorted([...kept, ...added]).join('\n')}\n`);
}
