/**
 * `tools/cli/qcow2`, in a tree of its own where `node` is a script that tells what it was started with: the
 * launcher's behaviour needs neither a build nor an installation.
 */
import { spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';

const launcher = join(import.meta.dirname, '../../cli/qcow2');
const fakeNode = '#!/bin/sh\necho "$$"\nfor argument in "$@"; do echo "<$argument>"; done\nexit 7\n';

interface Outcome {
  readonly pid: number | undefined;
  readonly lines: readonly string[];
  readonly status: number | null;
}

function plantClone(options: { readonly built: boolean }): string {
  const root = mkdtempSync(join(tmpdir(), 'qcow2 launcher-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  mkdirSync(join(root, 'node_modules/node/bin'), { recursive: true });
  writeFileSync(join(root, 'node_modules/node/bin/node'), fakeNode);
  chmodSync(join(root, 'node_modules/node/bin/node'), 0o755);
  mkdirSync(join(root, 'tools/cli/dist'), { recursive: true });
  cpSync(launcher, join(root, 'tools/cli/qcow2'));
  if (options.built) writeFileSync(join(root, 'tools/cli/dist/main.js'), '');
  return root;
}

function launch(path: string, args: readonly string[]): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, { cwd: '/', stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text) => (output += text));
    child.on('error', reject);
    child.on('close', (status) => resolve({ pid: child.pid, lines: output.trim().split('\n'), status }));
  });
}

describe('the launcher', () => {
  test('becomes the command: its process id, arguments and exit status', async () => {
    const root = plantClone({ built: true });
    const { pid, lines, status } = await launch(join(root, 'tools/cli/qcow2'), [
      'create',
      'a b.qcow2',
      '',
      '$x',
    ]);
    expect(lines[0]).toBe(String(pid));
    expect(lines.slice(3)).toEqual(['<create>', '<a b.qcow2>', '<>', '<$x>']);
    expect(lines[1]).toMatch(/^<--initial-old-space-size=/);
    expect(lines[2]).toMatch(/\/tools\/cli\/dist\/main\.js>$/);
    expect(status).toBe(7);
  });

  test('finds its clone when called by another name', async () => {
    const root = plantClone({ built: true });
    symlinkSync(join(root, 'tools/cli/qcow2'), join(root, 'other-name'));
    expect((await launch(join(root, 'other-name'), ['--version'])).lines.at(-1)).toBe('<--version>');
  });

  test('says what to do in a clone that is not built', async () => {
    const { lines, status } = await launch(join(plantClone({ built: false }), 'tools/cli/qcow2'), ['info']);
    expect(lines).toEqual(['qcow2: this clone is not built yet; run: npx -y pnpm@12 run build']);
    expect(status).toBe(1);
  });
});
