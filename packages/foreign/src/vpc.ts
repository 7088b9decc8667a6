/**
 * VHD, the images of Virtual PC: a footer of 512 bytes at the end of the file, of which a dynamic image has a copy at its start; a dynamic
 * header behind that; a block allocation table of 32-bit big-endian sector numbers; blocks, each behind a bitmap of its sectors. A fixed image is the
 * disk and the footer.
 *
 * The law is Microsoft's "Virtual Hard Disk Image Format Specification" 1.0. What it leaves open is as QEMU 7.2 has it: which of the two sizes
 * counts (`diskSizeOf`); and that the bitmaps are not read, since a sector that was never written reads as the zeros that stand there.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import { FormatError } from '@qcow2/spec';
import type { DiskMap, ForeignFile, ForeignParts, Place } from './foreign-image.ts';
import { loadStructure, type Structure } from './internal/structure.ts';
import { TableWindow } from './internal/table-window.ts';

const sectorBytes = 512;
const footerBytes = 512;
const dynamicHeaderBytes = 1024;
const footer = { name: 'VHD footer', document: 'VHD 1.0 Hard Disk Footer', littleEndian: false } as const;
const dynamicHeader = {
  name: 'VHD header',
  document: 'VHD 1.0 Dynamic Disk Header',
  littleEndian: false,
} as const;
const blockTable = {
  name: 'VHD block allocation table',
  document: 'VHD 1.0 Block Allocation Table',
  littleEndian: false,
} as const;

const diskTypes = { fixed: 2, dynamic: 3, differencing: 4 } as const;
const unallocated = 0xffffffff;
/** 65535 cylinders, 16 heads, 255 sectors: a larger disk has this geometry as well. */
const largestGeometrySectors = 65535 * 16 * 255;
/** Programs whose images are as large as the footer says in bytes; all others count cylinders, heads and sectors. */
const sizedByBytes = ['win ', 'qem2', 'd2v ', 'CTXS', 'tap\0'];
/** Entries of a table that are looked through: 2 TiB, which is the format's limit, in blocks of 128 KiB. */
const mostEntries = 2 ** 24;

/** @throws FormatError; UNSUPPORTED_FEATURE for differencing images */
export function* openVpc(file: BlockDevice): Task<ForeignParts> {
  const { at, isFixed } = yield* loadFooter(file);
  checkSum(at, 64, 'checksum');
  const sizeBytes = diskSizeOf(at);
  const own = { device: file, path: undefined };
  if (isFixed) {
    const map = new FixedMap(own);
    return { format: 'vpc', sizeBytes, clusterBytes: undefined, map, files: [own] };
  }
  const type = at.u32(60);
  if (type === diskTypes.differencing) throw at.unserved('differencing images are', 'diskType', 60, type);
  if (type !== diskTypes.dynamic)
    throw at.bad('BAD_FIELD', 'diskType', 60, type, 'a footer at the start, of a disk that is not dynamic');
  const map = yield* loadDynamic(own, at.u64('dataOffset', 16), sizeBytes);
  return { format: 'vpc', sizeBytes, clusterBytes: map.blockBytes, map, files: [own] };
}

/** The copy at the start, which fixed images do not have; else what stands at the end. */
function* loadFooter(file: BlockDevice): Task<{ readonly at: Structure; readonly isFixed: boolean }> {
  const start = yield* loadStructure(file, 0, footerBytes, footer);
  if (start.ascii(0, 8) === 'conectix') return { at: start, isFixed: false };
  const end = yield* loadStructure(file, file.sizeBytes - footerBytes, footerBytes, footer);
  const cookie = end.ascii(0, 8);
  if (cookie !== 'conectix') throw end.bad('BAD_MAGIC', 'cookie', 0, cookie, 'not the cookie of a footer');
  const type = end.u32(60);
  if (type === diskTypes.fixed) return { at: end, isFixed: true };
  throw end.bad(
    'BAD_FIELD',
    'diskType',
    60,
    type,
    'its copy at the start is missing, and the disk is not fixed',
  );
}

/** The complement of the sum of all other bytes. @throws BAD_CHECKSUM */
function checkSum(at: Structure, place: number, field: string): void {
  let sum = 0;
  for (const [i, byte] of at.bytes.entries()) if (i < place || i >= place + 4) sum += byte;
  const stored = at.u32(place);
  if (stored !== ~sum >>> 0)
    throw at.bad('BAD_CHECKSUM', field, place, stored, 'the checksum does not match');
}

function diskSizeOf(at: Structure): number {
  const geometrySectors = at.u16(56) * at.bytes[58]! * at.bytes[59]!;
  const isByBytes = sizedByBytes.includes(at.ascii(28, 4)) || geometrySectors === largestGeometrySectors;
  if (!isByBytes) return geometrySectors * sectorBytes;
  return Math.floor(at.u64('currentSize', 48) / sectorBytes) * sectorBytes;
}

function* loadDynamic(file: ForeignFile, hostOffset: number, sizeBytes: number): Task<DynamicMap> {
  const at = yield* loadStructure(file.device, hostOffset, dynamicHeaderBytes, dynamicHeader);
  const cookie = at.ascii(0, 8);
  if (cookie !== 'cxsparse') throw at.bad('BAD_MAGIC', 'cookie', 0, cookie, 'not the cookie of this header');
  checkSum(at, 36, 'checksum');
  const blockBytes = at.u32(32);
  if (blockBytes < sectorBytes || (blockBytes & (blockBytes - 1)) !== 0) {
    throw at.bad('BAD_FIELD', 'blockBytes', 32, blockBytes, 'not a size of blocks');
  }
  const maxEntries = at.u32(28);
  const entryCount = Math.ceil(sizeBytes / blockBytes);
  if (maxEntries < entryCount) {
    throw at.bad('BAD_FIELD', 'maxTableEntries', 28, maxEntries, 'the table is too small for the disk');
  }
  if (entryCount > mostEntries) {
    throw at.bad('LIMIT_EXCEEDED', 'maxTableEntries', 28, maxEntries, 'more blocks than are served');
  }
  const tableOffset = at.u64('tableOffset', 16);
  const place = { hostOffset: tableOffset, entryCount, entryBytes: 4 } as const;
  const map = new DynamicMap(file, new TableWindow(file.device, place, blockTable), blockBytes);
  yield* map.checkBlocks();
  return map;
}

/** The disk is the file from its start on; the footer behind it is none of it. */
class FixedMap implements DiskMap {
  readonly #file: ForeignFile;

  constructor(file: ForeignFile) {
    this.#file = file;
  }

  // biome-ignore lint/correctness/useYield: nothing has to be waited for
  *locate(offset: number, lengthBytes: number): Task<Place> {
    return { kind: 'data', lengthBytes, file: this.#file, hostOffset: offset, flat: true };
  }
}

class DynamicMap implements DiskMap {
  readonly blockBytes: number;
  readonly #file: ForeignFile;
  readonly #table: TableWindow;
  /** Of the bitmap in front of each block. */
  readonly #bitmapBytes: number;

  constructor(file: ForeignFile, table: TableWindow, blockBytes: number) {
    this.#file = file;
    this.#table = table;
    this.blockBytes = blockBytes;
    this.#bitmapBytes = Math.ceil(blockBytes / sectorBytes / 8 / sectorBytes) * sectorBytes;
  }

  /**
   * Look at every entry, of which at most four bytes each are held.
   * @throws TRUNCATED for a block that does not lie in the file; OVERLAP for two that lie in one another
   */
  *checkBlocks(): Task<void> {
    const { entryCount } = this.#table.place;
    const lengthBytes = this.#bitmapBytes + this.blockBytes;
    const most = Math.min(entryCount, Math.floor(this.#file.device.sizeBytes / lengthBytes) + 1);
    const starts = new Uint32Array(most);
    let found = 0;
    for (let index = 0; index < entryCount; ) {
      const piece = yield* this.#table.pieceAt(index);
      for (; index < piece.end; index++) {
        const entry = piece.entry(index);
        if (entry === unallocated) continue;
        if (entry * sectorBytes > this.#file.device.sizeBytes - lengthBytes) {
          throw this.#badEntry('TRUNCATED', index, entry, 'the file ends before the block does');
        }
        if (found === most)
          throw this.#badEntry('OVERLAP', index, entry, 'more blocks than fit into the file');
        starts[found++] = entry;
      }
    }
    const sorted = starts.subarray(0, found).sort();
    for (let i = 1; i < found; i++) {
      if ((sorted[i]! - sorted[i - 1]!) * sectorBytes >= lengthBytes) continue;
      throw new FormatError('OVERLAP', `${blockTable.name}: two blocks lie in one another`, {
        hostOffset: sorted[i]! * sectorBytes,
        lengthBytes,
        clause: blockTable.document,
      });
    }
  }

  *locate(offset: number, lengthBytes: number): Task<Place> {
    const inBlock = offset % this.blockBytes;
    const index = (offset - inBlock) / this.blockBytes;
    const piece = yield* this.#table.pieceAt(index);
    const entry = piece.entry(index);
    if (entry === unallocated) {
      const most = Math.ceil((inBlock + lengthBytes) / this.blockBytes);
      const count = piece.countWhile(index, most, (other) => other === unallocated);
      return { kind: 'zero', lengthBytes: Math.min(lengthBytes, count * this.blockBytes - inBlock) };
    }
    const length = Math.min(lengthBytes, this.blockBytes - inBlock);
    const hostOffset = entry * sectorBytes + this.#bitmapBytes + inBlock;
    return { kind: 'data', lengthBytes: length, file: this.#file, hostOffset };
  }

  #badEntry(code: 'TRUNCATED' | 'OVERLAP', index: number, value: number, problem: string): FormatError {
    return new FormatError(code, `${blockTable.name}: ${problem}`, {
      field: `entry ${index}`,
      value,
      hostOffset: this.#table.hostOffsetOf(index),
      clause: blockTable.document,
    });
  }
}
