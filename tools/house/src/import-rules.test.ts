import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { manifest, plantRepository } from '../test/support/planted-repository.ts';
import { showFinding } from './finding.ts';
import { checkImports } from './import-rules.ts';
import { loadImportTable } from './import-table.ts';
import { loadWorkspace } from './workspace.ts';

function findings(files: Record<string, string | undefined>): string[] {
  const root = plantRepository(files);
  return checkImports(loadWorkspace(root), loadImportTable(root)).map(showFinding);
}

describe('the import rules', () => {
  test('find nothing in a clean repository', () => {
    expect(findings({})).toEqual([]);
  });

  test('find nothing in the repository that they stand in', () => {
    const root = join(import.meta.dirname, '../../..');
    expect(checkImports(loadWorkspace(root), loadImportTable(root)).map(showFinding)).toEqual([]);
  });

  test('take what the table allows', () => {
    const files = {
      'tools/cli/src/index.ts': "import '@qcow2/fs';\nimport type { A } from '@qcow2/spec';\n",
    };
    expect(findings(files)).toEqual([]);
  });

  test.each([
    ['a statement', "import { a } from '@qcow2/journal';"],
    ['for its effects', "import '@qcow2/journal';"],
    ['a type', "import type { A } from '@qcow2/journal';"],
    ['a type within an expression', "export type A = import('@qcow2/journal').A;"],
    ['a re-export', "export { a } from '@qcow2/journal';"],
    ['a re-export of everything', "export * from '@qcow2/journal';"],
    ['a call', "export const a = () => import('@qcow2/journal');"],
  ])('find the edge from cache to journal: %s', (_form, line) => {
    expect(findings({ 'packages/cache/src/index.ts': `\n${line}\n` })).toEqual([
      'packages/cache/src/index.ts:2: cache may not import journal [imports]',
    ]);
  });

  test('find the edge from journal to cache, in the manifest as well', () => {
    const found = findings({
      'packages/journal/package.json': manifest('@qcow2/journal', ['spec', 'cache']),
      'packages/journal/src/index.ts': "import '@qcow2/cache';\n",
    });
    expect(found).toEqual([
      'packages/journal/package.json: journal may not depend on cache [import-table]',
      'packages/journal/tsconfig.json: depends on packages/cache without a reference to it [references]',
      'packages/journal/src/index.ts:1: journal may not import cache [imports]',
    ]);
  });

  test('let a test look at a package that its manifest declares for development', () => {
    const dev = { devDependencies: { '@qcow2/journal': 'workspace:^' } };
    const found = findings({
      'packages/cache/package.json': manifest('@qcow2/cache', ['spec'], dev),
      'packages/cache/src/lru.test.ts': "import 'node:fs';\nimport 'vitest';\nimport '@qcow2/journal';\n",
    });
    expect(found).toEqual([]);
  });

  test('find deep imports, from tools and tests too', () => {
    const deep = "import '@qcow2/spec/src/index.ts';\n";
    const found = findings({
      'tools/cli/src/index.ts': deep,
      'packages/fs/src/file.test.ts': "import '@qcow2/spec/internal';\n",
      'packages/cache/src/index.ts': "import '../../spec/src/index.ts';\n",
    });
    expect(found).toEqual([
      'packages/cache/src/index.ts:1: ../../spec/src/index.ts reaches out of packages/cache [imports]',
      'packages/fs/src/file.test.ts:1: @qcow2/spec/internal is not an entry that @qcow2/spec exports [imports]',
      'tools/cli/src/index.ts:1: @qcow2/spec/src/index.ts is not an entry that @qcow2/spec exports [imports]',
    ]);
  });

  test('find relative imports without .ts, and sources that import tests', () => {
    const found = findings({
      'packages/fs/src/index.ts':
        "import './file.js';\nimport './file.test.ts';\nimport '../test/support.ts';\n",
      'packages/fs/src/file.test.ts': "import '../test/support.ts';\n",
    });
    expect(found).toEqual([
      'packages/fs/src/index.ts:1: ./file.js: relative imports end in .ts [imports]',
      'packages/fs/src/index.ts:2: ./file.test.ts: sources never import tests or what lies outside src [imports]',
      'packages/fs/src/index.ts:3: ../test/support.ts: sources never import tests or what lies outside src [imports]',
    ]);
  });

  test('find packages that the manifest does not declare', () => {
    const found = findings({
      'packages/fs/src/index.ts': "import 'left-pad/lib';\n",
      'packages/fs/src/file.test.ts':
        "import 'vitest/node';\nimport '@scope/other/deep';\nimport '@qcow2/nowhere';\n",
    });
    expect(found).toEqual([
      'packages/fs/src/file.test.ts:2: @scope/other is not among the dependencies of packages/fs/package.json [imports]',
      'packages/fs/src/file.test.ts:3: there is no package @qcow2/nowhere [imports]',
      'packages/fs/src/index.ts:1: left-pad is not among the dependencies of packages/fs/package.json [imports]',
    ]);
  });

  test('find imports that can not be checked', () => {
    expect(
      findings({ 'packages/fs/src/index.ts': 'export const load = (a: string) => import(a);\n' }),
    ).toEqual(['packages/fs/src/index.ts:1: import(…) takes a literal, so that it can be checked [imports]']);
  });

  test('find packages without a row, and rows without a package', () => {
    const found = findings({
      'packages/fs/package.json': undefined,
      'tools/cli/package.json': manifest('qcow2', ['spec']),
      'tools/cli/tsconfig.json': undefined,
      'tools/extra/package.json': manifest('extra', []),
    });
    expect(found).toEqual([
      'tools/extra: extra is not in the table of architecture.md [import-table]',
      'docs/architecture.md: the table names fs, which is not there [import-table]',
    ]);
  });

  test('find references that the manifest does not ask for', () => {
    const found = findings({
      'packages/fs/tsconfig.json': '{ "references": [{ "path": "../spec" }, { "path": "../cache" }] }',
    });
    expect(found).toEqual([
      'packages/fs/tsconfig.json: refers to packages/cache without depending on it [references]',
    ]);
  });

  test('find files that can not be parsed', () => {
    expect(findings({ 'packages/fs/src/index.ts': 'import { from;\n' })).toHaveLength(1);
  });
});

describe('the browser rule', () => {
  test.each([
    ["import { readFileSync } from 'node:fs';", 'node:fs'],
    ["import fs from 'fs';", 'fs'],
    ["export type Stats = import('node:fs').Stats;", 'node:fs'],
    ['export const bytes = Buffer.alloc(1);', 'Buffer'],
    ['export const bytes = globalThis.Buffer.alloc(1);', 'Buffer'],
    ['export function copy(from: Buffer): void {}', 'Buffer'],
    ['export const home = process.env;', 'process'],
    ['export const both = { process };', 'process'],
    ['export const timer: NodeJS.Timeout | undefined = undefined;', 'NodeJS'],
    ['setImmediate(() => {});', 'setImmediate'],
  ])('finds %s', (line, name) => {
    expect(findings({ 'packages/journal/src/index.ts': `${line}\n` })).toContainEqual(
      expect.stringMatching(
        new RegExp(`^packages/journal/src/index.ts:1: ${name} is of Node; journal runs in a browser`),
      ),
    );
  });

  test('finds types of Node in the project file', () => {
    const text = '{ "compilerOptions": { "types": ["node"] }, "references": [{ "path": "../spec" }] }';
    expect(findings({ 'packages/cache/tsconfig.json': text, 'packages/fs/tsconfig.json': text })).toEqual([
      'packages/cache/tsconfig.json: cache is compiled without the types of Node [browser-clean]',
    ]);
  });

  test('leaves alone adapters, tests, comments and properties of those names', () => {
    const node = "import 'node:fs';\nexport const a = Buffer.alloc(1);\n";
    const found = findings({
      'packages/fs/src/index.ts': node,
      'packages/cache/src/lru.test.ts': node,
      'packages/cache/test/property/lru.test.ts': node,
      'packages/cache/src/index.ts':
        "// import 'node:fs'; Buffer\nexport const a = { process: 1 }.process;\nexport const b = 'Buffer';\n",
    });
    expect(found).toEqual([]);
  });
});
