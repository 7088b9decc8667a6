/** What `info`, `check` and the program itself are asked, beside qemu-img. The images are those of `image-zoo.ts`. */
import type { ParityCase } from './parity.ts';

const readable = [
  'plain.qcow2',
  'empty.qcow2',
  'v2.qcow2',
  'lazy.qcow2',
  'zstd.qcow2',
  'extended.qcow2',
  'overlay.qcow2',
  'sub/top.qcow2',
  'on-raw.qcow2',
  'snapshots.qcow2',
  'bitmaps.qcow2',
  'compressed.qcow2',
  'fragmented.qcow2',
  'preallocated.qcow2',
  'refcount1.qcow2',
  'sound.qcow2',
  'corrupt-bit.qcow2',
  'dirty-bit.qcow2',
  'luks.qcow2',
  'luks-cbc.qcow2',
  'aes.qcow2',
  'external.qcow2',
];

const bothOutputs = (command: string, files: readonly string[]): ParityCase[] =>
  files.flatMap((file) => [{ args: [command, file] }, { args: [command, '--output=json', file] }]);

export const infoCases: readonly ParityCase[] = [
  ...bothOutputs('info', [
    ...readable,
    'orphan.qcow2',
    'remote.qcow2',
    'json-backing.qcow2',
    'disk.raw',
    'odd.raw',
    'nothing.raw',
    'name é"\\.qcow2',
    './plain.qcow2',
    'file:plain.qcow2',
    'unknown-feature.qcow2',
    'version-4.qcow2',
  ]),
  { args: ['info', '--backing-chain', 'sub/top.qcow2'] },
  { args: ['info', '--backing-chain', '--output=json', 'sub/top.qcow2'] },
  { args: ['info', '--backing-chain', '--output=json', 'plain.qcow2'] },
  { args: ['info', '--backing-chain', 'orphan.qcow2'] },
  { args: ['info', '--backing', '--out', 'json', 'on-raw.qcow2'] },
  { args: ['info', '-f', 'qcow2', 'plain.qcow2'] },
  { args: ['info', '-fraw', 'plain.qcow2'] },
  { args: ['info', 'plain.qcow2', '-f', 'raw', '--output', 'json'] },
  { args: ['info', '-U', '--', 'plain.qcow2'] },
  { args: ['info', '-f', 'qcow2', 'odd.raw'] },
  { args: ['info', '-f', 'nope', 'odd.raw'] },
  { args: ['info', 'missing.qcow2'] },
  { args: ['info', 'sub'] },
  { args: ['info', ''] },
  { args: ['info', 'nope:foo'] },
  { args: ['info', '/dev/null'] },
  { args: ['info'] },
  { args: ['info', 'plain.qcow2', 'extra'] },
  { args: ['info', '--output=xml', 'plain.qcow2'] },
  { args: ['info', '--output'] },
  { args: ['info', '--bogus', 'plain.qcow2'] },
  { args: ['info', '-Z'] },
  { args: ['info', '--backing-chain=x', 'plain.qcow2'] },
  { args: ['info', 'cut.qcow2'], deviation: 'malformed-wording' },
  { args: ['info', '--object', 'secret,id=s,data=abc', 'plain.qcow2'] },
  { args: ['info', '--object', 'secret,id=s,data=abc', 'luks.qcow2'] },
  { args: ['info', '--object', 'secret,id=s,file=/nonexistent', 'plain.qcow2'], deviation: 'secret-wording' },
  { args: ['info', '--image-opts', 'driver=qcow2,file.filename=plain.qcow2'] },
];

export const programCases: readonly ParityCase[] = [
  { args: [] },
  { args: ['bogus'] },
  { args: ['--bogus'] },
  { args: ['-q', 'create'] },
  { args: ['create', '-V'] },
  { args: ['--version'], deviation: 'version-text' },
  { args: ['snapshot', '-l', 'snapshots.qcow2'] },
];

const encrypted = ['luks.qcow2', 'luks-cbc.qcow2', 'aes.qcow2'];
const damagedImages = ['leak.qcow2', 'refcount-0.qcow2', 'refcount-2.qcow2', 'beyond-end.qcow2'];

export const checkCases: readonly ParityCase[] = [
  ...bothOutputs(
    'check',
    readable.filter((file) => !encrypted.includes(file)),
  ),
  ...bothOutputs('check', encrypted).map((each) => ({ ...each, deviation: 'check-encrypted' })),
  // What stands on standard error names every finding in words of our own.
  ...bothOutputs('check', [...damagedImages, 'shared.qcow2', 'not-copied.qcow2']).map((each) => ({
    ...each,
    ignoreStderr: true,
  })),
  ...damagedImages.map((file) => ({ args: ['check', '-q', file], ignoreStderr: true })),
  { args: ['check', 'unaligned.qcow2'], deviation: 'check-unaligned' },
  { args: ['check', '-q', 'plain.qcow2'] },
  { args: ['check', '-f', 'qcow2', 'sound.qcow2'] },
  { args: ['check', '-U', 'sound.qcow2'] },
  { args: ['check', 'odd.raw'] },
  { args: ['check', '-f', 'raw', 'plain.qcow2'] },
  { args: ['check', '--output=json', 'disk.raw'] },
  { args: ['check', '-f', 'qcow2', 'odd.raw'] },
  { args: ['check', 'missing.qcow2'] },
  { args: ['check', 'unknown-feature.qcow2'] },
  { args: ['check'] },
  { args: ['check', 'plain.qcow2', 'extra'] },
  { args: ['check', '--output=xml', 'plain.qcow2'] },
  { args: ['check', '-r', 'leaks', 'plain.qcow2'] },
];
