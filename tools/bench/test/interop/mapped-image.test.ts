/** The image that `bench check` measures is what it says: sound for qemu-img and for us, or wrong in as many places as asked for. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { makeMappedImage } from '../../src/mapped-image.ts';

const folder = mkdtempSync(join(tmpdir(), 'qcow2-mapped-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function checked(clusterBytes: number, diskBytes: number, fileBytes: number, wrongRefcounts: number) {
  const path = join(folder, 'mapped.qcow2');
  const made = makeMappedImage(path, { diskBytes, clusterBytes, fileBytes, wrongRefcounts });
  const device = openFile(path, { readOnly: true });
  const report = await checkImage(device);
  device.close();
  return { path, made, report };
}

it('is mapped whole, or as far as the file may reach', async () => {
  for (const [clusterBytes, fileBytes] of [
    [4096, 2 ** 40],
    [65536, 2 ** 40],
    [4096, 2 ** 30],
  ] as const) {
    const { path, made, report } = await checked(clusterBytes, 2 ** 30, fileBytes, 0);
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, totalClusters: 2 ** 30 / clusterBytes });
    expect(report.allocatedClusters * clusterBytes).toBe(made.mappedBytes);
    expect(made.mappedBytes === 2 ** 30).toBe(fileBytes > 2 ** 30);
    const theirs = spawnSync('qemu-img', ['check', '-q', path], { encoding: 'utf8' });
    if (theirs.error === undefined) expect(theirs).toMatchObject({ status: 0, stderr: '' });
  }
});

it('has as many wrong refcounts as asked for, half of them too low', async () => {
  const { report } = await checked(65536, 2 ** 32, 2 ** 40, 8);
  expect(report.leaks).toBe(4);
  // Each says "copied", which none of the eight may.
  expect(report.corruptions).toBe(4 + 8);
});
