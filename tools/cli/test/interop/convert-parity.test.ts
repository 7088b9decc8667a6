/** `convert` beside the real qemu-img: what is printed, and the image that comes of it: its content, its allocation and its facts. */
import { join } from 'node:path';
import { must } from '../support/command.ts';
import { convertCases } from '../support/copy-cases.ts';
import { makeDisks } from '../support/disk-zoo.ts';
import { parityTable } from '../support/parity-table.ts';
import { describeWith } from '../support/peers.ts';

describeWith(['qemu-img', 'qemu-io'], 'convert beside qemu-img', () => {
  parityTable(convertCases, (folder) => {
    makeDisks(folder);
    const old = (...args: string[]) => must('qemu-img', ['create', '-q', ...args, '3M'], { cwd: folder });
    old('-f', 'raw', 'old.raw');
    must('qemu-io', ['-f', 'raw', '-c', 'write -P 77 0 3M', join(folder, 'old.raw')]);
    old('-f', 'qcow2', 'old.qcow2');
    must('qemu-io', ['-c', 'write -P 77 0 3M', join(folder, 'old.qcow2')]);
  });
});
