/**
 * The golden vectors, as recipes. Sizes are the smallest that show what a vector is there for. Fill bytes
 * differ from write to write, so that a reader that mixes up two clusters reads something else.
 */
import {
  bitmap,
  create,
  encryptedIo,
  imageName,
  io,
  ioThenAbort,
  make,
  patch,
  qemuImg,
  type Recipe,
  rawFile,
  type Step,
  secretObject,
  snapshot,
} from './recipe.ts';

/** Cluster sizes that the vectors go through, with a virtual size that needs more than one L2 table where that is cheap. */
const clusterSizes = [
  { label: '512', bytes: 512, size: '256k' },
  { label: '1k', bytes: 1024, size: '512k' },
  { label: '4k', bytes: 4096, size: '5M' },
  { label: '64k', bytes: 65536, size: '8M' },
  { label: '2m', bytes: 2097152, size: '16M' },
] as const;

/** Writes in the first, the second and the last cluster, across a cluster border, and a little inside a cluster. */
function scatteredWrites(clusterBytes: number, size: string): Step {
  const scale = size.endsWith('M') ? 1048576 : 1024;
  const end = Number.parseInt(size, 10) * scale;
  return io(
    `write -P 0x11 0 ${clusterBytes}`,
    `write -P 0x22 ${clusterBytes * 3 - 512} 1024`,
    `write -P 0x33 ${end - clusterBytes + 256} 128`,
  );
}

const plain: Recipe[] = (['0.10', '1.1'] as const).flatMap((compat) =>
  clusterSizes.map(({ label, bytes, size }) => ({
    name: `${compat === '0.10' ? 'v2' : 'v3'}-${label}`,
    why: `version ${compat === '0.10' ? 2 : 3}, ${bytes}-byte clusters, standard clusters`,
    steps: [create(`compat=${compat},cluster_size=${bytes}`, size), scatteredWrites(bytes, size)],
  })),
);

const refcountWidths: Recipe[] = [1, 2, 4, 8, 16, 32, 64].map((width) => ({
  name: `refcount-${width}`,
  why: `refcounts of ${width} bits${width === 1 ? '' : '; clusters shared by snapshots count above one'}`,
  steps: [
    create(`cluster_size=4096,refcount_bits=${width}`, '1M'),
    io('write -P 0x41 0 20k', 'write -P 0x42 512k 4k'),
    ...(width === 1 ? [] : [snapshot('-c', 'first'), io('write -P 0x43 4k 4k')]),
    ...(width <= 2 ? [] : [snapshot('-c', 'second'), snapshot('-c', 'third'), io('write -P 0x44 8k 4k')]),
  ],
}));

const refcountStructures: Recipe[] = [
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

const extendedL2: Recipe[] = [
  {
    name: 'extended-l2-16k',
    why: 'extended L2 entries, the smallest clusters that may have them (512-byte subclusters)',
    steps: [
      create('extended_l2=on,cluster_size=16k', '4M'),
      io(
        'write -P 0x61 0 512',
        'write -P 0x62 5k 1k',
        'write -P 0x63 16k 32k',
        'write -z 20k 1k',
        'discard 24k 512',
        'write -z 32k 16k',
      ),
    ],
  },
  {
    name: 'extended-l2-64k',
    why: 'extended L2 entries with zero and unallocated subclusters, over a backing file',
    companions: [{ name: 'base.raw', role: 'backing' }],
    steps: [
      ...rawFile('base.raw', '1M', 'write -P 0x64 0 1M'),
      create('extended_l2=on', '1M', '-b', 'base.raw', '-F', 'raw'),
      io(
        'write -P 0x65 2k 2k',
        'write -z 64k 4k',
        'write -z 128k 64k',
        'write -P 0x66 260k 6k',
        'write -zu 262k 2k',
      ),
    ],
  },
  {
    name: 'extended-l2-2m',
    why: 'extended L2 entries, the largest clusters',
    steps: [
      create('extended_l2=on,cluster_size=2M', '8M'),
      io('write -P 0x67 64k 64k', 'write -P 0x68 4M 512'),
    ],
  },
  {
    name: 'extended-l2-compressed',
    why: 'compressed clusters in extended L2 entries (the bitmap must be zero), beside ordinary ones',
    steps: [
      make('source.raw', 98304, 'text'),
      create('extended_l2=on,cluster_size=16k', '1M'),
      io('write -c -s source.raw 0 96k', 'write -P 0x69 64k 1k', 'write -P 0x6a 256k 16k'),
    ],
  },
  {
    name: 'extended-l2-snapshot',
    why: 'extended L2 tables shared with a snapshot, then copied',
    steps: [
      create('extended_l2=on,cluster_size=16k', '1M'),
      io('write -P 0x6b 0 40k'),
      snapshot('-c', 'before'),
      io('write -P 0x6c 4k 512', 'write -z 32k 4k'),
    ],
  },
];

const compressed: Recipe[] = (['zlib', 'zstd'] as const).flatMap((type): Recipe[] => [
  ...[512, 4096, 65536, 2097152].map((clusterBytes): Recipe => {
    const sourceBytes = Math.max(65536, clusterBytes * 2);
    return {
      name: `${type}-${clusterSizes.find((c) => c.bytes === clusterBytes)?.label}`,
      why: `${type} compressed clusters of ${clusterBytes} bytes, several in one host cluster where they fit`,
      steps: [
        make('source.raw', sourceBytes, 'text'),
        qemuImg(
          'convert',
          '-c',
          '-f',
          'raw',
          '-O',
          'qcow2',
          '-o',
          `cluster_size=${clusterBytes},compression_type=${type}`,
          'source.raw',
          imageName,
        ),
      ],
    };
  }),
  {
    name: `${type}-mixed`,
    why: `${type} compressed clusters beside one that did not shrink and is stored as it is, one overwritten, one discarded, one under a snapshot`,
    steps: [
      make('text.raw', 24576, 'text'),
      make('noise.raw', 4096, 'noise'),
      create(`cluster_size=4096,compression_type=${type}`, '256k'),
      io('write -c -s text.raw 0 24k', 'write -c -s noise.raw 24k 4k', 'write -c -P 0x71 28k 4k'),
      snapshot('-c', 'packed'),
      io('write -P 0x72 5k 512', 'discard 8k 4k', 'write -c -P 0x73 64k 4k'),
    ],
  },
]);

const snapshots: Recipe[] = [
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

const bitmaps: Recipe[] = [
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
const encryption: Recipe[] = [
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

const dataFiles: Recipe[] = [
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

const backing: Recipe[] = [
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

const zeroes: Recipe[] = [
  {
    name: 'zero-clusters',
    why: 'zero clusters plain and with their cluster kept, discarded clusters',
    steps: [
      create('cluster_size=4096', '1M'),
      io(
        'write -P 0xd1 0 64k',
        'write -z 4k 8k',
        'write -zu 16k 8k',
        'discard 32k 8k',
        'write -z 512k 16k',
        'write -zu 600k 4k',
      ),
    ],
  },
  {
    name: 'discarded-v2',
    why: 'version 2 knows no zero clusters: discard leaves unallocated ones',
    steps: [
      create('compat=0.10,cluster_size=4096', '1M'),
      io('write -P 0xd2 0 32k', 'discard 4k 8k', 'write -z 16k 4k'),
    ],
  },
  {
    name: 'zero-512',
    why: 'zero clusters, 512-byte clusters',
    steps: [
      create('cluster_size=512', '64k'),
      io('write -P 0xd3 0 8k', 'write -z 1k 1k', 'write -zu 3k 512'),
    ],
  },
];

const shapes: Recipe[] = [
  {
    name: 'preallocation-metadata',
    why: 'every cluster mapped and none written',
    steps: [create('preallocation=metadata,cluster_size=4096', '1M')],
  },
  {
    name: 'preallocation-metadata-extended-l2',
    why: 'every cluster set aside, every subcluster unallocated',
    steps: [create('preallocation=metadata,extended_l2=on,cluster_size=16k', '1M')],
  },
  {
    name: 'preallocation-falloc',
    why: 'mapped clusters with space from the file system',
    steps: [create('preallocation=falloc,cluster_size=512', '64k')],
  },
  { name: 'empty', why: 'a disk of no bytes', steps: [create('', '0')] },
  { name: 'empty-v2', why: 'a disk of no bytes, version 2', steps: [create('compat=0.10', '0')] },
  {
    name: 'odd-size',
    why: 'a disk that does not end at a cluster',
    steps: [create('', '70k'), io('write -P 0xe1 65k 5k')],
  },
  {
    name: 'large-l1-512',
    why: 'an L1 table of many clusters',
    steps: [create('cluster_size=512', '256M'), io('write -P 0xe2 0 512', 'write -P 0xe3 200M 1k')],
  },
  {
    name: 'large-l1-64k',
    why: 'a disk of 8 TiB: the L1 table takes two clusters',
    steps: [create('', '8T'), io('write -P 0xe4 0 512', 'write -P 0xe5 8796093021184 512')],
  },
  {
    name: 'l1-limit',
    why: 'an L1 table of 32 MiB, the largest that QEMU takes',
    steps: [create('cluster_size=512', '128G')],
  },
  {
    name: 'resized-grown',
    why: 'the L1 table was moved when the disk grew',
    steps: [
      create('cluster_size=512', '32k'),
      io('write -P 0xe6 0 2k'),
      qemuImg('resize', '-q', '-f', 'qcow2', imageName, '4M'),
      io('write -P 0xe7 3M 2k'),
    ],
  },
  {
    name: 'resized-shrunk',
    why: 'the disk shrank: the L1 table keeps entries beyond the end',
    steps: [
      create('cluster_size=512', '1M'),
      io('write -P 0xe8 0 2k', 'write -P 0xe9 900k 2k'),
      qemuImg('resize', '-q', '-f', 'qcow2', '--shrink', imageName, '64k'),
    ],
  },
  {
    name: 'upgraded',
    why: 'version 2 amended to version 3',
    steps: [
      create('compat=0.10,cluster_size=4096', '1M'),
      io('write -P 0xea 0 8k'),
      qemuImg('amend', '-q', '-f', 'qcow2', '-o', 'compat=1.1', imageName),
    ],
  },
  {
    name: 'downgraded',
    why: 'version 3 amended to version 2',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0xeb 0 8k', 'write -z 0 4k'),
      qemuImg('amend', '-q', '-f', 'qcow2', '-o', 'compat=0.10', imageName),
    ],
  },
  {
    name: 'refcount-width-amended',
    why: 'refcounts rewritten from 16 to 64 bits',
    steps: [
      create('cluster_size=4096', '1M'),
      io('write -P 0xec 0 8k'),
      qemuImg('amend', '-q', '-f', 'qcow2', '-o', 'refcount_bits=64', imageName),
    ],
  },
];

/** Every golden vector, in the order of vectors/README.md. */
export const recipes: readonly Recipe[] = [
  ...plain,
  ...refcountWidths,
  ...refcountStructures,
  ...extendedL2,
  ...compressed,
  ...snapshots,
  ...bitmaps,
  ...encryption,
  ...dataFiles,
  ...backing,
  ...zeroes,
  ...shapes,
];
