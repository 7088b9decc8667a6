/**
 * A file on an HTTP server as a BlockDevice that is only read.
 *
 * Reads are served from blocks. Blocks that lie side by side and are missing come with one request; one that is
 * on its way already is waited for. A read of what is in the cache is done on return.
 *
 * Memory: the cache's bound, and for each request under way at most `requestBytes`. A read takes its bytes from what
 * arrives, so one that is larger than the cache is served as well.
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  readOnlyCapabilities,
  UnwritableDevice,
} from '@qcow2/block-device';
import { StateError } from '@qcow2/spec';
import type { BlockCache } from './internal/block-cache.ts';
import type { RangeFetcher, Source } from './internal/range-fetcher.ts';

/** The most that one request asks for, or one block where that is more. */
const requestBytes = 1024 * 1024;
/** Requests of one read at a time. */
const requestsAtOnce = 4;

/** Blocks that lie side by side. */
interface BlockRun {
  readonly first: number;
  readonly count: number;
}

export class HttpDevice extends UnwritableDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly sizeBytes: number;
  /** What would show that the file has changed: a strong ETag, the date of its last change, or its size alone. */
  readonly pinnedBy: Source['pinnedBy'];
  readonly #fetcher: RangeFetcher;
  readonly #cache: BlockCache;
  readonly #blockBytes: number;
  /** Blocks that are on their way, each with the request that brings it. */
  readonly #coming = new Map<number, Promise<BlockBytes>>();
  #closed = false;

  /** Made by `openHttp`. */
  constructor(fetcher: RangeFetcher, cache: BlockCache, source: Source, blockBytes: number) {
    super();
    this.#fetcher = fetcher;
    this.#cache = cache;
    this.#blockBytes = blockBytes;
    this.sizeBytes = source.sizeBytes;
    this.pinnedBy = source.pinnedBy;
    this.capabilities = {
      ...readOnlyCapabilities,
      extents: false,
      preferredBlockBytes: blockBytes,
    };
  }

  /** @throws SOURCE_CHANGED from the first sign of it on, also for what is in the cache; else as the contract */
  read(offset: number, into: Uint8Array): void | Promise<void> {
    this.checkOpen();
    checkRange(offset, into.length, this.sizeBytes);
    if (this.#fetcher.changed !== undefined) throw this.#fetcher.changed;
    const missing = this.#copyCached(offset, into);
    if (missing.length > 0) return this.#fill(offset, into, missing);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return lengthBytes === 0 ? [] : [{ offset, lengthBytes, kind: 'data' }];
  }

  /** Give up the requests that are under way: who waits for them is told CLOSED. */
  close(): void {
    this.#closed = true;
    this.#fetcher.close();
    this.#cache.clear();
  }

  /** Copy what there is. @returns the blocks that are not there */
  #copyCached(offset: number, into: Uint8Array): number[] {
    const missing: number[] = [];
    for (const block of this.#blocksOf(offset, into.length)) {
      const bytes = this.#cache.find(block);
      if (bytes === undefined) missing.push(block);
      else this.#copy(block, bytes, offset, into);
    }
    return missing;
  }

  async #fill(offset: number, into: Uint8Array, missing: readonly number[]): Promise<void> {
    const waiting = [...this.#runsOf(missing)];
    const worker = async (): Promise<void> => {
      for (let run = waiting.shift(); run !== undefined; run = waiting.shift()) {
        const brought = await this.#bring(run);
        for (let i = 0; i < run.count; i++) {
          const bytes = brought.of(run.first + i);
          this.#copy(run.first + i, bytes, offset, into);
        }
      }
    };
    // All of them end before this does: the buffer is the caller's again.
    const ends = await Promise.allSettled(Array.from({ length: requestsAtOnce }, worker));
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
  }

  /** Blocks that are on their way stand alone, each with who brings it; others are put together. */
  *#runsOf(blocks: readonly number[]): Generator<BlockRun> {
    const most = Math.max(1, Math.floor(requestBytes / this.#blockBytes));
    let run: BlockRun | undefined;
    for (const block of blocks) {
      const joins = run !== undefined && block === run.first + run.count && run.count < most;
      if (run !== undefined && joins && !this.#coming.has(block) && !this.#coming.has(run.first)) {
        run = { first: run.first, count: run.count + 1 };
        continue;
      }
      if (run !== undefined) yield run;
      run = { first: block, count: 1 };
    }
    if (run !== undefined) yield run;
  }

  /** Fetch a run, or wait for who does. */
  async #bring(run: BlockRun): Promise<BlockBytes> {
    const theirs = run.count === 1 ? this.#coming.get(run.first) : undefined;
    if (theirs !== undefined) return await theirs;
    const fetching = this.#fetch(run);
    for (let i = 0; i < run.count; i++) this.#coming.set(run.first + i, fetching);
    try {
      return await fetching;
    } finally {
      for (let i = 0; i < run.count; i++) {
        if (this.#coming.get(run.first + i) === fetching) this.#coming.delete(run.first + i);
      }
    }
  }

  async #fetch({ first, count }: BlockRun): Promise<BlockBytes> {
    const offset = first * this.#blockBytes;
    const end = Math.min(offset + count * this.#blockBytes, this.sizeBytes);
    const brought = new BlockBytes(await this.#fetcher.fetch(offset, end - offset), first, this.#blockBytes);
    this.checkOpen();
    // Copies, so that one block that is kept does not keep the whole run.
    for (let i = 0; i < count; i++) this.#cache.put(first + i, brought.of(first + i).slice());
    return brought;
  }

  #blocksOf(offset: number, lengthBytes: number): number[] {
    if (lengthBytes === 0) return [];
    const first = Math.floor(offset / this.#blockBytes);
    const last = Math.floor((offset + lengthBytes - 1) / this.#blockBytes);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  }

  /** Of a block's bytes, those that belong into a read. */
  #copy(block: number, bytes: Uint8Array, offset: number, into: Uint8Array): void {
    const at = block * this.#blockBytes - offset;
    const from = Math.max(0, -at);
    const end = Math.min(bytes.length, into.length - at);
    into.set(bytes.subarray(from, end), at + from);
  }

  protected override get readOnlyMessage(): string {
    return `${this.#fetcher.name} can only be read`;
  }

  protected override checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', `${this.#fetcher.name} is closed`);
  }
}

/** What one request brought, by block. */
class BlockBytes {
  readonly #bytes: Uint8Array;
  readonly #first: number;
  readonly #blockBytes: number;

  constructor(bytes: Uint8Array, first: number, blockBytes: number) {
    this.#bytes = bytes;
    this.#first = first;
    this.#blockBytes = blockBytes;
  }

  of(block: number): Uint8Array {
    const at = (block - this.#first) * this.#blockBytes;
    return this.#bytes.subarray(at, at + this.#blockBytes);
  }
}
