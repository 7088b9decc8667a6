/**
 * The entries of the active tables that lead to host clusters, for looking at their copied flags: only there does the flag
 * say something (L1E-004, L2E-004).
 */
import { type Task, wait } from '@qcow2/block-device';
import { checkL1Entry, classifyL2Entry, clusterKind, isSoundL2Entry, readEntryOffset } from '@qcow2/codec';
import { FormatError } from '@qcow2/spec';
import { looksLikeTable } from './entry-repair.ts';
import type { ImageParts } from './parts.ts';
import type { WalkOptions } from './reference-walk.ts';

export interface ActiveEntry {
  readonly view: DataView;
  readonly at: number;
  /** Where it leads. Within the file or not. */
  readonly hostOffset: number;
  /** Of an L2 entry. */
  readonly guestOffset: number | undefined;
}

export interface ActiveEntryOptions extends WalkOptions {
  /** Clusters that are passed over, and tables that hardly are some: for who changes entries. */
  readonly notTables?: ReadonlySet<number>;
}

export interface ActiveEntryVisitor {
  /** Called without waiting, for each entry in turn; the object is used again. Returns whether it was changed. */
  entry(entry: ActiveEntry): boolean;
  /** The table at a host offset has changed entries. */
  changed?(tableOffset: number, view: DataView, at: readonly number[]): Task<void>;
}

/** Go through the L1 table and the L2 tables that lead to the window. Damaged entries are passed over. */
export function* visitActiveEntries(
  parts: ImageParts,
  { reach, window, notTables }: ActiveEntryOptions,
  visitor: ActiveEntryVisitor,
): Task<void> {
  const { core } = parts;
  const { l1, header, clusterBytes, clusterBits, l2Entries } = core;
  const bytes = new Uint8Array(clusterBytes);
  let number = 0;
  const changed: number[] = [];
  for (let index = 0; index < l1.byteLength / 8; index++) {
    const at = index * 8;
    if (!isSound(() => checkL1Entry(l1, at, clusterBits, header.l1Offset))) continue;
    const hostOffset = readEntryOffset(l1, at);
    if (hostOffset === 0) continue;
    if (visitor.entry({ view: l1, at, hostOffset, guestOffset: undefined })) changed.push(at);
    // The numbers are those of the walk, which does not follow what leads beyond the file.
    if (hostOffset + clusterBytes > Math.ceil(core.device.sizeBytes / clusterBytes) * clusterBytes) continue;
    const table = number++;
    if (core.l2Format.externalData) continue;
    if (reach !== undefined && window !== undefined && reach.misses(table, window.start, window.end))
      continue;
    if (notTables?.has(hostOffset / clusterBytes)) continue;
    const guestOffset = index * l2Entries * clusterBytes;
    yield* visitTable(parts, { hostOffset, guestOffset, isSure: notTables === undefined, bytes }, visitor);
  }
  if (changed.length > 0 && visitor.changed !== undefined)
    yield* visitor.changed(header.l1Offset, l1, changed);
}

interface VisitedTable {
  readonly hostOffset: number;
  readonly guestOffset: number;
  readonly isSure: boolean;
  /** What it is read into. */
  readonly bytes: Uint8Array;
}

function* visitTable({ core }: ImageParts, table: VisitedTable, visitor: ActiveEntryVisitor): Task<void> {
  const { hostOffset: tableOffset } = table;
  const { clusterBytes, l2EntryBytes, l2Format, l2Entries } = core;
  yield* wait(core.readPatched(tableOffset, table.bytes));
  const view = new DataView(table.bytes.buffer);
  if (!table.isSure && !looksLikeTable(view, core)) return;
  const entry = { view, at: 0, hostOffset: 0, guestOffset: 0 };
  const changed: number[] = [];
  for (let i = 0; i < l2Entries; i++) {
    entry.at = i * l2EntryBytes;
    if (!isSoundL2Entry(view, entry.at, l2Format)) continue;
    if (classifyL2Entry(view, entry.at, l2Format) === clusterKind.compressed) continue;
    entry.hostOffset = readEntryOffset(view, entry.at);
    if (entry.hostOffset === 0) continue;
    entry.guestOffset = table.guestOffset + i * clusterBytes;
    if (visitor.entry(entry)) changed.push(entry.at);
  }
  if (changed.length > 0 && visitor.changed !== undefined) yield* visitor.changed(tableOffset, view, changed);
}

function isSound(check: () => void): boolean {
  try {
    check();
    return true;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}
