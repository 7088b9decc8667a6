/**
 * Requests out of a byte stream. The parser is pure: bytes are pushed in whatever pieces the socket made
 * of them, and requests are pulled one at a time, so that the one who pulls can stop when it has enough
 * in flight. Nothing is allocated by a size that the client chose before it was held against the limit.
 *
 * A WRITE's payload that lies in one piece of input is handed out as a view of that piece, uncopied; one
 * that spans pieces is collected into a buffer of its own, a large one into memory that the taker of the
 * request may give back and that serves again. Either way the parser never touches the bytes again:
 * whoever took the request owns them.
 */
import { FormatError } from '@qcow2/spec';
import { command, limits, magic, wireBytes } from './protocol.ts';
import type { Slab, SlabPool } from './slab.ts';

export interface NbdRequest {
  readonly flags: number;
  /** number of the command, known or not */
  readonly type: number;
  /** the client's name for the request, 64 bits in two halves, returned in every reply to it */
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** in bytes; beyond 2^53 it is not exact, but then it lies beyond every device */
  readonly offset: number;
  readonly lengthBytes: number;
  /** the payload of a WRITE; absent for other commands, and where it was above the limit (it is skipped) */
  readonly payload: Uint8Array | undefined;
  /** the memory under the payload where it came from the pool; it can be given back when nobody uses it */
  readonly slab: Slab | undefined;
}

/** Payloads from this size on are collected in memory of the pool: below it, allocating costs less than keeping. */
const pooledPayloadBytes = 16 * 1024;

const nothing = new Uint8Array(0);

export class RequestParser {
  readonly #pool: SlabPool;
  readonly #maximumPayloadBytes: number;
  /** pieces that came while `#piece` was not used up yet */
  readonly #waiting: Uint8Array[] = [];
  #piece: Uint8Array = nothing;
  #view: DataView = new DataView(nothing.buffer);
  #at = 0;
  /** a header that began in an earlier piece */
  readonly #header = new Uint8Array(wireBytes.requestHeader);
  readonly #headerView = new DataView(this.#header.buffer);
  #headerFilled = 0;
  /** a WRITE whose payload is being collected */
  #collecting: NbdRequest | undefined;
  #payloadFilled = 0;
  #skipBytes = 0;

  constructor(pool: SlabPool, maximumPayloadBytes: number = limits.payloadBytes) {
    this.#pool = pool;
    this.#maximumPayloadBytes = maximumPayloadBytes;
  }

  /** Take over `piece`: neither its owner nor the parser writes to it from now on. */
  push(piece: Uint8Array): void {
    if (piece.length === 0) return;
    if (this.#at === this.#piece.length && this.#waiting.length === 0) this.#enter(piece);
    else this.#waiting.push(piece);
  }

  /**
   * The next whole request, or undefined when more bytes are needed.
   * @throws FormatError BAD_MAGIC: the stream is out of step and can not be followed any further
   */
  next(): NbdRequest | undefined {
    for (;;) {
      const available = this.#piece.length - this.#at;
      if (available === 0) {
        const piece = this.#waiting.shift();
        if (piece === undefined) return undefined;
        this.#enter(piece);
      } else if (this.#skipBytes > 0) {
        const skipped = Math.min(available, this.#skipBytes);
        this.#at += skipped;
        this.#skipBytes -= skipped;
      } else {
        const request =
          this.#collecting === undefined ? this.#takeHeader(available) : this.#collect(available);
        if (request !== undefined) return request;
      }
    }
  }

  #enter(piece: Uint8Array): void {
    // Views of a plain Uint8Array cost less than those of a Buffer.
    this.#piece = new Uint8Array(piece.buffer, piece.byteOffset, piece.length);
    this.#view = new DataView(piece.buffer, piece.byteOffset, piece.length);
    this.#at = 0;
  }

  #takeHeader(available: number): NbdRequest | undefined {
    const headerBytes = wireBytes.requestHeader;
    if (this.#headerFilled === 0 && available >= headerBytes) {
      const at = this.#at;
      this.#at += headerBytes;
      return this.#begin(this.#view, at);
    }
    const taken = Math.min(available, headerBytes - this.#headerFilled);
    this.#header.set(this.#piece.subarray(this.#at, this.#at + taken), this.#headerFilled);
    this.#at += taken;
    this.#headerFilled += taken;
    if (this.#headerFilled < headerBytes) return undefined;
    this.#headerFilled = 0;
    return this.#begin(this.#headerView, 0);
  }

  /** A header is there: the request is whole unless it is a WRITE whose payload is still to come. */
  #begin(view: DataView, at: number): NbdRequest | undefined {
    if (view.getUint32(at) !== magic.request) {
      throw new FormatError('BAD_MAGIC', 'not an NBD request', { field: 'magic', value: view.getUint32(at) });
    }
    const type = view.getUint16(at + 6);
    const lengthBytes = view.getUint32(at + 24);
    let payload: Uint8Array | undefined;
    let slab: Slab | undefined;
    let whole = true;
    if (type === command.WRITE) {
      if (lengthBytes > this.#maximumPayloadBytes) {
        this.#skipBytes = lengthBytes;
      } else if (this.#piece.length - this.#at >= lengthBytes) {
        payload = this.#piece.subarray(this.#at, this.#at + lengthBytes);
        this.#at += lengthBytes;
      } else {
        slab = lengthBytes < pooledPayloadBytes ? undefined : this.#pool.take(lengthBytes);
        payload = slab === undefined ? new Uint8Array(lengthBytes) : slab.bytes.subarray(0, lengthBytes);
        whole = false;
      }
    }
    const request: NbdRequest = {
      flags: view.getUint16(at + 4),
      type,
      cookieHigh: view.getUint32(at + 8),
      cookieLow: view.getUint32(at + 12),
      offset: view.getUint32(at + 16) * 0x1_0000_0000 + view.getUint32(at + 20),
      lengthBytes,
      payload,
      slab,
    };
    if (whole) return request;
    this.#collecting = request;
    this.#payloadFilled = 0;
    return undefined;
  }

  #collect(available: number): NbdRequest | undefined {
    const request = this.#collecting;
    const payload = request?.payload;
    if (request === undefined || payload === undefined) return undefined;
    const taken = Math.min(available, payload.length - this.#payloadFilled);
    payload.set(this.#piece.subarray(this.#at, this.#at + taken), this.#payloadFilled);
    this.#at += taken;
    this.#payloadFilled += taken;
    if (this.#payloadFilled < payload.length) return undefined;
    this.#collecting = undefined;
    return request;
  }
}
