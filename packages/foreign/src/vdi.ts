/**
 * VDI, VirtualBox's images: a header, a block map of 32-bit little-endian entries, blocks of 1 MiB. An entry is the number of a block
 * behind the start of the data, or one of two that say that there is none. A fixed image has all of its blocks, mostly in order.
 *
 * The layout is that of VirtualBox's `VDICore.h`; what is taken and what is refused is as QEMU 7.2 has it, except that two entries that lead
 * to one block are refused when the image is opened.
 */
import type { BlockDevice, Task } from '@qcow2/block-device';
import type { DiskMap, ForeignFile, ForeignParts, Place } from './foreign-image.ts';
import { BlockSet } from './internal/block-set.ts';
import { loadStructure, type Structure } from './internal/structure.ts';
import { TableWindow } from './internal/table-window.ts';

const sectorBytes = 512;
const blockBytes = 1024 * 1024;
const headerBytes = 512;
const header = { name: 'VDI header', document: 'VDICore.h VDIHEADER1PLUS', littleEndian: true } as const;
const blockMap = {
  name: 'VDI block map',
  document: 'VDICore.h VDIIMAGEBLOCKPOINTER',
  littleEndian: true,
} as const;

const signature = 0xbeda107f;
const version11 = 0x00010001;
const imageTypes = { dynamic: 1, fixed: 2, undo: 3, differencing: 4 } as const;
/** From here on an entry is no block: discarded, or never written. */
const firstUnallocated = 0xfffffffe;
/** What a block map of 32-bit sizes can hold. */
const mostBlocks = 0x3fffffff;

interface VdiHeader {
  readonly isFixed: boolean;
  readonly mapOffset: number;
  readonly dataOffset: number;
  readonly sizeBytes: number;
  readonly blockCount: number;
}

/** @throws FormatError; UNSUPPORTED_FEATURE for differencing images, other versions, and blocks of another size */
export function* openVdi(file: BlockDevice): Task<ForeignParts> {
  const decoded = decodeVdiHeader(yield* loadStructure(file, 0, headerBytes, header));
  const own = { device: file, path: undefined };
  const map = new VdiMap(own, decoded);
  yield* map.checkBlocks();
  return { format: 'vdi', sizeBytes: decoded.sizeBytes, clusterBytes: blockBytes, map, files: [own] };
}

function decodeVdiHeader(at: Structure): VdiHeader {
  if (at.u32(64) !== signature) throw at.bad('BAD_MAGIC', 'signature', 64, at.u32(64), 'not the signature');
  const version = at.u32(68);
  if (version !== version11) {
    throw at.unserved(`version ${version >>> 16}.${version & 0xffff} is`, 'version', 68, version);
  }
  const imageType = at.u32(76);
  if (!at.isZero(440, 16) || !at.isZero(456, 16) || imageType === imageTypes.differencing) {
    throw at.unserved('differencing images are', 'imageType', 76, imageType);
  }
  if (imageType !== imageTypes.dynamic && imageType !== imageTypes.fixed) {
    throw at.unserved('images of this type are', 'imageType', 76, imageType);
  }
  const sector = at.u32(360);
  if (sector !== sectorBytes) throw at.unserved('sectors of another size are', 'sectorBytes', 360, sector);
  const block = at.u32(376);
  if (block !== blockBytes) throw at.unserved('blocks of another size are', 'blockBytes', 376, block);
  const mapOffset = alignedOffset(at, 'mapOffset', 340);
  const dataOffset = alignedOffset(at, 'dataOffset', 344);
  const blockCount = at.u32(384);
  const diskBytes = at.u64('diskBytes', 368);
  if (blockCount > mostBlocks || diskBytes > mostBlocks * blockBytes) {
    throw at.bad('LIMIT_EXCEEDED', 'blockCount', 384, blockCount, 'more blocks than there can be');
  }
  // Disks of other sizes were written by QEMU once.
  const sizeBytes = Math.ceil(diskBytes / sectorBytes) * sectorBytes;
  if (sizeBytes > blockCount * blockBytes) {
    throw at.bad('BAD_FIELD', 'diskBytes', 368, diskBytes, `the map has room for ${blockCount} blocks only`);
  }
  const mapEnd = mapOffset + blockCount * 4;
  if (mapOffset < headerBytes)
    throw at.bad('OVERLAP', 'mapOffset', 340, mapOffset, 'the map lies in the header');
  if (dataOffset < mapEnd) throw at.bad('OVERLAP', 'dataOffset', 344, dataOffset, 'data lies in the map');
  return { isFixed: imageType === imageTypes.fixed, mapOffset, dataOffset, sizeBytes, blockCount };
}

function alignedOffset(at: Structure, field: string, place: number): number {
  const value = at.u32(place);
  if (value % sectorBytes === 0) return value;
  throw at.bad('BAD_ALIGNMENT', field, place, value, 'does not lie on a sector');
}

class VdiMap implements DiskMap {
  readonly #file: ForeignFile;
  readonly #header: VdiHeader;
  readonly #table: TableWindow;
  readonly #usedBlocks: number;

  constructor(file: ForeignFile, decoded: VdiHeader) {
    this.#file = file;
    this.#header = decoded;
    const { mapOffset: hostOffset, blockCount: entryCount } = decoded;
    this.#table = new TableWindow(file.device, { hostOffset, entryCount, entryBytes: 4 }, blockMap);
    this.#usedBlocks = Math.ceil(decoded.sizeBytes / blockBytes);
  }

  /** @throws OVERLAP where two entries lead to one block */
  *checkBlocks(): Task<void> {
    const taken = new BlockSet(this.#table, blockMap);
    const blocksInFile = Math.ceil(
      Math.max(0, this.#file.device.sizeBytes - this.#header.dataOffset) / blockBytes,
    );
    for (let index = 0; index < this.#usedBlocks; ) {
      const piece = yield* this.#table.pieceAt(index);
      for (; index < Math.min(piece.end, this.#usedBlocks); index++) {
        const entry = piece.entry(index);
        // What lies behind the file's end is told of when it is read.
        if (entry < blocksInFile) taken.add(entry, index);
      }
    }
  }

  *locate(offset: number, lengthBytes: number): Task<Place> {
    const inBlock = offset % blockBytes;
    const index = (offset - inBlock) / blockBytes;
    const piece = yield* this.#table.pieceAt(index);
    const entry = piece.entry(index);
    if (entry >= firstUnallocated) {
      const most = Math.ceil((inBlock + lengthBytes) / blockBytes);
      const count = piece.countWhile(index, most, (other) => other >= firstUnallocated);
      return { kind: 'zero', lengthBytes: Math.min(lengthBytes, count * blockBytes - inBlock) };
    }
    const length = Math.min(lengthBytes, blockBytes - inBlock);
    const hostOffset = this.#header.dataOffset + entry * blockBytes + inBlock;
    const place = { kind: 'data', lengthBytes: length, file: this.#file, hostOffset } as const;
    return this.#header.isFixed ? { ...place, flat: true } : place;
  }
}
