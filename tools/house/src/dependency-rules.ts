/**
 * `docs/dependencies.md` names every package that comes from outside, with its exact version and the reason
 * why it is there; manifests pin exact versions. What is published needs none of them: at most it makes use of an
 * optional one where that is there.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Finding, finding } from './finding.ts';
import { namesIn, tableAfter } from './markdown-table.ts';
import type { Manifest, Workspace } from './workspace.ts';

const pagePath = 'docs/dependencies.md';

export function checkDependencies(workspace: Workspace): Finding[] {
  const found: Finding[] = [];
  const own = new Set(workspace.packages.map((one) => one.manifest.name));
  const listed = new Map<string, string>();
  const page = readFileSync(join(workspace.root, pagePath), 'utf8');
  for (const row of tableAfter(page, 'dependencies', pagePath))
    listed.set(namesIn(row[0] ?? '')[0] ?? '', row[1] ?? '');

  const used = new Set<string>();
  const manifests: [string, Manifest][] = [
    ['package.json', workspace.manifest],
    ...workspace.packages.map((one): [string, Manifest] => [`${one.folder}/package.json`, one.manifest]),
  ];
  for (const [path, manifest] of manifests) {
    const { devDependencies, optionalDependencies, dependencies } = manifest;
    if (manifest.private !== true) {
      const needed = Object.keys(dependencies ?? {}).filter((name) => !own.has(name));
      for (const name of needed) {
        found.push(
          finding('dependencies', path, 0, `${name}: what is published depends on no package from outside`),
        );
      }
    }
    const ranges = { ...devDependencies, ...optionalDependencies, ...dependencies };
    for (const [name, range] of Object.entries(ranges)) {
      if (own.has(name)) continue;
      used.add(name);
      const version = range.replace(/^npm:.*@/, '');
      if (!/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version)) {
        found.push(finding('dependencies', path, 0, `${name}: ${range} is not an exact version`));
      }
      if (listed.get(name) !== version) {
        const message = `${name} ${version} is not in ${pagePath} with that version and a reason`;
        found.push(finding('dependencies', path, 0, message));
      }
    }
  }
  for (const name of listed.keys()) {
    if (!used.has(name))
      found.push(finding('dependencies', pagePath, 0, `${name} is listed and used by no package`));
  }
  return found;
}
