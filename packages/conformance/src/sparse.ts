/**
 * Files as their non-zero runs. Images are mostly zeros (a 2 MiB cluster with one L2 entry in it), so a
 * vector keeps only the runs that are not; the SHA-256 in its manifest is that of the whole file.
 */

/** Offset and length in bytes of a stretch that is stored; everything between the runs is zeros. */
export type Run = readonly [offset: number, lengthBytes: number];

/** A run ends where at least this many zeros follow: naming another run costs about as much as storing them. */
const gapBytes = 64;
/** Whole stretches of this many zeros are skipped at once. */
const strideBytes = 4096;

/** The non-zero runs of `bytes`, in order, not touching one another. */
export function findRuns(bytes: Uint8Array): Run[] {
  const runs: Run[] = [];
  let start = -1;
  let end = -1;
  for (let at = 0; at < bytes.length; at += strideBytes) {
    const stride = bytes.subarray(at, at + strideBytes);
    if (isZero(stride)) continue;
    for (let i = 0; i < stride.length; i++) {
      if (stride[i] === 0) continue;
      if (start >= 0 && at + i - end >= gapBytes) {
        runs.push([start, end - start]);
        start = -1;
      }
      if (start < 0) start = at + i;
      end = at + i + 1;
    }
  }
  if (start >= 0) runs.push([start, end - start]);
  return runs;
}

/** The bytes of the runs, one after the other. */
export function packRuns(bytes: Uint8Array, runs: readonly Run[]): Uint8Array {
  const packed = new Uint8Array(runs.reduce((sum, [, length]) => sum + length, 0));
  let at = 0;
  for (const [offset, length] of runs) {
    packed.set(bytes.subarray(offset, offset + length), at);
    at += length;
  }
  return packed;
}

/** A new file of `sizeBytes` with the packed runs at their places. */
export function expandRuns(sizeBytes: number, runs: readonly Run[], packed: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  let at = 0;
  for (const [offset, length] of runs) {
    bytes.set(packed.subarray(at, at + length), offset);
    at += length;
  }
  return bytes;
}

function isZero(stride: Uint8Array): boolean {
  if (stride.length < strideBytes) return stride.every((byte) => byte === 0);
  // Eight bytes at a time; the copy is there because a stride may start at any address.
  return new BigUint64Array(new Uint8Array(stride).buffer).every((word) => word === 0n);
}
