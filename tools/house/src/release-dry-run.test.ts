import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { runReleaseDryRun } from './release-dry-run.ts';

const ourNodeModules = join(import.meta.dirname, '../../../node_modules');

const command =
  '#!/usr/bin/env node\nif (process.argv[2] === "create" && !process.argv.includes("16M")) process.exit(1);\n';
const readme = "# Planted\n\n```ts\nimport { here } from 'qcow2';\nif (!here) process.exit(1);\n```\n";
const manifest = {
  name: 'qcow2',
  version: '0.0.0',
  type: 'module',
  license: 'Apache-2.0',
  bin: { qcow2: './main.js' },
  exports: { '.': './index.js', './package.json': './package.json' },
};

/** A repository with one package, whose tarball holds `files`. */
function plantRelease(files: Readonly<Record<string, string | undefined>>): string {
  const root = mkdtempSync(join(tmpdir(), 'qcow2-release-test-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const inTarball: Record<string, string | undefined> = {
    LICENSE: 'Apache-2.0\n',
    'README.md': '# qcow2\n',
    'package.json': JSON.stringify(manifest),
    'index.js': 'export const here = true;\n',
    'main.js': command,
    ...files,
  };
  const all: Record<string, string | undefined> = {
    'package.json': '{ "name": "planted", "private": true }',
    'pnpm-workspace.yaml': 'packages:\n  - tools/*\n',
    '.changeset/config.json': '{ "changelog": false, "access": "public", "baseBranch": "main" }',
    '.changeset/first.md': "---\n'qcow2': minor\n---\n\nFirst.\n",
    'tools/cli/package.json': JSON.stringify(manifest),
    'README.md': readme,
  };
  for (const [path, text] of Object.entries(inTarball)) all[`unpacked/package/${path}`] = text;
  for (const [path, text] of Object.entries(all)) {
    if (text === undefined) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  symlinkSync(ourNodeModules, join(root, 'node_modules'));
  mkdirSync(join(root, 'tools/cli/.pack'));
  const tarball = join(root, 'tools/cli/.pack/package.tgz');
  execFileSync('tar', ['-czf', tarball, '-C', join(root, 'unpacked'), 'package']);
  return root;
}

const tryHere = (root: string) => runReleaseDryRun(root, [{ label: 'this Node', node: process.execPath }]);

describe('the dry run of a release', () => {
  test('passes a package that can be installed, imported and run', async () => {
    const result = await tryHere(plantRelease({}));
    expect(result).toEqual({ passed: 3, failed: 0, note: '1 packages under this Node', details: '' });
  });

  test('finds an entry that was not packed', async () => {
    const result = await tryHere(plantRelease({ 'index.js': undefined }));
    expect(result).toMatchObject({ passed: 2, failed: 1 });
    expect(result.details).toContain('Cannot find module');
  });

  test('finds a command that does not do what it is asked', async () => {
    const result = await tryHere(plantRelease({ 'main.js': '#!/usr/bin/env node\nprocess.exit(3);\n' }));
    expect(result).toMatchObject({ passed: 2, failed: 1 });
    expect(result.details).toContain('qcow2 --version: exit status 3');
  });

  test.each([
    ['a license that is missing', { LICENSE: undefined }, 'has no LICENSE'],
    ['tests among the files', { 'index.test.js': '' }, 'holds index.test.js'],
    ['build state among the files', { 'dist/.tsbuildinfo': '' }, 'holds dist/.tsbuildinfo'],
    [
      'a range that only this workspace understands',
      { 'package.json': JSON.stringify({ ...manifest, dependencies: { '@qcow2/spec': 'workspace:^' } }) },
      'asks for @qcow2/spec workspace:^',
    ],
  ])('finds %s', async (_what, files, message) => {
    const result = await runReleaseDryRun(plantRelease(files), []);
    expect(result).toMatchObject({ passed: 1, failed: 1 });
    expect(result.details).toContain(message);
  });

  test('finds an example of the README that does not run', async () => {
    const root = plantRelease({});
    writeFileSync(join(root, 'README.md'), "```ts\nimport { there } from 'qcow2';\n```\n");
    const result = await tryHere(root);
    expect(result).toMatchObject({ passed: 2, failed: 1 });
    expect(result.details).toContain('readme-1.js: exit status 1');
  });

  test('finds a package that would be released as 0.0.0', async () => {
    const root = plantRelease({});
    rmSync(join(root, '.changeset/first.md'));
    const result = await runReleaseDryRun(root, []);
    expect(result.details).toContain('qcow2 would be released as 0.0.0: no changeset names it');
  });
});
