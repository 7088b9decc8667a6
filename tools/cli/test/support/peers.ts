/**
 * The other programs that interop tests need. Where one is missing the tests that need it do not run, and say so
 * loudly; with CI=true in the environment that is a failure, because nobody reads the log of a green run.
 */
import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { describe, expect, it } from 'vitest';

const packages: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-io': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  nbdinfo: 'libnbd-bin',
  nbdcopy: 'libnbd-bin',
  openssl: 'openssl',
  'python3-libnbd': 'python3-libnbd',
  strace: 'strace',
  groff: 'groff-base',
};

/** Debian's bindings are for Debian's interpreter, which need not be the first one on the path. */
export const python =
  ['python3', '/usr/bin/python3'].find(
    (interpreter) => spawnSync(interpreter, ['-c', 'import nbd']).status === 0,
  ) ?? 'python3';

/** A `describe` for tests that need these programs. */
export function describeWith(peers: readonly string[], title: string, tests: () => void): void {
  const missing = peers.filter((peer) => !isThere(peer));
  if (missing.length === 0) {
    describe(title, tests);
    return;
  }
  const what = missing.map((peer) => `${peer} (Debian: ${packages[peer] ?? peer})`).join(', ');
  process.stderr.write(`\n*** SKIPPED: ${title}: missing ${what} ***\n\n`);
  if (process.env.CI === 'true') {
    it(`${title}: needs ${what}`, () => expect(missing).toEqual([]));
  } else {
    describe.skipIf(missing.length > 0)(title, tests);
  }
}

function isThere(peer: string): boolean {
  if (peer === 'python3-libnbd') return spawnSync(python, ['-c', 'import nbd']).status === 0;
  return (process.env.PATH ?? '').split(delimiter).some((folder) => {
    try {
      accessSync(join(folder, peer), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
