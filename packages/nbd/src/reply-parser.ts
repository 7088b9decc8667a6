/**
 * A server's replies out of a byte stream, for a client. Pure, like `request-parser.ts`: bytes are pushed in whatever pieces
 * they come, and go straight to where the request wants them. Nothing is allocated by a length that the server chose before it
 * was held against what was asked for and against the limits.
 *
 * Who breaks the protocol is not followed any further: every violation is a FormatError, after which the stream is of no use.
 */
import { FormatError } from '@qcow2/spec';
import { Coverage } from './coverage.ts';
import { chunkFlag, chunkType, clientLimits, command, limits, magic, wireBytes } from './protocol.ts';
import type { StatusDescriptor } from './reply.ts';

/** A request that was sent, and what has come of its reply. */
export class AwaitedReply {
  readonly type: number;
  readonly offset: number;
  readonly lengthBytes: number;
  /** Where a READ's bytes go. */
  readonly into: Uint8Array | undefined;
  readonly coverage: Coverage | undefined;
  /** 0: success. */
  errno = 0;
  /** What the server said to it. */
  message = '';
  /** Of a BLOCK_STATUS. */
  descriptors: StatusDescriptor[] | undefined;

  constructor(type: number, offset: number, lengthBytes: number, into?: Uint8Array) {
    this.type = type;
    this.offset = offset;
    this.lengthBytes = lengthBytes;
    this.into = into;
    this.coverage = into === undefined ? undefined : new Coverage(lengthBytes);
  }

  fail(errno: number, message = ''): void {
    if (this.errno !== 0) return;
    this.errno = errno;
    this.message = message;
  }
}

export interface ReplyParserHost {
  readonly structured: boolean;
  /** Number of base:allocation on this connection; undefined where it was not negotiated. */
  readonly allocationId: number | undefined;
  /** Who waits for a reply of this cookie. */
  awaited(cookie: number): AwaitedReply | undefined;
  /** The reply is whole. The cookie may be used again. */
  done(cookie: number, reply: AwaitedReply): void;
}

interface Chunk {
  readonly type: number;
  readonly isLast: boolean;
  readonly cookie: number;
  readonly lengthBytes: number;
  readonly reply: AwaitedReply;
}

type Step = (view: DataView) => void;

const errorBit = 0x8000;
const eio = 5;
const utf8 = new TextDecoder();

export class ReplyParser {
  readonly #host: ReplyParserHost;
  /** Bytes that the next step wants, and what of them came in earlier pieces. */
  #wanted = 4;
  #step: Step = (view) => this.#takeMagic(view);
  #gathered = new Uint8Array(wireBytes.chunkHeader);
  #gatheredBytes = 0;
  /** Where the next bytes go as they come; then `#afterData`. */
  #data: Uint8Array | undefined;
  #dataAt = 0;
  #skipBytes = 0;
  #afterData: () => void = () => undefined;

  constructor(host: ReplyParserHost) {
    this.#host = host;
  }

  /** Nothing of a reply has come that is not whole. */
  get isBetweenReplies(): boolean {
    return (
      this.#wanted === 4 && this.#gatheredBytes === 0 && this.#data === undefined && this.#skipBytes === 0
    );
  }

  /**
   * The bytes are used when this returns.
   * @throws FormatError: the server broke the protocol
   */
  push(piece: Uint8Array): void {
    let at = 0;
    while (at < piece.length) {
      const available = piece.length - at;
      if (this.#data !== undefined) at += this.#fill(this.#data, piece, at);
      else if (this.#skipBytes > 0) {
        const skipped = Math.min(available, this.#skipBytes);
        at += skipped;
        this.#skipBytes -= skipped;
        if (this.#skipBytes === 0) this.#afterData();
      } else if (this.#gatheredBytes === 0 && available >= this.#wanted) {
        const view = new DataView(piece.buffer, piece.byteOffset + at, this.#wanted);
        at += this.#wanted;
        this.#step(view);
      } else at += this.#gather(piece, at);
    }
  }

  #fill(data: Uint8Array, piece: Uint8Array, at: number): number {
    const taken = Math.min(piece.length - at, data.length - this.#dataAt);
    data.set(piece.subarray(at, at + taken), this.#dataAt);
    this.#dataAt += taken;
    if (this.#dataAt === data.length) {
      this.#data = undefined;
      this.#afterData();
    }
    return taken;
  }

  #gather(piece: Uint8Array, at: number): number {
    const taken = Math.min(piece.length - at, this.#wanted - this.#gatheredBytes);
    if (this.#gathered.length < this.#wanted) {
      const grown = new Uint8Array(this.#wanted);
      grown.set(this.#gathered.subarray(0, this.#gatheredBytes));
      this.#gathered = grown;
    }
    this.#gathered.set(piece.subarray(at, at + taken), this.#gatheredBytes);
    this.#gatheredBytes += taken;
    if (this.#gatheredBytes === this.#wanted) {
      this.#gatheredBytes = 0;
      this.#step(new DataView(this.#gathered.buffer, 0, this.#wanted));
    }
    return taken;
  }

  /** `lengthBytes` is at least 1. */
  #want(lengthBytes: number, step: Step): void {
    this.#wanted = lengthBytes;
    this.#step = step;
  }

  #skip(lengthBytes: number, then: () => void): void {
    if (lengthBytes === 0) {
      then();
      return;
    }
    this.#skipBytes = lengthBytes;
    this.#afterData = then;
  }

  #receive(data: Uint8Array, then: () => void): void {
    this.#data = data;
    this.#dataAt = 0;
    this.#afterData = then;
  }

  #nextReply(): void {
    this.#want(4, (view) => this.#takeMagic(view));
  }

  #takeMagic(view: DataView): void {
    const value = view.getUint32(0);
    if (value === magic.simpleReply) {
      this.#want(wireBytes.simpleReply - 4, (head) => this.#takeSimple(head));
    } else if (value === magic.structuredReply && this.#host.structured) {
      this.#want(wireBytes.chunkHeader - 4, (head) => this.#takeChunk(head));
    } else throw new FormatError('BAD_MAGIC', 'not a reply', { field: 'magic', value });
  }

  #awaited(view: DataView, at: number): { cookie: number; reply: AwaitedReply } {
    const cookie = view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
    const reply = this.#host.awaited(cookie);
    if (reply !== undefined) return { cookie, reply };
    throw new FormatError('BAD_FIELD', 'a reply to nothing that was asked', {
      field: 'cookie',
      value: view.getBigUint64(at),
    });
  }

  #takeSimple(view: DataView): void {
    const errno = view.getUint32(0);
    const { cookie, reply } = this.#awaited(view, 4);
    const isRead = reply.type === command.READ;
    if (this.#host.structured && (isRead || (reply.type === command.BLOCK_STATUS && errno === 0))) {
      throw new FormatError('BAD_FIELD', 'a simple reply where a structured one was agreed on');
    }
    const end = (): void => {
      this.#nextReply();
      this.#host.done(cookie, reply);
    };
    if (errno !== 0) reply.fail(errno);
    if (!isRead || errno !== 0) end();
    else {
      reply.coverage?.add(0, reply.lengthBytes);
      this.#receive(reply.into!, end);
    }
  }

  #takeChunk(view: DataView): void {
    const flags = view.getUint16(0);
    const { cookie, reply } = this.#awaited(view, 4);
    const chunk = {
      type: view.getUint16(2),
      isLast: (flags & chunkFlag.DONE) !== 0,
      cookie,
      lengthBytes: view.getUint32(12),
      reply,
    };
    if (chunk.type >= errorBit) this.#beginError(chunk);
    else if (chunk.type === chunkType.NONE) {
      check(chunk.lengthBytes === 0 && chunk.isLast, chunk);
      this.#endChunk(chunk);
    } else if (chunk.type === chunkType.OFFSET_DATA) this.#beginData(chunk);
    else if (chunk.type === chunkType.OFFSET_HOLE) {
      check(reply.into !== undefined && chunk.lengthBytes === wireBytes.chunkOffset + 4, chunk);
      this.#want(chunk.lengthBytes, (body) => this.#takeHole(chunk, body));
    } else if (chunk.type === chunkType.BLOCK_STATUS) this.#beginStatus(chunk);
    else throw new FormatError('BAD_FIELD', 'an unknown reply', { field: 'type', value: chunk.type });
  }

  #beginData(chunk: Chunk): void {
    const { reply, lengthBytes } = chunk;
    const dataBytes = lengthBytes - wireBytes.chunkOffset;
    check(reply.into !== undefined && dataBytes > 0 && dataBytes <= reply.lengthBytes, chunk);
    this.#want(wireBytes.chunkOffset, (view) => {
      const start = placeOf(view, reply);
      reply.coverage?.add(start, dataBytes);
      this.#receive(reply.into!.subarray(start, start + dataBytes), () => this.#endChunk(chunk));
    });
  }

  #takeHole(chunk: Chunk, view: DataView): void {
    const { reply } = chunk;
    const start = placeOf(view, reply);
    const holeBytes = view.getUint32(wireBytes.chunkOffset);
    reply.coverage?.add(start, holeBytes);
    reply.into?.fill(0, start, start + holeBytes);
    this.#endChunk(chunk);
  }

  #beginStatus(chunk: Chunk): void {
    const { reply, lengthBytes } = chunk;
    const { blockStatusHead: headBytes, blockStatusDescriptor: descriptorBytes } = wireBytes;
    const isWhole = lengthBytes > headBytes && (lengthBytes - headBytes) % descriptorBytes === 0;
    check(reply.type === command.BLOCK_STATUS && isWhole && lengthBytes <= clientLimits.statusBytes, chunk);
    const looked = Math.min(lengthBytes, headBytes + clientLimits.statusDescriptors * descriptorBytes);
    this.#want(looked, (view) => {
      const id = view.getUint32(0);
      if (id !== this.#host.allocationId || reply.descriptors !== undefined) {
        throw new FormatError('BAD_FIELD', 'a status that was not asked for', {
          field: 'context',
          value: id,
        });
      }
      reply.descriptors = [];
      for (let at = headBytes; at < looked; at += descriptorBytes) {
        const runBytes = view.getUint32(at);
        check(runBytes > 0, chunk);
        reply.descriptors.push({ lengthBytes: runBytes, status: view.getUint32(at + 4) });
      }
      this.#skip(lengthBytes - looked, () => this.#endChunk(chunk));
    });
  }

  #beginError(chunk: Chunk): void {
    const { reply, lengthBytes, type } = chunk;
    const headBytes = wireBytes.errorChunkHead;
    check(lengthBytes <= clientLimits.errorBytes, chunk);
    const isKnown = type === chunkType.ERROR || type === chunkType.ERROR_OFFSET;
    if (!isKnown) {
      // What a later protocol calls an error is one; what it says of it is not understood.
      reply.fail(eio);
      this.#skip(lengthBytes, () => this.#endChunk(chunk));
      return;
    }
    const tailBytes = type === chunkType.ERROR_OFFSET ? wireBytes.chunkOffset : 0;
    check(lengthBytes >= headBytes + tailBytes, chunk);
    this.#want(lengthBytes, (view) => {
      const textBytes = view.getUint16(4);
      const errno = view.getUint32(0);
      check(errno !== 0 && textBytes <= limits.stringBytes, chunk);
      check(textBytes <= lengthBytes - headBytes - tailBytes, chunk);
      const text = new Uint8Array(view.buffer, view.byteOffset + headBytes, textBytes);
      reply.fail(errno, utf8.decode(text));
      this.#endChunk(chunk);
    });
  }

  #endChunk({ isLast, cookie, reply }: Chunk): void {
    this.#nextReply();
    if (!isLast) return;
    const isComplete =
      reply.errno !== 0 ||
      ((reply.coverage?.isWhole ?? true) &&
        (reply.type !== command.BLOCK_STATUS || reply.descriptors !== undefined));
    if (!isComplete) throw new FormatError('TRUNCATED', 'a reply that ends before it is whole');
    this.#host.done(cookie, reply);
  }
}

/** Where in the request a chunk's bytes belong. */
function placeOf(view: DataView, { offset }: AwaitedReply): number {
  return view.getUint32(0) * 0x1_0000_0000 + view.getUint32(4) - offset;
}

function check(isGood: boolean, { type, lengthBytes }: Chunk): void {
  if (isGood) return;
  throw new FormatError('BAD_FIELD', 'a reply that does not fit what was asked', {
    field: 'chunk',
    value: type,
    lengthBytes,
  });
}
