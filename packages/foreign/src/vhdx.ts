/**
 * VHDX, Hyper-V's images: headers, regions and metadata (`internal/vhdx-structures.ts`), a block allocation table, blocks of 1 to 256 MiB.
 *
 * The table has an entry of 64 bits for each block, and after every `chunkRatio` of them one for the bitmap of their sectors, which only
 * differencing images use. A log that holds something is to be replayed first: such an image is refused, since what stands in its tables may
 * be half of a change.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import { FormatError, StateError } from '@qcow2/spec';
import type { DiskMap, ForeignFile, ForeignParts, Place } from './foreign-image.ts';
import { BlockSet } from './internal/block-set.ts';
import { type TablePiece, TableWindow } from './internal/table-window.ts';
import {
  type HostRange,
  hasLiveLog,
  loadHeader,
  loadMetadata,
  loadRegions,
  mebibyte,
  refuseOverlaps,
  type VhdxDisk,
} from './internal/vhdx-structures.ts';

const blockTable = {
  name: 'VHDX block allocation table',
  document: 'MS-VHDX 2.5',
  littleEndian: true,
} as const;
const headerSection: HostRange = { hostOffset: 0, lengthBytes: mebibyte };

/** Of a block. Those that are not named show zeros: not present, undefined, zero, unmapped (5 in version 0.95). */
const states = { zeros: [0, 1, 2, 3, 5], fullyPresent: 6 } as const;
/** One bit for each sector of a chunk. */
const sectorsPerChunk = 2 ** 23;

/** @throws FormatError; UNSUPPORTED_FEATURE for differencing images; NEEDS_REPLAY for a log that holds something */
export function* openVhdx(file: BlockDevice): Task<ForeignParts> {
  const header = yield* loadHeader(file);
  const regions = yield* loadRegions(file);
  const taken = [headerSection, header.log, regions.blockTable, regions.metadata];
  refuseOverlaps(taken);
  if (yield* hasLiveLog(file, header)) {
    throw new StateError('NEEDS_REPLAY', 'VHDX: the log of the image must be replayed first', {
      hostOffset: header.log.hostOffset,
      field: 'LogGuid',
      clause: 'MS-VHDX 2.3.3',
    });
  }
  const disk = yield* loadMetadata(file, regions.metadata);
  const own = { device: file, path: undefined };
  const map = new VhdxMap(own, disk, regions.blockTable);
  yield* map.checkBlocks(taken);
  return { format: 'vhdx', sizeBytes: disk.sizeBytes, clusterBytes: disk.blockBytes, map, files: [own] };
}

class VhdxMap implements DiskMap {
  readonly #file: ForeignFile;
  readonly #table: TableWindow;
  readonly #blockBytes: number;
  readonly #blockCount: number;
  /** Blocks between two entries of bitmaps. */
  readonly #chunkRatio: number;

  /** @throws BAD_FIELD, TRUNCATED where the table does not lie in its region, and in the file */
  constructor(file: ForeignFile, { sizeBytes, blockBytes, sectorBytes }: VhdxDisk, region: HostRange) {
    this.#file = file;
    this.#blockBytes = blockBytes;
    this.#blockCount = Math.ceil(sizeBytes / blockBytes);
    this.#chunkRatio = (sectorsPerChunk * sectorBytes) / blockBytes;
    const entryCount = this.#blockCount === 0 ? 0 : this.#indexOf(this.#blockCount - 1) + 1;
    if (entryCount * 8 > region.lengthBytes) {
      throw new FormatError('BAD_FIELD', `${blockTable.name}: the region is too small for the disk`, {
        ...region,
        field: 'Length',
        clause: blockTable.document,
      });
    }
    const place = { hostOffset: region.hostOffset, entryCount, entryBytes: 8 } as const;
    this.#table = new TableWindow(file.device, place, blockTable);
  }

  #indexOf(block: number): number {
    return block + Math.floor(block / this.#chunkRatio);
  }

  /** @throws OVERLAP where a block lies in another one, or in what is taken */
  *checkBlocks(taken: readonly HostRange[]): Task<void> {
    const used = new BlockSet(this.#table, blockTable);
    for (const { hostOffset, lengthBytes } of taken) {
      const end = Math.min(hostOffset + lengthBytes, this.#file.device.sizeBytes);
      for (let at = hostOffset; at < end; at += mebibyte) used.add(at / mebibyte, 0);
    }
    const unitsInFile = Math.ceil(this.#file.device.sizeBytes / mebibyte);
    for (let block = 0; block < this.#blockCount; block++) {
      const index = this.#indexOf(block);
      const piece = yield* this.#table.pieceAt(index);
      if (stateOf(piece, index) !== states.fullyPresent) continue;
      const first = placeOf(piece, index);
      // What lies behind the file's end is told of when it is read.
      const end = Math.min(first + this.#blockBytes / mebibyte, unitsInFile);
      for (let unit = first; unit < end; unit++) used.add(unit, index);
    }
  }

  *locate(offset: number, lengthBytes: number): Task<Place> {
    const block = Math.floor(offset / this.#blockBytes);
    const inBlock = offset - block * this.#blockBytes;
    const index = this.#indexOf(block);
    const piece = yield* this.#table.pieceAt(index);
    const state = stateOf(piece, index);
    if (isZeros(state)) {
      const inChunk = this.#chunkRatio - (block % this.#chunkRatio);
      const most = Math.min(
        inChunk,
        Math.ceil((inBlock + lengthBytes) / this.#blockBytes),
        piece.end - index,
      );
      let count = 1;
      while (count < most && isZeros(stateOf(piece, index + count))) count++;
      return { kind: 'zero', lengthBytes: Math.min(lengthBytes, count * this.#blockBytes - inBlock) };
    }
    const place = placeOf(piece, index);
    if (state !== states.fullyPresent || place === 0) throw this.#badEntry(index, state);
    const length = Math.min(lengthBytes, this.#blockBytes - inBlock);
    return { kind: 'data', lengthBytes: length, file: this.#file, hostOffset: place * mebibyte + inBlock };
  }

  #badEntry(index: number, value: number): FormatError {
    return new FormatError('BAD_FIELD', `${blockTable.name}: not a state of a block of such an image`, {
      field: `entry ${index}`,
      value,
      hostOffset: this.#table.hostOffsetOf(index),
      clause: blockTable.document,
    });
  }
}

function stateOf(piece: TablePiece, index: number): number {
  return piece.low(index) & 7;
}

/** In the file, in MiB: 44 bits. */
function placeOf(piece: TablePiece, index: number): number {
  return piece.high(index) * 4096 + (piece.low(index) >>> 20);
}

function isZeros(state: number): boolean {
  return (states.zeros as readonly number[]).includes(state);
}
