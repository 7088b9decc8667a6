/**
 * The kinds of images that runs are made on. Each has a name, made of what it is; seeds go through the list by turns. Every value
 * of every property stands here with each way to log that takes it; a test holds the list to that.
 */

export interface Kind {
  readonly name: string;
  readonly version: 2 | 3;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
  /** The backing file: its format, and whether it ends before the disk or goes on behind it. */
  readonly backing: 'none' | 'raw-shorter' | 'raw-longer' | 'qcow2-shorter' | 'qcow2-longer';
  /** Where guest bytes stand: in the image, in a data file, in a raw one. */
  readonly data: 'inside' | 'external' | 'raw';
  readonly encryption: 'none' | 'luks' | 'aes';
  readonly compression: 'deflate' | 'zstd';
  /** How metadata is made safe at first: `journal` is of v1, `draft` of draft-2013. */
  readonly log: 'ordered' | 'lazy' | 'journal' | 'draft';
}

type Choice = Partial<Omit<Kind, 'name'>>;

const kib = 1024;

/** Of each way to log: what it is tried with. */
const choices: Readonly<Record<Kind['log'], readonly Choice[]>> = {
  ordered: [
    { version: 2 },
    { version: 2, clusterBytes: 4 * kib, backing: 'raw-shorter' },
    { version: 2, clusterBytes: 512, backing: 'qcow2-longer' },
    { version: 2, clusterBytes: 4 * kib, encryption: 'aes' },
    { version: 2, encryption: 'luks', backing: 'raw-longer' },
    { clusterBytes: 512 },
    { clusterBytes: 4 * kib, refcountBits: 1, backing: 'qcow2-shorter' },
    { refcountBits: 64, backing: 'raw-longer' },
    { clusterBytes: 2048 * kib, refcountBits: 32 },
    { clusterBytes: 4 * kib, refcountBits: 8, backing: 'qcow2-longer', compression: 'zstd' },
    { refcountBits: 2, compression: 'zstd' },
    { clusterBytes: 16 * kib, extendedL2: true, backing: 'raw-shorter' },
    { extendedL2: true, backing: 'qcow2-longer', compression: 'zstd' },
    { clusterBytes: 4 * kib, data: 'external' },
    { backing: 'qcow2-shorter', data: 'external' },
    { data: 'raw' },
    { clusterBytes: 512, refcountBits: 4, data: 'raw' },
    { clusterBytes: 16 * kib, extendedL2: true, backing: 'raw-longer', data: 'external' },
    { clusterBytes: 4 * kib, encryption: 'luks' },
    { backing: 'qcow2-shorter', encryption: 'aes' },
  ],
  lazy: [
    {},
    { clusterBytes: 4 * kib, refcountBits: 4, backing: 'raw-longer', compression: 'zstd' },
    { clusterBytes: 512, backing: 'qcow2-shorter' },
    { clusterBytes: 16 * kib, extendedL2: true },
    { data: 'external' },
    { clusterBytes: 4 * kib, data: 'raw' },
    { clusterBytes: 4 * kib, encryption: 'luks' },
    { encryption: 'aes', backing: 'raw-shorter' },
  ],
  journal: [
    {},
    { clusterBytes: 4 * kib, refcountBits: 64, backing: 'qcow2-longer' },
    { clusterBytes: 512, backing: 'raw-shorter' },
    { clusterBytes: 2048 * kib, refcountBits: 8 },
    { clusterBytes: 4 * kib, refcountBits: 2, backing: 'raw-longer', compression: 'zstd' },
    { clusterBytes: 16 * kib, extendedL2: true, backing: 'qcow2-shorter' },
    { extendedL2: true, refcountBits: 32 },
    { clusterBytes: 4 * kib, data: 'external' },
    { backing: 'raw-longer', data: 'external' },
    { data: 'raw', refcountBits: 1 },
    { extendedL2: true, data: 'raw' },
    { clusterBytes: 16 * kib, extendedL2: true, data: 'external' },
    { backing: 'qcow2-longer', encryption: 'luks' },
    { clusterBytes: 4 * kib, data: 'external', encryption: 'luks' },
    { clusterBytes: 4 * kib, refcountBits: 4, encryption: 'aes' },
  ],
  draft: [
    {},
    { clusterBytes: 4 * kib, refcountBits: 32, backing: 'raw-longer' },
    { clusterBytes: 1 * kib, backing: 'qcow2-shorter' },
    { clusterBytes: 4 * kib, encryption: 'luks' },
    { clusterBytes: 16 * kib, extendedL2: true },
    { refcountBits: 1, backing: 'raw-shorter' },
  ],
};

export const kinds: readonly Kind[] = Object.entries(choices).flatMap(([log, list]) =>
  list.map((choice) => kindOf({ ...choice, log: log as Kind['log'] })),
);

export function kindNamed(name: string): Kind | undefined {
  return kinds.find((kind) => kind.name === name);
}

function kindOf(choice: Choice): Kind {
  const kind = {
    version: 3,
    clusterBytes: 64 * kib,
    refcountBits: 16,
    extendedL2: false,
    backing: 'none',
    data: 'inside',
    encryption: 'none',
    compression: 'deflate',
    log: 'ordered',
    ...choice,
  } as const;
  const cluster = kind.clusterBytes < kib ? `${kind.clusterBytes}` : `${kind.clusterBytes / kib}k`;
  const words = [
    kind.log,
    `v${kind.version}`,
    cluster,
    `r${kind.refcountBits}`,
    kind.extendedL2 ? 'extended' : '',
    kind.backing === 'none' ? '' : kind.backing,
    kind.data === 'inside' ? '' : kind.data === 'raw' ? 'data-raw' : 'data-external',
    kind.encryption === 'none' ? '' : kind.encryption,
    kind.compression === 'deflate' ? '' : kind.compression,
  ];
  return { ...kind, name: words.filter((word) => word !== '').join('-') };
}

/** Size of the disk to begin with: some clusters, and in the smallest ones many L2 tables; whole sectors. */
export function firstDiskBytes({ clusterBytes }: Kind): number {
  return Math.max(256 * kib, Math.min(20 * clusterBytes, 9 * 1024 * kib)) + 3 * 512;
}
