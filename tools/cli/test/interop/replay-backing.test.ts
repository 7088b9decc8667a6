/** A dirty overlay is replayed with its backing file: what the log holds of a cluster is completed from there. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createImage, openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'replaying a dirty image with a backing file', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());

  it.each(['replay', 'disable'])('journal %s keeps what shows through', async (action) => {
    const base = join(scratch.path, `${action}-base.raw`);
    const top = join(scratch.path, `${action}-top.qcow2`);
    writeFileSync(base, new Uint8Array(1 << 20).fill(7));
    const device = openFile(top, { create: 'exclusive' });
    const journal = { sizeBytes: 1 << 20 };
    await createImage(device, { sizeBytes: 1 << 20, backingFile: base, backingFormat: 'raw', journal });
    const image = await openImage(device, { backing: openFile(base, { readOnly: true }) });
    await image.write(73728, new Uint8Array(4096).fill(8));
    await image.flush();
    image.abandon();
    await device.close();
    expect(qcow2(['journal', action, '-q', top])).toEqual({ status: 0, stdout: '', stderr: '' });
    const reads = ['read -P 7 65536 8192', 'read -P 8 73728 4096', 'read -P 7 77824 53248'];
    const told = must('qemu-io', ['-r', ...reads.flatMap((read) => ['-c', read]), top]);
    expect(told).not.toMatch(/verification failed/);
    must('qemu-img', ['check', top]);
  });
});
