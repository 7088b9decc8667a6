/**
 * The last part of a repair: refcounts that are too high are lowered, and the copied flags of the active tables set to what the
 * refcounts say, where these are right.
 */
import type { Task } from '@qcow2/block-device';
import { readEntryCopied, writeEntryCopied } from '@qcow2/codec';
import { visitActiveEntries } from './active-entries.ts';
import type { ImageParts } from './parts.ts';
import {
  type ComparisonVisitor,
  compareRefcounts,
  compareUnreferenced,
  type ReadBlock,
  sharedBlocks,
} from './refcount-comparison.ts';
import { ReferencePasses } from './reference-passes.ts';
import type { ReferenceWindow, SparePieces } from './reference-window.ts';
import { ChangedBytes, type RepairLog } from './repair-log.ts';

export interface LeakRepairOptions {
  readonly spare: SparePieces;
  /** Flags of entries that lead beyond the file are cleared as well. */
  readonly all: boolean;
  /** Refcounts are not lowered: what looks like a leak may be what a damaged entry led to. */
  readonly keepLeaks: boolean;
}

export class LeakRepair implements ComparisonVisitor {
  readonly #parts: ImageParts;
  readonly #spare: SparePieces;
  readonly #log: RepairLog;
  readonly #all: boolean;
  #keepLeaks: boolean;
  #changed = new ChangedBytes();

  constructor(parts: ImageParts, log: RepairLog, { all, keepLeaks, spare }: LeakRepairOptions) {
    this.#parts = parts;
    this.#log = log;
    this.#all = all;
    this.#keepLeaks = keepLeaks;
    this.#spare = spare;
  }

  /** Durable on return. */
  *run(): Task<void> {
    const { core } = this.#parts;
    const unexplained = (): void => {
      this.#keepLeaks = true;
    };
    const observer = { damaged: unexplained, outside: unexplained };
    const passes = new ReferencePasses(this.#parts, { observer, spare: this.#spare });
    const parts = this.#parts;
    // A block that is something else as well may count for two places of the table: its refcounts are nobody's.
    yield* passes.each((window) => {
      if (sharedBlocks(parts, window).length > 0) unexplained();
      return undefined;
    });
    yield* passes.each((window) => this.#window(passes, window));
    yield* compareUnreferenced(this.#parts, passes, this);
    core.refcountCache.clear();
    core.l2Cache.clear();
    yield* this.#log.commit();
  }

  *#window(passes: ReferencePasses, window: ReferenceWindow): Task<void> {
    yield* compareRefcounts(this.#parts, window, this);
    yield* this.#log.commit();
    yield* this.#correctFlags(passes, window);
  }

  difference(cluster: number, stored: number, counted: number, block: ReadBlock | undefined): number {
    if (block === undefined || stored < counted || this.#keepLeaks) return stored;
    const { refcounts, clusterBytes } = this.#parts.core;
    const index = cluster - block.first;
    refcounts.set(block.view, index, counted);
    this.#changed.note(Math.floor((index * refcounts.widthBits) / 8), Math.max(1, refcounts.widthBits / 8));
    const message = `cluster ${cluster} had refcount ${stored} and has ${counted} reference(s)`;
    this.#log.fixed('leak', message, { hostOffset: cluster * clusterBytes });
    return counted;
  }

  *block({ hostOffset, view }: ReadBlock): Task<void> {
    const changed = this.#changed;
    this.#changed = new ChangedBytes();
    yield* changed.writeTo(this.#log, 0, hostOffset, view);
  }

  *#correctFlags(passes: ReferencePasses, window: ReferenceWindow): Task<void> {
    const { clusterBytes, device } = this.#parts.core;
    const fileClusters = Math.ceil(device.sizeBytes / clusterBytes);
    yield* visitActiveEntries(
      this.#parts,
      { ...passes.tablesOf(window), notTables: passes.notTables },
      {
        entry: ({ view, at, hostOffset, guestOffset }) => {
          const cluster = hostOffset / clusterBytes;
          const beyond = cluster >= fileClusters;
          if (beyond ? !this.#all || window.start > 0 : !window.has(cluster) || window.isWrong(cluster))
            return false;
          const once = !beyond && window.isStoredOnce(cluster);
          if (readEntryCopied(view, at) === once) return false;
          writeEntryCopied(view, at, once);
          this.#log.fixed('error', `a copied flag is ${once ? 'set' : 'clear'} now`, {
            hostOffset,
            guestOffset,
          });
          return true;
        },
        changed: (tableOffset, view, entries) => this.#writeEntries(tableOffset, view, entries),
      },
    );
    yield* this.#log.commit();
  }

  *#writeEntries(tableOffset: number, view: DataView, entries: readonly number[]): Task<void> {
    const changed = new ChangedBytes();
    for (const at of entries) changed.note(at, 8);
    yield* changed.writeTo(this.#log, 2, tableOffset, view);
  }
}
