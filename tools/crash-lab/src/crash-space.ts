/**
 * All disks that a crash at one point may leave behind, numbered.
 *
 * The model: of the pending changes any subset is carried out, in any order, each torn at sector boundaries,
 * and the file's length has grown or not. Sectors do not depend on one another: to keep a subset in an order
 * and tear each write is to choose, for each sector on its own, which of the pieces that fall into it arrive
 * and in which order; and any such choice per sector is a legal crash, because tearing lets every sector of a
 * write arrive or not by itself, and sectors share no order. So the space is a product: for each sector, the
 * contents that it may have (`sector-options.ts`).
 *
 * The length multiplies in: it is the durable one, or any that a pending change leads to, at the boundaries of
 * the sectors that it writes. What lies beyond the length is lost, so only sectors that begin before it are
 * free to choose, and the space is a sum, over the lengths, of such products.
 *
 * A number in [0, total) names one state: first the length, in ascending order; within a length a mixed-radix
 * number whose digits are the options of the sectors in ascending order, lowest sector first. State 0 is the
 * disk with nothing of what was pending.
 */
import type { CrashPoint, DeviceChange } from './crash-point.ts';
import { sectorBytes } from './sector.ts';
import type { SectorImage } from './sector-image.ts';
import { type SectorOptions, type SectorPiece, sectorOptions } from './sector-options.ts';

/** A choice for every sector of the space (index into its options), and one for the length. */
export interface CrashChoice {
  /** Index into `sizes`. */
  readonly size: number;
  /** One per entry of `sectors`; those beyond the length do not matter. */
  readonly options: readonly number[];
}

export class CrashSpace {
  readonly durable: SectorImage;
  readonly pending: readonly DeviceChange[];
  /** Sectors with more than one possible content, ascending. */
  readonly sectors: readonly SectorOptions[];
  /** Possible lengths, ascending. */
  readonly sizes: readonly number[];
  /** How many states there are. */
  readonly total: bigint;
  /** False where a sector had too many possible contents to list them all. */
  readonly complete: boolean;
  /** How many of `sectors` begin before each length. */
  readonly #free: readonly number[];
  /** How many states come before each length's. */
  readonly #before: readonly bigint[];

  constructor(point: CrashPoint) {
    this.durable = point.durable;
    this.pending = point.pending;
    this.sectors = collectSectors(point);
    this.complete = this.sectors.every(({ complete }) => complete);
    this.sizes = collectSizes(point);
    this.#free = this.sizes.map(
      (size) => this.sectors.filter(({ sector }) => sector * sectorBytes < size).length,
    );
    const before: bigint[] = [];
    let total = 0n;
    for (const free of this.#free) {
      before.push(total);
      total += this.sectors
        .slice(0, free)
        .reduce((product, { contents }) => product * BigInt(contents.length), 1n);
    }
    this.#before = before;
    this.total = total;
  }

  /** The number of a choice; choices that differ only beyond the length have one number. */
  encode(choice: CrashChoice): bigint {
    let number = 0n;
    for (let index = this.#free[choice.size]! - 1; index >= 0; index--) {
      const radix = this.sectors[index]!.contents.length;
      number = number * BigInt(radix) + BigInt(choice.options[index]!);
    }
    return this.#before[choice.size]! + number;
  }

  decode(number: bigint): CrashChoice {
    let size = this.sizes.length - 1;
    while (number < this.#before[size]!) size--;
    let rest = number - this.#before[size]!;
    const options = this.sectors.map(({ contents }, index) => {
      if (index >= this.#free[size]!) return 0;
      const radix = BigInt(contents.length);
      const digit = Number(rest % radix);
      rest /= radix;
      return digit;
    });
    return { size, options };
  }

  /** All choices in the order of their numbers. */
  *choices(): Generator<CrashChoice> {
    for (let size = 0; size < this.sizes.length; size++) {
      const options = this.sectors.map(() => 0);
      const free = this.#free[size]!;
      for (;;) {
        yield { size, options: options.slice() };
        let place = 0;
        while (place < free && options[place] === this.sectors[place]!.contents.length - 1)
          options[place++] = 0;
        if (place === free) break;
        options[place]!++;
      }
    }
  }

  /** The disk that a choice leaves behind; an image of its own. */
  image(choice: CrashChoice): SectorImage {
    const image = this.durable.clone();
    const size = this.sizes[choice.size]!;
    for (let index = 0; index < this.#free[choice.size]!; index++) {
      const option = choice.options[index]!;
      const { sector, contents } = this.sectors[index]!;
      if (option !== 0) image.setSector(sector, contents[option]!);
    }
    // Up to the sector's end and back: clears what the last sector holds behind the length.
    image.resize(Math.ceil(size / sectorBytes) * sectorBytes);
    image.resize(size);
    return image;
  }

  /** For people: which sectors hold what, by the device event of the write that it came from. */
  describe(choice: CrashChoice): string[] {
    const lines = [`length ${this.sizes[choice.size]} of ${this.sizes.join(', ')}`];
    for (const [index, { sector, contents, pieces }] of this.sectors.entries()) {
      const at = `sector ${sector} (host offset ${sector * sectorBytes})`;
      if (index >= this.#free[choice.size]!) {
        lines.push(`${at}: beyond the end`);
        continue;
      }
      const writes = pieces.map(({ change }) => describeChange(this.pending[change]!)).join(', ');
      lines.push(
        `${at}: option ${choice.options[index]} of ${contents.length}; 0 is durable, then: ${writes}`,
      );
    }
    return lines;
  }
}

export function describeChange(change: DeviceChange): string {
  const what = change.kind === 'resize' ? `to ${change.sizeBytes}` : `at ${change.offset}`;
  return `#${change.serial} ${change.kind} ${what}${change.event === undefined ? '' : ` [${change.event}]`}`;
}

/** Bytes that a change may put on the disk: [start, end), with zeros where `bytes` is undefined. */
interface ChangedRange {
  readonly start: number;
  readonly end: number;
  readonly bytes: Uint8Array | undefined;
}

function changedRange(change: DeviceChange, sizeBefore: number): ChangedRange {
  if (change.kind === 'write') {
    return { start: change.offset, end: change.offset + change.bytes.length, bytes: change.bytes };
  }
  if (change.kind === 'resize') {
    // Cutting off may clear what was there, whether the new length gets there or not.
    return { start: change.sizeBytes, end: Math.max(change.sizeBytes, sizeBefore), bytes: undefined };
  }
  return { start: change.offset, end: change.offset + change.lengthBytes, bytes: undefined };
}

/** The ranges of all pending changes, each with the file's length before it. */
function pendingRanges(point: CrashPoint): { range: ChangedRange; sizeAfter: number; grows: boolean }[] {
  let size = point.durable.sizeBytes;
  return point.pending.map((change) => {
    const range = changedRange(change, size);
    const grows = change.kind !== 'resize' && range.end > size;
    size = change.kind === 'resize' ? change.sizeBytes : Math.max(size, range.end);
    return { range, sizeAfter: size, grows };
  });
}

function collectSectors(point: CrashPoint): SectorOptions[] {
  const pieces = new Map<number, SectorPiece[]>();
  for (const [change, { range }] of pendingRanges(point).entries()) {
    for (let at = range.start; at < range.end; ) {
      const sector = Math.floor(at / sectorBytes);
      const end = Math.min(range.end, (sector + 1) * sectorBytes);
      const bytes = range.bytes?.subarray(at - range.start, end - range.start);
      const piece = { change, start: at - sector * sectorBytes, bytes, count: end - at };
      const list = pieces.get(sector);
      if (list === undefined) pieces.set(sector, [piece]);
      else list.push(piece);
      at = end;
    }
  }
  return [...pieces.keys()]
    .sort((left, right) => left - right)
    .map((sector) => sectorOptions(sector, point.durable.sector(sector), pieces.get(sector)!))
    .filter(({ contents, complete }) => contents.length > 1 || !complete);
}

/** A write that grows the file may have grown it up to any of its sectors. */
function collectSizes(point: CrashPoint): number[] {
  const durableSize = point.durable.sizeBytes;
  const sizes = new Set([durableSize]);
  for (const { range, sizeAfter, grows } of pendingRanges(point)) {
    sizes.add(sizeAfter);
    if (!grows) continue;
    const first = Math.ceil((Math.max(range.start, durableSize) + 1) / sectorBytes) * sectorBytes;
    for (let end = first; end < range.end; end += sectorBytes) sizes.add(end);
  }
  return [...sizes].sort((left, right) => left - right);
}
