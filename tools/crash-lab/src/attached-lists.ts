/**
 * What a recovery gives beside the disk's bytes: the snapshots and the bitmaps that the system has, each as a list of a fixed length
 * behind the disk, so that one array of bytes is all that is compared and kept.
 */
import { InvariantError } from '@qcow2/spec';
import type { BitmapState, SystemUnderTest } from './system-under-test.ts';

/** Names of the snapshots, where the system has any. */
export const snapshotListBytes = 512;
/** The bitmaps and what each says is dirty; behind the snapshots. */
export const bitmapListBytes = 4096;

/** Bytes of lists behind the disk of a system. */
export function attachedBytes({ hasSnapshots, bitmaps }: SystemUnderTest): number {
  return (hasSnapshots === true ? snapshotListBytes : 0) + (bitmaps === undefined ? 0 : bitmapListBytes);
}

/** One line for each snapshot. @throws RangeError where they do not fit */
export function encodeSnapshotList(names: readonly string[]): Uint8Array {
  return encodeLines(names, snapshotListBytes);
}

export function decodeSnapshotList(bytes: Uint8Array): string[] {
  return decodeLines(bytes);
}

/** @throws RangeError where they do not fit */
export function encodeBitmapList(bitmaps: readonly BitmapState[]): Uint8Array {
  const lines = bitmaps.map((one) =>
    JSON.stringify({ ...one, dirty: Array.from(one.dirty, (sector) => (sector === 0 ? '.' : 'x')).join('') }),
  );
  return encodeLines(lines, bitmapListBytes);
}

/** @throws INVARIANT for what `encodeBitmapList` does not make */
export function decodeBitmapList(bytes: Uint8Array): BitmapState[] {
  return decodeLines(bytes).map((line) => {
    const { name, granularityBytes, enabled, inconsistent, dirty } = JSON.parse(line) as Omit<
      BitmapState,
      'dirty'
    > & { dirty: string };
    if (typeof dirty !== 'string') throw new InvariantError('not a list of bitmaps', { value: line });
    const sectors = Uint8Array.from(dirty, (sector) => (sector === 'x' ? 1 : 0));
    return { name, granularityBytes, enabled, inconsistent, dirty: sectors };
  });
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
