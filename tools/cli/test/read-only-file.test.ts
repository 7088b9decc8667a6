/**
 * A dirty image in a file that its reader may not write: the journal is replayed in memory, and the file stays
 * as it is, byte for byte. Who runs the tests as root gives that up first, since modes say nothing to root.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, describe, expect, it } from 'vitest';
import { scratchFolder } from './support/command.ts';

/** A process of its own: it loads its code, lets go of root, sees that writing is refused, and reads. */
const reader = `
import { openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
const path = process.argv.at(-1);
if (process.getuid() === 0) {
  process.setgroups([]);
  process.setegid(65534);
  process.seteuid(65534);
}
let refused = '';
try {
  openFile(path);
} catch (error) {
  refused = error.code;
}
const image = await openImage(openFile(path, { readOnly: true }), { readOnly: true });
const bytes = new Uint8Array(8192);
await image.read(4096, bytes);
console.log(JSON.stringify({ refused, state: image.journalStatus().state, bytes: [bytes[0], bytes[4095], bytes[4096]] }));
await image.close();
`;

describe('a dirty image in a file without write permission', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());

  it('[JRN-RO-001] [JRN-RO-002] is read, and not one byte of it changes', async () => {
    const path = join(scratch.path, 'disk.qcow2');
    const file = openFile(path, { create: 'exclusive' });
    await createImage(file, { sizeBytes: 2 ** 20, journal: {} });
    const image = await openImage(file);
    await image.write(4096, new Uint8Array(4096).fill(5));
    await image.flush();
    image.abandon();
    await file.close();
    chmodSync(scratch.path, 0o555);
    chmodSync(path, 0o444);
    const before = { bytes: readFileSync(path), modified: statSync(path).mtimeMs };
    try {
      const words = ['--conditions=qcow2-source', '--input-type=module', '-e', reader, path];
      const options = { encoding: 'utf8', cwd: join(import.meta.dirname, '..') } as const;
      const env = { ...process.env, NODE_OPTIONS: '' };
      const { status, stdout, stderr } = spawnSync(process.execPath, words, { ...options, env });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(JSON.parse(stdout)).toEqual({ refused: 'ACCESS_DENIED', state: 'dirty', bytes: [5, 5, 0] });
    } finally {
      chmodSync(scratch.path, 0o755);
    }
    expect(Buffer.compare(readFileSync(path), before.bytes)).toBe(0);
    expect(statSync(path).mtimeMs).toBe(before.modified);
  });
});
