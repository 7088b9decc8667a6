/**
 * Where guest data stands: in the image file, or in an external data file. Every read and write of the bytes of a data
 * cluster goes through here, and nothing else does. Tables, and whatever a mapping never leads to, are the core's.
 *
 * A place is named twice: by its host offset, where the bytes stand, and by the guest offset that a mapping leads
 * there from. Over a range both advance together: who joins clusters into one request joins what is in a row on both sides.
 *
 * A mapping comes from the image, and is not believed: a write is refused where the image has a table. What is written
 * is noted with the log when it is done, so that the flush before the next mapping covers it.
 *
 * In a data file every guest cluster has its place, at its guest offset [FEA-003]: nothing is allocated there, counted,
 * or copied, and nothing is written behind the disk's end. A raw data file is the disk at every moment, whatever the
 * tables say: its clusters are mapped before the guest's bytes come, and what is to read as zeros is zeros there
 * [DAT-004, DAT-005]. Why a crash does no harm is in `data-file.ts`.
 *
 * In an encrypted image bytes pass through its cipher here, and everybody else has them in the clear. What was never written
 * does not read as zeros then (`readsZerosUnwritten`), and bytes do not mean the same in another place (`copies`).
 */
import {
  type BlockDevice,
  type ByteOrigin,
  type Extent,
  isPromise,
  readPadded,
  run,
  type Task,
  wait,
} from '@qcow2/block-device';
import { decodeExternalDataFile, findHeaderExtension, type Qcow2Header } from '@qcow2/codec';
import {
  autoclearFeatures,
  FormatError,
  headerExtensionTypes,
  InvariantError,
  incompatibleFeatures,
  StateError,
  StorageError,
} from '@qcow2/spec';
import type { Allocation } from './allocator.ts';
import { WriteMark } from './data-file.ts';
import { EncryptedSectors, type SectorStore } from './encrypted-sectors.ts';
import { cipherSectorBytes, type GuestCipher } from './encryption.ts';
import type { ImageCore } from './image-core.ts';
import type { Mapping } from './mapping.ts';
import { isReusable } from './sub-clusters.ts';

const readData = { event: 'read_data' } as const;
const writeData = { event: 'write_data' } as const;
const writeRest = { event: 'cow_write' } as const;

export class DataArea {
  /** Guest data stands in a file of its own. */
  readonly isExternal: boolean;
  /** Of an external data file: what was written to it and not flushed. */
  readonly unflushed = new WriteMark();
  readonly #core: ImageCore;
  /** The data file, where there is one and the caller gave it; the image file where there is none. */
  readonly #device: BlockDevice | undefined;
  readonly #sectors: EncryptedSectors | undefined;
  readonly #store: SectorStore;
  #guestBytesWritten = 0;
  /** Behind this, a data file was never written to. */
  #writtenTo: number;

  /**
   * @param dataFile given for an image that has one; undefined: nothing of it is read
   * @param cipher of an encrypted image that was opened for its data
   */
  constructor(core: ImageCore, dataFile: BlockDevice | undefined, cipher: GuestCipher | undefined) {
    this.#core = core;
    this.isExternal = (core.header.incompatibleFeatures & incompatibleFeatures.externalDataFile) !== 0n;
    this.#device = this.isExternal ? dataFile : core.device;
    this.#writtenTo = dataFile?.sizeBytes ?? 0;
    // Whoever had the file before may have left something [DAT-010].
    if (dataFile !== undefined) this.unflushed.set();
    this.#sectors = cipher === undefined ? undefined : new EncryptedSectors(cipher);
    this.#store = {
      read: (hostOffset, into) => this.#read(hostOffset, into),
      write: (hostOffset, bytes) => this.#put(hostOffset, bytes, writeData),
    };
  }

  /** The data file alone is a raw image of the disk [FEA-011]. */
  get isRaw(): boolean {
    return (this.#core.header.autoclearFeatures & autoclearFeatures.rawExternalData) !== 0n;
  }

  /** There is a data file, and nobody said which it is: no guest byte can be read. */
  get isMissing(): boolean {
    return this.#device === undefined;
  }

  /** A host cluster that nobody has written, of a file that grew over it, shows zeros to the guest. */
  get readsZerosUnwritten(): boolean {
    return this.#sectors === undefined;
  }

  /** Bytes may be copied from one place of the area to another as they stand. */
  get copies(): boolean {
    return this.#sectors === undefined;
  }

  /** The guest's bytes that `write` has put in place so far. */
  get guestBytesWritten(): number {
    return this.#guestBytesWritten;
  }

  /** Bytes in place at a host range, zeros beyond the end of the file. Synchronous where the device is. */
  read(hostOffset: number, guestOffset: number, into: Uint8Array): void | Promise<void> {
    if (this.#sectors === undefined) return this.#read(hostOffset, into);
    return run(this.#sectors.read(this.#store, hostOffset, guestOffset, into));
  }

  /**
   * The source of a copy within the area: bytes as they stand, for a place that another guest offset leads to. Only
   * where `copies` says so.
   */
  readForCopy(hostOffset: number, into: Uint8Array): void | Promise<void> {
    if (!this.copies) throw new InvariantError('a copy within an encrypted image');
    return this.#core.readPatched(hostOffset, into, { event: 'cow_read' });
  }

  /**
   * Hand bytes to the device, and nothing else: no task, for the usual write. When it is done the caller says so
   * (`noteWritten`).
   * @throws OVERLAP, TRUNCATED as `write`
   */
  put(hostOffset: number, guestOffset: number, bytes: Uint8Array): void | Promise<void> {
    if (this.#sectors === undefined) return this.#put(hostOffset, bytes, writeData);
    return run(this.#sectors.write(this.#store, hostOffset, guestOffset, bytes));
  }

  /** What was put there is owed by the next flush. */
  noteWritten(): void {
    if (this.isExternal) this.unflushed.set();
    this.#core.log.noteDeviceWrite();
  }

  /**
   * Write guest bytes in place. Noted when it is done, not when it begins: a flush that starts in between does not
   * cover it, and must not take the note away. The bytes are the caller's again on return.
   * @throws OVERLAP where the range belongs to a table of the image: the mapping that led here is wrong; TRUNCATED
   *   where it is not in the file, nor about to be
   */
  *write(hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<void> {
    const done = this.put(hostOffset, guestOffset, bytes);
    if (isPromise(done)) yield done;
    this.noteWritten();
    this.#guestBytesWritten += bytes.length;
  }

  /** Where bytes that stand in place can be copied from as they are; undefined where they can not. May tell less than the range. */
  origin(hostOffset: number, lengthBytes: number): ByteOrigin | undefined {
    const device = this.#device ?? refuseMissing(this.#core.header);
    const inFile = Math.min(lengthBytes, device.sizeBytes - hostOffset);
    return this.copies && inFile > 0 ? { device, offset: hostOffset, lengthBytes: inFile } : undefined;
  }

  /** Whether bytes of another device may come in by `copy`. */
  get takesCopies(): boolean {
    return this.copies && this.#device?.copyFrom !== undefined;
  }

  /**
   * As `write`, for bytes of another device, which the device below copies by itself. Within the disk.
   * @returns bytes copied, from the front on
   */
  *copy(hostOffset: number, source: ByteOrigin): Task<number> {
    const device = this.#device ?? refuseMissing(this.#core.header);
    if (!this.copies || device.copyFrom === undefined) return 0;
    if (this.isExternal) this.#noteReach(hostOffset + source.lengthBytes);
    else this.#core.refuseMetadata(hostOffset, source.lengthBytes);
    const copied = yield* wait(device.copyFrom(source, hostOffset));
    this.noteWritten();
    this.#guestBytesWritten += copied;
    return copied;
  }

  /** As `write`, for bytes around the guest's. They were read from where the guest saw them before. */
  *writeAround(hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<void> {
    yield* this.#writeRest(hostOffset, guestOffset, bytes);
  }

  /**
   * As `writeAround`, for what a copy or a fill of the log brings.
   * @param guestOffset undefined for a copy: of its place only the host offset is known, and it needs no other
   */
  *writeBrought(hostOffset: number, guestOffset: number | undefined, bytes: Uint8Array): Task<void> {
    if (guestOffset === undefined && !this.copies) {
      throw new InvariantError('a copy within an encrypted image');
    }
    yield* this.#writeRest(hostOffset, guestOffset ?? 0, bytes);
  }

  /**
   * A range of a data file reads as zeros from now on; where it may, the device gives the space back. Clipped to the
   * disk. Not durable on return.
   */
  *writeZeroes(guestOffset: number, lengthBytes: number, mayUnmap: boolean): Task<void> {
    const length = Math.min(lengthBytes, this.#core.header.sizeBytes - guestOffset);
    if (length <= 0) return;
    const device = this.#device ?? refuseMissing(this.#core.header);
    this.#noteReach(guestOffset + length);
    yield* wait(device.writeZeroes(guestOffset, length, { mayUnmap, event: 'write_data' }));
    this.noteWritten();
  }

  /** Nothing refers to a range of a data file any more, or will when what was submitted is durable. Clipped to the file. */
  *discard(guestOffset: number, lengthBytes: number): Task<void> {
    const device = this.#device ?? refuseMissing(this.#core.header);
    const length = Math.min(lengthBytes, device.sizeBytes - guestOffset);
    if (length <= 0 || !device.capabilities.discard) return;
    yield* wait(device.discard(guestOffset, length, { event: 'write_data' }));
    this.noteWritten();
  }

  /** @throws INVALID_ARGUMENT where a data file can not be as long as the disk is to be */
  refuseGrowth(afterBytes: number): void {
    const device = this.#device ?? refuseMissing(this.#core.header);
    const { resize, growable } = device.capabilities;
    if (resize || growable || device.sizeBytes >= afterBytes) return;
    const message = 'the data file is shorter than the disk would be';
    throw new StateError('INVALID_ARGUMENT', message, { field: 'sizeBytes', value: afterBytes });
  }

  /**
   * The disk is about to grow: what a data file has behind its end reads as zeros, and a raw one becomes as long as the
   * disk will be. Not durable on return.
   */
  *coverGrowth(beforeBytes: number, afterBytes: number): Task<void> {
    const device = this.#device ?? refuseMissing(this.#core.header);
    const stale = Math.min(afterBytes, device.sizeBytes) - beforeBytes;
    if (stale > 0) yield* wait(device.writeZeroes(beforeBytes, stale, { event: 'write_data' }));
    yield* this.#coverTail(device, beforeBytes, afterBytes);
    if (device.sizeBytes < afterBytes && device.capabilities.resize) yield* wait(device.resize(afterBytes));
    this.#noteReach(Math.min(afterBytes, device.sizeBytes));
    this.noteWritten();
  }

  /**
   * The disk has become smaller, durably: a data file ends where it does. One that can not be cut is longer than the disk, which
   * costs space; what it has there is written over with zeros before the disk grows again. Not durable on return.
   */
  *cutBehind(sizeBytes: number): Task<void> {
    const device = this.#device ?? refuseMissing(this.#core.header);
    if (!device.capabilities.resize || device.sizeBytes <= sizeBytes) return;
    try {
      yield* wait(device.resize(sizeBytes));
    } catch (error) {
      if (error instanceof StorageError) return;
      throw error;
    }
    this.noteWritten();
  }

  /** Of an encrypted disk: the rest of its last cluster, which is mapped perhaps, shows zeros to the guest only as cipher text. */
  *#coverTail(device: BlockDevice, beforeBytes: number, afterBytes: number): Task<void> {
    const { clusterBytes } = this.#core;
    if (this.#sectors === undefined || beforeBytes % clusterBytes === 0) return;
    const end = Math.min(afterBytes, Math.ceil(beforeBytes / clusterBytes) * clusterBytes);
    const write = (at: number, sectors: Uint8Array) => device.write(at, sectors, writeData);
    const zeros = new Uint8Array(end - beforeBytes);
    yield* this.#sectors.write({ ...this.#store, write }, beforeBytes, beforeBytes, zeros);
  }

  /**
   * Where clusters go that the allocator is not to be asked for: to the host cluster that is there and not read yet,
   * or to their place in the data file. Nothing is counted for them.
   */
  ownPlace(guestCluster: number, mapping: Mapping): Allocation | undefined {
    if (this.isExternal) return this.ownRun(guestCluster, 1);
    if (!isReusable(mapping)) return undefined;
    return { first: mapping.hostOffset / this.#core.clusterBytes, count: 1, fresh: false };
  }

  /** As `ownPlace`, for a row of clusters, whatever they are mapped to. */
  ownRun(guestCluster: number, count: number): Allocation | undefined {
    if (!this.isExternal) return undefined;
    const unwritten = guestCluster * this.#core.clusterBytes >= this.#writtenTo;
    const fresh = unwritten && this.readsZerosUnwritten;
    return { first: guestCluster, count, fresh };
  }

  /**
   * What a data file has at a range that is mapped: where it has nothing, zeros. Undefined where that is not known: the
   * image file, whose holes nobody asks about, what is encrypted, and devices that do not know theirs. May tell less than the range.
   */
  *extents(offset: number, lengthBytes: number): Task<readonly Extent[] | undefined> {
    const device = this.#device;
    const known = this.isExternal && this.readsZerosUnwritten;
    if (!known || device?.capabilities.extents !== true) return undefined;
    const inFile = Math.min(lengthBytes, device.sizeBytes - offset);
    if (inFile <= 0) return [{ offset, lengthBytes, kind: 'zero' }];
    const found = yield* wait(device.extents(offset, inFile));
    return found.map((extent) => (extent.kind === 'hole' ? { ...extent, kind: 'zero' } : extent));
  }

  /** Make durable what was written to a data file; nothing where nothing was. */
  flush(): void | Promise<void> {
    if (this.unflushed.take()) return this.#device?.flush({ event: 'flush_data' });
  }

  /** Of a data file; the image file is its owner's to close. */
  close(): void | Promise<void> {
    if (this.isExternal) return this.#device?.close();
  }

  *#writeRest(hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<void> {
    if (this.#sectors === undefined) {
      const done = this.#put(hostOffset, bytes, writeRest);
      if (isPromise(done)) yield done;
    } else {
      const write = (at: number, sectors: Uint8Array) => this.#put(at, sectors, writeRest);
      yield* this.#sectors.write({ ...this.#store, write }, hostOffset, guestOffset, bytes);
    }
    this.noteWritten();
  }

  #read(hostOffset: number, into: Uint8Array): void | Promise<void> {
    return readPadded(this.#device ?? refuseMissing(this.#core.header), hostOffset, into, readData);
  }

  #put(
    hostOffset: number,
    bytes: Uint8Array,
    options: typeof writeData | typeof writeRest,
  ): void | Promise<void> {
    if (this.isExternal) return this.#putOutside(hostOffset, bytes, options);
    this.#core.refuseMetadata(hostOffset, bytes.length);
    return this.#core.device.write(hostOffset, bytes, options);
  }

  /** A cluster may reach behind the disk's end, and the file need not. */
  #putOutside(
    hostOffset: number,
    bytes: Uint8Array,
    options: typeof writeData | typeof writeRest,
  ): void | Promise<void> {
    const { header } = this.#core;
    const device = this.#device ?? refuseMissing(header);
    // A sector of cipher text is whole.
    const unit = this.#sectors === undefined ? 1 : cipherSectorBytes;
    const end = Math.min(hostOffset + bytes.length, Math.ceil(header.sizeBytes / unit) * unit);
    if (end <= hostOffset) return;
    this.#noteReach(end);
    return device.write(hostOffset, bytes.subarray(0, end - hostOffset), options);
  }

  #noteReach(end: number): void {
    if (end > this.#writtenTo) this.#writtenTo = end;
  }
}

/** @throws BAD_FIELD where an entry leads elsewhere in a data file than to the place of its guest cluster */
export function checkPlace(hostOffset: number, guestOffset: number, tableOffset: number): void {
  if (hostOffset === guestOffset) return;
  const message = 'a cluster of an external data file does not stand at its guest offset';
  const context = { hostOffset: tableOffset, guestOffset, value: hostOffset, clause: 'FEA-003' };
  throw new FormatError('BAD_FIELD', message, context);
}

/** @throws NO_POLICY always */
export function refuseMissing(header: Qcow2Header): never {
  const message = 'guest data stands in an external data file, and the caller did not say which';
  throw new StateError('NO_POLICY', message, { path: dataFileName(header), clause: 'DAT-001' });
}

/** The name that the image has for its data file, never followed here; undefined where it has none. */
function dataFileName(header: Qcow2Header): string | undefined {
  const extension = findHeaderExtension(header.extensions, headerExtensionTypes.externalDataFile);
  return extension === undefined ? undefined : decodeExternalDataFile(extension);
}
