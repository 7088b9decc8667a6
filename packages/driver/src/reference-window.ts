/**
 * References to the host clusters of one window of the file: how many there are to each, of what class they are, so that
 * two structures in one cluster are found, and where the refcount on disk says something else.
 *
 * Counters exist only in pieces where something is counted, three bytes for each cluster; a window bounds them at
 * `windowClusters` of these, whatever the size of the file. A count beyond 16 bits is kept apart. The next window takes over the
 * pieces of the one before: as garbage several windows would stand in memory, since nothing else hurries its collection.
 */
import { FormatError } from '@qcow2/spec';
import { type ReferenceKind, referenceNames } from './reference-walk.ts';

/** 48 MiB of counters at most; a file of 1 TiB in clusters of 64 KiB. A multiple of what any refcount block counts. */
export const windowClusters = 2 ** 24;

const pieceClusters = 32768;
const largest = 65535;

/** Guest bytes may be shared with guest bytes, an L2 table by several L1 tables; everything else is alone, L1 tables too. */
const classes = { free: 0, guest: 1, l2: 2, l1: 3, alone: 4 } as const;
const classMask = 7;
/** The refcount on disk differs from the count; and it is exactly one. */
const wrongMark = 8;
const storedOneMark = 16;

interface Piece {
  readonly counts: Uint16Array;
  readonly classes: Uint8Array;
}

/** Pieces that no window uses. */
export class SparePieces {
  readonly #pieces: Piece[] = [];

  /** All zeros. */
  take(): Piece {
    const piece = this.#pieces.pop();
    if (piece === undefined) {
      return { counts: new Uint16Array(pieceClusters), classes: new Uint8Array(pieceClusters) };
    }
    piece.counts.fill(0);
    piece.classes.fill(0);
    return piece;
  }

  put(piece: Piece): void {
    this.#pieces.push(piece);
  }
}

/** Told of a cluster that is `kind` and something of another class as well; `isTable`: one of these is an L1 or L2 table. */
export type OverlapHandler = (cluster: number, kind: ReferenceKind, isTable: boolean) => void;

export class ReferenceWindow {
  /** First cluster. */
  readonly start: number;
  readonly end: number;
  readonly #onOverlap: OverlapHandler;
  readonly #pieces: (Piece | undefined)[] = new Array(windowClusters / pieceClusters);
  readonly #large = new Map<number, number>();
  readonly #spare: SparePieces;

  /** @param onOverlap default: OVERLAP is thrown [LAZ-007] */
  constructor(start: number, clusterBytes: number, onOverlap?: OverlapHandler, spare = new SparePieces()) {
    this.#spare = spare;
    this.start = start;
    this.end = start + windowClusters;
    this.#onOverlap = onOverlap ?? ((cluster, kind) => refuseOverlap(cluster * clusterBytes, kind));
  }

  /** Count a reference to a cluster of the window. */
  add(cluster: number, kind: ReferenceKind): void {
    const piece = this.#makePiece(Math.floor((cluster - this.start) / pieceClusters));
    const at = (cluster - this.start) % pieceClusters;
    const before = piece.classes[at]!;
    const now = classOf(kind);
    if (before !== classes.free && (before !== now || now >= classes.l1)) {
      this.#onOverlap(cluster, kind, isTable(before) || isTable(now));
    }
    piece.classes[at] = Math.max(before, now);
    if (piece.counts[at]! < largest) piece.counts[at]!++;
    else this.#large.set(cluster, (this.#large.get(cluster) ?? largest) + 1);
  }

  has(cluster: number): boolean {
    return cluster >= this.start && cluster < this.end;
  }

  get(cluster: number): number {
    const piece = this.#pieces[Math.floor((cluster - this.start) / pieceClusters)];
    const count = piece === undefined ? 0 : piece.counts[(cluster - this.start) % pieceClusters]!;
    return count < largest ? count : (this.#large.get(cluster) ?? count);
  }

  /** The refcount on disk is another one than the count, which is not 0. */
  markWrong(cluster: number, stored: number): void {
    const piece = this.#makePiece(Math.floor((cluster - this.start) / pieceClusters));
    const mark = stored === 1 ? wrongMark | storedOneMark : wrongMark;
    piece.classes[(cluster - this.start) % pieceClusters]! |= mark;
  }

  isWrong(cluster: number): boolean {
    return (this.#marks(cluster) & wrongMark) !== 0;
  }

  /** Whether the refcount on disk is exactly one, of a cluster that is referenced. After `compareRefcounts`. */
  isStoredOnce(cluster: number): boolean {
    const marks = this.#marks(cluster);
    return (marks & wrongMark) === 0 ? this.get(cluster) === 1 : (marks & storedOneMark) !== 0;
  }

  #marks(cluster: number): number {
    const piece = this.#pieces[Math.floor((cluster - this.start) / pieceClusters)];
    return piece === undefined ? 0 : piece.classes[(cluster - this.start) % pieceClusters]! & ~classMask;
  }

  /** Whether anything is counted in a range of the window. */
  any(first: number, count: number): boolean {
    return this.counted(first, count).next().done !== true;
  }

  /** Clusters that are referenced, with their counts, in a range of the window. */
  *counted(first: number, count: number): Generator<[cluster: number, count: number], void, undefined> {
    const end = Math.min(this.end, first + count);
    for (let at = first; at < end; ) {
      const index = Math.floor((at - this.start) / pieceClusters);
      const pieceStart = this.start + index * pieceClusters;
      const pieceEnd = Math.min(end, pieceStart + pieceClusters);
      const piece = this.#pieces[index];
      if (piece !== undefined) {
        for (let cluster = at; cluster < pieceEnd; cluster++) {
          if (piece.counts[cluster - pieceStart]! > 0) yield [cluster, this.get(cluster)];
        }
      }
      at = pieceEnd;
    }
  }

  #makePiece(index: number): Piece {
    let piece = this.#pieces[index];
    if (piece === undefined) {
      piece = this.#spare.take();
      this.#pieces[index] = piece;
    }
    return piece;
  }

  /** Nobody looks at the window any more: its pieces are the next one's. */
  release(): void {
    for (const piece of this.#pieces) if (piece !== undefined) this.#spare.put(piece);
    this.#pieces.fill(undefined);
    this.#large.clear();
  }
}

function classOf(kind: ReferenceKind): number {
  if (kind === 'guestCluster' || kind === 'compressedData') return classes.guest;
  if (kind === 'l1Table' || kind === 'snapshotL1Table') return classes.l1;
  return kind === 'l2Table' ? classes.l2 : classes.alone;
}

function isTable(referenceClass: number): boolean {
  return referenceClass === classes.l1 || referenceClass === classes.l2;
}

function refuseOverlap(hostOffset: number, kind: ReferenceKind): never {
  throw new FormatError('OVERLAP', `a cluster is ${referenceNames[kind]} and something else as well`, {
    hostOffset,
    clause: 'LAZ-007',
  });
}
