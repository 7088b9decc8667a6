/**
 * The draft's checksum: ones' complement of the sum of bytes, in 32 bits (JD13-HDR-008, JD13-BLK-002). It does
 * not see bytes that changed places; that is what the format says.
 */

/** Ones' complement of the sum of all bytes of `pieces` but the four at `checksumAt` of the first. */
export function draftChecksum(pieces: readonly Uint8Array[], checksumAt: number): number {
  let sum = 0;
  for (const piece of pieces) {
    for (let i = 0; i < piece.length; i++) sum = (sum + (piece[i] as number)) >>> 0;
  }
  const first = pieces[0];
  for (let i = checksumAt; first !== undefined && i < checksumAt + 4; i++) {
    sum = (sum - (first[i] ?? 0)) >>> 0;
  }
  return ~sum >>> 0;
}
