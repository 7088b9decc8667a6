/** A directory for one test file's files, gone when its tests are done. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

/** @returns a function that makes paths that nothing stands at yet */
export function scratchPaths(): (name?: string) => string {
  const directory = mkdtempSync(join(tmpdir(), 'qcow2-fs-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  let made = 0;
  return (name = 'file') => join(directory, `${made++}-${name}`);
}
