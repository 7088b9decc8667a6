/**
 * A release without the registry: the tarballs that would be published, installed by npm into an empty
 * project under the oldest and the newest Node that are supported, each entry imported, the command run,
 * and the README's examples too.
 *
 * Before that, the versions: the pending changesets are applied to a copy of the manifests.
 *
 * It proves what no test on sources can: that manifests name what the code needs, that `files` and `exports`
 * agree with what was packed, that the workspace's ranges were rewritten, that the bin starts.
 */
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { type CommandResult, runCommand } from './command.ts';
import { HouseError } from './finding.ts';
import type { StageResult } from './stage.ts';
import { loadWorkspace, type Manifest, readJson, type WorkspacePackage } from './workspace.ts';

export interface Trial {
  readonly label: string;
  /** The Node to run under; a path from the root. */
  readonly node: string;
}

const supported: readonly Trial[] = [
  { label: 'Node 22', node: 'tools/house/node_modules/node22/bin/node' },
  { label: 'Node 26', node: 'node_modules/node/bin/node' },
];

/** Expects the tarballs of turbo's task `tarball`. Counts one pass or failure for the versions, the tarballs and each Node. */
export async function runReleaseDryRun(root: string, trials = supported): Promise<StageResult> {
  const published = loadWorkspace(root).packages.filter((one) => one.published);
  const folder = mkdtempSync(join(tmpdir(), 'qcow2-release-'));
  const troubles: string[] = [];
  let failed = 0;
  const attempt = async (label: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof HouseError)) throw error;
      failed++;
      troubles.push(`${label}: ${error.message}`);
    }
  };
  try {
    await attempt('versions', () => tryVersions(root, folder, published));
    await attempt('tarballs', () => checkTarballs(root, folder, published));
    for (const trial of trials) await attempt(trial.label, () => tryRelease(root, folder, published, trial));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const note = `${published.length} packages under ${trials.map((trial) => trial.label).join(' and ')}`;
  return { passed: trials.length + 2 - failed, failed, note, details: troubles.join('\n') };
}

/** Apply the pending changesets to a copy of the manifests: none may be unreadable, and nothing stays at 0.0.0. */
async function tryVersions(
  root: string,
  folder: string,
  published: readonly WorkspacePackage[],
): Promise<void> {
  const copy = join(folder, 'versions');
  const manifests = loadWorkspace(root).packages.map((one) => `${one.folder}/package.json`);
  for (const path of ['package.json', 'pnpm-workspace.yaml', '.changeset', ...manifests]) {
    cpSync(join(root, path), join(copy, path), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  // Right after a release nothing is pending, which the program takes for a mistake.
  const pending = readdirSync(join(copy, '.changeset')).some(
    (name) => name.endsWith('.md') && name !== 'README.md',
  );
  if (pending) await must(join(root, 'node_modules/.bin/changeset'), ['version'], copy);
  for (const one of published) {
    const { version } = readJson<Manifest>(join(copy, one.folder, 'package.json'));
    if (version === undefined || version === '0.0.0') {
      throw new HouseError(`${one.manifest.name} would be released as ${version}: no changeset names it`);
    }
  }
}

/** Unpack each tarball and look at what a user would get. */
async function checkTarballs(
  root: string,
  folder: string,
  published: readonly WorkspacePackage[],
): Promise<void> {
  for (const one of published) {
    const into = join(folder, 'unpacked', one.room);
    mkdirSync(into, { recursive: true });
    const listing = await must(
      'tar',
      ['-xzvf', tarballOf(root, one), '-C', into, '--strip-components=1'],
      folder,
    );
    const files = listing.output.split('\n').map((path) => path.replace(/^package\//, ''));
    for (const needed of ['LICENSE', 'README.md', 'package.json']) {
      if (!files.includes(needed))
        throw new HouseError(`the tarball of ${one.manifest.name} has no ${needed}`);
    }
    const stray = files.find((path) => /\.test\.|\.tsbuildinfo$/.test(path));
    if (stray !== undefined) throw new HouseError(`the tarball of ${one.manifest.name} holds ${stray}`);
    const manifest = readJson<Manifest>(join(into, 'package.json'));
    for (const [name, range] of Object.entries(manifest.dependencies ?? {})) {
      if (range.startsWith('workspace:'))
        throw new HouseError(`${one.manifest.name} asks for ${name} ${range}`);
    }
  }
}

async function tryRelease(
  root: string,
  folder: string,
  published: readonly WorkspacePackage[],
  trial: Trial,
): Promise<void> {
  const node = resolve(root, trial.node);
  const project = join(folder, trial.label.replace(' ', '-').toLowerCase());
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{ "name": "trial", "private": true, "type": "module" }\n');
  // The user's folder alone: neither our node_modules nor our export condition may help.
  const env = { PATH: `${dirname(node)}${delimiter}${process.env.PATH}`, NODE_OPTIONS: '', NODE_PATH: '' };
  const run = (command: string, ...args: string[]) => must(command, args, project, env);

  const tarballs = published.map((one) => tarballOf(root, one));
  await run('npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', ...tarballs);
  const imports = published.flatMap(entriesOf).map((entry) => `await import(${JSON.stringify(entry)});`);
  writeFileSync(join(project, 'imports.js'), `${imports.join('\n')}\nconsole.log(process.version);\n`);
  await run(node, 'imports.js');
  await tryCommand(project, run);
  for (const [index, example] of readmeExamples(root).entries()) {
    const name = `readme-${index + 1}.js`;
    writeFileSync(join(project, name), example);
    await run(node, name);
  }
}

/** The specifiers of all entries that hold code; a package without `exports` has none. */
function entriesOf(one: WorkspacePackage): string[] {
  return Object.keys(one.manifest.exports ?? {})
    .filter((entry) => entry !== './package.json')
    .map((entry) => `${one.manifest.name}${entry.slice(1)}`);
}

/** The blocks of code in the README, which a reader will try first. */
function readmeExamples(root: string): string[] {
  const path = join(root, 'README.md');
  if (!existsSync(path)) return [];
  return [...readFileSync(path, 'utf8').matchAll(/^```ts\n(.*?)^```/gms)].map((match) => match[1]!);
}

type Run = (command: string, ...args: string[]) => Promise<CommandResult>;

async function tryCommand(project: string, run: Run): Promise<void> {
  const qcow2 = join(project, 'node_modules/.bin/qcow2');
  if (!existsSync(qcow2)) throw new HouseError('the installed package qcow2 has no command');
  await run(qcow2, '--version');
  // The specification is in the package.
  await run(qcow2, 'clause', 'HDR-001');
  await run(qcow2, 'create', '-f', 'qcow2', 'plain.qcow2', '16M');
  await run(qcow2, 'create', '-f', 'qcow2', '-o', 'journal=on', 'journalled.qcow2', '16M');
  for (const image of ['plain.qcow2', 'journalled.qcow2']) {
    await run(qcow2, 'info', '--output=json', image);
    await run(qcow2, 'check', image);
  }
}

function tarballOf(root: string, one: WorkspacePackage): string {
  return join(root, one.folder, '.pack/package.tgz');
}

/** @throws HouseError with the program's output unless it ends with status 0 */
async function must(
  command: string,
  args: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>> = {},
): Promise<CommandResult> {
  const result = await runCommand(command, args, { cwd, env, limitMs: 120_000 });
  if (result.status === 0) return result;
  const why = result.trouble ?? `exit status ${result.status}`;
  throw new HouseError(`${command} ${args.join(' ')}: ${why}\n${result.output}`);
}
