/**
 * What the bitmaps of a disk may say after a crash (BMD-006, BMP-004, BMP-005, BMP-007): each that is turned on says of every sector that is
 * not what it was when it was turned on, made or cleared, that it is dirty. It says no more than what was written to since, unless
 *
 *   - with a journal something was written to since the image was at rest: then it may say that anything is dirty (ADR 25);
 *   - a crash or a killed process has left it saying too much.
 *
 * Without a journal it may be marked as in use instead, once something was written to since rest; then nobody believes it, and that
 * stays so. Which sectors were written to is the guest oracle's business (`SectorWrites`): it knows which writes a
 * sector may hold, and so also whether what is found there can be older than the bitmap.
 *
 * A change of bitmaps that is under way leaves one list of bitmaps or the other, nothing in between. So does another size of the disk: a list is of one
 * size, and fits no disk of another. But as long as that is under way each bitmap may be marked as in use, with a journal too, and turned off too.
 */

import { sectorBytes } from './sector.ts';
import type { BitmapState } from './system-under-test.ts';

/** How a system keeps its bitmaps right through crashes: they say too much, or are marked as in use. */
export type BitmapPromise = 'too-much' | 'in-use';

/** A bitmap as the oracle expects it. */
export interface ExpectedBitmap {
  readonly name: string;
  readonly granularityBytes: number;
  readonly enabled: boolean;
  /** It was found in use: its content is nobody's, and it keeps nothing any more. */
  readonly inconsistent: boolean;
  /** One for each sector that is dirty whatever comes: what it said when it was turned off, merged, or found after a crash. */
  readonly dirty: Uint8Array;
  /** Writes that began before this time of the guest oracle it need not speak of. */
  readonly since: number;
  /** Something was written to while it was turned on, and the image has not been at rest since. */
  readonly isRestless: boolean;
  /** The disk is given another size: it may be found in use. */
  readonly isResizing: boolean;
  /** What was left by a crash or a killed process says too much for good. */
  readonly saysTooMuch: boolean;
}

/** What the guest oracle knows of the sectors of what is judged. */
export interface SectorWrites {
  /** What is found in the sector may have stood there before `since`. */
  mayBeOlder(sector: number, since: number): boolean;
  /** Something that began at `since` or later may stand there. */
  isWritten(sector: number, since: number): boolean;
}

export type BitmapLists = readonly (readonly ExpectedBitmap[])[];

/** What was found, as it stands on a system before the first life, or is found at the start of a later one. */
export function expectFound(bitmaps: readonly BitmapState[]): readonly ExpectedBitmap[] {
  return bitmaps.map(({ name, granularityBytes, enabled, inconsistent, dirty }) => ({
    name,
    granularityBytes,
    enabled,
    inconsistent,
    dirty,
    since: 0,
    isRestless: false,
    isResizing: false,
    saysTooMuch: false,
  }));
}

/** Something is about to be written: bitmaps that are turned on are newer in memory than in the file. */
export function withWrite(bitmaps: readonly ExpectedBitmap[]): readonly ExpectedBitmap[] {
  return bitmaps.map((one) => (one.enabled && !one.inconsistent ? { ...one, isRestless: true } : one));
}

/** The disk is given another size, and this is one of the two lists that there may be. */
export function whileResizing(bitmaps: readonly ExpectedBitmap[]): readonly ExpectedBitmap[] {
  return bitmaps.map((one) => ({ ...one, isResizing: true }));
}

/**
 * The disk has so many sectors: each bitmap says of those that stay what it was seen to say before, and that those that are new are clean.
 * @param since when that was seen
 */
export function withSize(
  bitmaps: readonly ExpectedBitmap[],
  seen: readonly BitmapState[],
  sectors: number,
  since: number,
): readonly ExpectedBitmap[] {
  return bitmaps.map((one) => {
    const dirty = new Uint8Array(sectors);
    dirty.set(seen.find(({ name }) => name === one.name)!.dirty.subarray(0, sectors));
    return { ...one, dirty, since, isRestless: false, saysTooMuch: false };
  });
}

/** The image is at rest, durably. */
export function atRest(bitmaps: readonly ExpectedBitmap[]): readonly ExpectedBitmap[] {
  return bitmaps.map((one) => ({ ...one, isRestless: false }));
}

/** The process was killed, and this is what the next one found. */
export function afterKill(
  bitmaps: readonly ExpectedBitmap[],
  found: readonly BitmapState[],
): readonly ExpectedBitmap[] {
  return bitmaps.map((one) => ({
    ...one,
    inconsistent: found.find(({ name }) => name === one.name)?.inconsistent ?? one.inconsistent,
    saysTooMuch: one.saysTooMuch || one.isRestless,
    isRestless: false,
  }));
}

/**
 * What of the bitmaps is not as it may be, in words; undefined: nothing.
 * @param isLiving nothing has crashed: each is exact, whatever stands in the file
 */
export function bitmapViolation(
  lists: BitmapLists,
  found: readonly BitmapState[],
  writes: SectorWrites,
  promise: BitmapPromise,
  isLiving = false,
): string | undefined {
  const faults = lists.map((list) => listViolation(list, found, writes, promise, isLiving));
  return faults.includes(undefined) ? undefined : faults.join('; or ');
}

function listViolation(
  list: readonly ExpectedBitmap[],
  found: readonly BitmapState[],
  writes: SectorWrites,
  promise: BitmapPromise,
  isLiving: boolean,
): string | undefined {
  const [names, expected] = [found, list].map((bitmaps) => bitmaps.map(({ name }) => name).join(', '));
  if (names !== expected) return `the bitmaps are [${names}], expected [${expected}]`;
  for (const [index, bitmap] of list.entries()) {
    const fault = violation(bitmap, found[index]!, writes, promise, isLiving);
    if (fault !== undefined) return `bitmap '${bitmap.name}' ${fault}`;
  }
  return undefined;
}

function violation(
  bitmap: ExpectedBitmap,
  found: BitmapState,
  writes: SectorWrites,
  promise: BitmapPromise,
  isLiving: boolean,
): string | undefined {
  const { enabled, dirty, since, isRestless, isResizing, saysTooMuch } = bitmap;
  if (found.granularityBytes !== bitmap.granularityBytes) return 'has another granularity';
  if (found.enabled !== enabled) return `is turned ${found.enabled ? 'on' : 'off'}`;
  if (found.dirty.length !== dirty.length) return 'is of a disk of another size';
  if (found.inconsistent) {
    const mayBeMarked = isResizing || (promise === 'in-use' && isRestless);
    const mayBe = bitmap.inconsistent || (mayBeMarked && !isLiving);
    return mayBe ? undefined : 'is inconsistent';
  }
  if (bitmap.inconsistent) return 'was inconsistent, and is believed now';
  const perGranule = bitmap.granularityBytes / sectorBytes;
  const mayBeAny = saysTooMuch || (promise === 'too-much' && isRestless && !isLiving);
  for (let first = 0; first < found.dirty.length; first += perGranule) {
    let mayBeDirty = mayBeAny;
    for (let sector = first; sector < Math.min(first + perGranule, found.dirty.length); sector++) {
      const wasDirty = dirty[sector] === 1;
      const isDirty = found.dirty[sector] === 1;
      if (!isDirty && wasDirty) return `has forgotten sector ${sector}`;
      if (!isDirty && enabled && !writes.mayBeOlder(sector, since)) return `misses sector ${sector}`;
      mayBeDirty ||= wasDirty || (enabled && writes.isWritten(sector, since));
    }
    if (found.dirty[first] === 1 && !mayBeDirty) return `says that sector ${first} is dirty, which it is not`;
  }
  return undefined;
}
