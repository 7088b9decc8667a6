/** Vectors of what an image may have beside its clusters: refcounts, snapshots, bitmaps, encryption, other files. */
import {
  bitmap,
  create,
  encryptedIo,
  imageName,
  io,
  ioThenAbort,
  patch,
  qemuImg,
  type Recipe,
  rawFile,
  secretObject,
  snapshot,
} from './recipe.ts';

export const refcountWidths: readonly Recipe[] = [1, 2, 4, 8, 16, 32, 64].map((width) => ({
  name: `refcount-${width}`,
  why: `refcounts of ${width} bits${width === 1 ? '' : '; clusters shared by snapshots count above one'}`,
  steps: [
    create(`cluster_size=4096,refcount_bits=${width}`, '1M'),
    io('write -P 0x41 0 20k', 'write -P 0x42 512k 4k'),
    ...(width === 1 ? [] : [snapshot('-c', 'first'), io('write -P 0x43 4k 4k')]),
    ...(width <= 2 ? [] : [snapshot('-c', 'second'), snapshot('-c', 'third'), io('write -P 0x44 8k 4k')]),
  ],
}));

export const refcountStructures: readonly Recipe[] = [
  {
    name: 'refcount-table-grown',
    why: 'a refcount table that QEMU had to move when it grew, many refcount blocks',
    steps: [
      create('cluster_size=512,refcount_bits=64', '8M'),
      io('write -P 0x51 0 3M', 'write -z 1M 512k', 'discard 2M 64k'),
    ],
  },
  {
    name: 'lazy-refcounts',
    why: 'compatible bit 0, closed cleanly',
    steps: [create('lazy_refcounts=on', '1M'), io('write -P 0x52 0 64k', 'write -P 0x53 512k 4k')],
  },
  {
    name: 'lazy-refcounts-dirty',
    why: 'incompatible bit 0: QEMU was killed, refcounts lag behind the references',
    steps: [
      create('lazy_refcounts=on,cluster_size=4096', '1M'),
      ioThenAbort('write -P 0x54 0 64k', 'write -P 0x55 512k 4k', 'flush'),
    ],
  },
  {
    name: 'leaked-clusters',
    why: 'clusters that are counted and that nothing references: leaks and nothing worse',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0x56 0 16k'),
      snapshot('-c', 'held'),
      io('write -P 0x57 0 8k'),
      // The snapshot table's pointer is cut off by hand; what only the snapshot used is now referenced by nothing.
      patch(imageName, 60, '000000000000000000000000'),
    ],
  },
  {
    name: 'corrupt-bit',
    why: 'incompatible bit 1: an L2 entry pointed into the refcount table, and QEMU noticed while writing',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0x58 0 4k'),
      // The first L2 entry (the L2 table stands in cluster 4) is made to point at the refcount table, in cluster 1.
      patch(imageName, 4 * 4096, '8000000000001000'),
      { kind: 'run', argv: ['qemu-io', '-f', 'qcow2', '-c', 'write -P 0x59 0 4k', imageName], aborts: true },
    ],
  },
];

export const snapshots: readonly Recipe[] = [
  {
    name: 'snapshot-empty',
    why: 'a snapshot of an image that holds no data',
    steps: [create('cluster_size=4096', '1M'), snapshot('-c', 'nothing yet')],
  },
  {
    name: 'snapshot-several',
    why: 'several snapshots with data, one deleted, one applied; table entries of different lengths',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0x81 0 16k'),
      snapshot('-c', 'a'),
      io('write -P 0x82 4k 8k'),
      snapshot('-c', 'second-name-of-another-length'),
      io('write -P 0x83 512k 4k', 'write -z 0 4k'),
      snapshot('-c', 'c3'),
      io('discard 8k 4k'),
      snapshot('-c', 'd4'),
      snapshot('-d', 'second-name-of-another-length'),
      snapshot('-a', 'c3'),
    ],
  },
  {
    name: 'snapshot-unicode',
    why: 'snapshot names beyond ASCII, and one of 255 bytes',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0x84 0 4k'),
      snapshot('-c', 'Ärger über Öl'),
      snapshot('-c', 'снимок'),
      snapshot('-c', '快照 🗄'),
      snapshot('-c', 'n'.repeat(255)),
    ],
  },
  {
    name: 'snapshot-resized',
    why: 'a snapshot whose disk is smaller than the active one, with an L1 table of another size',
    steps: [
      create('cluster_size=512', '64k'),
      io('write -P 0x85 0 4k'),
      snapshot('-c', 'small'),
      qemuImg('resize', '-q', '-f', 'qcow2', imageName, '256k'),
      io('write -P 0x86 200k 4k'),
    ],
  },
  {
    name: 'snapshot-v2',
    why: 'snapshots in a version 2 image',
    steps: [
      create('compat=0.10,cluster_size=4096', '1M'),
      io('write -P 0x87 0 16k'),
      snapshot('-c', 'old'),
      io('write -P 0x88 0 4k'),
    ],
  },
  {
    name: 'snapshot-many',
    why: 'a snapshot table of more than one cluster',
    steps: [
      create('cluster_size=512', '64k'),
      io('write -P 0x89 0 512'),
      ...Array.from({ length: 12 }, (_, i) => snapshot('-c', `number ${i + 1}`)),
    ],
  },
];

export const bitmaps: readonly Recipe[] = [
  {
    name: 'bitmap-empty',
    why: 'one bitmap in which no bit is set',
    steps: [create('cluster_size=4096', '1M'), bitmap('first', '--add')],
  },
  {
    name: 'bitmap-recorded',
    why: 'bits set by writes while the bitmap was enabled',
    steps: [
      create('cluster_size=4096', '8M'),
      bitmap('writes', '--add', '-g', '4096'),
      io('write -P 0x91 0 64k', 'write -P 0x92 5M 4k', 'write -z 7M 64k'),
    ],
  },
  {
    name: 'bitmap-several',
    why: 'several bitmaps: enabled, disabled, other granularities, cleared, merged, removed, a name beyond ASCII',
    steps: [
      create('', '4M'),
      bitmap('b0', '--add', '-g', '64k'),
      bitmap('größe', '--add', '-g', '1M'),
      bitmap('gone', '--add'),
      bitmap('off', '--add', '--disable', '-g', '512'),
      io('write -P 0x93 1M 128k'),
      bitmap('b0', '--disable'),
      io('write -P 0x94 3M 4k'),
      bitmap('merged', '--add', '--disable', '-g', '64k'),
      bitmap('merged', '--merge', 'b0'),
      bitmap('gone', '--remove'),
      bitmap('cleared', '--add'),
      bitmap('cleared', '--clear'),
    ],
  },
  {
    name: 'bitmap-in-use',
    why: 'a bitmap that QEMU had not stored back when it was killed: its in-use flag stands',
    steps: [
      create('cluster_size=4096', '1M'),
      bitmap('lost', '--add'),
      ioThenAbort('write -P 0x95 0 4k', 'flush'),
    ],
  },
  {
    name: 'bitmap-large-table',
    why: 'a bitmap table of several entries, most of them without a cluster',
    steps: [
      create('cluster_size=512', '64M'),
      bitmap('fine', '--add', '-g', '512'),
      io('write -P 0x96 1M 512', 'write -P 0x97 63M 1k'),
    ],
  },
  {
    name: 'bitmap-and-snapshot',
    why: 'bitmaps and snapshots in one image',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0x98 0 8k'),
      snapshot('-c', 'base'),
      bitmap('since-base', '--add'),
      io('write -P 0x99 4k 4k'),
    ],
  },
];

const luksOptions =
  'encrypt.format=luks,encrypt.key-secret=key,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64,encrypt.iter-time=10';
export const encryption: readonly Recipe[] = [
  {
    name: 'luks',
    why: 'crypt method 2 and the full disk encryption header pointer (a small key, so that the key material stays small)',
    encrypted: true,
    steps: [
      create(luksOptions, '1M', ...secretObject),
      encryptedIo('write -P 0xa1 0 4k', 'write -P 0xa2 512k 512'),
    ],
  },
  {
    name: 'luks-512',
    why: 'the same with 512-byte clusters: the encryption header takes many clusters',
    encrypted: true,
    steps: [
      create(`${luksOptions},cluster_size=512`, '128k', ...secretObject),
      encryptedIo('write -P 0xa3 64k 1k'),
    ],
  },
  {
    name: 'aes',
    why: 'crypt method 1, the old AES encryption, in a version 3 image',
    encrypted: true,
    steps: [
      create('encrypt.format=aes,encrypt.key-secret=key,cluster_size=4096', '1M', ...secretObject),
      encryptedIo('write -P 0xa4 0 4k', 'write -P 0xa5 512k 512'),
    ],
  },
  {
    name: 'aes-v2',
    why: 'crypt method 1 in a version 2 image',
    encrypted: true,
    steps: [
      create(
        'compat=0.10,encrypt.format=aes,encrypt.key-secret=key,cluster_size=4096',
        '1M',
        ...secretObject,
      ),
      encryptedIo('write -P 0xa6 8k 4k'),
    ],
  },
];

export const dataFiles: readonly Recipe[] = [
  {
    name: 'data-file',
    why: 'incompatible bit 2 and the external data file name',
    companions: [{ name: 'image.data', role: 'data' }],
    steps: [
      create('data_file=image.data', '1M'),
      io(
        'write -P 0xb1 64k 64k',
        'write -P 0xb2 512k 4k',
        'write -z 64k 64k',
        'discard 512k 64k',
        'write -P 0xb3 0 512',
      ),
    ],
  },
  {
    name: 'data-file-raw',
    why: 'autoclear bit 1: the data file is a raw image of its own',
    companions: [{ name: 'image.data', role: 'data' }],
    steps: [
      create('data_file=image.data,data_file_raw=on', '1M'),
      io('write -P 0xb4 64k 64k', 'write -P 0xb5 512k 4k', 'write -z 64k 4k'),
    ],
  },
  {
    name: 'data-file-extended-l2',
    why: 'an external data file with extended L2 entries',
    companions: [{ name: 'image.data', role: 'data' }],
    steps: [
      create('data_file=image.data,extended_l2=on,cluster_size=16k', '512k'),
      io('write -P 0xb6 1k 1k', 'write -P 0xb7 32k 16k', 'write -z 33k 1k'),
    ],
  },
];

export const backing: readonly Recipe[] = [
  {
    name: 'backing-raw',
    why: 'a raw backing file with its format named; zero clusters that hide it; the overlay is longer than the backing file',
    companions: [{ name: 'base.raw', role: 'backing' }],
    steps: [
      ...rawFile('base.raw', '512k', 'write -P 0xc1 0 512k'),
      create('cluster_size=4096', '1M', '-b', 'base.raw', '-F', 'raw'),
      io(
        'write -P 0xc2 6k 512',
        'write -z 16k 8k',
        'discard 32k 4k',
        'write -P 0xc3 600k 4k',
        'write -zu 510k 4k',
      ),
    ],
  },
  {
    name: 'backing-qcow2',
    why: 'a qcow2 backing file, of another cluster size and version',
    companions: [{ name: 'base.qcow2', role: 'backing' }],
    steps: [
      qemuImg('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10,cluster_size=512', 'base.qcow2', '128k'),
      {
        kind: 'run',
        argv: [
          'qemu-io',
          '-f',
          'qcow2',
          '-c',
          'write -P 0xc4 0 3k',
          '-c',
          'write -P 0xc5 100k 2k',
          'base.qcow2',
        ],
      },
      create('', '128k', '-b', 'base.qcow2', '-F', 'qcow2'),
      io('write -P 0xc6 1k 512'),
    ],
  },
  {
    name: 'backing-v2',
    why: 'backing file and backing format in a version 2 header',
    companions: [{ name: 'base.raw', role: 'backing' }],
    steps: [
      ...rawFile('base.raw', '64k', 'write -P 0xc7 0 64k'),
      create('compat=0.10,cluster_size=4096', '64k', '-b', 'base.raw', '-F', 'raw'),
      io('write -P 0xc8 4k 512'),
    ],
  },
  {
    name: 'backing-json-name',
    why: 'a backing file name that is a long json: description',
    companions: [{ name: 'base.raw', role: 'backing' }],
    steps: [
      ...rawFile('base.raw', '64k', 'write -P 0xc9 0 64k'),
      create(
        '',
        '64k',
        '-b',
        'json:{"driver":"raw","offset":512,"size":65024,"file":{"driver":"file","filename":"base.raw"}}',
        '-F',
        'raw',
      ),
    ],
  },
];
