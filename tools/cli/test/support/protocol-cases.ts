/**
 * What is named and is no file, beside qemu-img: exports of NBD servers and disks that hold nothing. The servers are qemu-nbd's, one on each socket:
 * `raw`, `image`, `overlay`, `locked` (read-only), and one with the export `exp`.
 */
import type { TableCase } from './parity-table.ts';

const uri = (socket: string, name = ''): string => `nbd+unix:///${name}?socket=${socket}`;

function rows(command: string, list: readonly (string | readonly [string, string])[]): TableCase[] {
  return list.map((row) => {
    const [text, deviation] = typeof row === 'string' ? [row, undefined] : row;
    return {
      args: [...command.split(' '), ...text.split(' ')],
      ...(deviation === undefined ? {} : { deviation }),
    };
  });
}

const json = (...texts: string[]): TableCase[] => texts.map((text) => ({ args: ['info', `json:${text}`] }));

export const protocolCases: readonly TableCase[] = [
  ...rows('info', [
    'nbd:localhost:1',
    'nbd:unix:/nope',
    'nbd:unix:exp',
    'nbd:unix:exp:exportname=exp',
    'nbd:unix:exp:exportname=zz',
    'nbd:unix:raw',
    'nbd:foo',
    'nbd:',
    'nbd:unix:',
    'nbd:unix',
    'nbd:localhost',
    'nbd:localhost:abc',
    'nbd:localhost:1:foo',
    'nbd://localhost:1',
    'nbd://',
    'nbd:///x',
    'nbd+unix:///x',
    'nbd+unix://h/x?socket=a',
    'nbd+tcp://localhost:1/x',
    'nbd+foo://localhost',
    'nbd://localhost?socket=x',
    uri('exp', 'exp'),
    uri('exp'),
    `--output=json ${uri('exp', 'exp')}`,
    uri('image'),
    `--output=json ${uri('image')}`,
    `-f qcow2 ${uri('image')}`,
    `-f raw ${uri('image')}`,
    `-f qcow2 ${uri('raw')}`,
    uri('overlay'),
    `--output=json ${uri('overlay')}`,
    '--image-opts driver=nbd,path=exp,export=exp',
    '--image-opts driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=exp,file.export=exp',
    '--image-opts driver=nbd,server.type=unix,server.path=image',
    '--image-opts driver=qcow2,file.driver=nbd,file.path=image',
    '--image-opts driver=nbd,host=localhost,port=1,path=x',
    'null-co:',
    'null-co://',
    'null-aio://',
    '--output=json null-co://',
    'null-co://?size=4096',
    '--image-opts driver=null-co,size=1M',
    '--image-opts driver=null-co,read-zeroes=on,size=1M',
    '--output=json --image-opts driver=null-aio,size=5k',
  ]),
  ...json(
    '{"driver":"nbd"}',
    '{"driver":"nbd","path":"exp","export":"exp"}',
    '{"driver":"nbd","server.type":"unix","server.path":"exp","export":"exp"}',
    '{"driver":"raw","file":{"driver":"nbd","server":{"type":"unix","path":"exp"},"export":"exp"}}',
    '{"driver":"nbd","server.type":"inet","server.host":"localhost","server.port":"1"}',
    '{"driver":"nbd","host":"localhost","port":"1"}',
    '{"driver":"nbd","server.type":"foo"}',
    '{"driver":"nbd","server.type":"unix"}',
    '{"driver":"nbd","server.type":"inet","server.host":"localhost"}',
    '{"driver":"nbd","path":"exp","export":"exp","foo":"exp"}',
    '{"driver":"null-co","foo":1}',
    '{"driver":"null-co","size":"4k","read-zeroes":"on"}',
  ),
  ...rows('map', [
    uri('raw'),
    `--output=json ${uri('raw')}`,
    uri('image'),
    `--output=json ${uri('image')}`,
    uri('overlay'),
    ['--output=json null-co://', 'null-status'],
    '--output=json --image-opts driver=null-co,size=1M,read-zeroes=on',
  ]),
  ...rows('check', [uri('image'), `--output=json ${uri('image')}`, uri('raw'), 'null-co://']),
  ...rows('compare', [
    `${uri('raw')} disk.raw`,
    `-s ${uri('raw')} disk.raw`,
    `${uri('raw')} ${uri('image')}`,
    `${uri('raw')} other.raw`,
    `${uri('raw')} null-co://`,
  ]),
  ...rows('measure', [`-O qcow2 ${uri('raw')}`, `-O qcow2 ${uri('image')}`, '-O qcow2 null-co://x']),
  ...rows('convert', [
    `-O raw other.raw ${uri('locked')}`,
    `-n -O raw other.raw ${uri('locked')}`,
    `-O raw other.raw ${uri('nope')}`,
    `-n -O raw other.raw ${uri('nope')}`,
    `-O raw --image-opts driver=null-co,size=32M ${uri('small')}`,
    '-O raw other.raw null-co://',
    '-O qcow2 other.raw null-co://',
    '-n -O raw other.raw null-co://',
    '-n -O qcow2 other.raw null-co://',
    '-n --target-image-opts other.raw driver=null-co,size=8M',
    '-n --target-image-opts other.raw driver=null-co,size=4M',
  ]),
  { args: ['convert', '-O', 'qcow2', uri('raw'), 'OUT'], makes: 'the same disk' },
  { args: ['convert', '-O', 'raw', uri('image'), 'OUT'], makes: 'the same disk' },
  { args: ['convert', '-O', 'raw', '--image-opts', 'driver=null-co,size=1M', 'OUT'], makes: 'the same disk' },
  {
    args: ['dd', '-f', 'raw', '-O', 'raw', 'bs=1M', 'count=3', `if=${uri('raw')}`, 'of=OUT'],
    makes: 'the same disk',
  },
  ...rows('dd', ['if=other.raw of=null-co://']),
  ...rows('create', [
    '-f raw null-co:// 1M',
    '-f qcow2 null-co:// 1M',
    `-f qcow2 ${uri('nope')} 1M`,
    `-f raw ${uri('small')} 100M`,
    `-f raw ${uri('small')} 1M`,
  ]),
  ...rows('resize', [
    `-f raw ${uri('small')} 1M`,
    `-f raw ${uri('small')} 32M`,
    `-f raw --shrink ${uri('small')} 512k`,
    `-f raw ${uri('locked')} 8M`,
    '-f raw null-co:// 2G',
  ]),
  ...rows('snapshot -c a', [uri('locked'), uri('nope')]),
];

/** Failures by rules: what the copies come to is worded by each side in its own way, that they fail is not. */
export const blkdebugCases: readonly TableCase[] = [
  ...rows('info', [
    'blkdebug:read.conf:disk.raw',
    'blkdebug::disk.raw',
    '--output=json blkdebug::disk.raw',
    '-f raw blkdebug:read.conf:disk.raw',
    'blkdebug:nope:disk.raw',
    'blkdebug:bad-event.conf:disk.raw',
    'blkdebug:no-event.conf:disk.raw',
    'blkdebug:bad-group.conf:disk.raw',
    'blkdebug:bad-option.conf:disk.raw',
    'blkdebug:garbage.conf:disk.raw',
    'blkdebug:disk.raw',
    'blkdebug:read.conf:nope',
    '--image-opts driver=blkdebug,image.driver=file,image.filename=disk.raw',
    '--image-opts driver=blkdebug,image.filename=disk.raw',
    '--image-opts driver=blkdebug,x-image=disk.raw',
    '--image-opts driver=blkdebug,config=read.conf,image.filename=disk.raw',
    '--image-opts driver=blkdebug,image.filename=disk.raw,inject-error.0.event=foo',
    '--image-opts driver=blkdebug,image.filename=disk.raw,inject-error.0.errno=5',
    '--image-opts driver=blkdebug,image.filename=disk.raw,foo=5',
    '--image-opts driver=blkdebug',
    ['blkdebug:other-event.conf:disk.raw', 'blkdebug-events'],
    ['blkverify:disk.raw:disk.raw', 'blkdebug-events'],
  ]),
  ...rows('map', ['--output=json -f raw blkdebug::disk.raw']),
  ...rows('check', ['blkdebug::image.qcow2', 'blkdebug:read.conf:image.qcow2']),
  ...rows('create -f raw', ['blkdebug::new.raw 1M']),
  ...rows('convert', ['-f raw -O raw other.raw blkdebug::new.raw']),
  ...[
    'convert -f raw -O raw blkdebug:read.conf:disk.raw torn.raw',
    'convert -n -f raw -O raw other.raw blkdebug:write.conf:target.raw',
    'compare -f raw -F raw blkdebug:read.conf:disk.raw disk.raw',
    'convert -O raw --image-opts driver=raw,file.driver=blkdebug,file.image.filename=disk.raw,file.inject-error.0.event=none,file.inject-error.0.iotype=block-status torn2.raw',
  ].map((text): TableCase => ({ args: text.split(' '), ignoreStderr: true })),
  {
    args: ['convert', '-f', 'raw', '-O', 'raw', 'blkdebug:state.conf:disk.raw', 'OUT'],
    makes: 'the same disk',
  },
];

/** Files of rules, by name. */
export const blkdebugFiles: Readonly<Record<string, string>> = {
  'read.conf': '[inject-error]\nevent = "read_aio"\nerrno = "5"\n',
  'write.conf': '[inject-error]\nevent = "none"\niotype = "write"\nerrno = "28"\n',
  'state.conf':
    '[set-state]\nevent = "read_aio"\nstate = "7"\nnew_state = "2"\n\n' +
    '[inject-error]\nevent = "read_aio"\nstate = "2"\nonce = "on"\n',
  'bad-event.conf': '[inject-error]\nevent = "foo"\n',
  'no-event.conf': '[inject-error]\nerrno = "5"\n',
  'bad-group.conf': '[foo]\nevent = "read_aio"\n',
  'bad-option.conf': '[inject-error]\nevent = "read_aio"\nfoo = "1"\n',
  'garbage.conf': 'garbage\n',
  'other-event.conf': '[inject-error]\nevent = "cluster_alloc"\n',
};
