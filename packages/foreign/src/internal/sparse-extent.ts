/**
 * A sparse extent of VMDK: a header; a grain directory whose entries lead to grain tables; grain tables whose entries lead to grains. All are
 * 32-bit little-endian sector numbers. Grains may be compressed, each behind a marker that says whose it is and how long.
 *
 * In a stream-optimized extent the directory was written last: the header says "at the end", and a copy of it near the end of the file
 * says where.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { FormatError, UnsupportedFeatureError } from '@qcow2/spec';
import type { DiskMap, ForeignFile, Place } from '../foreign-image.ts';
import { inflateGrain } from './grain-inflation.ts';
import { loadStructure, type Structure } from './structure.ts';
import { TablePiece, TableWindow } from './table-window.ts';

const sectorBytes = 512;
const headerBytes = 512;
const header = {
  name: 'VMDK header',
  document: 'VMware Virtual Disk Format 5.0, Hosted Sparse Extents',
  littleEndian: true,
} as const;
const compressed = {
  name: 'VMDK marker',
  document: 'VMware Virtual Disk Format 5.0, Stream-Optimized Compressed Sparse Extents',
  littleEndian: true,
} as const;
const directory = { ...header, name: 'VMDK grain directory' } as const;
const table = { ...header, name: 'VMDK grain table' } as const;

/** "KDMV" as it stands in the file. */
export const sparseMagic = 0x564d444b;
export const cowdMagic = 0x44574f43;
const directoryAtEnd = 2n ** 64n - 1n;
const flagBits = { zeroGrains: 4, compressed: 0x10000, markers: 0x20000 } as const;
const markerTypes = { endOfStream: 0, footer: 3 } as const;
const deflate = 1;

const mostEntriesPerTable = 512;
const mostDirectoryEntries = 32 * 1024 * 1024;
const mostGrainBytes = 2 ** 30;
/** A compressed grain is in memory as a whole. */
const mostCompressedGrainBytes = 2 * 1024 * 1024;
const heldTables = 256;
const heldGrains = 8;
const grainMarkerBytes = 12;

export interface SparseHeader {
  readonly sizeBytes: number;
  readonly grainBytes: number;
  readonly entriesPerTable: number;
  readonly directoryOffset: number;
  readonly descriptorOffset: number;
  readonly descriptorBytes: number;
  readonly hasZeroGrains: boolean;
  readonly isCompressed: boolean;
}

/** @throws FormatError; UNSUPPORTED_FEATURE for versions and compressions that are not served */
export function* loadSparseHeader(file: BlockDevice): Task<SparseHeader> {
  const first = yield* loadStructure(file, 0, headerBytes, header);
  const magic = first.u32(0);
  if (magic !== sparseMagic) throw first.bad('BAD_MAGIC', 'magicNumber', 0, magic, 'not the magic number');
  if (first.big64(56) !== directoryAtEnd) return decodeHeader(first, file);
  return decodeHeader(yield* loadFooter(file), file);
}

/** The marker of the footer, the footer, and the marker of the end, which are the last three sectors. */
function* loadFooter(file: BlockDevice): Task<Structure> {
  const end = Math.ceil(file.sizeBytes / sectorBytes) * sectorBytes;
  if (end !== file.sizeBytes || end < 4 * sectorBytes) {
    throw new FormatError('TRUNCATED', 'VMDK footer: the file does not end with one', {
      hostOffset: file.sizeBytes,
      clause: compressed.document,
    });
  }
  const marker = yield* loadStructure(file, end - 3 * sectorBytes, sectorBytes, compressed);
  const footer = yield* loadStructure(file, end - 2 * sectorBytes, sectorBytes, {
    ...compressed,
    name: 'VMDK footer',
  });
  const last = yield* loadStructure(file, end - sectorBytes, sectorBytes, compressed);
  const isMarked = marker.u32(8) === 0 && marker.u32(12) === markerTypes.footer;
  if (!isMarked) throw marker.bad('BAD_FIELD', 'type', 12, marker.u32(12), 'not the marker of a footer');
  if (!last.isZero(0, 12) || last.u32(12) !== markerTypes.endOfStream) {
    throw last.bad('BAD_FIELD', 'type', 12, last.u32(12), 'not the marker of the end of the stream');
  }
  if (footer.u32(0) !== sparseMagic) {
    throw footer.bad('BAD_MAGIC', 'magicNumber', 0, footer.u32(0), 'not the magic number');
  }
  return footer;
}

function decodeHeader(at: Structure, file: BlockDevice): SparseHeader {
  const version = at.u32(4);
  if (version < 1 || version > 3) throw at.unserved(`version ${version} is`, 'version', 4, version);
  const flags = at.u32(8);
  const algorithm = at.u16(77);
  if (algorithm > deflate) throw at.unserved('this compression is', 'compressAlgorithm', 77, algorithm);
  const isCompressed = algorithm === deflate;
  if (isCompressed && (flags & flagBits.markers) === 0) {
    throw at.unserved('compressed grains without markers are', 'flags', 8, flags);
  }
  const grainBytes = bytesOf(at, 'grainSize', 20);
  const mostBytes = isCompressed ? mostCompressedGrainBytes : mostGrainBytes;
  if (grainBytes === 0 || !Number.isInteger(Math.log2(grainBytes))) {
    throw at.bad('BAD_FIELD', 'grainSize', 20, grainBytes, 'not a size of grains');
  }
  if (grainBytes > mostBytes) throw at.bad('LIMIT_EXCEEDED', 'grainSize', 20, grainBytes, 'grains too large');
  const entriesPerTable = at.u32(44);
  if (entriesPerTable === 0 || entriesPerTable > mostEntriesPerTable) {
    throw at.bad('BAD_FIELD', 'numGTEsPerGT', 44, entriesPerTable, 'not a number of entries');
  }
  const overheadBytes = bytesOf(at, 'overHead', 64);
  if (overheadBytes > file.sizeBytes) {
    throw at.bad('TRUNCATED', 'overHead', 64, overheadBytes, 'the file ends within its metadata');
  }
  const sizeBytes = bytesOf(at, 'capacity', 12);
  if (Math.ceil(sizeBytes / (entriesPerTable * grainBytes)) > mostDirectoryEntries) {
    throw at.bad('LIMIT_EXCEEDED', 'capacity', 12, sizeBytes, 'more grain tables than are served');
  }
  return {
    sizeBytes,
    grainBytes,
    entriesPerTable,
    directoryOffset: bytesOf(at, 'gdOffset', 56),
    descriptorOffset: bytesOf(at, 'descriptorOffset', 28),
    descriptorBytes: bytesOf(at, 'descriptorSize', 36),
    hasZeroGrains: (flags & flagBits.zeroGrains) !== 0,
    isCompressed,
  };
}

/** A number of sectors, in bytes. @throws OFFSET_TOO_LARGE */
function bytesOf(at: Structure, field: string, place: number): number {
  const bytes = at.u64(field, place) * sectorBytes;
  if (Number.isSafeInteger(bytes)) return bytes;
  throw at.bad('OFFSET_TOO_LARGE', field, place, at.big64(place), 'is beyond 2^53 - 1 bytes');
}

export class SparseExtent implements DiskMap {
  readonly header: SparseHeader;
  readonly #file: ForeignFile;
  readonly #directory: TableWindow;
  readonly #tableBytes: number;
  /** Grain tables by number, least recently used first. */
  readonly #tables = new Map<number, TablePiece>();
  readonly #grains = new Map<number, Uint8Array>();

  /** @throws TRUNCATED where the grain directory does not lie in the file */
  constructor(file: ForeignFile, decoded: SparseHeader) {
    this.header = decoded;
    this.#file = file;
    this.#tableBytes = decoded.entriesPerTable * decoded.grainBytes;
    const entryCount = Math.ceil(decoded.sizeBytes / this.#tableBytes);
    const place = { hostOffset: decoded.directoryOffset, entryCount, entryBytes: 4 } as const;
    this.#directory = new TableWindow(file.device, place, directory);
  }

  *locate(offset: number, lengthBytes: number): Task<Place> {
    const number = Math.floor(offset / this.#tableBytes);
    const inTable = offset - number * this.#tableBytes;
    const piece = yield* this.#directory.pieceAt(number);
    const entry = piece.entry(number);
    if (entry === 0) {
      const most = Math.ceil((inTable + lengthBytes) / this.#tableBytes);
      const count = piece.countWhile(number, most, (other) => other === 0);
      return { kind: 'hole', lengthBytes: Math.min(lengthBytes, count * this.#tableBytes - inTable) };
    }
    const { grainBytes } = this.header;
    const index = Math.floor(inTable / grainBytes);
    const inGrain = inTable - index * grainBytes;
    const grains = yield* this.#table(number, entry);
    const grain = grains.entry(index);
    const isZero = grain === 1 && this.header.hasZeroGrains;
    if (grain === 0 || isZero) {
      const most = Math.ceil((inGrain + lengthBytes) / grainBytes);
      const count = grains.countWhile(index, most, (other) => other === grain);
      const length = Math.min(lengthBytes, count * grainBytes - inGrain);
      return { kind: isZero ? 'zero' : 'hole', lengthBytes: length };
    }
    const length = Math.min(lengthBytes, grainBytes - inGrain);
    const hostOffset = grain * sectorBytes;
    if (!this.header.isCompressed) {
      return { kind: 'data', lengthBytes: length, file: this.#file, hostOffset: hostOffset + inGrain };
    }
    const load = () => this.#inflated(offset - inGrain, hostOffset);
    return { kind: 'compressed', lengthBytes: length, from: inGrain, load };
  }

  *#table(number: number, entry: number): Task<TablePiece> {
    const held = this.#tables.get(number);
    if (held !== undefined) {
      this.#tables.delete(number);
      this.#tables.set(number, held);
      return held;
    }
    const { entriesPerTable } = this.header;
    const { bytes } = yield* loadStructure(
      this.#file.device,
      entry * sectorBytes,
      entriesPerTable * 4,
      table,
    );
    const piece = new TablePiece(bytes, 0, entriesPerTable, table.littleEndian);
    keep(this.#tables, number, piece, heldTables);
    return piece;
  }

  /** A grain from behind its marker. @throws COMPRESSED_DAMAGED, BAD_CHECKSUM; OVERLAP where it is another's */
  *#inflated(extentOffset: number, hostOffset: number): Task<Uint8Array> {
    const held = this.#grains.get(hostOffset);
    if (held !== undefined) return held;
    const { grainBytes, sizeBytes } = this.header;
    const marker = yield* loadStructure(this.#file.device, hostOffset, grainMarkerBytes, compressed);
    const sector = extentOffset / sectorBytes;
    if (marker.big64(0) !== BigInt(sector)) {
      throw marker.bad('OVERLAP', 'lba', 0, marker.big64(0), `the grain of sector ${sector} is another's`);
    }
    const streamBytes = marker.u32(8);
    if (streamBytes === 0 || streamBytes > 2 * grainBytes) {
      throw marker.bad('BAD_FIELD', 'size', 8, streamBytes, 'not a size of compressed grains');
    }
    const at = hostOffset + grainMarkerBytes;
    const { bytes } = yield* loadStructure(this.#file.device, at, streamBytes, compressed);
    const rest = sizeBytes - extentOffset;
    // The last grain is compressed as a whole by some, and as far as the disk goes by others.
    const grain = inflateGrain(bytes, at, rest < grainBytes ? [grainBytes, rest] : [grainBytes]);
    keep(this.#grains, hostOffset, grain, heldGrains);
    return grain;
  }
}

function keep<T>(held: Map<number, T>, key: number, value: T, most: number): void {
  held.set(key, value);
  if (held.size > most) held.delete(held.keys().next().value!);
}

/** Extents of ESX, by the first bytes of their files. */
export function* refuseOtherExtents(file: BlockDevice): Task<void> {
  if (file.sizeBytes < 8) return;
  const bytes = new Uint8Array(8);
  yield* wait(file.read(0, bytes));
  const view = new DataView(bytes.buffer);
  const isCowd = view.getUint32(0, true) === cowdMagic;
  if (!isCowd && view.getBigUint64(0, true) !== 0xcafebaben) return;
  const feature = isCowd ? 'COWD' : 'seSparse';
  throw new UnsupportedFeatureError(
    'UNSUPPORTED_FEATURE',
    `VMDK: ${feature} extents of ESX are not supported`,
    {
      hostOffset: 0,
      field: 'magicNumber',
    },
  );
}
