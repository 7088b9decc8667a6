/**
 * Take one protection out of the code, and a crash must show it. Each mutant is planted in a thread of its own, whose
 * modules are loaded with its text; it must be found in the workload that it names, or, where the code has changed
 * and the workload shows it no more, within a small budget of others.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { codeMutant, codeMutants, mutantTable } from '../src/code-mutants.ts';
import { mutated } from '../src/mutant-loader.ts';
import { namedMutation } from '../src/mutation.ts';
import { labSystems } from '../src/systems.ts';
import { huntMutant } from '../src/threads.ts';

const root = new URL('../../../', import.meta.url);
const budget = { length: 1, randomWorkloads: 12 };

describe('mutants in the code', () => {
  it('are at least twenty, each with a name of its own that no mutation of the device has', () => {
    expect(codeMutants.length).toBeGreaterThanOrEqual(20);
    expect(new Set(codeMutants.map(({ name }) => name)).size).toBe(codeMutants.length);
    for (const { name, system } of codeMutants) {
      expect(name).toMatch(/^[a-z0-9-]+$/);
      expect(namedMutation(name)).toBeUndefined();
      expect(labSystems.map((one) => one.name)).toContain(system);
    }
    expect(codeMutant('gone')).toBeUndefined();
  });

  it('cite clauses that exist, and are the table of docs/crash-lab.md (`pnpm crash-lab --mutant-table` prints it)', () => {
    const clauses = new Set(readFileSync(new URL('docs/specs/clauses.lock', root), 'utf8').split('\n'));
    for (const { clause } of codeMutants) {
      for (const id of clause.match(/[A-Z][A-Z0-9]*(-[A-Z]+)?-\d{3}/g) ?? []) expect(clauses).toContain(id);
    }
    const page = readFileSync(new URL('docs/crash-lab.md', root), 'utf8');
    expect(page).toContain(mutantTable());
  });

  for (const mutant of codeMutants) {
    it(`${mutant.name}: its text stands once in its file`, () => {
      for (const { file, find, replace } of mutant.edits) {
        const text = readFileSync(new URL(file, root), 'utf8');
        expect(mutated(text, find, replace, file)).not.toBe(text);
      }
    });
  }

  it('are refused where their text does not stand exactly once', () => {
    for (const text of ['', 'a a']) {
      expect(() => mutated(text, 'a', 'b', 'x.ts')).toThrow(expect.objectContaining({ code: 'INVARIANT' }));
    }
    expect(mutated('x a y', 'a', '$&', 'x.ts')).toBe('x $& y');
  });

  for (const mutant of codeMutants) {
    it(`${mutant.name}: a crash shows that ${mutant.protection} is missing`, async () => {
      const { failure } = await huntMutant(mutant, budget);
      expect(failure?.id ?? 'it survived').toContain(`${mutant.system}!${mutant.name}/`);
    });
  }
});
