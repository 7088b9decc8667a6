import { describe, expect, test } from 'vitest';
import { manifest, plantRepository } from '../test/support/planted-repository.ts';
import { checkDependencies } from './dependency-rules.ts';
import { showFinding } from './finding.ts';
import { loadWorkspace } from './workspace.ts';

function check(rest: object, files: Record<string, string> = {}): string[] {
  const root = plantRepository({ 'packages/spec/package.json': manifest('@qcow2/spec', [], rest), ...files });
  return checkDependencies(loadWorkspace(root)).map(showFinding);
}

const table = (...rows: string[]) => ({
  'docs/dependencies.md': `<!-- dependencies -->\n| package | version |\n|---|---|\n${rows.join('\n')}\n`,
});

describe('dependencies', () => {
  test('that are listed with their exact version pass, an alias by the name that we give it', () => {
    const rest = { devDependencies: { old: 'npm:@scope/new@1.2.3' } };
    expect(check(rest, table('| `vitest` | 5.1.1 |', '| `old` | 1.2.3 |'))).toEqual([]);
  });

  test('that are not listed, or with another version, are found', () => {
    expect(check({ devDependencies: { a: '1.0.0' } })).toEqual([
      'packages/spec/package.json: a 1.0.0 is not in docs/dependencies.md with that version and a reason [dependencies]',
    ]);
    expect(check({}, table('| `vitest` | 5.1.2 |'))).toHaveLength(1);
  });

  test('of what is published come from this workspace, or are optional', () => {
    const listed = table('| `vitest` | 5.1.1 |', '| `a` | 1.0.0 |');
    expect(check({ optionalDependencies: { a: '1.0.0' } }, listed)).toEqual([]);
    expect(check({ private: true, dependencies: { a: '1.0.0' } }, listed)).toEqual([]);
    expect(check({ dependencies: { a: '1.0.0' } }, listed)).toEqual([
      'packages/spec/package.json: a: what is published depends on no package from outside [dependencies]',
    ]);
    expect(check({ optionalDependencies: { a: '1.0.0' } })).toHaveLength(1);
  });

  test('that are listed and not used are found', () => {
    expect(check({}, table('| `vitest` | 5.1.1 |', '| `gone` | 1.0.0 |'))).toEqual([
      'docs/dependencies.md: gone is listed and used by no package [dependencies]',
    ]);
  });

  test.each(['^1.0.0', '1.x', 'latest', 'npm:b@^1.0.0'])('with a range are found: %s', (range) => {
    expect(check({ dependencies: { a: range } })).toContain(
      `packages/spec/package.json: a: ${range} is not an exact version [dependencies]`,
    );
  });
});
