/**
 * The repository as the rules see it: packages with their manifests, and their source files.
 *
 * Everything is read from one root folder given by the caller, never from the current one, so that a test
 * can plant a forbidden edge in a folder of its own and see it found.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

export interface Manifest {
  readonly name: string;
  readonly version?: string;
  readonly private?: boolean;
  readonly exports?: Readonly<Record<string, unknown>>;
  readonly bin?: Readonly<Record<string, string>>;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly devDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
}

export interface SourceFile {
  /** Path from the root, with forward slashes. */
  readonly path: string;
  readonly text: string;
  /** Tests, their support and benchmarks: what is never published and may look at more. */
  readonly isTest: boolean;
}

export interface WorkspacePackage {
  /** Short name: the folder's, which is what the import table calls it. */
  readonly room: string;
  /** Folder from the root: `packages/spec`. */
  readonly folder: string;
  readonly manifest: Manifest;
  readonly published: boolean;
  readonly sources: readonly SourceFile[];
}

export interface Workspace {
  readonly root: string;
  readonly manifest: Manifest;
  readonly packages: readonly WorkspacePackage[];
}

const skippedFolders = new Set(['node_modules', 'dist', 'coverage', 'vectors']);

export function loadWorkspace(root: string): Workspace {
  const packages: WorkspacePackage[] = [];
  for (const parent of ['packages', 'tools']) {
    if (!existsSync(join(root, parent))) continue;
    for (const room of readdirSync(join(root, parent)).sort()) {
      const folder = `${parent}/${room}`;
      if (existsSync(join(root, folder, 'package.json'))) packages.push(loadPackage(root, folder, room));
    }
  }
  return { root, manifest: readJson<Manifest>(join(root, 'package.json')), packages };
}

function loadPackage(root: string, folder: string, room: string): WorkspacePackage {
  const manifest = readJson<Manifest>(join(root, folder, 'package.json'));
  const sources = [...filesBelow(root, folder)]
    .filter((path) => path.endsWith('.ts'))
    .map((path) => ({
      path,
      text: readFileSync(join(root, path), 'utf8'),
      isTest: path.endsWith('.test.ts') || !path.startsWith(`${folder}/src/`),
    }));
  return { room, folder, manifest, published: manifest.private !== true, sources };
}

export function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, 'utf8')) as T;
}

/** Every file below `folder`, as a path from the root; build output, vectors and what hides behind a dot are left out. */
export function* filesBelow(root: string, folder: string): Generator<string> {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = join(root, folder, entry.name);
    if (entry.isDirectory()) {
      const skipped = skippedFolders.has(entry.name) || entry.name.startsWith('.');
      if (!skipped) yield* filesBelow(root, relative(root, path));
    } else if (entry.isFile()) {
      yield relative(root, path).split(sep).join('/');
    }
  }
}
