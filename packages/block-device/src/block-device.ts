/**
 * The one contract of this project: everything that holds bytes is a BlockDevice. A file, memory, an
 * opened qcow2 image, an HTTP range reader, a fault injector: an image opens on any device, a backing
 * file is any device, the NBD server exports any device, and one suite (`contract.ts`) tests them all.
 *
 * Operations return `void | Promise<void>`: a promise only where something had to be waited for, so
 * that a cache hit costs no microtask. Failures are thrown or rejected, always as a Qcow2Error.
 *
 * Buffers belong to the caller. A device may use the bytes of `write` and `into` of `read` until the
 * call returns, or, where it returned a promise, until that settles; never after.
 *
 * Requests may overlap in time. Two that overlap in place, at least one a write, take effect in either
 * order, per 512-byte sector; each sector that `read` returns is whole.
 *
 * Every operation but `close` throws CLOSED once `close` was called; `sizeBytes` and `capabilities` can still
 * be looked at. An offset, length or size that is not a safe non-negative integer is INVALID_ARGUMENT.
 * A request of no bytes changes nothing: it does not grow the device.
 */

/** Name of a point in a driver's life at which a test may ask for a fault, after QEMU's blkdebug events. */
export type IoEvent =
  | 'header_update'
  | 'l1_grow_write_table'
  | 'l1_load'
  | 'l2_load'
  | 'l2_update'
  | 'l2_alloc_write'
  | 'refblock_load'
  | 'refblock_update'
  | 'refblock_alloc_write'
  | 'reftable_load'
  | 'reftable_update'
  | 'reftable_grow'
  | 'snapshot_table_write'
  | 'bitmap_load'
  | 'bitmap_update'
  | 'cow_read'
  | 'cow_write'
  | 'read_data'
  | 'write_data'
  | 'read_compressed'
  | 'write_compressed'
  | 'flush_data'
  | 'flush_metadata'
  | 'journal_init'
  | 'journal_append'
  | 'journal_flush'
  | 'journal_slot'
  | 'journal_header'
  | 'journal_copy'
  | 'journal_write_back'
  | 'journal_replay_read'
  | 'dirty_bit'
  | 'encryption_header';

export interface ReadOptions {
  readonly event?: IoEvent;
}

export interface WriteOptions {
  /** Force unit access: the bytes are durable when the call is done. */
  readonly fua?: boolean;
  readonly event?: IoEvent;
}

export interface WriteZeroesOptions extends WriteOptions {
  /** The device may give the space back, as long as the range reads as zeros. */
  readonly mayUnmap?: boolean;
}

export interface FlushOptions {
  readonly event?: IoEvent;
  /** No more than what stands here has to become durable. A device may make all of it so, and most do. */
  readonly range?: { readonly offset: number; readonly lengthBytes: number };
}

export type ExtentKind =
  /** the device has bytes of its own here */
  | 'data'
  /** reads as zeros, known without reading; space may or may not be set aside */
  | 'zero'
  /** nothing of its own here: reads as zeros, or as the backing file of an image */
  | 'hole';

export interface Extent {
  readonly offset: number;
  readonly lengthBytes: number;
  readonly kind: ExtentKind;
  /** Data that an image holds in compressed form. */
  readonly compressed?: true;
  /** A server's metadata context marks it, as a bitmap does what is dirty; says nothing of how it reads. */
  readonly marked?: true;
}

export interface DeviceCapabilities {
  readonly write: boolean;
  /** A write may reach beyond the end and grows the device; the bytes between read as zeros. */
  readonly growable: boolean;
  readonly resize: boolean;
  /** `discard` really gives space back (otherwise it is allowed and does nothing). */
  readonly discard: boolean;
  /** `writeZeroes` is cheaper than writing zeros. */
  readonly writeZeroes: boolean;
  /** `write` with `fua` costs less than a write and a flush. */
  readonly fua: boolean;
  /** `extents` knows more than "all data". */
  readonly extents: boolean;
  /** Requests are served best when their offset and length are multiples of this; 1 where it does not matter. */
  readonly preferredBlockBytes: number;
}

/** A range of bytes in a device. */
export interface ByteOrigin {
  readonly device: BlockDevice;
  readonly offset: number;
  readonly lengthBytes: number;
}

export interface BlockDevice {
  readonly capabilities: DeviceCapabilities;

  /** Size in bytes at this moment. */
  readonly sizeBytes: number;

  /**
   * Fill `into` with the bytes from `offset` on.
   * @throws OUT_OF_RANGE where the range reaches beyond `sizeBytes`; READ_FAILED, CLOSED
   */
  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void>;

  /**
   * Write `bytes` at `offset`. Not durable on return without `fua`; what a later `read` sees at once.
   * @throws OUT_OF_RANGE beyond the end unless `growable`; WRITE_FAILED, NO_SPACE, READ_ONLY, CLOSED
   */
  write(offset: number, bytes: Uint8Array, options?: WriteOptions): void | Promise<void>;

  /**
   * Make durable every write that was done when this was called.
   * Of a read-only device: nothing.
   * @throws FLUSH_FAILED: the state of all writes since the last flush is unknown, and calling it again does not help
   */
  flush(options?: FlushOptions): void | Promise<void>;

  /**
   * The range's content is no longer needed: each byte may read as what it held, or as zero, until written.
   * @throws OUT_OF_RANGE where the range reaches beyond `sizeBytes`; WRITE_FAILED, READ_ONLY, CLOSED
   */
  discard(offset: number, lengthBytes: number, options?: WriteOptions): void | Promise<void>;

  /**
   * The range reads as zeros. Like `write` in everything else: grows a growable device, durable with `fua`.
   * @throws as `write`
   */
  writeZeroes(offset: number, lengthBytes: number, options?: WriteZeroesOptions): void | Promise<void>;

  /**
   * What stands in the range, in order, without gaps, neighbours of one kind merged. May return less than
   * the range, but at least one extent where `lengthBytes` > 0.
   * @throws OUT_OF_RANGE where the range reaches beyond `sizeBytes`; READ_FAILED, CLOSED
   */
  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]>;

  /**
   * Grow (new bytes read as zeros) or shrink.
   * @throws UNSUPPORTED_OPERATION unless `capabilities.resize`; READ_ONLY, WRITE_FAILED, NO_SPACE, CLOSED
   */
  resize(sizeBytes: number): void | Promise<void>;

  /**
   * Where the bytes from `offset` on stand in a device below, one for one, as far as they stand there in a row and no further than
   * `lengthBytes`. Undefined where the first of them do not: they are made (compressed, encrypted, zeros), or only in memory. True until the
   * device is written to. Absent: nothing is below.
   * @throws as `extents`
   */
  origin?(offset: number, lengthBytes: number): ByteOrigin | undefined | Promise<ByteOrigin | undefined>;

  /**
   * Copy bytes of another device to `offset`, without a way through this program: like `write` in what is then there, in growing, and
   * in durability. What is copied is not looked at: zeros are copied too. Absent: never.
   * @param source is not looked through for where its bytes stand; that is the caller's (`origin`)
   * @returns bytes copied, from the front on; fewer than asked for where the rest can not be copied so, for whatever reason: it is
   *   still to be read and written, which says what is wrong, if anything is
   * @throws OUT_OF_RANGE in the source, or beyond the end unless `growable`; READ_ONLY, NO_SPACE, CLOSED
   */
  copyFrom?(source: ByteOrigin, offset: number): number | Promise<number>;

  /** Let go of everything. Does not flush. Calling it again does nothing. */
  close(): void | Promise<void>;
}
