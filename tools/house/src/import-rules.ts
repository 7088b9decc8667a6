/**
 * Who may import whom.
 *
 * - Sources import only the packages that the import table allows, and only entries that those export.
 * - Every import is declared in the manifest; workspace dependencies are the table's, and the references of
 *   `tsconfig.json` are the same packages again, so that the build's order is the table's too.
 * - Relative imports end in `.ts` and stay in their package; sources never import tests.
 * - Packages that run in a browser use no module and no global of Node.
 *
 * Tests, their support and benchmarks may import any declared package, through its public entries as well.
 */
import { existsSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, posix } from 'node:path';
import { type Finding, finding } from './finding.ts';
import type { ImportRow, ImportTable } from './import-table.ts';
import { type ImportSite, readSyntax } from './syntax.ts';
import type { Manifest, SourceFile, Workspace, WorkspacePackage } from './workspace.ts';

const nodeModules = new Set(builtinModules);
const nodeGlobals = new Set([
  'Buffer',
  'NodeJS',
  '__dirname',
  '__filename',
  'clearImmediate',
  'global',
  'process',
  'require',
  'setImmediate',
]);

export function checkImports(workspace: Workspace, table: ImportTable): Finding[] {
  const byName = new Map(workspace.packages.map((one) => [one.manifest.name, one]));
  const found: Finding[] = [];
  for (const one of workspace.packages) {
    const row = table.get(one.room);
    if (row === undefined) {
      found.push(
        finding('import-table', one.folder, 0, `${one.room} is not in the table of architecture.md`),
      );
      continue;
    }
    found.push(...checkManifest(workspace, one, row, byName));
    for (const file of one.sources) found.push(...checkFile(workspace, one, row, file, byName));
  }
  for (const room of table.keys()) {
    if (!workspace.packages.some((one) => one.room === room)) {
      found.push(
        finding('import-table', 'docs/architecture.md', 0, `the table names ${room}, which is not there`),
      );
    }
  }
  return found;
}

function checkManifest(
  workspace: Workspace,
  one: WorkspacePackage,
  row: ImportRow,
  byName: ReadonlyMap<string, WorkspacePackage>,
): Finding[] {
  const path = `${one.folder}/package.json`;
  const found: Finding[] = [];
  const rooms: string[] = [];
  for (const [name, range] of Object.entries(one.manifest.dependencies ?? {})) {
    const target = byName.get(name);
    if (target === undefined) continue;
    rooms.push(target.folder);
    if (!row.imports.has(target.room)) {
      found.push(finding('import-table', path, 0, `${one.room} may not depend on ${target.room}`));
    }
    if (!range.startsWith('workspace:')) {
      found.push(finding('import-table', path, 0, `${name} is of this workspace: its range is workspace:^`));
    }
  }
  return [...found, ...checkProject(workspace, one, row, rooms)];
}

/**
 * `tsc -b` builds what `tsconfig.json` refers to; it must be what the manifest depends on. A package that runs
 * in a browser is compiled without the types of Node, so that the compiler sees what a rule might miss.
 */
function checkProject(
  workspace: Workspace,
  one: WorkspacePackage,
  row: ImportRow,
  rooms: readonly string[],
): Finding[] {
  const path = `${one.folder}/tsconfig.json`;
  if (!existsSync(join(workspace.root, path))) return [];
  const text = readFileSync(join(workspace.root, path), 'utf8');
  const { references, compilerOptions } = JSON.parse(text) as {
    references?: { path: string }[];
    compilerOptions?: { noEmit?: boolean; types?: string[] };
  };
  if (compilerOptions?.noEmit === true) return [];
  const referred = new Set((references ?? []).map((to) => posix.join(one.folder, to.path)));
  const missing = rooms.filter((room) => !referred.has(room));
  const extra = [...referred].filter((room) => !rooms.includes(room));
  const nodeTypes = row.browser && compilerOptions?.types?.includes('node') === true;
  return [
    ...(nodeTypes
      ? [finding('browser-clean', path, 0, `${one.room} is compiled without the types of Node`)]
      : []),
    ...missing.map((room) => finding('references', path, 0, `depends on ${room} without a reference to it`)),
    ...extra.map((room) => finding('references', path, 0, `refers to ${room} without depending on it`)),
  ];
}

function checkFile(
  workspace: Workspace,
  one: WorkspacePackage,
  row: ImportRow,
  file: SourceFile,
  byName: ReadonlyMap<string, WorkspacePackage>,
): Finding[] {
  const syntax = readSyntax(file.path, file.text);
  if (syntax.error !== undefined) return [finding('syntax', file.path, 0, syntax.error)];
  const found: Finding[] = [];
  for (const site of syntax.imports) {
    const message = importProblem(workspace, one, row, file, site, byName);
    if (message !== undefined) found.push(finding('imports', file.path, site.line, message));
  }
  if (row.browser && !file.isTest) {
    for (const { name, line } of syntax.names) {
      if (nodeGlobals.has(name)) {
        found.push(
          finding('browser-clean', file.path, line, `${name} is of Node; ${one.room} runs in a browser`),
        );
      }
    }
  }
  return found;
}

function importProblem(
  workspace: Workspace,
  one: WorkspacePackage,
  row: ImportRow,
  file: SourceFile,
  site: ImportSite,
  byName: ReadonlyMap<string, WorkspacePackage>,
): string | undefined {
  const { specifier } = site;
  if (site.computed) {
    return file.isTest ? undefined : 'import(…) takes a literal, so that it can be checked';
  }
  if (specifier.startsWith('.')) return relativeProblem(one, file, specifier);
  if (specifier.startsWith('node:') || nodeModules.has(specifier)) {
    return row.browser && !file.isTest ? `${specifier} is of Node; ${one.room} runs in a browser` : undefined;
  }
  const packageName = packageOf(specifier);
  const target = byName.get(packageName);
  if (target === undefined) {
    if (packageName.startsWith('@qcow2/')) return `there is no package ${packageName}`;
    return declared(one.manifest, packageName, file.isTest) ||
      (file.isTest && declared(workspace.manifest, packageName, true))
      ? undefined
      : `${packageName} is not among the dependencies of ${one.folder}/package.json`;
  }
  const entry = `.${specifier.slice(packageName.length)}`;
  if (target.manifest.exports?.[entry] === undefined)
    return `${specifier} is not an entry that ${packageName} exports`;
  if (target === one) return undefined;
  if (!file.isTest && !row.imports.has(target.room)) return `${one.room} may not import ${target.room}`;
  return declared(one.manifest, packageName, file.isTest)
    ? undefined
    : `${packageName} is not among the dependencies of ${one.folder}/package.json`;
}

function relativeProblem(one: WorkspacePackage, file: SourceFile, specifier: string): string | undefined {
  if (!/\.(ts|json)$/.test(specifier)) return `${specifier}: relative imports end in .ts`;
  const target = posix.join(dirname(file.path), specifier);
  if (!target.startsWith(`${one.folder}/`)) return `${specifier} reaches out of ${one.folder}`;
  if (file.isTest) return undefined;
  const reachesTest = target.endsWith('.test.ts') || !target.startsWith(`${one.folder}/src/`);
  return reachesTest ? `${specifier}: sources never import tests or what lies outside src` : undefined;
}

/** `@scope/name/sub` → `@scope/name`. */
function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

function declared(manifest: Manifest, name: string, dev: boolean): boolean {
  const lists = [
    manifest.dependencies,
    manifest.peerDependencies,
    dev ? manifest.devDependencies : undefined,
  ];
  return lists.some((list) => list?.[name] !== undefined);
}
