/**
 * Encoders for the server's messages in the transmission phase. Each writes at a place that the caller
 * reserved and returns nothing: the sizes are functions of their own, since room is reserved before the
 * device is asked and the header is written after it answered.
 *
 * A simple reply is a header of 16 bytes, then a READ's data. A structured reply is a series of chunks;
 * this server sends one chunk per reply, marked DONE, as no error can show up after it is encoded.
 */
import { chunkFlag, chunkType, limits, magic, wireBytes } from './protocol.ts';

/** What a reply repeats of its request. */
export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

export interface StatusDescriptor {
  lengthBytes: number;
  readonly status: number;
}

export function encodeSimpleReply(view: DataView, at: number, cookie: Cookie, errno: number): void {
  view.setUint32(at, magic.simpleReply);
  view.setUint32(at + 4, errno);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
}

function encodeChunk(
  view: DataView,
  at: number,
  cookie: Cookie,
  type: number,
  payloadBytes: number,
  isLast = true,
): void {
  view.setUint32(at, magic.structuredReply);
  view.setUint16(at + 4, isLast ? chunkFlag.DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookie.cookieHigh);
  view.setUint32(at + 12, cookie.cookieLow);
  view.setUint32(at + 16, payloadBytes);
}

/** Success without content: what a structured READ of no bytes gets. */
export function encodeNoneChunk(view: DataView, at: number, cookie: Cookie): void {
  encodeChunk(view, at, cookie, chunkType.NONE, 0);
}

/** Bytes of a READ's reply that stand before the data. */
export function readReplyHeadBytes(structured: boolean): number {
  return structured ? wireBytes.chunkHeader + wireBytes.chunkOffset : wireBytes.simpleReply;
}

/** The head of an OFFSET_DATA chunk; the data of `lengthBytes` (at least 1) follows it. */
export function encodeDataChunkHead(
  view: DataView,
  at: number,
  cookie: Cookie,
  offset: number,
  lengthBytes: number,
): void {
  encodeChunk(view, at, cookie, chunkType.OFFSET_DATA, wireBytes.chunkOffset + lengthBytes);
  setUint64(view, at + wireBytes.chunkHeader, offset);
}

/** An ERROR chunk with a text for a human, as one piece of bytes. */
export function errorChunk(cookie: Cookie, errno: number, message: string): Uint8Array<ArrayBuffer> {
  const text = boundedText(message, limits.errorMessageBytes);
  const payloadBytes = wireBytes.errorChunkHead + text.length;
  const bytes = new Uint8Array(wireBytes.chunkHeader + payloadBytes);
  const view = new DataView(bytes.buffer);
  encodeChunk(view, 0, cookie, chunkType.ERROR, payloadBytes);
  view.setUint32(wireBytes.chunkHeader, errno);
  view.setUint16(wireBytes.chunkHeader + 4, text.length);
  bytes.set(text, wireBytes.chunkHeader + wireBytes.errorChunkHead);
  return bytes;
}

/** A BLOCK_STATUS chunk with at least one descriptor, as one piece of bytes. `isLast`: it ends the reply. */
export function blockStatusChunk(
  cookie: Cookie,
  contextId: number,
  descriptors: readonly StatusDescriptor[],
  isLast = true,
): Uint8Array<ArrayBuffer> {
  const payloadBytes = wireBytes.blockStatusHead + descriptors.length * wireBytes.blockStatusDescriptor;
  const bytes = new Uint8Array(wireBytes.chunkHeader + payloadBytes);
  const view = new DataView(bytes.buffer);
  encodeChunk(view, 0, cookie, chunkType.BLOCK_STATUS, payloadBytes, isLast);
  view.setUint32(wireBytes.chunkHeader, contextId);
  let at = wireBytes.chunkHeader + wireBytes.blockStatusHead;
  for (const { lengthBytes, status } of descriptors) {
    view.setUint32(at, lengthBytes);
    view.setUint32(at + 4, status);
    at += wireBytes.blockStatusDescriptor;
  }
  return bytes;
}

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x1_0000_0000));
  view.setUint32(at + 4, value >>> 0);
}

const utf8 = new TextEncoder();

/** As much of `text` in UTF-8 as fits, never half a character. */
export function boundedText(text: string, maximumBytes: number): Uint8Array {
  const room = new Uint8Array(maximumBytes);
  return room.subarray(0, utf8.encodeInto(text, room).written);
}
