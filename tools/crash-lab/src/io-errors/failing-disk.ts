/**
 * A disk whose operations fail on request, and which knows what a crash may leave of it.
 *
 * Of every sector it keeps the durable version and those that were written since. A flush that completes makes the newest
 * durable that no failed flush was to cover: what a failed flush was to make durable is *doomed*, as in an operating
 * system that marks the pages clean all the same: it can be read, and no later flush saves it, until it is
 * written again. The file's length is the file system's own affair, and never doomed: a flush that completes makes it durable.
 * Everything is synchronous, so a flush covers all that was written before it.
 */
import {
  type ActiveFault,
  FaultDevice,
  type FaultOperation,
  type FaultRule,
  type FlushOptions,
} from '@qcow2/block-device';
import type { SeededRandom } from '@qcow2/seeded';
import { type Sector, sectorBytes } from '../sector.ts';
import { SectorDevice } from '../sector-device.ts';
import type { SectorImage } from '../sector-image.ts';

interface Version {
  readonly sector: Sector;
  doomed: boolean;
}

/** How a crash state is drawn. */
export type Keeping = 'nothing' | 'some';

class TrackedDisk extends SectorDevice {
  readonly #durable: SectorImage;
  readonly #versions = new Map<number, Version[]>();
  /** Lengths since the last completed flush. */
  #sizes: number[] = [];

  /** `image` is durable as it is, and from now on this disk's. */
  constructor(image: SectorImage) {
    super(image.clone());
    this.#durable = image;
  }

  override write(offset: number, bytes: Uint8Array): void {
    super.write(offset, bytes);
    this.#changed(offset, bytes.length);
  }

  override writeZeroes(offset: number, lengthBytes: number): void {
    super.writeZeroes(offset, lengthBytes);
    this.#changed(offset, lengthBytes);
  }

  override discard(offset: number, lengthBytes: number): void {
    super.discard(offset, lengthBytes);
    this.#changed(offset, lengthBytes);
  }

  override resize(sizeBytes: number): void {
    super.resize(sizeBytes);
    this.#sizes.push(sizeBytes);
  }

  override flush(): void {
    for (const [index, versions] of this.#versions) {
      const last = versions.findLastIndex(({ doomed }) => !doomed);
      if (last < 0) continue;
      this.#durable.setSector(index, versions[last]!.sector);
      if (last + 1 === versions.length) this.#versions.delete(index);
      else this.#versions.set(index, versions.slice(last + 1));
    }
    const size = this.#sizes.at(-1);
    if (size !== undefined) this.#durable.resize(size);
    this.#sizes = [];
  }

  flushFailed(): void {
    for (const versions of this.#versions.values()) for (const version of versions) version.doomed = true;
  }

  /** A disk that a crash may leave: an image of its own. */
  crashed(keeping: Keeping, random: SeededRandom): SectorImage {
    const image = this.#durable.clone();
    const chosen = <T>(versions: readonly T[]): T | undefined =>
      keeping === 'nothing' ? undefined : versions[random.below(versions.length + 1)];
    const size = chosen(this.#sizes);
    if (size !== undefined) image.resize(size);
    for (const [index, versions] of this.#versions) {
      const sector = chosen(versions)?.sector;
      if (sector !== undefined && index * sectorBytes < image.sizeBytes) image.setSector(index, sector);
    }
    return image;
  }

  #changed(offset: number, lengthBytes: number): void {
    const end = offset + lengthBytes;
    for (let index = Math.floor(offset / sectorBytes); index * sectorBytes < end; index++) {
      const versions = this.#versions.get(index) ?? [];
      versions.push({ sector: this.image.sector(index), doomed: false });
      this.#versions.set(index, versions);
    }
    const known = this.#sizes.at(-1) ?? this.#durable.sizeBytes;
    if (this.image.sizeBytes !== known) this.#sizes.push(this.image.sizeBytes);
  }
}

export class FailingDisk extends FaultDevice {
  readonly #disk: TrackedDisk;
  /** A flush has failed: what can be read may never be durable. */
  hasFailedFlush = false;

  constructor(image: SectorImage) {
    const disk = new TrackedDisk(image);
    super(disk);
    this.#disk = disk;
  }

  /** What a reader sees now; live. */
  get image(): SectorImage {
    return this.#disk.image;
  }

  crashed(keeping: Keeping, random: SeededRandom): SectorImage {
    return this.#disk.crashed(keeping, random);
  }

  override flush(options?: FlushOptions): void | Promise<void> {
    try {
      return super.flush(options);
    } catch (error) {
      this.#disk.flushFailed();
      this.hasFailedFlush = true;
      throw error;
    }
  }

  /** The disk outlives whoever used it. */
  override close(): void {}

  /** A rule that never strikes and counts. */
  count(operation: readonly FaultOperation[]): ActiveFault {
    const rule: FaultRule = { operation, nth: Number.POSITIVE_INFINITY, fault: { kind: 'fail' } };
    return this.addRule(rule);
  }
}
