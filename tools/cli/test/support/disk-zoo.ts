/** Disks with content of every kind, small ones, for the commands that read and copy them. */
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  openSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { must } from './command.ts';

const secret = ['--object', 'secret,id=s,data=abc'];
export const luksName = 'driver=qcow2,file.filename=luks.qcow2,encrypt.key-secret=s';

/** Make all of them in `folder`. */
export function makeDisks(folder: string): void {
  const img = (...args: string[]) => must('qemu-img', args, { cwd: folder });
  const io = (name: string, ...commands: string[]) =>
    must('qemu-io', [...commands.flatMap((command) => ['-c', command]), name], { cwd: folder });
  img('create', '-q', '-f', 'qcow2', 'base.qcow2', '1M');
  io('base.qcow2', 'write -P 1 0 128k', 'write -z 256k 64k', 'write -P 3 512k 4k', 'write -P 4 700k 9k');
  img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2', '2M');
  io('top.qcow2', 'write -P 9 64k 64k', 'write -z 1M 64k', 'write -z 512k 64k', 'write -P 8 1900k 4k');
  img('create', '-q', '-f', 'qcow2', '-b', 'top.qcow2', '-F', 'qcow2', 'third.qcow2', '2M');
  io('third.qcow2', 'write -P 7 192k 100k');
  img('create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on', 'sub.qcow2', '1M');
  io('sub.qcow2', 'write -P 1 4k 4k', 'write -z 8k 2k', 'write -P 2 300k 70k');
  img('create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on', '-b', 'sub.qcow2', '-F', 'qcow2', 'sub2.qcow2');
  io('sub2.qcow2', 'write -P 5 8k 4k');
  img('create', '-q', '-f', 'qcow2', '-o', 'data_file=data.raw', 'external.qcow2', '1M');
  io('external.qcow2', 'write -P 6 64k 64k');
  img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', 'tiny.qcow2', '300k');
  io('tiny.qcow2', 'write -P 6 1k 3k', 'write -P 2 100k 700');
  img('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', 'pre.qcow2', '1M');
  img('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', 'v2.qcow2', '1M');
  io('v2.qcow2', 'write -P 3 0 200k');
  img('create', '-q', '-f', 'qcow2', 'empty.qcow2', '0');
  img('convert', '-O', 'raw', 'base.qcow2', 'base.raw');
  img('convert', '-c', '-O', 'qcow2', 'base.qcow2', 'comp.qcow2');
  img('convert', '-c', '-O', 'qcow2', '-o', 'compression_type=zstd', 'base.qcow2', 'zstd.qcow2');
  img('convert', '-S', '0', '-O', 'qcow2', 'base.qcow2', 'full.qcow2');
  img('convert', '-S', '0', '-O', 'raw', 'base.qcow2', 'full.raw');
  img('create', '-q', '-f', 'qcow2', 'snapshots.qcow2', '1M');
  io('snapshots.qcow2', 'write -P 1 0 128k');
  img('snapshot', '-c', 'one', 'snapshots.qcow2');
  io('snapshots.qcow2', 'write -P 2 64k 128k');
  img('snapshot', '-c', 'two', 'snapshots.qcow2');
  io('snapshots.qcow2', 'write -P 3 512k 64k');
  img('create', '-q', '-f', 'qcow2', 'bitmaps.qcow2', '1M');
  img('bitmap', '--add', 'bitmaps.qcow2', 'b0');
  img('bitmap', '--add', '-g', '512', 'bitmaps.qcow2', 'b1');
  io('bitmaps.qcow2', 'write -P 1 0 100k');
  img('bitmap', '--disable', 'bitmaps.qcow2', 'b1');
  const luks = 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10';
  img('create', '-q', ...secret, '-f', 'qcow2', '-o', luks, 'luks.qcow2', '1M');
  must('qemu-io', [...secret, '-c', 'write -P 1 64k 64k', '--image-opts', luksName], { cwd: folder });
  makeRawFiles(folder);
}

function makeRawFiles(folder: string): void {
  writeFileSync(join(folder, 'odd.raw'), 'hello');
  writeFileSync(join(folder, 'nothing.raw'), '');
  const edited = (from: string, to: string, at: number, sizeBytes?: number): void => {
    if (from !== '') copyFileSync(join(folder, from), join(folder, to));
    const file = openSync(join(folder, to), from === '' ? 'w' : 'r+');
    if (sizeBytes !== undefined) ftruncateSync(file, sizeBytes);
    writeSync(file, 'z', at);
    closeSync(file);
  };
  edited('', 'sparse.raw', 300_000, 1024 * 1024);
  edited('base.raw', 'diff.raw', 70_000);
  edited('base.raw', 'longd.raw', 1_500_000, 2 * 1024 * 1024);
  copyFileSync(join(folder, 'base.raw'), join(folder, 'longer.raw'));
  truncateSync(join(folder, 'longer.raw'), 2 * 1024 * 1024);
}
