/**
 * What a recovery gives beside the disk's bytes: the snapshots that the system has, what it stands on, and its bitmaps, each as lines of a fixed
 * length in all behind the disk, so that one array of bytes is all that is compared and kept.
 */
import { InvariantError } from '@qcow2/spec';
import type { BitmapState, SystemUnderTest } from './system-under-test.ts';

/** Names of the snapshots, where the system has any. */
export const snapshotListBytes = 512;
/** What the system stands on, where that can be changed; behind the snapshots. */
export const backingBytes = 1024;
/** The bitmaps and what each says is dirty; behind all others. */
export const bitmapListBytes = 4096;

/** Bytes of lists behind the disk of a system. */
export function attachedBytes({ hasSnapshots, firstBacking, bitmaps }: SystemUnderTest): number {
  return (
    (hasSnapshots === true ? snapshotListBytes : 0) +
    (firstBacking === undefined ? 0 : backingBytes) +
    (bitmaps === undefined ? 0 : bitmapListBytes)
  );
}

/** One line for each snapshot. @throws RangeError where they do not fit */
export function encodeSnapshotList(names: readonly string[]): Uint8Array {
  return encodeLines(names, snapshotListBytes);
}

export function decodeSnapshotList(bytes: Uint8Array): string[] {
  return decodeLines(bytes);
}

/** @throws RangeError where it does not fit */
export function encodeBacking(named: string): Uint8Array {
  return encodeLines([named], backingBytes);
}

export function decodeBacking(bytes: Uint8Array): string {
  return decodeLines(bytes).join('\n');
}

/** @throws RangeError where they do not fit */
export function encodeBitmapList(bitmaps: readonly BitmapState[]): Uint8Array {
  const lines = bitmaps.map((one) => JSON.stringify({ ...one, dirty: runsOf(one.dirty) }));
  return encodeLines(lines, bitmapListBytes);
}

/** @throws INVARIANT for what `encodeBitmapList` does not make */
export function decodeBitmapList(bytes: Uint8Array): BitmapState[] {
  return decodeLines(bytes).map((line) => {
    const { name, granularityBytes, enabled, inconsistent, dirty } = JSON.parse(line) as Omit<
      BitmapState,
      'dirty'
    > & { dirty: readonly number[] };
    if (!Array.isArray(dirty)) throw new InvariantError('not a list of bitmaps', { value: line });
    return { name, granularityBytes, enabled, inconsistent, dirty: sectorsOf(dirty) };
  });
}

/** Lengths of the runs of sectors that are alike, clean ones first: a large disk has few. */
function runsOf(dirty: Uint8Array): number[] {
  const runs = [0];
  for (const sector of dirty) {
    if (sector !== (runs.length + 1) % 2) runs.push(0);
    runs[runs.length - 1]!++;
  }
  return runs;
}

function sectorsOf(runs: readonly number[]): Uint8Array {
  const dirty = new Uint8Array(runs.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const [index, length] of runs.entries()) {
    dirty.fill(index % 2, at, at + length);
    at += length;
  }
  return dirty;
}

function encodeLines(lines: readonly string[], lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  bytes.set(new TextEncoder().encode(lines.join('\n')));
  return bytes;
}

function decodeLines(bytes: Uint8Array): string[] {
  const text = new TextDecoder().decode(bytes).replace(/\0+$/, '');
  return text === '' ? [] : text.split('\n');
}
