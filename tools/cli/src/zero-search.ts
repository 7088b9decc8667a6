/** Where bytes are other than zero, or than other bytes. By the machine's own comparison of memory, a block at a time. */

/** Also what `Buffer.compare` compares with at once. */
const blockBytes = 4096;
const zeros = Buffer.alloc(blockBytes);

/** Offset of the first byte that is not zero; undefined where all are. */
export function firstNonZero(bytes: Uint8Array): number | undefined {
  for (let at = 0; at < bytes.length; at += blockBytes) {
    const length = Math.min(blockBytes, bytes.length - at);
    if (isZero(bytes, at, length)) continue;
    const inBlock = bytes.subarray(at, at + length).findIndex((byte) => byte !== 0);
    return at + inBlock;
  }
  return undefined;
}

/** Offset of the first byte in which two pieces of one length differ; undefined where they are the same. */
export function firstDifference(one: Uint8Array, other: Uint8Array): number | undefined {
  if (Buffer.compare(one, other) === 0) return undefined;
  for (let at = 0; at < one.length; at += blockBytes) {
    const [mine, theirs] = [one.subarray(at, at + blockBytes), other.subarray(at, at + blockBytes)];
    if (Buffer.compare(mine, theirs) !== 0)
      return at + mine.findIndex((byte, index) => byte !== theirs[index]);
  }
  return undefined;
}

/** Whether a range of the bytes is all zeros. */
export function isZero(bytes: Uint8Array, from: number, lengthBytes: number): boolean {
  // Most data shows in its first byte, and a call costs more than looking.
  if (lengthBytes > 0 && bytes[from] !== 0) return false;
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let done = 0; done < lengthBytes; done += blockBytes) {
    const length = Math.min(blockBytes, lengthBytes - done);
    if (view.compare(zeros, 0, length, from + done, from + done + length) !== 0) return false;
  }
  return true;
}
