/**
 * An export of an NBD server as a BlockDevice. Requests of any place and length are made of those that the server takes: split at its
 * maximum, several on their way at once; and where it has a minimum block size, a write that ends inside of a block reads that
 * block first and writes it back changed, alone, so that no other write to it is undone.
 *
 * Durability: `flush` is the server's FLUSH. A server that does not offer one has nothing to make durable that it did not when it
 * answered, as far as the protocol tells; so QEMU takes it as well.
 */
import {
  type BlockDevice,
  checkRange,
  checkSize,
  type DeviceCapabilities,
  type Extent,
  pushExtent,
  type WriteOptions,
  type WriteZeroesOptions,
} from '@qcow2/block-device';
import { StateError, StorageError, UnsupportedFeatureError } from '@qcow2/spec';
import type { ClientRequest } from './client-connection.ts';
import type { NegotiatedExport } from './client-handshake.ts';
import type { RequestPath } from './lasting-connection.ts';
import { allocationState, clientLimits, command, commandFlag, limits, transmissionFlag } from './protocol.ts';
import type { AwaitedReply } from './reply-parser.ts';
import { SharedLock } from './shared-lock.ts';

/** A part of a request. */
interface Piece {
  readonly offset: number;
  readonly lengthBytes: number;
}

/** Where a range begins and ends inside of blocks, and what of it is whole ones. */
interface BlockParts {
  readonly edges: readonly Piece[];
  readonly whole: Piece | undefined;
}

type FailureCode = 'READ_FAILED' | 'WRITE_FAILED' | 'FLUSH_FAILED';

/** Pieces of one request that are begun before the first is done. */
const piecesAtOnce = 16;
/** What stands in for WRITE_ZEROES where the server has none. */
const zeroBytes = 1024 * 1024;

export class NbdDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly sizeBytes: number;
  /** The server, as messages name it. */
  readonly name: string;
  readonly #connection: RequestPath;
  readonly #marks: boolean;
  readonly #flags: number;
  readonly #minimumBytes: number;
  readonly #maximumBytes: number;
  readonly #writing = new SharedLock();
  #isClosed = false;

  /** Made by `connectNbd`. */
  constructor(
    connection: RequestPath,
    negotiated: NegotiatedExport,
    { name, readOnly, marks }: { readonly name: string; readonly readOnly: boolean; readonly marks: boolean },
  ) {
    const { blockSizes, flags, sizeBytes, allocationId } = negotiated;
    const { minimum, preferred, maximum } = blockSizes ?? noBlockSizes;
    this.name = name;
    this.#connection = connection;
    this.#marks = marks;
    this.#flags = flags;
    this.#minimumBytes = minimum;
    this.#maximumBytes = alignDown(Math.min(maximum, limits.payloadBytes), minimum);
    // The protocol: what is behind the last whole block can not be reached.
    this.sizeBytes = alignDown(sizeBytes, minimum);
    const write = !readOnly && !this.#has('READ_ONLY');
    this.capabilities = {
      write,
      growable: false,
      resize: false,
      discard: write && this.#has('SEND_TRIM'),
      writeZeroes: write && this.#has('SEND_WRITE_ZEROES'),
      fua: write && this.#has('SEND_FUA'),
      extents: allocationId !== undefined,
      preferredBlockBytes: preferred,
    };
  }

  /** @throws as the contract; the cause of READ_FAILED is CONNECTION_LOST where the server is gone */
  read(offset: number, into: Uint8Array): Promise<void> {
    this.#check(offset, into.length);
    const { edges, whole } = this.#partsOf(offset, into.length);
    const part = (piece: Piece): Uint8Array =>
      into.subarray(piece.offset - offset, piece.offset - offset + piece.lengthBytes);
    const reads = edges.map(async (edge) => {
      const at = alignDown(edge.offset, this.#minimumBytes);
      const block = await this.#readBlock(at);
      part(edge).set(block.subarray(edge.offset - at, edge.offset - at + edge.lengthBytes));
    });
    return allDone([
      ...reads,
      this.#each(whole, this.#maximumBytes, (piece) => this.#readPiece(piece, part(piece))),
    ]);
  }

  write(offset: number, bytes: Uint8Array, options: WriteOptions = {}): Promise<void> {
    this.#checkWrite(offset, bytes.length);
    const part = (piece: Piece): Uint8Array =>
      bytes.subarray(piece.offset - offset, piece.offset - offset + piece.lengthBytes);
    return this.#change(offset, bytes.length, options, {
      edge: (edge, inBlock) => inBlock.set(part(edge)),
      whole: (whole) =>
        this.#each(whole, this.#maximumBytes, (piece) => this.#writePiece(piece, part(piece), options)),
    });
  }

  writeZeroes(offset: number, lengthBytes: number, options: WriteZeroesOptions = {}): Promise<void> {
    this.#checkWrite(offset, lengthBytes);
    return this.#change(offset, lengthBytes, options, {
      edge: (_, inBlock) => inBlock.fill(0),
      whole: (whole) => this.#zero(whole, options),
    });
  }

  discard(offset: number, lengthBytes: number, options: WriteOptions = {}): Promise<void> {
    this.#checkWrite(offset, lengthBytes);
    if (!this.#has('SEND_TRIM')) return Promise.resolve();
    const { whole } = this.#partsOf(offset, lengthBytes);
    const flags = this.#fua(options);
    const most = alignDown(clientLimits.rangeBytes, this.#minimumBytes);
    const trim = (piece: Piece): Promise<unknown> =>
      this.#ask({ type: command.TRIM, flags, ...piece }, 'WRITE_FAILED', 'discard');
    return this.#thenDurable(
      options,
      this.#writing.shared(() => this.#each(whole, most, trim)),
    );
  }

  async flush(): Promise<void> {
    this.#checkOpen();
    if (!this.capabilities.write || !this.#has('SEND_FLUSH')) return;
    await this.#ask({ type: command.FLUSH, offset: 0, lengthBytes: 0 }, 'FLUSH_FAILED', 'flush');
  }

  extents(offset: number, lengthBytes: number): Promise<readonly Extent[]> {
    this.#check(offset, lengthBytes);
    if (lengthBytes === 0) return Promise.resolve([]);
    if (!this.capabilities.extents) return Promise.resolve([{ offset, lengthBytes, kind: 'data' }]);
    return this.#extents(offset, lengthBytes);
  }

  /** @throws UNSUPPORTED_OPERATION: the protocol has no way to ask for it; CLOSED */
  resize(sizeBytes: number): never {
    this.#checkOpen();
    checkSize(sizeBytes);
    throw new UnsupportedFeatureError('UNSUPPORTED_OPERATION', 'an NBD export has the size that it has');
  }

  /** Say goodbye to the server when what was asked is answered. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#connection.close();
  }

  /** A write or zeros: edges inside of blocks alone, whole blocks beside others. */
  async #change(
    offset: number,
    lengthBytes: number,
    options: WriteOptions,
    how: {
      readonly edge: (edge: Piece, inBlock: Uint8Array) => void;
      readonly whole: (whole: Piece | undefined) => Promise<void>;
    },
  ): Promise<void> {
    const { edges, whole } = this.#partsOf(offset, lengthBytes);
    const changeAll = async (): Promise<void> => {
      for (const edge of edges) {
        const at = alignDown(edge.offset, this.#minimumBytes);
        const block = await this.#readBlock(at);
        how.edge(edge, block.subarray(edge.offset - at, edge.offset - at + edge.lengthBytes));
        await this.#writePiece({ offset: at, lengthBytes: block.length }, block, options);
      }
      await how.whole(whole);
    };
    const changed =
      this.#minimumBytes === 1
        ? changeAll()
        : edges.length === 0
          ? this.#writing.shared(changeAll)
          : this.#writing.alone(changeAll);
    await this.#thenDurable(options, changed);
  }

  async #thenDurable({ fua }: WriteOptions, done: Promise<void>): Promise<void> {
    await done;
    if (fua === true && !this.#has('SEND_FUA')) await this.flush();
  }

  async #zero(whole: Piece | undefined, options: WriteZeroesOptions): Promise<void> {
    if (!this.#has('SEND_WRITE_ZEROES')) {
      const zeros = new Uint8Array(Math.min(whole?.lengthBytes ?? 0, zeroBytes, this.#maximumBytes));
      return await this.#each(whole, zeros.length, (piece) =>
        this.#writePiece(piece, zeros.subarray(0, piece.lengthBytes), options),
      );
    }
    const flags = this.#fua(options) | (options.mayUnmap === true ? 0 : commandFlag.NO_HOLE);
    await this.#each(whole, this.#maximumBytes, (piece) =>
      this.#ask({ type: command.WRITE_ZEROES, flags, ...piece }, 'WRITE_FAILED', 'write of zeros'),
    );
  }

  async #readBlock(offset: number): Promise<Uint8Array> {
    const block = new Uint8Array(this.#minimumBytes);
    await this.#readPiece({ offset, lengthBytes: block.length }, block);
    return block;
  }

  async #readPiece(piece: Piece, into: Uint8Array): Promise<void> {
    await this.#ask({ type: command.READ, ...piece, into }, 'READ_FAILED', 'read');
  }

  async #writePiece(piece: Piece, payload: Uint8Array, options: WriteOptions): Promise<void> {
    const flags = this.#fua(options);
    await this.#ask({ type: command.WRITE, flags, ...piece, payload }, 'WRITE_FAILED', 'write');
  }

  async #extents(offset: number, lengthBytes: number): Promise<readonly Extent[]> {
    const end = offset + lengthBytes;
    const from = alignDown(offset, this.#minimumBytes);
    const asked = Math.min(
      alignUp(end, this.#minimumBytes) - from,
      alignDown(clientLimits.rangeBytes, this.#minimumBytes),
    );
    const request = { type: command.BLOCK_STATUS, offset: from, lengthBytes: asked };
    const { descriptors = [] } = await this.#ask(request, 'READ_FAILED', 'block status');
    const extents: Extent[] = [];
    let at = from;
    for (const run of descriptors) {
      const start = Math.max(at, offset);
      at += run.lengthBytes;
      const stop = Math.min(at, end);
      if (stop > start)
        pushExtent(extents, { offset: start, lengthBytes: stop - start, ...this.#told(run.status) });
      if (at >= end) break;
    }
    // An answer that ends before what was asked about begins.
    if (extents.length === 0) {
      const blockBytes = Math.min(lengthBytes, from + this.#minimumBytes - offset);
      extents.push({ offset, lengthBytes: blockBytes, kind: 'data' });
    }
    return extents;
  }

  /** Another context than base:allocation says nothing of how bytes read. */
  #told(status: number): Pick<Extent, 'kind' | 'marked'> {
    if (!this.#marks) return { kind: kindOf(status) };
    return (status & 1) === 0 ? { kind: 'data' } : { kind: 'data', marked: true };
  }

  /** @throws `code`, or NO_SPACE, with what the server says */
  async #ask(request: ClientRequest, code: FailureCode, what: string): Promise<AwaitedReply> {
    const { offset, lengthBytes } = request;
    const context = code === 'FLUSH_FAILED' ? {} : { hostOffset: offset, lengthBytes };
    let reply: AwaitedReply;
    try {
      reply = await this.#connection.send(request);
    } catch (error) {
      if (error instanceof StateError) throw error;
      const why = error instanceof Error ? error.message : String(error);
      throw new StorageError(code, `${what} failed: ${why}`, context, error);
    }
    if (reply.errno === 0) return reply;
    const reason = errnoTexts.get(reply.errno) ?? `error ${reply.errno}`;
    const said = reply.message === '' ? reason : `${reason}: ${reply.message}`;
    const isFull = reply.errno === noSpace && code === 'WRITE_FAILED';
    throw new StorageError(isFull ? 'NO_SPACE' : code, `${what} failed: ${said}`, context);
  }

  /** Some pieces at a time; every one that was begun has ended when this does. */
  async #each(
    whole: Piece | undefined,
    mostBytes: number,
    action: (piece: Piece) => Promise<unknown>,
  ): Promise<void> {
    if (whole === undefined) return;
    const { offset, lengthBytes } = whole;
    let at = 0;
    const worker = async (): Promise<void> => {
      while (at < lengthBytes) {
        const piece = { offset: offset + at, lengthBytes: Math.min(mostBytes, lengthBytes - at) };
        at += piece.lengthBytes;
        try {
          await action(piece);
        } catch (error) {
          at = lengthBytes;
          throw error;
        }
      }
    };
    const workers = Math.min(piecesAtOnce, Math.ceil(lengthBytes / mostBytes));
    if (workers === 1) await worker();
    else await allDone(Array.from({ length: workers }, worker));
  }

  #partsOf(offset: number, lengthBytes: number): BlockParts {
    if (lengthBytes === 0) return { edges: [], whole: undefined };
    const end = offset + lengthBytes;
    const first = alignUp(offset, this.#minimumBytes);
    const last = alignDown(end, this.#minimumBytes);
    if (first > last) return { edges: [{ offset, lengthBytes }], whole: undefined };
    const edges = [
      { offset, lengthBytes: first - offset },
      { offset: last, lengthBytes: end - last },
    ].filter((edge) => edge.lengthBytes > 0);
    return { edges, whole: last > first ? { offset: first, lengthBytes: last - first } : undefined };
  }

  #fua({ fua }: WriteOptions): number {
    return fua === true && this.#has('SEND_FUA') ? commandFlag.FUA : 0;
  }

  #has(flag: keyof typeof transmissionFlag): boolean {
    return (this.#flags & transmissionFlag[flag]) !== 0;
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new StateError('CLOSED', `${this.name} is closed`);
  }

  #check(offset: number, lengthBytes: number): void {
    this.#checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
  }

  #checkWrite(offset: number, lengthBytes: number): void {
    this.#checkOpen();
    if (!this.capabilities.write) throw new StateError('READ_ONLY', `${this.name} can only be read`);
    checkRange(offset, lengthBytes, this.sizeBytes);
  }
}

/** What the protocol lets a client take for granted of a server that says nothing. */
const noBlockSizes = { minimum: 1, preferred: 4096, maximum: limits.payloadBytes } as const;

const noSpace = 28;
const errnoTexts = new Map([
  [1, 'Operation not permitted'],
  [5, 'Input/output error'],
  [12, 'Cannot allocate memory'],
  [22, 'Invalid argument'],
  [noSpace, 'No space left on device'],
  [75, 'Value too large for defined data type'],
  [95, 'Operation not supported'],
  [108, 'Cannot send after transport endpoint shutdown'],
]);

/** What is a hole and not known to read as zeros may read as anything. */
function kindOf(status: number): Extent['kind'] {
  if ((status & allocationState.ZERO) === 0) return 'data';
  return (status & allocationState.HOLE) === 0 ? 'zero' : 'hole';
}

function alignDown(value: number, blockBytes: number): number {
  return value - (value % blockBytes);
}

function alignUp(value: number, blockBytes: number): number {
  return alignDown(value + blockBytes - 1, blockBytes);
}

/** Every one has ended when this does. @throws the failure that stands first */
async function allDone(actions: readonly Promise<unknown>[]): Promise<void> {
  const ends = await Promise.allSettled(actions);
  for (const end of ends) if (end.status === 'rejected') throw end.reason;
}
