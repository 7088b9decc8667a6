/**
 * References to the host clusters of one window of the file, for rebuilding refcounts: how many there are to each, and of
 * what class they are, so that two structures in one cluster are found.
 *
 * Counters exist only in pieces where something is counted, three bytes for each cluster; a window bounds them at
 * `windowClusters` of these, whatever the size of the file. A count beyond 16 bits is kept apart.
 */
import { FormatError } from '@qcow2/spec';
import { type ReferenceKind, referenceNames } from './reference-walk.ts';

/** 48 MiB of counters at most; a file of 1 TiB in clusters of 64 KiB. A multiple of what any refcount block counts. */
export const windowClusters = 2 ** 24;

const pieceClusters = 32768;
const largest = 65535;

/** Guest bytes may be shared with guest bytes, an L2 table by several L1 tables; everything else is alone. */
const classes = { free: 0, guest: 1, l2: 2, alone: 3 } as const;

interface Piece {
  readonly counts: Uint16Array;
  readonly classes: Uint8Array;
}

export class ReferenceWindow {
  /** First cluster. */
  readonly start: number;
  readonly end: number;
  readonly #clusterBytes: number;
  readonly #pieces = new Map<number, Piece>();
  readonly #large = new Map<number, number>();

  constructor(start: number, clusterBytes: number) {
    this.start = start;
    this.end = start + windowClusters;
    this.#clusterBytes = clusterBytes;
  }

  /**
   * Count a reference to a cluster of the window.
   * @throws OVERLAP where the cluster is something else already
   */
  add(cluster: number, kind: ReferenceKind): void {
    const piece = this.#piece(Math.floor((cluster - this.start) / pieceClusters));
    const at = (cluster - this.start) % pieceClusters;
    const before = piece.classes[at]!;
    const now = classOf(kind);
    if (before !== classes.free && (before !== now || now === classes.alone)) {
      throw new FormatError('OVERLAP', `a cluster is ${referenceNames[kind]} and something else as well`, {
        hostOffset: cluster * this.#clusterBytes,
        clause: 'LAZ-007',
      });
    }
    piece.classes[at] = now;
    if (piece.counts[at]! < largest) piece.counts[at]!++;
    else this.#large.set(cluster, (this.#large.get(cluster) ?? largest) + 1);
  }

  get(cluster: number): number {
    const piece = this.#pieces.get(Math.floor((cluster - this.start) / pieceClusters));
    const count = piece === undefined ? 0 : piece.counts[(cluster - this.start) % pieceClusters]!;
    return count < largest ? count : (this.#large.get(cluster) ?? count);
  }

  /** Clusters that are referenced, with their counts, in a range of the window. */
  *counted(first: number, count: number): Generator<[cluster: number, count: number], void, undefined> {
    const end = Math.min(this.end, first + count);
    for (let at = first; at < end; ) {
      const index = Math.floor((at - this.start) / pieceClusters);
      const pieceStart = this.start + index * pieceClusters;
      const pieceEnd = Math.min(end, pieceStart + pieceClusters);
      const piece = this.#pieces.get(index);
      if (piece !== undefined) {
        for (let cluster = at; cluster < pieceEnd; cluster++) {
          if (piece.counts[cluster - pieceStart]! > 0) yield [cluster, this.get(cluster)];
        }
      }
      at = pieceEnd;
    }
  }

  #piece(index: number): Piece {
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = { counts: new Uint16Array(pieceClusters), classes: new Uint8Array(pieceClusters) };
      this.#pieces.set(index, piece);
    }
    return piece;
  }
}

function classOf(kind: ReferenceKind): number {
  if (kind === 'guestCluster' || kind === 'compressedData') return classes.guest;
  return kind === 'l2Table' ? classes.l2 : classes.alone;
}
