import type { LuksFacts } from './luks-facts.ts';

export interface SnapshotFacts {
  readonly id: string;
  readonly name: string;
  readonly vmStateBytes: number | bigint;
  readonly dateSeconds: number;
  readonly dateNanoseconds: number;
  readonly vmClockNanoseconds: bigint;
  /** Instructions executed, where the snapshot says so. */
  readonly instructionCount?: bigint | undefined;
}

export interface BitmapFacts {
  readonly name: string;
  readonly granularityBytes: number | bigint;
  readonly inUse: boolean;
  readonly auto: boolean;
}

export interface JournalFacts {
  readonly version?: number | undefined;
  readonly profile: string;
  /** `clean`, `dirty` (to be replayed), or `stale` (a writer that does not know it has been there). */
  readonly state: string;
  readonly hostOffset: number;
  readonly lengthBytes: number;
  readonly blockBytes?: number | undefined;
  readonly ringBytes?: number | undefined;
  /** Bytes of the ring that hold live records. */
  readonly usedBytes?: number | undefined;
  readonly records?: number | undefined;
  /** Profile draft-2013: how far the log has been executed, and how far committed. */
  readonly syncedSequence?: number | undefined;
  readonly committedSequence?: number | undefined;
}

/** The image below, as an image names it. */
export interface BackingFacts {
  readonly backingFile?: string | undefined;
  readonly backingFormat?: string | undefined;
  /** The backing file's name as seen from here: beside the image, not beside the caller. */
  readonly fullBackingFile?: string | undefined;
}

export interface Qcow2Facts extends BackingFacts {
  readonly version: 2 | 3;
  readonly clusterBytes: number;
  readonly compressionType: string;
  readonly lazyRefcounts: boolean;
  readonly refcountBits: number;
  readonly corrupt: boolean;
  readonly extendedL2: boolean;
  /** The dirty bit: not closed cleanly. */
  readonly dirty: boolean;
  readonly dataFile?: string | undefined;
  readonly dataFileRaw?: boolean | undefined;
  readonly encryption?: 'aes' | LuksFacts | undefined;
  readonly snapshots: readonly SnapshotFacts[];
  readonly bitmaps: readonly BitmapFacts[];
  readonly journal?: JournalFacts | undefined;
}

export interface VmdkReport extends BackingFacts {
  readonly cid: number;
  readonly parentCid: number;
  readonly createType: string;
  readonly extents: readonly {
    readonly compressed: true | undefined;
    readonly virtualSizeBytes: number;
    readonly path: string;
    readonly clusterBytes: number | undefined;
    readonly type: string;
  }[];
}

export interface ImageFacts {
  readonly path: string;
  /** False where QEMU's driver says nothing more of it. */
  readonly hasInfo?: boolean;
  /** Or the driver below one, where that was named. */
  readonly format: string;
  readonly virtualSizeBytes: number;
  /** What the file occupies on its disk, where that can be told. */
  readonly diskBytes: number | undefined;
  readonly qcow2?: Qcow2Facts | undefined;
  /** The unit of allocation of a foreign image. */
  readonly clusterBytes?: number | undefined;
  readonly vmdk?: VmdkReport | undefined;
}
