/**
 * An image of a foreign format as a BlockDevice that is only read. What the formats have in common is here: a request is cut where the
 * image's own map says that something else begins, and each part is read from where it stands. What a format is, its map knows.
 *
 * Bytes that the map says are in a file and that the file does not have are an error, never zeros: a file that was cut off is no disk
 * with holes.
 */
import {
  type BlockDevice,
  checkRange,
  type DeviceCapabilities,
  type Extent,
  pushExtent,
  type ReadOptions,
  readOnlyCapabilities,
  run,
  type Task,
  UnwritableDevice,
  wait,
} from '@qcow2/block-device';
import { FormatError, StateError } from '@qcow2/spec';
import type { VmdkFacts } from './vmdk.ts';

export type ForeignFormat = 'vdi' | 'vpc' | 'vmdk' | 'vhdx';

/** A file that guest bytes stand in. */
export interface ForeignFile {
  readonly device: BlockDevice;
  /** As whoever opened it calls it; undefined: the image's own file. */
  readonly path: string | undefined;
  /** In place of closing the device, where more is to be let go of. */
  close?(): void | Promise<void>;
}

/** What a range of the disk is, from its first byte on, as far as it is one thing. */
export type Place =
  | {
      readonly kind: 'data';
      readonly lengthBytes: number;
      readonly file: ForeignFile;
      readonly hostOffset: number;
      /** All of it has a place, written or not: the file's own holes are holes of the disk. */
      readonly flat?: true;
    }
  | {
      readonly kind: 'compressed';
      readonly lengthBytes: number;
      /** What it is part of, and where in that it begins. */
      load(): Task<Uint8Array>;
      readonly from: number;
    }
  | { readonly kind: 'zero' | 'hole'; readonly lengthBytes: number };

/** Where the bytes of a disk stand: what a format is. */
export interface DiskMap {
  /**
   * @param lengthBytes at least 1; the range lies in the disk
   * @returns a place of 1 to `lengthBytes` bytes
   */
  locate(offset: number, lengthBytes: number): Task<Place>;
}

/** An extent, and the place of its bytes. */
export interface ForeignExtent extends Extent {
  /** Where in its file the range stands byte for byte: of data, and of zeros that have a place. */
  readonly hostOffset?: number;
  /** Path of the file that it stands in, where that is not the image's own. */
  readonly path?: string;
  /** Space is set aside for it, although it reads as zeros. */
  readonly isStored?: true;
}

export interface ForeignParts {
  readonly format: ForeignFormat;
  readonly sizeBytes: number;
  /** The unit of allocation; undefined where there is none. */
  readonly clusterBytes: number | undefined;
  readonly map: DiskMap;
  /** Every file that is closed with the image. */
  readonly files: readonly ForeignFile[];
  readonly vmdk?: VmdkFacts;
}

/** Made by `openForeign`. */
export class ForeignImage extends UnwritableDevice implements BlockDevice {
  readonly capabilities: DeviceCapabilities;
  readonly format: ForeignFormat;
  readonly sizeBytes: number;
  readonly clusterBytes: number | undefined;
  /** Of a VMDK image. */
  readonly vmdk: VmdkFacts | undefined;
  protected override readonly readOnlyMessage: string;
  readonly #map: DiskMap;
  readonly #files: readonly ForeignFile[];
  #closed = false;

  constructor({ format, sizeBytes, clusterBytes, map, files, vmdk }: ForeignParts) {
    super();
    this.format = format;
    this.sizeBytes = sizeBytes;
    this.clusterBytes = clusterBytes;
    this.vmdk = vmdk;
    this.readOnlyMessage = `images of format ${format} can only be read`;
    this.#map = map;
    this.#files = files;
    this.capabilities = { ...readOnlyCapabilities, extents: true, preferredBlockBytes: 4096 };
  }

  /** @throws TRUNCATED where a file ends before the bytes; FormatError for a table that leads nowhere; else as the contract */
  read(offset: number, into: Uint8Array, options?: ReadOptions): void | Promise<void> {
    this.checkOpen();
    checkRange(offset, into.length, this.sizeBytes);
    return run(this.#read(offset, into, options));
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] | Promise<readonly Extent[]> {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return run(this.#extents(offset, lengthBytes));
  }

  /** As `extents`, cut also where places do not follow each other. */
  placedExtents(
    offset: number,
    lengthBytes: number,
  ): readonly ForeignExtent[] | Promise<readonly ForeignExtent[]> {
    this.checkOpen();
    checkRange(offset, lengthBytes, this.sizeBytes);
    return run(this.#placedExtents(offset, lengthBytes));
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const file of this.#files) await (file.close === undefined ? file.device.close() : file.close());
  }

  *#read(offset: number, into: Uint8Array, options?: ReadOptions): Task<void> {
    for (let done = 0; done < into.length; ) {
      const place = yield* this.#locate(offset + done, into.length - done);
      const part = into.subarray(done, done + place.lengthBytes);
      if (place.kind === 'data') {
        const { file, hostOffset } = place;
        if (hostOffset > file.device.sizeBytes - part.length) throw cutOff(offset + done, place);
        yield* wait(file.device.read(hostOffset, part, options));
      } else if (place.kind === 'compressed') {
        const whole = yield* place.load();
        part.set(whole.subarray(place.from, place.from + part.length));
      } else part.fill(0);
      done += place.lengthBytes;
    }
  }

  *#extents(offset: number, lengthBytes: number): Task<readonly Extent[]> {
    const extents: Extent[] = [];
    for (const { hostOffset: _, path: __, isStored: ___, ...extent } of yield* this.#placedExtents(
      offset,
      lengthBytes,
    )) {
      pushExtent(extents, extent);
    }
    return extents;
  }

  *#placedExtents(offset: number, lengthBytes: number): Task<readonly ForeignExtent[]> {
    const extents: ForeignExtent[] = [];
    for (let done = 0; done < lengthBytes; ) {
      const at = offset + done;
      const place = yield* this.#locate(at, lengthBytes - done);
      if (place.kind === 'data' && place.flat === true) yield* flatExtents(extents, at, place);
      else pushPlaced(extents, placedAt(at, place));
      done += place.lengthBytes;
    }
    return extents;
  }

  /** Places that follow each other in one file are one. */
  *#locate(offset: number, lengthBytes: number): Task<Place> {
    const place = yield* this.#map.locate(offset, lengthBytes);
    if (place.kind !== 'data') return place;
    let length = place.lengthBytes;
    while (length < lengthBytes) {
      const next = yield* this.#map.locate(offset + length, lengthBytes - length);
      const follows =
        next.kind === 'data' &&
        next.file === place.file &&
        next.flat === place.flat &&
        next.hostOffset === place.hostOffset + length;
      if (!follows) break;
      length += next.lengthBytes;
    }
    return { ...place, lengthBytes: length };
  }

  protected override checkOpen(): void {
    if (this.#closed) throw new StateError('CLOSED', 'the image is closed');
  }
}

type DataPlace = Extract<Place, { kind: 'data' }>;

function placedAt(offset: number, place: Place): ForeignExtent {
  const { kind, lengthBytes } = place;
  if (kind === 'compressed') return { offset, lengthBytes, kind: 'data', compressed: true };
  if (kind !== 'data') return { offset, lengthBytes, kind };
  return { offset, lengthBytes, kind, hostOffset: place.hostOffset, ...pathOf(place.file) };
}

function pathOf({ path }: ForeignFile): { readonly path?: string } {
  return path === undefined ? {} : { path };
}

/** What the file itself knows of the range; behind its end nothing is known, and a read will say so. */
function* flatExtents(extents: ForeignExtent[], offset: number, place: DataPlace): Task<void> {
  const { file, hostOffset, lengthBytes } = place;
  const inFile = Math.max(0, Math.min(lengthBytes, file.device.sizeBytes - hostOffset));
  for (let done = 0; done < inFile; ) {
    for (const extent of yield* wait(file.device.extents(hostOffset + done, inFile - done))) {
      const at = { offset: offset + done, lengthBytes: extent.lengthBytes, hostOffset: hostOffset + done };
      const kind =
        extent.kind === 'data'
          ? { kind: 'data' as const }
          : { kind: 'zero' as const, isStored: true as const };
      pushPlaced(extents, { ...at, ...kind, ...pathOf(file) });
      done += extent.lengthBytes;
    }
  }
  const rest = {
    offset: offset + inFile,
    lengthBytes: lengthBytes - inFile,
    hostOffset: hostOffset + inFile,
  };
  pushPlaced(extents, { ...rest, kind: 'data', ...pathOf(file) });
}

function pushPlaced(extents: ForeignExtent[], next: ForeignExtent): void {
  if (next.lengthBytes === 0) return;
  const last = extents.at(-1);
  const placed = last?.hostOffset === undefined ? undefined : last.hostOffset + last.lengthBytes;
  const follows =
    last !== undefined &&
    last.kind === next.kind &&
    last.path === next.path &&
    last.isStored === next.isStored &&
    last.compressed === next.compressed &&
    placed === next.hostOffset;
  if (last === undefined || !follows) extents.push(next);
  else extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + next.lengthBytes };
}

function cutOff(guestOffset: number, { hostOffset, lengthBytes }: DataPlace): FormatError {
  return new FormatError('TRUNCATED', 'the file ends before bytes of the disk that stand in it', {
    hostOffset,
    guestOffset,
    lengthBytes,
  });
}
