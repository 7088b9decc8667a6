/**
 * A disk image as a list of sectors that it shares with other images: a copy costs one array, a crash state
 * costs a copy and the sectors that differ.
 *
 * Invariants: bytes at or beyond `sizeBytes` read as zeros when the image grows again, so a sector that the
 * end cuts through holds zeros behind it; a sector that is absent from the list holds zeros.
 */
import { finish, type Sector, sectorBytes, sectorOf, zeroSector } from './sector.ts';

export class SectorImage {
  #sectors: (Sector | undefined)[];
  #sizeBytes: number;

  constructor(sizeBytes = 0, sectors: (Sector | undefined)[] = []) {
    this.#sizeBytes = sizeBytes;
    this.#sectors = sectors;
  }

  static fromBytes(bytes: Uint8Array): SectorImage {
    const image = new SectorImage();
    image.write(0, bytes);
    return image;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** An image of its own with the same content. */
  clone(): SectorImage {
    return new SectorImage(this.#sizeBytes, this.#sectors.slice());
  }

  sector(index: number): Sector {
    return this.#sectors[index] ?? zeroSector;
  }

  /** Put a sector at an index; the size stays what it is. */
  setSector(index: number, sector: Sector): void {
    while (this.#sectors.length < index) this.#sectors.push(undefined);
    this.#sectors[index] = sector;
  }

  /** Fill `into`; the range must lie within the image. */
  read(offset: number, into: Uint8Array): void {
    for (let done = 0; done < into.length; ) {
      const index = Math.floor((offset + done) / sectorBytes);
      const start = offset + done - index * sectorBytes;
      const count = Math.min(into.length - done, sectorBytes - start);
      const sector = this.#sectors[index];
      if (sector === undefined || sector === zeroSector) into.fill(0, done, done + count);
      else if (count === sectorBytes) into.set(sector.bytes, done);
      else into.set(sector.bytes.subarray(start, start + count), done);
      done += count;
    }
  }

  /** Write, growing the image where the range reaches beyond its end. */
  write(offset: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const index = Math.floor((offset + done) / sectorBytes);
      const start = offset + done - index * sectorBytes;
      const count = Math.min(bytes.length - done, sectorBytes - start);
      const part = bytes.subarray(done, done + count);
      this.setSector(
        index,
        count === sectorBytes ? sectorOf(part.slice()) : this.sector(index).patched(start, part),
      );
      done += count;
    }
    if (bytes.length > 0) this.#sizeBytes = Math.max(this.#sizeBytes, offset + bytes.length);
  }

  /** Grow with zeros, or cut off. */
  resize(sizeBytes: number): void {
    if (sizeBytes < this.#sizeBytes) {
      const kept = Math.ceil(sizeBytes / sectorBytes);
      if (this.#sectors.length > kept) this.#sectors.length = kept;
      const inLast = sizeBytes % sectorBytes;
      const last = this.#sectors[kept - 1];
      if (inLast !== 0 && last !== undefined) {
        this.#sectors[kept - 1] = last.patched(inLast, zeroSector.bytes.subarray(inLast));
      }
    }
    this.#sizeBytes = sizeBytes;
  }

  /** A copy of all bytes. */
  toBytes(): Uint8Array<ArrayBuffer> {
    const all = new Uint8Array(this.#sizeBytes);
    this.read(0, all);
    return all;
  }

  /** Two 32-bit halves of a hash of size and content. A sum over sectors: equal images have equal hashes. */
  hash(): { low: number; high: number } {
    let low = finish(this.#sizeBytes);
    let high = finish(low ^ 0x5bd1e995);
    for (let index = 0; index < this.#sectors.length; index++) {
      const sector = this.#sectors[index];
      if (sector === undefined || sector === zeroSector) continue;
      const place = Math.imul(index + 1, 0x9e3779b1);
      low = (low + finish(sector.low ^ place)) | 0;
      high = (high + finish(sector.high ^ (place + 0x7f4a7c15))) | 0;
    }
    return { low: low >>> 0, high: high >>> 0 };
  }

  /** The hash as a text, to know an image by. */
  key(): string {
    const { low, high } = this.hash();
    return high.toString(36) + low.toString(36).padStart(7, '0');
  }

  /** The first sector index at which two images differ, or undefined; a difference in size counts as one. */
  firstDifference(other: SectorImage): number | undefined {
    const count = Math.max(this.#sectors.length, other.#sectors.length);
    for (let index = 0; index < count; index++) {
      if (!this.sector(index).sameContent(other.sector(index))) return index;
    }
    return this.#sizeBytes === other.#sizeBytes ? undefined : count;
  }
}
