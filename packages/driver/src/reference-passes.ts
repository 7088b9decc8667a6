/**
 * Counting all references of an image in passes: one for each window of the file in which something is referenced. So memory
 * is bounded by a window, not by the file; time by what there is, since a pass goes only through those L2 tables that
 * lead to its window (`TableReach`).
 *
 * The very first pass, over the window at 0, goes through everything. It alone tells the observer what it finds, and finds out
 * which windows there are. Who changes between two passes which tables there are, or where they lead, begins again.
 */
import type { Task } from '@qcow2/block-device';
import type { EntryRepair } from './entry-repair.ts';
import type { ImageParts } from './parts.ts';
import {
  type ReferenceKind,
  type ReferenceVisitor,
  ReferenceWalk,
  type WalkOptions,
} from './reference-walk.ts';
import { type OverlapHandler, ReferenceWindow, SparePieces, windowClusters } from './reference-window.ts';
import { TableReach } from './table-reach.ts';

/** Told by the first pass. */
export interface PassObserver {
  damaged(error: unknown, guestOffset?: number, kind?: ReferenceKind): void;
  /** A reference leads beyond the end of the file and is not counted. */
  outside(kind: ReferenceKind, hostOffset: number, lengthBytes: number, guestOffset?: number): void;
  /** A guest cluster lies beyond the end of the file, and is counted all the same (`endBytes`). */
  lostCluster?(hostOffset: number, guestOffset: number | undefined): void;
  activeTable?(): void;
  activeCluster?(hostOffset: number, compressed: boolean): void;
}

export interface PassOptions {
  readonly observer?: PassObserver;
  /** Tables are seen as this will leave them. */
  readonly repair?: EntryRepair | undefined;
  /** References up to here are counted; default: the end of the file, its last cluster whole. */
  readonly endBytes?: (kind: ReferenceKind) => number;
  /** What earlier passes have used, for these. */
  readonly spare?: SparePieces;
}

export class ReferencePasses {
  readonly #parts: ImageParts;
  readonly #options: PassOptions;
  readonly #reach = new TableReach();
  readonly #windows = new Set<number>([0]);
  readonly #spare: SparePieces;
  readonly #fileEnd: number;
  /** The observer has been told. */
  #isTold = false;
  /** Clusters that are an L1 or L2 table and something else as well, of the windows that were counted. */
  readonly notTables = new Set<number>();
  /** Behind the last cluster that is referenced; known after the first pass. */
  endCluster = 0;

  constructor(parts: ImageParts, options: PassOptions = {}) {
    this.#parts = parts;
    this.#options = options;
    this.#spare = options.spare ?? new SparePieces();
    const { clusterBytes, device } = parts.core;
    this.#fileEnd = Math.ceil(device.sizeBytes / clusterBytes) * clusterBytes;
  }

  /** How a walk over the tables passes over those that lead to no cluster of a window. */
  tablesOf(window: ReferenceWindow): WalkOptions {
    return { reach: this.#reach, window, repair: this.#options.repair };
  }

  /**
   * Each window in which something is referenced, the one at 0 first and the others as they stand in the file. A window is over
   * when its visit is.
   * @throws FormatError where a table that has no entries to pass over is damaged
   */
  *each(visit: (window: ReferenceWindow) => Task<void> | undefined): Task<void> {
    const observer = this.#isTold ? undefined : this.#options.observer;
    this.#isTold = true;
    yield* this.#visit(0, observer, visit);
    const later = [...this.#windows].filter((start) => start > 0).sort((a, b) => a - b);
    for (const start of later) yield* this.#visit(start, undefined, visit);
  }

  *#visit(
    start: number,
    observer: PassObserver | undefined,
    visit: (window: ReferenceWindow) => Task<void> | undefined,
  ): Task<void> {
    const window = yield* this.#count(start, observer);
    const task = visit(window);
    if (task !== undefined) yield* task;
    window.release();
  }

  /** Whether something is referenced in the window that begins with a cluster. After the first pass. */
  covers(start: number): boolean {
    return this.#windows.has(start);
  }

  *#count(start: number, observer: PassObserver | undefined): Task<ReferenceWindow> {
    const { clusterBytes } = this.#parts.core;
    const noteTables: OverlapHandler = (cluster, _kind, isTable) => {
      if (isTable) this.notTables.add(cluster);
    };
    const window = new ReferenceWindow(start, clusterBytes, noteTables, this.#spare);
    const visitor: ReferenceVisitor = {
      reference: (kind, hostOffset, lengthBytes, guestOffset) => {
        if (lengthBytes === 0) return true;
        const end = this.#options.endBytes?.(kind) ?? this.#fileEnd;
        if (hostOffset + lengthBytes > end) {
          observer?.outside(kind, hostOffset, lengthBytes, guestOffset);
          return false;
        }
        if (hostOffset + lengthBytes > this.#fileEnd && kind === 'guestCluster') {
          observer?.lostCluster?.(hostOffset, guestOffset);
        }
        this.#countRange(window, kind, hostOffset, lengthBytes);
        return true;
      },
      damaged: (error, guestOffset, kind) => observer?.damaged(error, guestOffset, kind),
      activeTable: () => observer?.activeTable?.(),
      activeCluster: (hostOffset, compressed) => observer?.activeCluster?.(hostOffset, compressed),
    };
    const options = { ...this.tablesOf(window), isQuiet: observer === undefined };
    yield* new ReferenceWalk(this.#parts, visitor, options).walk();
    return window;
  }

  #countRange(window: ReferenceWindow, kind: ReferenceKind, hostOffset: number, lengthBytes: number): void {
    const { clusterBytes } = this.#parts.core;
    const first = Math.floor(hostOffset / clusterBytes);
    const end = Math.floor((hostOffset + lengthBytes - 1) / clusterBytes) + 1;
    this.endCluster = Math.max(this.endCluster, end);
    for (let cluster = Math.max(first, window.start); cluster < Math.min(end, window.end); cluster++) {
      window.add(cluster, kind);
    }
    if (window.start > 0) return;
    const firstWindow = first - (first % windowClusters);
    for (let start = firstWindow; start < end; start += windowClusters) this.#windows.add(start);
  }
}
