/**
 * What a workload does to bitmaps, and what the oracle is told of it: until a change is done there may be the bitmaps from before or
 * those from after it, then only these. What a bitmap that is turned off or merged has to say from then on is what
 * it says right before: the living system is asked, and what it answers is held against what was written elsewhere.
 *
 * What can not be asked for is left out: there is no bitmap, there are many, the oldest was found in use; another size of the disk where any was.
 */
import { InvariantError } from '@qcow2/spec';
import { type ExpectedBitmap, expectFound, whileResizing, withSize } from './bitmap-oracle.ts';
import type { DiskWatch } from './disk-changes.ts';
import { sectorBytes } from './sector.ts';
import type { BitmapState, OpenSystem } from './system-under-test.ts';
import { type BitmapChange, mostBitmaps } from './workload.ts';

interface Change {
  readonly after: readonly ExpectedBitmap[];
  readonly make: () => Promise<void>;
}

/** @param index of the operation in its workload */
export async function changeBitmap(
  { guest, bitmaps }: OpenSystem,
  kind: BitmapChange,
  index: number,
  { system, oracle, note, attempt }: DiskWatch,
): Promise<void> {
  if (bitmaps === undefined || system.bitmaps === undefined) {
    throw new InvariantError('a workload changes the bitmaps of a system that has none');
  }
  const { promise } = system.bitmaps;
  const before = oracle.bitmaps;
  const seen = await bitmaps.list();
  const since = oracle.mark();
  const [oldest] = before;
  const newest = before.at(-1);
  const sees = (bitmap: ExpectedBitmap): BitmapState => seen.find(({ name }) => name === bitmap.name)!;
  const replacing = (old: ExpectedBitmap, change: Partial<ExpectedBitmap>): readonly ExpectedBitmap[] =>
    before.map((one) => (one === old ? { ...one, ...change } : one));
  // With a journal the table is another one, which is exact; a mark stays what it is.
  const rewritten = promise === 'too-much' ? { isRestless: false } : {};
  const change = (): Change | undefined => {
    if (kind === 'add') {
      if (before.length >= mostBitmaps) return undefined;
      const name = `b${index}`;
      const dirty = new Uint8Array(guest.sizeBytes / sectorBytes);
      const made = { name, granularityBytes: sectorBytes, enabled: true, inconsistent: false, dirty };
      const added = expectFound([made]).map((one) => ({ ...one, since }));
      return { after: [...before, ...added], make: () => bitmaps.add(name, sectorBytes) };
    }
    if (oldest === undefined || newest === undefined) return undefined;
    const { name } = oldest;
    if (kind === 'remove') return { after: before.slice(1), make: () => bitmaps.remove(name) };
    if (oldest.inconsistent) return undefined;
    if (kind === 'clear') {
      const dirty = new Uint8Array(oldest.dirty.length);
      const after = replacing(oldest, { dirty, since, saysTooMuch: false, ...rewritten });
      return { after, make: () => bitmaps.clear(name) };
    }
    if (kind === 'toggle') {
      const enabled = !oldest.enabled;
      const { dirty } = sees(oldest);
      const after = enabled
        ? replacing(oldest, { enabled, since })
        : replacing(oldest, { enabled, dirty, isRestless: false, saysTooMuch: false });
      return { after, make: () => bitmaps.enable(name, enabled) };
    }
    if (newest === oldest || newest.inconsistent) return undefined;
    const { dirty } = sees(oldest);
    const merged = newest.dirty.map((sector, at) => sector | dirty[at]!);
    const after = replacing(newest, { dirty: merged, ...rewritten });
    return { after, make: () => bitmaps.merge(newest.name, name) };
  };
  const wanted = change();
  if (wanted === undefined) return;
  oracle.allowBitmaps(promise, before, wanted.after);
  note(false);
  if (attempt === undefined) await wanted.make();
  else if (!(await attempt(wanted.make))) return;
  oracle.allowBitmaps(promise, wanted.after);
  note(true);
}

/**
 * The disk gets another size, and its bitmaps with it [BMP-007]. Everything that was written before is durable when it is done, as the size is.
 * @param change asks for it
 */
export async function resizeWithBitmaps(
  { guest, bitmaps }: OpenSystem,
  sizeBytes: number,
  change: () => Promise<void>,
  { system, oracle, note, attempt }: DiskWatch,
): Promise<void> {
  if (bitmaps === undefined || system.bitmaps === undefined) {
    throw new InvariantError('the bitmaps of a system that has none get another size');
  }
  const { promise } = system.bitmaps;
  const seen = await bitmaps.list();
  if (seen.some(({ inconsistent }) => inconsistent)) return;
  const before = oracle.bitmaps;
  const after = withSize(before, seen, sizeBytes / sectorBytes, oracle.mark());
  oracle.allowBitmaps(promise, whileResizing(before), whileResizing(after));
  const token = oracle.beginResize(guest.sizeBytes, sizeBytes);
  note(false);
  if (attempt === undefined) await change();
  else if (!(await attempt(change))) return;
  oracle.endResize(token, sizeBytes);
  oracle.allowBitmaps(promise, after);
  note(true);
}
