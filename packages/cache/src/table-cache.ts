/**
 * Metadata tables by host offset: slices of L2 tables and refcount blocks, the newest content of each.
 *
 * A slice in the cache is always what the image means now, whether or not that stands on the device yet;
 * who changes a slice also hands the change to a log (the journal, or `OrderedWrites`), and `load` gives a
 * slice with everything that the log still holds laid over it. So a slice can be dropped at any time and
 * read again: eviction needs no write, and the order of writes is decided in one place.
 *
 * Least recently used first, bounded in bytes. A slice in use by a task that waits is pinned by holding
 * `bytes`: an evicted slice's bytes stay readable, but a change to them would be lost; so writers `load`
 * what they need, then `restore` it, change it and hand the change over without waiting in between.
 *
 * Idle slices go too: `dropUnused`, called now and then by whoever keeps time, drops what nobody has used since the
 * call before. It can be called at any moment, for the reason above.
 */
import { isPromise, type Task } from '@qcow2/block-device';

export interface TableSlice {
  readonly hostOffset: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export interface CacheCounters {
  readonly hits: number;
  readonly misses: number;
  /** Slices dropped to make room for others. */
  readonly evictions: number;
  /** Slices dropped because nobody had used them for an interval. */
  readonly cleaned: number;
  /** Held now, and at most. */
  readonly bytes: number;
  readonly maxBytes: number;
}

export interface TableCacheOptions {
  /** A power of two; every slice starts at a multiple of it. */
  readonly sliceBytes: number;
  /** Rounded down to whole slices; at least two of them. */
  readonly maxBytes: number;
  readonly load: SliceLoader;
  /** Called when the first slice comes into an empty cache: from now on there is something to clean. */
  readonly onFilled?: () => void;
}

interface CachedSlice extends TableSlice {
  /** The interval in which it was used last. */
  usedIn: number;
}

/** Fill `into` with the newest content of the host range. */
export type SliceLoader = (hostOffset: number, into: Uint8Array) => void | Promise<void>;

export class TableCache {
  readonly sliceBytes: number;
  #maxSlices = 0;
  readonly #load: SliceLoader;
  readonly #onFilled: (() => void) | undefined;
  /** In order of use, oldest first: a Map keeps insertion order, and a hit moves its slice to the end. */
  readonly #slices = new Map<number, CachedSlice>();
  readonly #loading = new Map<number, Promise<void>>();
  /** The slice asked for last: most lookups ask for it again. */
  #recent: CachedSlice | undefined;
  /** Counts calls of `dropUnused`. */
  #interval = 0;
  #hits = 0;
  #misses = 0;
  #evictions = 0;
  #cleaned = 0;

  constructor(options: TableCacheOptions) {
    this.sliceBytes = options.sliceBytes;
    this.#load = options.load;
    this.#onFilled = options.onFilled;
    this.limit(options.maxBytes);
  }

  /** Another bound, from now on. What is above it goes at once. */
  limit(maxBytes: number): void {
    this.#maxSlices = Math.max(2, Math.floor(maxBytes / this.sliceBytes));
    this.#makeRoom(this.#maxSlices);
  }

  /** Nothing is in the cache. */
  get isEmpty(): boolean {
    return this.#slices.size === 0;
  }

  get counters(): CacheCounters {
    return {
      hits: this.#hits,
      misses: this.#misses,
      evictions: this.#evictions,
      cleaned: this.#cleaned,
      bytes: this.#slices.size * this.sliceBytes,
      maxBytes: this.#maxSlices * this.sliceBytes,
    };
  }

  /** The slice that holds `hostOffset`, if it is in the cache. */
  peek(hostOffset: number): TableSlice | undefined {
    const start = hostOffset - (hostOffset % this.sliceBytes);
    if (this.#recent !== undefined && this.#recent.hostOffset === start) {
      this.#hits++;
      this.#recent.usedIn = this.#interval;
      return this.#recent;
    }
    const slice = this.#slices.get(start);
    if (slice === undefined) return undefined;
    this.#hits++;
    this.#slices.delete(start);
    this.#slices.set(start, slice);
    slice.usedIn = this.#interval;
    this.#recent = slice;
    return slice;
  }

  /**
   * The slice that holds `hostOffset`, read where it is not in the cache. Two that ask at once share a read.
   * @throws what the loader throws; nothing is cached then
   */
  *load(hostOffset: number): Task<TableSlice> {
    const start = hostOffset - (hostOffset % this.sliceBytes);
    for (;;) {
      const cached = this.peek(start);
      if (cached !== undefined) return cached;
      const pending = this.#loading.get(start);
      if (pending === undefined) break;
      yield pending;
    }
    this.#misses++;
    const bytes = new Uint8Array(this.sliceBytes);
    const done = this.#load(start, bytes);
    if (isPromise(done)) {
      // Kept apart from `done` so that a waiter sees the failure only through its own, later, load.
      const settled = done.then(
        () => {},
        () => {},
      );
      this.#loading.set(start, settled);
      try {
        yield done;
      } finally {
        this.#loading.delete(start);
      }
    }
    const overtaken = this.#slices.get(start);
    return overtaken ?? this.#insert(start, bytes);
  }

  /**
   * The cached slice of the same place; where it was evicted since, `slice` is put back. For a writer that
   * loads several slices before it changes them, and has kept all other writers out meanwhile.
   */
  restore(slice: TableSlice): TableSlice {
    return this.peek(slice.hostOffset) ?? this.#insert(slice.hostOffset, slice.bytes);
  }

  /** Put a slice in whose content is known without reading: a table that was just made. */
  put(hostOffset: number, bytes: Uint8Array): void {
    this.#slices.delete(hostOffset);
    this.#recent = undefined;
    this.#insert(hostOffset, bytes);
  }

  /** Forget the slices of a range: what stood there is freed. */
  drop(hostOffset: number, lengthBytes: number): void {
    for (let at = hostOffset; at < hostOffset + lengthBytes; at += this.sliceBytes) this.#slices.delete(at);
    this.#recent = undefined;
  }

  clear(): void {
    this.#slices.clear();
    this.#recent = undefined;
  }

  /** Drop the slices that nobody has used since this was called last. Returns how many went. */
  dropUnused(): number {
    let dropped = 0;
    // Oldest first: behind one that was used, all were.
    for (const [start, slice] of this.#slices) {
      if (slice.usedIn === this.#interval) break;
      this.#slices.delete(start);
      if (this.#recent === slice) this.#recent = undefined;
      dropped++;
    }
    this.#interval++;
    this.#cleaned += dropped;
    return dropped;
  }

  #insert(start: number, bytes: Uint8Array): TableSlice {
    this.#makeRoom(this.#maxSlices - 1);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const slice: CachedSlice = { hostOffset: start, bytes, view, usedIn: this.#interval };
    const wasEmpty = this.#slices.size === 0;
    this.#slices.set(start, slice);
    this.#recent = slice;
    if (wasEmpty) this.#onFilled?.();
    return slice;
  }

  /** Drop the oldest until no more than `slices` are left. */
  #makeRoom(slices: number): void {
    while (this.#slices.size > slices) {
      const oldest = this.#slices.keys().next();
      if (oldest.done === true) break;
      if (this.#recent?.hostOffset === oldest.value) this.#recent = undefined;
      this.#slices.delete(oldest.value);
      this.#evictions++;
    }
  }
}
