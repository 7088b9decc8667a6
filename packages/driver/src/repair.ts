/**
 * Repairing an image: what a check finds is put right, as far as that takes no guess, and what is left is said.
 *
 * `leaks`: refcounts that are too high are lowered, and copied flags set right. `all`, in this order, each durable before the
 * next:
 *
 *   1. Refcounts that are too low are raised. Where the table leads to no block, or to one that is something else as
 *      well, new blocks are written behind everything in use, whole, and then the table's entries, or the header's pointer to
 *      a larger table.
 *   2. Entries of L1 and L2 tables that can be put right without a guess (`EntryRepair`).
 *   3. Refcounts that are too high are lowered, and copied flags set right.
 *   4. Everything is checked again. Where no corruption is left the marks *corrupt* and *dirty* are taken away.
 *
 * Nothing that may still be data is given up: as long as an entry leads nowhere, whatever it led to before looks like a
 * leak; then no refcount is lowered. QEMU 7.2 lowers them.
 *
 * Crash argument. Every change is bytes in a metadata log (ADR 7): records of the journal where the image has one, else
 * ordered writes. 1 only takes clusters out of what can be handed out. New blocks are durable before something leads
 * to them, and right then, so there is no moment in which a used cluster counts as free that did not before. 2 leads to clusters
 * whose refcounts are durable. 3 frees only what nothing leads to, by tables that are durable. A flag says what the refcount
 * says, which is durable before it. So a crash leaves what was there, or some of it put right; the next repair
 * goes on. The marks go last.
 *
 * Nobody else has the image meanwhile. A dirty journal is replayed first, and allocates only behind the end of the file:
 * the refcounts are not believed yet.
 */
import { type BlockDevice, run, type Task } from '@qcow2/block-device';
import { incompatibleFeatures } from '@qcow2/spec';
import { type CheckOptions, type CheckReport, checkParts } from './check.ts';
import { EntryWriter } from './entry-writer.ts';
import { LeakRepair } from './leak-repair.ts';
import { openParts, type PartsOptions } from './open.ts';
import type { ImageParts } from './parts.ts';
import { RefcountRaise } from './refcount-raise.ts';
import { SparePieces } from './reference-window.ts';
import { RepairLog } from './repair-log.ts';

export type RepairMode = 'leaks' | 'all';

/** What is needed to replay a journal. */
type ReplayOptions = Pick<
  PartsOptions,
  'backing' | 'dataFile' | 'compression' | 'encryption' | 'random' | 'journal'
>;

export interface RepairOptions extends CheckOptions, ReplayOptions {
  readonly repair: RepairMode;
}

/** One thing that was put right. */
export interface RepairFix {
  readonly severity: 'error' | 'leak';
  readonly message: string;
  readonly hostOffset?: number | undefined;
  readonly guestOffset?: number | undefined;
}

export interface RepairReport {
  /** The image as it was. */
  readonly found: CheckReport;
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
  /** The first of them, at most `maxFindings`. */
  readonly fixes: readonly RepairFix[];
  /** The image as it is now. */
  readonly left: CheckReport;
}

/**
 * Check an image and put right what is wrong. Durable on return. Nobody else may have the image open.
 * @throws FormatError, UNSUPPORTED_FEATURE, JOURNAL_DAMAGED where the image can not be opened, or a table that is no table of
 *   offsets is damaged; NO_POLICY where a journal that is to be replayed needs the backing file; then nothing
 *   has been repaired
 */
export async function repairImage(device: BlockDevice, options: RepairOptions): Promise<RepairReport> {
  return await run(repair(device, options));
}

function* repair(device: BlockDevice, options: RepairOptions): Task<RepairReport> {
  // All passes of all steps count in the same memory.
  const spare = new SparePieces();
  const looked = yield* openParts(device, { readOnly: true, backing: 'none' });
  const { onProgress } = options;
  const fileBytes = device.sizeBytes;
  // Two checks, with little in between.
  const half = (which: 0 | 1): CheckOptions => ({
    ...options,
    onProgress: (done, total) => onProgress?.(((done / total + which) / 2) * fileBytes, fileBytes),
  });
  const found = yield* checkParts(looked, half(0), spare);
  if (found.corruptions + found.leaks === 0 && !isMarked(looked)) {
    onProgress?.(fileBytes, fileBytes);
    return { found, left: found, corruptionsFixed: 0, leaksFixed: 0, fixes: [] };
  }
  const backing = options.backing ?? 'none';
  const parts = yield* openParts(device, { ...options, backing, lazyRefcounts: false, forRepair: true });
  const log = new RepairLog(parts, options.maxFindings ?? 1000);
  try {
    let keepLeaks = false;
    if (options.repair === 'all') {
      const raise = new RefcountRaise(parts, log, spare);
      const entries = yield* raise.run();
      keepLeaks = raise.keepLeaks;
      yield* new EntryWriter(parts, log).write(entries);
    }
    yield* new LeakRepair(parts, log, { all: options.repair === 'all', keepLeaks, spare }).run();
    yield* parts.core.log.quiesce();
    const left = yield* checkParts(parts, half(1), spare);
    if (left.corruptions === 0 && isMarked(parts)) yield* takeMarksAway(parts);
    return { found, left, ...log.report };
  } finally {
    parts.core.log.stop?.();
  }
}

const marks = incompatibleFeatures.corrupt | incompatibleFeatures.dirty;

function isMarked({ core }: ImageParts): boolean {
  return (core.header.incompatibleFeatures & marks) !== 0n;
}

/** [FEA-002] [LAZ-005] */
function* takeMarksAway(parts: ImageParts): Task<void> {
  parts.core.header.incompatibleFeatures &= ~marks;
  yield* parts.writeHeader();
}
