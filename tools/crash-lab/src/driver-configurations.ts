/**
 * The configurations in which the driver is crashed: every mode (how metadata is made safe) with every shape
 * (what the image looks like before the workload), and some that turn one knob more.
 *
 * A mode is one entry of `driverModes`, a shape one of `shapes`; everything else follows. Images are tiny, so
 * that spaces of crash states are small enough to be gone through: clusters of 1 KiB (two sectors: a sub-cluster
 * write is one sector), journal blocks of 512 bytes, a ring of 56 KiB.
 */
import type { CreateOptions, OpenOptions, RepairMode, ResizeOptions } from '@qcow2/driver';
import { sectorBytes } from './sector.ts';
import type { Sharing } from './shared-clusters.ts';

export type DriverMode = 'draft-2013' | 'journal' | 'ordered' | 'lazy';

export interface DriverModeTraits {
  /** What `createImage` is told. */
  readonly create: (journalBlockBytes: number) => Pick<CreateOptions, 'journal' | 'lazyRefcounts'>;
  /** After recovery nothing may be leaked (G3). */
  readonly leaksAreFailures: boolean;
  /** What an operation of many changes leaves half done is leaked: the log keeps no intents. */
  readonly leaksInOperations: boolean;
  /** Time for its workloads, beside those of the others: threads share the work by it. */
  readonly weight: number;
}

export const journalBytes = 64 * 1024;

export const driverModes: Readonly<Record<DriverMode, DriverModeTraits>> = {
  journal: {
    create: (blockBytes) => ({ journal: { sizeBytes: journalBytes, blockBytes } }),
    leaksAreFailures: true,
    leaksInOperations: false,
    weight: 3,
  },
  'draft-2013': {
    // In a ring of large blocks there would be too few of them.
    create: (blockBytes) => ({
      journal: { profile: 'draft-2013', sizeBytes: journalBytes, blockBytes: Math.min(blockBytes, 1024) },
    }),
    leaksAreFailures: true,
    leaksInOperations: true,
    weight: 10,
  },
  ordered: {
    create: () => ({ journal: false }),
    leaksAreFailures: false,
    leaksInOperations: true,
    weight: 1,
  },
  // What a crash leaks is marked, and repaired by the next open.
  lazy: {
    create: () => ({ journal: false, lazyRefcounts: true }),
    leaksAreFailures: true,
    leaksInOperations: false,
    weight: 1,
  },
};

interface FirstBitmap {
  readonly name: string;
  readonly granularityBytes: number;
  readonly enabled: boolean;
}

export interface DriverConfiguration {
  /** Part of the ids of states. */
  readonly name: string;
  readonly mode: DriverMode;
  readonly clusterBytes: number;
  readonly guestBytes: number;
  /** Operations of its exhaustive workloads; without any, it is for random workloads only. */
  readonly letters: string;
  /** Clusters 0, 1, 2 and half of 5 are written before the workload begins. */
  readonly filled: boolean;
  /** What of it is whole clusters is written in compressed form. */
  readonly compressed?: boolean;
  readonly sharing: Sharing;
  /** With extended L2 entries: the smallest clusters have sub-clusters of one sector. */
  readonly extendedL2?: boolean;
  /** Bytes of backing file, 0 for none. What it does not reach reads as zeros. */
  readonly backingBytes: number;
  /** It stands on several, by turns (`backing-turns.ts`), instead; for clusters of 2 KiB. */
  readonly hasTurns?: boolean;
  /** Guest data stands in a file of its own; `raw`: which is the disk at every moment. */
  readonly dataFile?: 'data' | 'raw';
  /** Before the workload no cluster is mapped, however the image was made. */
  readonly unmapped?: boolean;
  /** Guest data stands encrypted, by where it is in the file. Not with a snapshot, whose bytes are looked at as they are. */
  readonly encrypted?: boolean;
  /** 512 if not given. Larger blocks make a ring of few, which wraps soon. */
  readonly journalBlockBytes?: number;
  readonly tuning?: NonNullable<OpenOptions['journal']>;
  /** What bitmaps there are before the workload, in this order. */
  readonly bitmaps?: readonly FirstBitmap[];
  /** It is damaged, and so far repaired by every opening for writing. */
  readonly repair?: RepairMode;
  /** Freed clusters are discarded in the file. */
  readonly discard?: OpenOptions['discard'];
  /** Writes of whole clusters come as copies that the device below makes by itself (`copying-disk.ts`). */
  readonly copies?: boolean;
  /** What the disk grows by gets its places at once. */
  readonly preallocation?: ResizeOptions['preallocation'];
}

type Shape = Omit<DriverConfiguration, 'name' | 'mode'>;

const small: Shape = {
  clusterBytes: 1024,
  guestBytes: 16 * 1024,
  letters: 'swxozdfuhgck',
  filled: false,
  sharing: 'none',
  backingBytes: 0,
};
/** Ends within the disk, and within a cluster. */
const backing = { backingBytes: 14 * 1024 + 512 } as const;

/** By the part of the name that follows the mode. */
const shapes: Readonly<Record<string, Shape>> = {
  '': small,
  '+filled': { ...small, filled: true },
  '+backing': { ...small, ...backing },
  '+backing+filled': { ...small, ...backing, filled: true },
  '+twins': { ...small, filled: true, sharing: 'twins' },
  '+snapshot': { ...small, filled: true, sharing: 'snapshot' },
  // Growth over a backing file that is longer than the disk: what the disk's end hid must stay hidden.
  '+long': { ...small, backingBytes: 21 * 1024, letters: 'swzdfgtck' },
  // Growth over a longer backing file into what a second L2 table maps: an operation of several records, undone if it is not ended.
  '+l1+long': {
    ...small,
    clusterBytes: 512,
    guestBytes: 63 * 512,
    backingBytes: 70 * 512,
    letters: 'sfgtck',
  },
  // Growth beyond what one L2 table maps: the L1 table moves. A sub-cluster write is half a sector.
  // Compressed clusters that share host clusters, written, overwritten and given back.
  '+compressed': { ...small, letters: 'swozdfpvck', filled: true, compressed: true },
  '+l1': { ...small, clusterBytes: 512, guestBytes: 63 * 512, letters: 'sofgtck' },
  // Snapshots that are made, applied and deleted, and a disk that becomes smaller.
  '+snapshots': { ...small, filled: true, letters: 'sonaeytgfk' },
  // Put on one backing file after the other. Four sectors for a cluster, so that the header may have two that change.
  '+rebased': {
    ...small,
    clusterBytes: 2048,
    guestBytes: 32 * 1024,
    letters: 'sdhfgPck',
    hasTurns: true,
  },
  // What is freed reads as zeros at once.
  '+unmap+filled': { ...small, filled: true, letters: 'swzdfgck', discard: 'unmap' },
  // Whole clusters are copied by the device below: into new places first, since what is filled is a snapshot's too.
  '+copies': { ...small, filled: true, sharing: 'snapshot', letters: 'swodfck', copies: true },
  // A disk that grows has its places at once; free ones hold old bytes.
  '+places': { ...small, filled: true, letters: 'sdfgtck', preallocation: 'metadata' },
  '+places+long': { ...small, backingBytes: 21 * 1024, letters: 'sdfgtck', preallocation: 'data' },
};

/** Damaged, and repaired: every two kinds of damage meet. */
const repaired: Shape = { ...small, filled: true, letters: 'xdLHZTFGBDWNXSK', repair: 'all' };
const repairedSnapshot: Shape = { ...repaired, sharing: 'snapshot', letters: 'hLHZTFBX' };
/** A dirty journal is not replayed where what it needs is damaged, an L1 entry or a refcount: then nothing is repaired [REP-008]. */
const repairedDirty: Shape = { ...repaired, letters: 'xdLHZTFGBWNXSK' };
const repairedClean: Shape = { ...repaired, letters: 'LZBDFWNXK' };
/** With a journal another one is made there, since nobody can say whose its clusters are: beyond the bound. */
const damagedTable: Shape = { ...repaired, letters: 'sLYXSZ' };

const firstBitmaps: readonly FirstBitmap[] = [
  { name: 'kept', granularityBytes: sectorBytes, enabled: true },
  { name: 'off', granularityBytes: 2 * sectorBytes, enabled: false },
];
/**
 * The name of the first is so long that the entry of the second is divided by the end of a sector: where its table stands is in the one, its
 * flags are in the other. The disk, of other sizes, ends within a granule of the first.
 */
const dividedBitmaps: readonly FirstBitmap[] = [
  { name: 'off'.padEnd(480, '-'), granularityBytes: 4 * sectorBytes, enabled: false },
  { name: 'kept', granularityBytes: sectorBytes, enabled: true },
];

/** Bitmaps that are changed, and kept current by writes. The draft's journal excludes them. */
const bitmapShapes: Readonly<Record<string, Shape>> = {
  '+bitmaps': { ...small, letters: 'sdfqckARCME', filled: true, bitmaps: firstBitmaps },
  // The disk becomes smaller and larger, and its bitmaps with it.
  '+bitmaps+sizes': { ...small, letters: 'stfygqckAE', filled: true, bitmaps: dividedBitmaps },
  // Two sectors more than one cluster of bits stands for: tables become shorter and longer.
  '+bitmaps+far': {
    ...small,
    clusterBytes: 512,
    guestBytes: 2 * 1024 * 1024 + 1024,
    letters: 'tgy',
    filled: true,
    bitmaps: firstBitmaps,
  },
};

/** With an external data file. The draft's journal can not stand beside one. */
const dataFileShapes: Readonly<Record<string, Shape>> = {
  '+data': { ...small, letters: 'swxodfugk', dataFile: 'data' },
  '+data+filled': { ...small, letters: 'swodfuk', dataFile: 'data', filled: true },
  '+data+backing': { ...small, ...backing, letters: 'sxzdfgk', dataFile: 'data' },
  '+raw+filled': { ...small, letters: 'sxzdfutgk', dataFile: 'raw', filled: true },
  // The disk becomes smaller, and its file with it.
  '+data+sizes': { ...small, letters: 'sogytfck', dataFile: 'data', filled: true },
  '+raw+sizes': { ...small, letters: 'sgytfck', dataFile: 'raw', filled: true },
};
/** As a disk that something else has discarded: its raw data file is zeros, and nothing is mapped. */
const unmapped: Shape = { ...small, letters: 'swxzdfk', dataFile: 'raw', unmapped: true };

/** Every write goes in place, as large ones do. */
const direct = { directWriteBytes: 512, directFlushBytes: 0 } as const;
/** Whole clusters go in place, also those that were gathered piece by piece. */
const whole = { directWriteBytes: 1024 } as const;
/** Nothing is logged: what waits is settled at every flush. */
const settle = { directFlushBytes: 0 } as const;
/** Write-back begins at once. */
const eager = { writeBackAt: 0.01 } as const;

const manySmall: Shape = { ...small, clusterBytes: 512, guestBytes: 48 * 1024, letters: 'g', filled: true };
const fewLarge: Shape = {
  ...small,
  clusterBytes: 4096,
  guestBytes: 128 * 1024,
  letters: 'g',
  filled: true,
  backingBytes: 100 * 1024 + 512,
};

/** Sub-clusters, of one sector each. */
const subclusters: Shape = {
  ...small,
  clusterBytes: 16 * 1024,
  guestBytes: 128 * 1024,
  letters: 'g',
  filled: true,
  extendedL2: true,
};
/** Over a backing file that ends within one of them. */
const subclustersOver: Shape = { ...subclusters, backingBytes: 100 * 1024 + 200 };

/** For random workloads only. */
const randomShapes: Readonly<Record<string, Shape>> = {
  '-512': manySmall,
  '-512+snapshots': { ...manySmall, letters: 'gn' },
  '-4k+backing': fewLarge,
  '-16k+parts+backing': subclustersOver,
  '-16k+parts+snapshot': { ...subclusters, sharing: 'snapshot' },
  '-4k+compressed': { ...fewLarge, letters: 'p', compressed: true },
};

/** Sub-clusters whose bytes stand in a file of their own. */
const randomDataFileShapes: Readonly<Record<string, Shape>> = {
  '-16k+parts+data': { ...subclusters, dataFile: 'data' },
  '-16k+parts+raw': { ...subclusters, dataFile: 'raw' },
};

/** With one knob turned further. */
const tuned: readonly DriverConfiguration[] = [
  { ...small, name: 'journal+direct+filled', mode: 'journal', filled: true, tuning: direct },
  { ...shapes['+l1']!, name: 'journal+direct+l1', mode: 'journal', tuning: direct },
  // It comes to rest in between, and is written again.
  { ...small, name: 'journal+rest+filled', mode: 'journal', filled: true, letters: 'swodfqck' },
  // Refcounts of another width, which free the clusters of the old ones for what is written next.
  { ...small, name: 'journal+width+filled', mode: 'journal', filled: true, letters: 'iwodfqck' },
  { ...small, name: 'ordered+width+filled', mode: 'ordered', filled: true, letters: 'iwodfck' },
  { ...small, name: 'lazy+width+filled', mode: 'lazy', filled: true, letters: 'iwodfck' },
  // What is mapped before it is copied: fills from the backing file, copies out of shared clusters.
  { ...small, ...backing, name: 'journal+direct+backing', mode: 'journal', tuning: direct },
  {
    ...small,
    name: 'journal+direct+eager+twins',
    mode: 'journal',
    filled: true,
    sharing: 'twins',
    tuning: { ...direct, ...eager },
  },
  { ...small, ...backing, name: 'journal+settle+backing', mode: 'journal', tuning: settle },
  // Copies into clusters that the log is to fill.
  {
    ...small,
    ...backing,
    name: 'journal+direct+backing+copies',
    mode: 'journal',
    letters: 'swofck',
    tuning: direct,
    copies: true,
  },
  // What is freed reads as zeros at once: an L1 table that moved, the source of a copy.
  { ...shapes['+l1']!, name: 'journal+unmap+l1', mode: 'journal', discard: 'unmap' },
  {
    ...small,
    name: 'journal+direct+unmap+twins',
    mode: 'journal',
    letters: 'swzdfuhc',
    filled: true,
    sharing: 'twins',
    tuning: direct,
    discard: 'unmap',
  },
  { ...damagedTable, name: 'ordered+repair+table', mode: 'ordered' },
  { ...damagedTable, name: 'lazy+repair+table', mode: 'lazy' },
  { ...repaired, name: 'journal+repair+leaks', mode: 'journal', letters: 'xLHF', repair: 'leaks' },
  { ...repaired, name: 'ordered+repair+leaks', mode: 'ordered', letters: 'xLHF', repair: 'leaks' },
  // No record tells of a write in place: what a bitmap says must be durable before it.
  { ...bitmapShapes['+bitmaps']!, name: 'journal+direct+bitmaps', mode: 'journal', tuning: direct },
  {
    ...small,
    ...backing,
    name: 'journal+eager+backing+filled',
    mode: 'journal',
    filled: true,
    tuning: eager,
  },
];

/**
 * Encrypted: what was never written is no zeros, what is copied is encrypted anew, what is logged is cipher text. With the letters
 * that matter to that.
 */
const encrypted: readonly DriverConfiguration[] = [
  {
    ...small,
    ...backing,
    name: 'journal+luks+backing',
    mode: 'journal',
    letters: 'swzdfuc',
    encrypted: true,
  },
  {
    ...small,
    name: 'journal+direct+eager+luks+twins',
    mode: 'journal',
    letters: 'sofuc',
    filled: true,
    sharing: 'twins',
    tuning: { ...direct, ...eager },
    encrypted: true,
  },
  { ...small, name: 'ordered+luks', mode: 'ordered', letters: 'swzdfc', encrypted: true },
  { ...small, name: 'lazy+luks', mode: 'lazy', letters: 'swzdfc', encrypted: true },
];

const tunedRandom: readonly DriverConfiguration[] = [
  // Its records are many.
  { ...repairedDirty, name: 'draft-2013+repair', mode: 'draft-2013' },
  // Rounds make copies all the time, into clusters that the guest goes on writing to.
  {
    ...small,
    name: 'draft-2013+eager+twins',
    mode: 'draft-2013',
    letters: 'g',
    filled: true,
    sharing: 'twins',
    tuning: eager,
  },
  { ...fewLarge, name: 'draft-2013-4k+eager+twins', mode: 'draft-2013', sharing: 'twins', tuning: eager },
  // The journal is replaced by one of another size: to lay one out is many writes, and each crash point beyond the bound.
  { ...small, name: 'journal+resized+filled', mode: 'journal', filled: true, letters: 'swofjqck' },
  { ...fewLarge, name: 'journal-4k+direct+backing+twins', mode: 'journal', sharing: 'twins', tuning: direct },
  {
    ...fewLarge,
    name: 'journal-4k+settle+eager+backing+twins',
    mode: 'journal',
    sharing: 'twins',
    tuning: { ...settle, ...eager },
  },
  // Small writes are logged, but a cluster that they fill goes in place, by whoever fills it.
  {
    ...small,
    name: 'journal+whole+snapshot',
    mode: 'journal',
    letters: 'g',
    filled: true,
    sharing: 'snapshot',
    tuning: whole,
  },
  // More clusters than the file runs ahead by, under one L2 table. `b` writes most of them at once.
  { ...small, name: 'lazy+far', mode: 'lazy', guestBytes: 128 * 1024, letters: 'g', filled: true },
  // Sub-clusters that the log is to fill, in clusters that take more of them in place.
  { ...subclustersOver, name: 'journal-16k+direct+parts+backing', mode: 'journal', tuning: direct },
  {
    ...subclusters,
    name: 'journal-16k+direct+parts+snapshot',
    mode: 'journal',
    sharing: 'snapshot',
    tuning: direct,
  },
  { ...manySmall, name: 'journal-512+direct+eager', mode: 'journal', tuning: { ...direct, ...eager } },
];

const modeNames = Object.keys(driverModes) as DriverMode[];
const modesButDraft = modeNames.filter((mode) => mode !== 'draft-2013');

function product(
  shapesByName: Readonly<Record<string, Shape>>,
  modes: readonly DriverMode[] = modeNames,
): DriverConfiguration[] {
  return modes.flatMap((mode) =>
    Object.entries(shapesByName).map(([suffix, shape]) => ({ ...shape, name: `${mode}${suffix}`, mode })),
  );
}

/** What every sequence of its letters is tried on. */
export const exhaustiveConfigurations: readonly DriverConfiguration[] = [
  ...product(shapes),
  ...product({ ...dataFileShapes, '+raw+unmapped': unmapped, ...bitmapShapes }, modesButDraft),
  ...product({ '+repair': repaired }, ['ordered', 'lazy']),
  ...product({ '+repair': repairedDirty, '+repair+clean': repairedClean }, ['journal']),
  ...product({ '+repair+snapshot': repairedSnapshot }, ['ordered', 'lazy']),
  ...product({ '+repair+snapshot': { ...repairedSnapshot, letters: 'LHZTFBX' } }, ['journal']),
  ...tuned,
  ...encrypted,
  { ...dataFileShapes['+data']!, name: 'journal+direct+data', mode: 'journal', tuning: direct },
  {
    ...dataFileShapes['+data+backing']!,
    name: 'journal+direct+data+backing',
    mode: 'journal',
    tuning: direct,
  },
];

/** What random workloads run on, besides the above. */
export const randomConfigurations: readonly DriverConfiguration[] = [
  ...product(randomShapes).map((one) =>
    one.clusterBytes === 4096 ? { ...one, journalBlockBytes: 4096 } : one,
  ),
  ...product(randomDataFileShapes, modesButDraft),
  ...tunedRandom,
];
