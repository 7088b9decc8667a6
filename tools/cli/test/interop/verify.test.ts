/** `verify` beside sha256sum: every byte, in every format, and the ranges that can not be read. */

import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { must, qcow2, scratchFolder } from '../support/command.ts';
import { describeWith } from '../support/peers.ts';

const chunkBytes = 1 << 20;

describeWith(['qemu-img', 'qemu-io'], 'verify', () => {
  const scratch = scratchFolder();
  const at = (name: string): string => join(scratch.path, name);
  afterAll(() => scratch.remove());

  it('has the checksums of the bytes that QEMU reads, with zeros, a short last chunk, compressed data and a backing file', () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', at('base.qcow2'), '5632k']);
    must('qemu-io', ['-c', 'write -P 7 100k 1000k', '-c', 'write -c -P 9 2M 64k', at('base.qcow2')]);
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', at('base.qcow2'), '-F', 'qcow2', at('top.qcow2')]);
    must('qemu-io', [
      '-c',
      'write -P 1 500 1000',
      '-c',
      'write -z 300k 64k',
      '-c',
      'write -P 5 5000k 632k',
      at('top.qcow2'),
    ]);
    must('qemu-img', ['convert', '-O', 'raw', at('top.qcow2'), at('top.raw')]);
    const bytes = readFileSync(at('top.raw'));
    let expected = '';
    for (let offset = 0; offset < bytes.length; offset += chunkBytes) {
      const chunk = bytes.subarray(offset, offset + chunkBytes);
      const digest = createHash('sha256').update(chunk).digest('hex');
      expected += `${digest}  0x${offset.toString(16)}  ${chunk.length}\n`;
    }
    for (const name of ['top.qcow2', 'top.raw']) {
      expect(qcow2(['verify', '--chunk', '1M', at(name)])).toEqual({
        status: 0,
        stdout: expected,
        stderr: '',
      });
    }
  });

  it('names what can not be read, reads the rest, and fails', () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', at('bad.qcow2'), '4M']);
    must('qemu-io', [
      '-c',
      'write -P 1 0 64k',
      '-c',
      'write -c -P 9 1M 64k',
      '-c',
      'write -P 3 2M 64k',
      at('bad.qcow2'),
    ]);
    const bytes = readFileSync(at('bad.qcow2'));
    const l1 = Number(bytes.readBigUInt64BE(40));
    const l2 = Number(bytes.readBigUInt64BE(l1) & 0xfffffffffffe00n);
    const place = Number(bytes.readBigUInt64BE(l2 + 16 * 8) & 0x3fffffffffffn);
    bytes.fill(0xff, place, place + 64);
    writeFileSync(at('bad.qcow2'), bytes);
    const { status, stdout } = qcow2(['verify', '--chunk', '1M', '--output', 'json', at('bad.qcow2')]);
    expect(status).toBe(1);
    const report = JSON.parse(stdout);
    expect(report.unreadable).toMatchObject([{ offset: 1 << 20, length: 65536 }]);
    expect(report.chunks.map(({ digest }: { digest?: string }) => digest !== undefined)).toEqual([
      true,
      false,
      true,
      true,
    ]);
  });

  it('goes on behind a table that is damaged', () => {
    must('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', at('table.qcow2'), '128k']);
    must('qemu-io', ['-c', 'write -P 1 0 128k', at('table.qcow2')]);
    const bytes = readFileSync(at('table.qcow2'));
    const l1 = Number(bytes.readBigUInt64BE(40));
    bytes.writeBigUInt64BE(2n ** 54n + 512n, l1 + 8);
    writeFileSync(at('table.qcow2'), bytes);
    const { status, stdout } = qcow2(['verify', '--chunk', '32k', '--output', 'json', at('table.qcow2')]);
    expect(status).toBe(1);
    const report = JSON.parse(stdout);
    expect(report.unreadable).toMatchObject([{ offset: 32768, length: 32768 }]);
    expect(report.chunks.map(({ digest }: { digest?: string }) => digest !== undefined)).toEqual([
      true,
      false,
      true,
      true,
    ]);
  });
});
