/** What `create` is asked, beside qemu-img. There are base.qcow2, base.raw and a folder sub. */
import type { ParityCase } from './parity.ts';

const create = (...words: string[]): ParityCase => ({ args: ['create', ...words] });
const withOptions = (list: string, size = '1M'): ParityCase =>
  create('-f', 'qcow2', '-o', list, 'a.qcow2', size);
const withSize = (size: string): ParityCase => create('-f', 'qcow2', 'a.qcow2', size);
const differs = (deviation: string, each: ParityCase): ParityCase => ({ ...each, deviation });

const sizes = [
  ...[
    '0',
    '1',
    '512',
    '1000',
    '1b',
    '1B',
    '1K',
    '1m',
    '1G',
    '1.5G',
    '1.3k',
    '0.3k',
    '1.9999999k',
    '1.',
    '1.k',
    '010',
  ],
  ...['+5', ' 1M', '0x100000', '0x10M', '1P', '7E', '8E', '16E', '99999999999999999999999'],
  ...[
    '',
    'abc',
    '1X',
    '1MB',
    '1 M',
    '1M ',
    '1.5',
    '0.1b',
    '.5G',
    '1e3',
    '1.5e1k',
    '0x',
    '0x1.8k',
    'inf',
    '1kk',
  ],
];

const optionLists = [
  ...['cluster_size=512', 'cluster_size=4k', 'cluster_size=2M', 'cluster_size=0x1000', 'cluster_size=3000'],
  ...[
    'cluster_size=256',
    'cluster_size=4M',
    'cluster_size=0',
    'cluster_size=x',
    'cluster_size=',
    'cluster_size',
  ],
  ...['compat=0.10', 'compat=1.1', 'compat=v2', 'compat=v3', 'compat=2', 'compat=1.1,,x'],
  ...['refcount_bits=1', 'refcount_bits=2', 'refcount_bits=8', 'refcount_bits=64', 'refcount_bits=3'],
  ...['refcount_bits=128', 'refcount_bits=0', 'refcount_bits=x', 'refcount_bits=-1', 'refcount_bits=0x10'],
  ...['refcount_bits=99999999999999999999999', 'refcount_bits=8,compat=0.10'],
  ...[
    'lazy_refcounts=on',
    'lazy_refcounts',
    'nolazy_refcounts',
    'lazy_refcounts=true',
    'lazy_refcounts=maybe',
  ],
  ...['lazy_refcounts=on,compat=0.10', 'lazy_refcounts=on,refcount_bits=32,cluster_size=128k'],
  ...[
    'preallocation=off',
    'preallocation=metadata',
    'preallocation=bogus',
    'preallocation=metadata,compat=0.10',
    'preallocation=falloc',
    'preallocation=full,cluster_size=4k',
  ],
  ...[
    'extended_l2=on',
    'extended_l2=on,cluster_size=16k',
    'extended_l2=on,cluster_size=2M,preallocation=metadata',
    'extended_l2=on,cluster_size=8k',
    'extended_l2=on,cluster_size=8k,compat=0.10',
    'extended_l2=on,lazy_refcounts=on,compat=0.10',
    'extended_l2=on,cluster_size=8k,refcount_bits=3',
  ],
  ...['extended_l2=off', 'compression_type=zlib', 'compression_type=zstd', 'compression_type=lz4'],
  ...['data_file_raw=off', 'nocow=off'],
  ...['data_file_raw=on', 'data_file=d,compat=0.10', 'data_file=d,data_file_raw=maybe'],
  ...[
    'bogus=1',
    'bogus',
    'nobogus',
    '=3',
    ',',
    '',
    'cluster_size=4k,',
    ',cluster_size=4k',
    'cluster_size=4k,,5',
  ],
  ...['size=2M', 'backing_fmt=raw', 'cluster_size=512,preallocation=metadata,refcount_bits=64'],
];

const backed = [
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2', '128M'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'raw', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.raw', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'nope', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', '', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'missing', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'missing', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-u', '-b', 'missing', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-u', '-b', 'missing', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-u', '-b', 'missing', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-b', '', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-b', 'a.qcow2', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-b', '.', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-F', 'qcow2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-b', '../base.qcow2', '-F', 'qcow2', 'sub/a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', '-o', 'preallocation=metadata', 'a.qcow2'),
  create('-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', '-o', 'compat=0.10,cluster_size=4k', 'a.qcow2'),
  create('-f', 'qcow2', '-o', 'backing_file=base.qcow2,backing_fmt=qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-o', 'backing_file=base.raw', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', '-o', 'backing_file=a,,b,backing_fmt=raw', 'a.qcow2'),
  create('-f', 'raw', '-b', 'base.qcow2', 'a.raw'),
];

const words = [
  create(),
  create('-f', 'qcow2'),
  create('-f', 'qcow2', 'a.qcow2'),
  create('-f', 'qcow2', 'a.qcow2', '1M', 'extra'),
  create('-f', 'qcow2', '-o', 'size=2M', 'a.qcow2'),
  create('-f', 'qcow2', '-o', 'size=bad', 'a.qcow2'),
  create(
    '-f',
    'qcow2',
    '-o',
    'cluster_size=4k',
    '-o',
    'cluster_size=8k',
    '-o',
    'refcount_bits=8',
    'a.qcow2',
    '1M',
  ),
  create('-fqcow2', '-ocluster_size=4k', 'a.qcow2', '1M'),
  create('a.qcow2', '1M', '-f', 'qcow2'),
  create('-qf', 'qcow2', 'a.qcow2', '1M'),
  create('-q', '-f', 'qcow2', 'a.qcow2', '7E'),
  create('-f', 'qcow2', '--', 'a.qcow2', '1M'),
  create('-f', 'qcow2', '-o', 'cluster_size=512', 'a.qcow2', '1T'),
  create('-f', 'qcow2', 'name with blanks, and a comma.qcow2', '1M'),
  create('-f', 'qcow2', './foo:bar', '1M'),
  create('-f', 'qcow2', 'file:foo', '1M'),
  create('-f', 'qcow2', 'foo:bar', '1M'),
  create('-f', 'nope', 'a.qcow2', '1M'),
  create('-f', 'QCOW2', 'a.qcow2', '1M'),
  create('-f', 'qcow2', 'missing/a.qcow2', '1M'),
  create('-f', 'qcow2', '.', '1M'),
  create('-f', 'qcow2', '', '1M'),
  create('-f', 'raw', 'a.raw', '1M'),
  create('a.raw', '1000'),
  create('-f'),
  create('-o'),
  create('-Z'),
  create('-f', 'qcow2', 'a.qcow2', '-1'),
  create('--bogus'),
  create('-f', 'nope', '-o', 'help'),
  create('-f', 'qcow2', 'base.qcow2', '3M'),
];

// A word that is none is refused in the same words, and before a file is made (create-checks-first).
const rawFiles = ['off', 'falloc', 'full'].map((mode) =>
  create('-f', 'raw', '-o', `preallocation=${mode}`, 'a.raw', '3M'),
);
const secret = ['--object', 'secret,id=s,data=abc'];
/** Refused in the same words; what both make stands in the tests of encryption. */
const encrypted = [
  ...[
    'encrypt.format=luks',
    'encrypt.format=luks,encrypt.key-secret=s',
    'encrypt.key-secret=s',
    'encrypt.format=foo,encrypt.key-secret=s',
  ].map((list) => withOptions(list)),
  ...['cipher-alg=foo', 'hash-alg=foo', 'cipher-mode=foo', 'ivgen-alg=foo', 'ivgen-hash-alg=foo'].map(
    (choice) =>
      create(
        ...secret,
        '-f',
        'qcow2',
        '-o',
        `encrypt.format=luks,encrypt.key-secret=s,encrypt.${choice}`,
        'a.qcow2',
        '1M',
      ),
  ),
  create(...secret, '-f', 'qcow2', 'a.qcow2', '1M'),
  create('--object', 'secret,id=s', '-f', 'qcow2', 'a.qcow2', '1M'),
  create('--object', 'secret,data=a', '-f', 'qcow2', 'a.qcow2', '1M'),
  create('--object', 'secret,id=s,data=a,file=b', '-f', 'qcow2', 'a.qcow2', '1M'),
  create('--object', 'secret,id=1s,data=a', '-f', 'qcow2', 'a.qcow2', '1M'),
  create('--object', 'secret,id=s,data=a#b,format=base64', '-f', 'qcow2', 'a.qcow2', '1M'),
  create(...secret, ...secret, '-f', 'qcow2', 'a.qcow2', '1M'),
];

const deviating = [
  differs('create-options', create('-f', 'qcow2', '-o', 'help')),
  differs('create-options', create('-f', 'raw', '-o', 'help')),
  ...[
    'encryption=on',
    'encrypt.format=aes',
    'encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=serpent-256',
    'nocow=on',
  ].map((list) => differs('create-options', withOptions(list))),
  differs('sizes-above-8-pib', withOptions('cluster_size=2M', '16P')),
  differs('option-in-message', create('-f', 'qcow2', 'a.qcow2', '-1M')),
];

export const createCases: readonly ParityCase[] = [
  ...sizes.map(withSize),
  ...optionLists.map((list) => withOptions(list)),
  ...backed,
  ...rawFiles,
  ...words,
  ...encrypted,
  ...deviating,
];
