/**
 * Images of every kind, sound and damaged, made by qemu-img: what `info` and `check` are asked about. Each is
 * a name and the commands that make it; `{edit}` lines change bytes of a file.
 */
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { must, run } from './command.ts';

type Step =
  | { readonly img: readonly string[] }
  | { readonly io: readonly string[] }
  | { readonly write: string; readonly at: number; readonly bytes: readonly number[] }
  | { readonly truncate: string; readonly sizeBytes: number }
  | { readonly file: string; readonly text: string }
  | { readonly folder: string }
  | { readonly copy: string; readonly to: string };

const secret = ['--object', 'secret,id=s,data=abc'];
const create = (...words: string[]): Step => ({ img: ['create', '-q', ...words] });
const small = (name: string): Step[] => [
  create('-f', 'qcow2', name, '16M'),
  { io: ['-c', 'write 0 128k', '-c', 'write 1M 64k', '-c', 'write 512k 64k', name] },
];

/** Where qemu-img 7.2 puts the tables of an image with clusters of 64 KiB. */
const at = { refcountTable: 0x10000, refcountBlock: 0x20000, l1: 0x30000, l2: 0x40000 } as const;

const damaged = (name: string, offset: number, ...bytes: number[]): Step[] => [
  ...small(name),
  { write: name, at: offset, bytes },
];

const steps: readonly Step[] = [
  { folder: 'sub' },
  create('-f', 'qcow2', 'plain.qcow2', '1G'),
  create('-f', 'qcow2', 'empty.qcow2', '0'),
  create('-f', 'qcow2', '-o', 'compat=0.10', 'v2.qcow2', '1000000'),
  create('-f', 'qcow2', '-o', 'lazy_refcounts=on,refcount_bits=64,cluster_size=512', 'lazy.qcow2', '12345'),
  create('-f', 'qcow2', '-o', 'compression_type=zstd,refcount_bits=1,cluster_size=2M', 'zstd.qcow2', '10G'),
  create('-f', 'qcow2', '-o', 'extended_l2=on,cluster_size=128k', 'extended.qcow2', '1T'),
  create('-f', 'qcow2', '-o', 'data_file=data.raw,data_file_raw=on', 'external.qcow2', '1M'),
  create('-f', 'qcow2', '-b', 'plain.qcow2', '-F', 'qcow2', 'overlay.qcow2'),
  create('-f', 'qcow2', '-b', '../overlay.qcow2', '-F', 'qcow2', 'sub/top.qcow2'),
  create('-f', 'qcow2', '-u', '-b', 'gone.qcow2', '-F', 'qcow2', 'orphan.qcow2', '1M'),
  create('-f', 'qcow2', '-u', '-b', 'nbd://localhost/x', '-F', 'raw', 'remote.qcow2', '1M'),
  create('-f', 'qcow2', '-u', '-b', 'json:{"driver":"raw"}', '-F', 'raw', 'json-backing.qcow2', '1M'),
  create('-f', 'raw', 'disk.raw', '33M'),
  create('-f', 'qcow2', '-b', 'disk.raw', '-F', 'raw', 'on-raw.qcow2'),
  { file: 'odd.raw', text: 'hello' },
  { file: 'nothing.raw', text: '' },
  create('-f', 'qcow2', 'snapshots.qcow2', '64M'),
  { io: ['-c', 'write 0 1M', 'snapshots.qcow2'] },
  { img: ['snapshot', '-c', 's1', 'snapshots.qcow2'] },
  { io: ['-c', 'write 512k 1M', 'snapshots.qcow2'] },
  { img: ['snapshot', '-c', 'a second snapshot with a longer name', 'snapshots.qcow2'] },
  create('-f', 'qcow2', 'bitmaps.qcow2', '64M'),
  { img: ['bitmap', '--add', 'bitmaps.qcow2', 'b0'] },
  { img: ['bitmap', '--add', '-g', '512', '--disable', 'bitmaps.qcow2', 'b1'] },
  create(
    ...secret,
    '-f',
    'qcow2',
    '-o',
    'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
    'luks.qcow2',
    '1M',
  ),
  create(
    ...secret,
    '-f',
    'qcow2',
    '-o',
    'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256',
    'luks-cbc.qcow2',
    '1M',
  ),
  create(...secret, '-f', 'qcow2', '-o', 'encrypt.format=aes,encrypt.key-secret=s', 'aes.qcow2', '1M'),
  create('-f', 'raw', 'ones.raw', '4M'),
  { io: ['-f', 'raw', '-c', 'write -P 3 0 1M', 'ones.raw'] },
  { img: ['convert', '-c', '-O', 'qcow2', 'ones.raw', 'compressed.qcow2'] },
  create('-f', 'qcow2', '-o', 'cluster_size=4k', 'fragmented.qcow2', '16M'),
  {
    io: [
      '-c',
      'write 8k 4k',
      '-c',
      'write 0k 4k',
      '-c',
      'write 16k 8k',
      '-c',
      'write -z 64k 8k',
      'fragmented.qcow2',
    ],
  },
  create('-f', 'qcow2', '-o', 'preallocation=metadata', 'preallocated.qcow2', '4M'),
  create('-f', 'qcow2', '-o', 'refcount_bits=1', 'refcount1.qcow2', '4M'),
  { io: ['-c', 'write 0 1M', 'refcount1.qcow2'] },
  ...small('sound.qcow2'),
  ...damaged('leak.qcow2', at.refcountBlock + 2 * 20, 0, 1),
  { truncate: 'leak.qcow2', sizeBytes: 2 ** 21 },
  ...damaged('refcount-0.qcow2', at.refcountBlock + 2 * 5, 0, 0),
  ...damaged('refcount-2.qcow2', at.refcountBlock + 2 * 5, 0, 2),
  ...damaged('beyond-end.qcow2', at.l2 + 8 * 3, 0x80, 0, 0, 0, 0, 0xff, 0, 0),
  ...damaged('unaligned.qcow2', at.l2, 0x80, 0, 0, 0, 0, 5, 2, 0),
  ...damaged('shared.qcow2', at.l2 + 8, 0x80, 0, 0, 0, 0, 5, 0, 0),
  ...damaged('not-copied.qcow2', at.l2, 0, 0, 0, 0, 0, 5, 0, 0),
  ...damaged('corrupt-bit.qcow2', 79, 2),
  ...damaged('dirty-bit.qcow2', 79, 1),
  ...damaged('unknown-feature.qcow2', 72, 0x40),
  ...damaged('version-4.qcow2', 7, 4),
  { copy: 'plain.qcow2', to: 'cut.qcow2' },
  { truncate: 'cut.qcow2', sizeBytes: 100 },
  { copy: 'plain.qcow2', to: 'name é"\\.qcow2' },
];

/** Make all of them in `folder`. */
export function makeZoo(folder: string): void {
  for (const step of steps) takeStep(step, folder);
}

function takeStep(step: Step, folder: string): void {
  if ('img' in step) createPatiently(step.img, folder);
  else if ('io' in step) must('qemu-io', step.io, { cwd: folder });
  else if ('truncate' in step) truncateSync(join(folder, step.truncate), step.sizeBytes);
  else if ('file' in step) writeFileSync(join(folder, step.file), step.text);
  else if ('folder' in step) mkdirSync(join(folder, step.folder));
  else if ('copy' in step) copyFileSync(join(folder, step.copy), join(folder, step.to));
  else {
    const file = openSync(join(folder, step.write), 'r+');
    writeSync(file, Uint8Array.from(step.bytes), 0, step.bytes.length, step.at);
    closeSync(file);
  }
}

/** On a busy machine qemu-img at times finds that it can not measure how many LUKS iterations it should choose. */
function createPatiently(args: readonly string[], folder: string): void {
  for (let attempt = 0; attempt < 20; attempt++) {
    const outcome = run('qemu-img', args, { cwd: folder });
    if (outcome.status === 0) return;
    if (!outcome.stderr.includes('Unable to get accurate CPU usage')) break;
  }
  must('qemu-img', args, { cwd: folder });
}
