/**
 * Make one program of the command and the packages that it is made of: `tools/cli/bundle`, from what `tsc -b` has built. Node spends
 * most of a short command's time on finding and reading modules; a few files instead of two hundred are most of the remedy.
 *
 * Subcommands stay files of their own, loaded when they are called. The specification goes with them, for `clause` and `inspect`. The bundle appears whole, under its name, or not at all.
 */
import fs, { chmodSync, cpSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Plugin, rolldown } from 'rolldown';

/** @returns how many files it has */
export async function bundleCommand(root: string): Promise<number> {
  const room = join(root, 'tools/cli');
  const made = mkdtempSync(join(room, '.bundle-'));
  const input = join(room, 'dist/main.js');
  const bundle = await rolldown({ input, platform: 'node', logLevel: 'warn', plugins: [leanFileSystem] });
  try {
    const { output } = await bundle.write({ dir: made, format: 'esm', entryFileNames: '[name].js' });
    copySpecification(join(root, 'docs/specs'), join(made, 'specs'));
    chmodSync(join(made, 'main.js'), 0o755);
    chmodSync(made, 0o755);
    const target = join(room, 'bundle');
    rmSync(target, { recursive: true, force: true });
    renameSync(made, target);
    return output.length;
  } finally {
    await bundle.close();
    rmSync(made, { recursive: true, force: true });
  }
}

/**
 * An `import` of `node:fs` makes Node load all that the module can only do when asked: streams, promises and what they are made of, a tenth of
 * a short command's time. Here the module is asked for by its name, and what it loads late stays out.
 */
const leanFileSystem: Plugin = {
  name: 'lean-file-system',
  resolveId: (source) => (source === 'node:fs' ? leanId : null),
  load: (id) => (id === leanId ? leanSource() : null),
};
const leanId = '\0node:fs';

function leanSource(): string {
  // What is loaded late stands behind a getter.
  const names = Object.entries(Object.getOwnPropertyDescriptors(fs))
    .filter(([name, { get }]) => get === undefined && /^[a-z]\w*$/.test(name))
    .map(([name]) => name);
  return `const fs = process.getBuiltinModule('node:fs');\nexport default fs;\nexport const { ${names.join(', ')} } = fs;\n`;
}

/** Each document under the name of its folder. */
function copySpecification(from: string, to: string): void {
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (entry.isDirectory()) cpSync(join(from, entry.name, 'SPEC.md'), join(to, `${entry.name}.md`));
  }
}

if (import.meta.main) await bundleCommand(join(import.meta.dirname, '../../..'));
