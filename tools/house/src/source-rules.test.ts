import { describe, expect, test } from 'vitest';
import { plantRepository } from '../test/support/planted-repository.ts';
import { showFinding } from './finding.ts';
import { checkErrors, checkSizes, checkWords } from './source-rules.ts';
import { loadWorkspace } from './workspace.ts';

describe('errors carry codes', () => {
  const check = (files: Record<string, string>) => checkErrors(loadWorkspace(plantRepository(files)));

  test('bare errors in sources are found, with or without new', () => {
    const text =
      'src/work/list.ts, ./work/x, ~/work/x, /tmp/image, /run/qcow2.sock, https://example.org/root/a';
    const files = {
      'docs/guide.md': `${text}\n`,
      'packages/fs/src/index.ts': "import '../shared/bytes.ts';\n",
    };
    expect(check(files)).toEqual([]);
  });

  test('tests may throw what they like, and classes may extend Error', () => {
    const files = {
      'packages/fs/src/file.test.ts': "throw new Error('x');\n",
      'packages/spec/src/index.ts': '// new Error()\nexport class A extends Error {}\n',
    };
    expect(check(files)).toEqual([]);
  });
});

describe('file sizes', () => {
  const sized = (lines: number) => ({ 'packages/fs/src/index.ts': 'export {};\n'.repeat(lines) });
  const severities = (lines: number) =>
    checkSizes(loadWorkspace(plantRepository(sized(lines)))).map((found) => found.severity);

  test('600 lines pass, more are warned of, more than 1,000 fail', () => {
    expect(severities(600)).toEqual([]);
    expect(severities(601)).toEqual(['warning']);
    expect(severities(1000)).toEqual(['warning']);
    expect(severities(1001)).toEqual(['error']);
  });
});

describe('words', () => {
  const check = (files: Record<string, string>) => checkWords(plantRepository(files)).map(showFinding);

  test('words that the glossary rejects are found in sources and documents', () => {
    expect(check({ 'docs/guide.md': 'Two Gizmos.\n', 'packages/spec/src/index.ts': '// TODO\n' })).toEqual([
      'docs/guide.md:1: "Gizmos": write device [words]',
      'packages/spec/src/index.ts:1: "TODO": write nothing [words]',
    ]);
  });

  test('… not where they are allowed, within other words, or in small letters where capitals are meant', () => {
    expect(check({ 'packages/fs/src/index.ts': '// gizmo\n', 'docs/guide.md': 'gizmology; todo\n' })).toEqual(
      [],
    );
  });

  test.each([
    'see /home/ann/notes.txt',
    'run /work/tree/build.sh',
    '"/root/.cache/x"',
    'from registry.example.org',
    'https://artifactory.example.org/npm',
    'look at ../shared/plan.md',
  ])('what holds on one machine only is found: %s', (line) => {
    expect(check({ 'docs/guide.md': `${line}\n`, 'README.md': 'fine\n' })).toHaveLength(1);
  });

  test('ordinary paths and addresses are not', () => {
    const text =
      'src/work/list.ts, ./work/x, ~/work/x, /tmp/image, /run/qcow2.sock, https://example.org/root/a, ../shared-memory\n';
    expect(check({ 'docs/guide.md': text.replace(', ../shared-memory', '') })).toEqual([]);
  });

  test('build output, vectors and installed packages are not read', () => {
    const files = {
      'packages/fs/dist/a.md': 'gizmo',
      'packages/spec/vectors/a.json': '"gizmo"',
      'docs/node_modules/a.md': 'gizmo',
    };
    expect(check(files)).toEqual([]);
  });
});
