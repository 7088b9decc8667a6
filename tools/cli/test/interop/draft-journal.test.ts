/** Images with the draft's journal beside QEMU: ordinary ones when clean, refused when dirty. */
import { join } from 'node:path';
import { openImage } from '@qcow2/driver';
import { openFile } from '@qcow2/fs';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, run, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'an image with the journal of the draft', () => {
  const scratch = scratchFolder();
  afterAll(() => scratch.remove());

  function made(name: string): string {
    const path = join(scratch.path, name);
    const options = 'journal=draft-2013,journal_size=1M';
    expect(qcow2(['create', '-q', '-f', 'qcow2', '-o', options, path, '64M']).status).toBe(0);
    return path;
  }

  it('[JD13-BIND-006] is written by QEMU when clean, which takes its journal for leaks, and may reclaim them', async () => {
    const path = made('clean.qcow2');
    expect(qcow2(['check', '-q', path]).status).toBe(0);
    expect(run('qemu-img', ['check', path]).status).toBe(3);
    must('qemu-io', ['-c', 'write -P 7 0 128k', path]);
    // QEMU has rewritten the header: the binding is gone with the bit that it does not know.
    expect(qcow2(['journal', 'info', path]).stderr).toMatch(/has no journal/);
    must('qemu-img', ['check', '-q', '-r', 'leaks', path]);
    must('qemu-io', ['-c', 'write -P 8 1M 4M', path]);
    expect(qcow2(['journal', 'enable', '-q', '--profile', 'draft-2013', '--size', '256k', path]).status).toBe(
      0,
    );
    expect(qcow2(['check', '-q', path]).status).toBe(0);
    const told = must('qemu-io', ['-r', '-c', 'read -P 7 0 128k', '-c', 'read -P 8 1M 4M', path]);
    expect(told).not.toMatch(/verification failed/);
  });

  it('[JD13-BIND-001] is refused by QEMU when dirty, dumped, replayed, converted', async () => {
    const path = made('dirty.qcow2');
    const device = openFile(path);
    const image = await openImage(device);
    for (let i = 0; i < 5; i++) {
      await image.write(i * 200_000, new Uint8Array(4096).fill(i + 1));
      await image.flush();
    }
    image.abandon();
    await device.close();
    const refused = run('qemu-img', ['check', path]);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toMatch(/data-file/);
    expect(qcow2(['check', '-q', path]).status).toBe(0);
    const dumped = qcow2(['journal', 'dump', path]).stdout;
    expect(dumped).toMatch(/journal: dirty, profile draft-2013/);
    expect(dumped).toMatch(/write data of 8 bytes at 0x[0-9a-f]+: L2 entry of guest range 0x0-0xffff/);
    expect(dumped).toMatch(/live: 5 transactions/);
    const json = JSON.parse(qcow2(['journal', 'dump', '--output=json', path]).stdout) as {
      transactions: { descriptors: unknown[] }[];
    };
    expect(json.transactions).toHaveLength(5);
    expect(qcow2(['journal', 'replay', '-q', path])).toEqual({ status: 0, stdout: '', stderr: '' });
    must('qemu-io', ['-r', '-c', 'read -P 5 800000 4096', path]);
    expect(qcow2(['journal', 'convert', '-q', '--profile', 'v1', '--size', '1M', path]).status).toBe(0);
    must('qemu-img', ['check', '-q', path]);
    expect(qcow2(['journal', 'info', path]).stdout).toMatch(/profile: v1/);
  });
});
