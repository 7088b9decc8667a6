/** Compressed grains: zlib's format (RFC 1950) around deflate, of which a grain holds one stream and nothing behind it. */
import { inflateOnly } from '@qcow2/codec';
import { compressionTypes, FormatError, Qcow2Error } from '@qcow2/spec';

const headBytes = 2;
const checkBytes = 4;
const deflateMethod = 8;
const document = 'RFC 1950';

/**
 * @param hostOffset of the stream, for messages
 * @param lengths that the grain may have; the first that fits is taken
 * @throws COMPRESSED_DAMAGED, BAD_CHECKSUM
 */
export function inflateGrain(stream: Uint8Array, hostOffset: number, lengths: readonly number[]): Uint8Array {
  const head = stream.length < headBytes + checkBytes ? 0 : stream[0]! * 256 + stream[1]!;
  const hasDictionary = (head & 0x20) !== 0;
  if (((head >>> 8) & 15) !== deflateMethod || head % 31 !== 0 || hasDictionary) {
    throw damaged('COMPRESSED_DAMAGED', 'a compressed grain does not begin as a zlib stream', hostOffset);
  }
  const grain = firstThatFits(stream.subarray(headBytes, stream.length - checkBytes), lengths, hostOffset);
  const view = new DataView(stream.buffer, stream.byteOffset, stream.byteLength);
  if (view.getUint32(stream.length - checkBytes) === adler32(grain)) return grain;
  throw damaged('BAD_CHECKSUM', 'the checksum of a compressed grain does not match', hostOffset);
}

function firstThatFits(deflated: Uint8Array, lengths: readonly number[], hostOffset: number): Uint8Array {
  let failure: unknown;
  for (const lengthBytes of lengths) {
    try {
      // It is at hand: nothing here decompresses on another thread.
      return inflateOnly.decompress(compressionTypes.deflate, deflated, lengthBytes) as Uint8Array;
    } catch (error) {
      if (!(error instanceof Qcow2Error) || error.code !== 'COMPRESSED_DAMAGED') throw error;
      failure = error;
    }
  }
  const message = 'compressed data that does not make one grain';
  throw new FormatError('COMPRESSED_DAMAGED', message, { hostOffset, clause: document }, failure);
}

function damaged(
  code: 'COMPRESSED_DAMAGED' | 'BAD_CHECKSUM',
  message: string,
  hostOffset: number,
): FormatError {
  return new FormatError(code, message, { hostOffset, clause: document });
}

const adlerBase = 65521;
/** Bytes that are added up before a remainder has to be taken. */
const adlerRun = 5552;

function adler32(bytes: Uint8Array): number {
  let low = 1;
  let high = 0;
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + adlerRun);
    for (; at < end; at++) {
      low += bytes[at]!;
      high += low;
    }
    low %= adlerBase;
    high %= adlerBase;
  }
  return high * 65536 + low;
}
