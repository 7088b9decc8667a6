import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { recipes } from './generation/recipes.ts';
import { loadManifest, loadVector, vectorNames, vectorsFolder } from './vector.ts';

const provenance = readFileSync(join(vectorsFolder, 'README.md'), 'utf8');

describe('golden vectors', () => {
  it('are those of the recipes, no more and no fewer', () => {
    expect(vectorNames()).toEqual(recipes.map((recipe) => recipe.name).sort());
    const payloads = readdirSync(vectorsFolder).filter((name) => name.endsWith('.bin'));
    expect(payloads.sort()).toEqual(
      vectorNames()
        .map((name) => `${name}.bin`)
        .sort(),
    );
  });

  it('take less than a megabyte and a half', () => {
    const sizes = readdirSync(vectorsFolder).map((name) => statSync(join(vectorsFolder, name)).size);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThan(1_500_000);
  });

  it.each(vectorNames())('%s expands to the bytes whose sums the README gives', (name) => {
    const { manifest, bytes, companions } = loadVector(name);
    const image = manifest.files.find((file) => file.role === 'image');
    expect(bytes.length).toBe(image?.sizeBytes);
    expect(companions.size).toBe(manifest.files.length - 1);
    for (const { sha256 } of manifest.files) expect(provenance).toContain(sha256);
    for (const command of manifest.commands) expect(provenance).toContain(command);
  });

  it('say NOT_FOUND where there is none of that name', () => {
    expect(() => loadManifest('no-such-vector')).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
  });
});
