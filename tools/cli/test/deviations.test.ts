/** docs/deviations.md beside the parity tables: no difference without a reason, no reason without a difference. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { commitCases, rebaseCases } from './support/chain-cases.ts';
import { changeStories } from './support/change-cases.ts';
import { convertCases, ddCases } from './support/copy-cases.ts';
import { createCases } from './support/create-cases.ts';
import { foreignCases } from './support/foreign-cases.ts';
import { benchCases, compareCases, mapCases, measureCases } from './support/look-cases.ts';
import { blkdebugCases, protocolCases } from './support/protocol-cases.ts';
import { checkCases, infoCases, programCases } from './support/read-cases.ts';
import { serveCases } from './support/serve-cases.ts';

interface Deviation {
  readonly id: string;
  readonly reason: string;
  /** How it is tested: `parity`, or the words of a test elsewhere. */
  readonly shown: string;
}

const page = readFileSync(join(import.meta.dirname, '../../../docs/deviations.md'), 'utf8');
const deviations: Deviation[] = page
  .split('\n')
  .filter((line) => line.startsWith('| `'))
  .map((line) => line.split('|').map((cell) => cell.trim()))
  .map(([, id = '', , reason = '', shown = '']) => ({ id: id.replaceAll('`', ''), reason, shown }));
const changeCases = Object.values(changeStories).flat();
const lookCases = [...mapCases, ...compareCases, ...measureCases, ...benchCases];
const copyCases = [...convertCases, ...ddCases, ...commitCases, ...rebaseCases];
const allCases = [
  ...infoCases,
  ...checkCases,
  ...programCases,
  ...createCases,
  ...changeCases,
  ...lookCases,
  ...copyCases,
  ...serveCases,
  ...foreignCases,
  ...protocolCases,
  ...blkdebugCases,
];

describe('docs/deviations.md', () => {
  it('has a reason for every entry, and every entry once', () => {
    expect(deviations.length).toBeGreaterThan(0);
    expect(deviations.filter(({ reason }) => reason === '')).toEqual([]);
    expect(new Set(deviations.map(({ id }) => id)).size).toBe(deviations.length);
  });

  it('has an entry for every difference that a parity case expects', () => {
    const ids = new Set(deviations.map(({ id }) => id));
    const unknown = allCases.filter(({ deviation }) => deviation !== undefined && !ids.has(deviation));
    expect(unknown).toEqual([]);
  });

  it('names no parity that no case shows', () => {
    const used = new Set(allCases.map(({ deviation }) => deviation));
    expect(deviations.filter(({ id, shown }) => shown === 'parity' && !used.has(id))).toEqual([]);
  });

  it('stands beside at least six hundred pairs that agree', () => {
    expect(allCases.filter(({ deviation }) => deviation === undefined).length).toBeGreaterThanOrEqual(600);
  });
});
