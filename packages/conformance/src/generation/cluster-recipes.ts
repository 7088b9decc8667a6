/** Vectors of the cluster mapping: cluster sizes, kinds of clusters, extended entries, compression, shapes of the disk. */
import { create, imageName, io, make, qemuImg, type Recipe, rawFile, type Step, snapshot } from './recipe.ts';

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

export const plain: readonly Recipe[] = (['0.10', '1.1'] as const).flatMap((compat) =>
  clusterSizes.map(({ label, bytes, size }) => ({
    name: `${compat === '0.10' ? 'v2' : 'v3'}-${label}`,
    why: `version ${compat === '0.10' ? 2 : 3}, ${bytes}-byte clusters, standard clusters`,
    steps: [create(`compat=${compat},cluster_size=${bytes}`, size), scatteredWrites(bytes, size)],
  })),
);

export const extendedL2: readonly Recipe[] = [
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

export const compressed: readonly Recipe[] = (['zlib', 'zstd'] as const).flatMap((type): Recipe[] => [
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

export const zeroes: readonly Recipe[] = [
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

export const shapes: readonly Recipe[] = [
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
