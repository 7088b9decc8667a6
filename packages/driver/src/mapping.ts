/**
 * From a guest cluster to what the image says about it, by the disk's L1 table or by a snapshot's.
 *
 * `peek` answers from the cache or not at all, without allocating; `lookup` loads the slice first. Every
 * entry is checked against its clauses when it is read, so a damaged one is refused by name and never
 * followed.
 */
import type { Task } from '@qcow2/block-device';
import {
  type ClusterKind,
  checkL1Entry,
  checkL2Entry,
  classifyL2Entry,
  clusterKind,
  readAllocatedSubclusters,
  readCompressedLengthBytes,
  readCompressedOffset,
  readEntryCopied,
  readEntryOffset,
  readZeroSubclusters,
} from '@qcow2/codec';
import { InvariantError } from '@qcow2/spec';
import { checkPlace } from './data-area.ts';
import type { HostArea, ImageCore } from './image-core.ts';
import { noSubclusters, type Subclusters } from './sub-clusters.ts';

export interface Mapping {
  readonly kind: ClusterKind;
  /** Host offset of the cluster; 0 where it has none. */
  readonly hostOffset: number;
  /** Nobody else refers to the cluster: it may be written in place. */
  readonly exclusive: boolean;
  /** Where the data of a compressed cluster stands, its last sector whole. Such a cluster has no `hostOffset`. */
  readonly compressed?: HostArea;
  /** What the parts of the cluster are, in an image with extended L2 entries, and in no other. */
  readonly subclusters?: Subclusters;
}

const nothing: Mapping = { kind: clusterKind.unallocated, hostOffset: 0, exclusive: false };
const nothingExtended: Mapping = { ...nothing, subclusters: noSubclusters };

/** An L1 table that is not the disk's: a snapshot's. */
export interface FixedTable {
  readonly l1: DataView;
  readonly l1Offset: number;
}

export class MappingTable {
  readonly #core: ImageCore;
  readonly #fixed: FixedTable | undefined;
  readonly #nothing: Mapping;

  /** @param fixed default: the disk's table, whichever it is when it is asked */
  constructor(core: ImageCore, fixed?: FixedTable) {
    this.#core = core;
    this.#fixed = fixed;
    this.#nothing = core.l2Format.extended ? nothingExtended : nothing;
  }

  get #l1(): DataView {
    return this.#fixed === undefined ? this.#core.l1 : this.#fixed.l1;
  }

  /** Host offset of the L2 table of a guest cluster, 0 where there is none. */
  l2TableOffset(guestCluster: number): number {
    const { l2Entries, clusterBits, header } = this.#core;
    const l1 = this.#l1;
    const at = Math.floor(guestCluster / l2Entries) * 8;
    if (at + 8 > l1.byteLength) return 0;
    checkL1Entry(l1, at, clusterBits, this.#fixed?.l1Offset ?? header.l1Offset);
    return readEntryOffset(l1, at);
  }

  /** Whether the L2 table exists and belongs to the active L1 table alone. */
  l2TableExclusive(guestCluster: number): boolean {
    const at = Math.floor(guestCluster / this.#core.l2Entries) * 8;
    return readEntryCopied(this.#l1, at);
  }

  /** Host offset of the L2 entry of a guest cluster; its table must exist. */
  entryOffset(guestCluster: number): number {
    const table = this.l2TableOffset(guestCluster);
    if (table === 0) throw new InvariantError('a guest cluster without L2 table');
    return table + (guestCluster % this.#core.l2Entries) * this.#core.l2EntryBytes;
  }

  /** The mapping, if it can be told without waiting. */
  peek(guestCluster: number): Mapping | undefined {
    const table = this.l2TableOffset(guestCluster);
    if (table === 0) return this.#nothing;
    const entryOffset = table + (guestCluster % this.#core.l2Entries) * this.#core.l2EntryBytes;
    const slice = this.#core.l2Cache.peek(entryOffset);
    if (slice === undefined) return undefined;
    return this.#read(guestCluster, slice.view, entryOffset - slice.hostOffset, slice.hostOffset);
  }

  *lookup(guestCluster: number): Task<Mapping> {
    for (;;) {
      const mapping = this.peek(guestCluster);
      if (mapping !== undefined) return mapping;
      yield* this.#core.l2Cache.load(this.entryOffset(guestCluster));
    }
  }

  #read(guestCluster: number, view: DataView, at: number, sliceOffset: number): Mapping {
    const { l2Format } = this.#core;
    checkL2Entry(view, at, l2Format, sliceOffset);
    const kind = classifyL2Entry(view, at, l2Format);
    if (kind === clusterKind.unallocated) return this.#nothing;
    if (kind === clusterKind.compressed) {
      const { clusterBits } = l2Format;
      const compressed = {
        hostOffset: readCompressedOffset(view, at, clusterBits),
        lengthBytes: readCompressedLengthBytes(view, at, clusterBits),
      };
      return { ...this.#nothing, kind, compressed };
    }
    const hostOffset = readEntryOffset(view, at);
    const copied = readEntryCopied(view, at);
    const parts = l2Format.extended ? { subclusters: readSubclusters(view, at) } : {};
    if (!l2Format.externalData) return { kind, hostOffset, exclusive: copied, ...parts };
    // Parts that read as zeros, and no place: at guest offset 0 the flag alone tells.
    const hasPlace = kind === clusterKind.mixed ? copied || hostOffset !== 0 : kind !== clusterKind.zeroPlain;
    if (hasPlace) checkPlace(hostOffset, guestCluster * this.#core.clusterBytes, sliceOffset + at);
    // A place in a data file is one guest cluster's, whatever the flag says.
    return { kind, hostOffset, exclusive: hasPlace, ...parts };
  }
}

function readSubclusters(view: DataView, at: number): Subclusters {
  return { allocated: readAllocatedSubclusters(view, at), zeros: readZeroSubclusters(view, at) };
}
