/** A small repository in a folder of its own, in which a test plants what a rule has to find. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';

const architecture = `# Architecture

<!-- import-table -->

| package | holds | imports | runs in |
|---|---|---|---|
| \`spec\` | data | | browser |
| \`cache\` | tables | \`spec\` | browser |
| \`journal\` | the engine | \`spec\` | browser |
| \`fs\` | files | \`spec\` | Node |
| \`cli\` | the command | \`spec\`, \`fs\` | Node |
`;

const glossary = `# Glossary

<!-- rejected-words -->

| not | but | allowed in |
|---|---|---|
| \`gizmo\` | device | \`packages/fs/\` |
| \`TODO\` | nothing | |
`;

const dependencies = `# Dependencies

<!-- dependencies -->

| package | version | license | why |
|---|---|---|---|
| \`vitest\` | 5.1.1 | MIT | test runner |
`;

/** Write a clean repository, then \`files\` over it (undefined takes one away), and return its root. */
export function plantRepository(files: Readonly<Record<string, string | undefined>> = {}): string {
  const root = mkdtempSync(join(tmpdir(), 'qcow2-house-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const all: Record<string, string | undefined> = {
    'package.json': json({ name: 'planted', private: true, devDependencies: { vitest: '5.1.1' } }),
    'docs/architecture.md': architecture,
    'docs/glossary.md': glossary,
    'docs/dependencies.md': dependencies,
    ...room('packages/spec', '@qcow2/spec', []),
    ...room('packages/cache', '@qcow2/cache', ['spec']),
    ...room('packages/journal', '@qcow2/journal', ['spec']),
    ...room('packages/fs', '@qcow2/fs', ['spec']),
    ...room('tools/cli', 'qcow2', ['spec', 'fs']),
    ...files,
  };
  for (const [path, text] of Object.entries(all)) {
    if (text === undefined) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

/** A package's manifest, with workspace dependencies by room and whatever else is given. */
export function manifest(name: string, rooms: readonly string[], rest: object = {}): string {
  const dependencies = Object.fromEntries(rooms.map((to) => [`@qcow2/${to}`, 'workspace:^']));
  return json({ name, version: '0.0.0', exports: { '.': './dist/index.js' }, dependencies, ...rest });
}

function room(folder: string, name: string, rooms: readonly string[]): Record<string, string> {
  return {
    [`${folder}/package.json`]: manifest(name, rooms),
    [`${folder}/tsconfig.json`]: json({
      references: rooms.map((to) => ({
        path: folder.startsWith('tools/') ? `../../packages/${to}` : `../${to}`,
      })),
    }),
    [`${folder}/src/index.ts`]: 'export const here = true;\n',
  };
}

function json(value: object): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}
