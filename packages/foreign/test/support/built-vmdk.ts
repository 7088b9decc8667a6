/** VMDK extents and descriptors, written byte by byte: with small grains, so that little disks have many. */
import { deflateSync } from 'node:zlib';
import { Bytes } from './built-images.ts';

const sectorBytes = 512;

export interface VmdkShape {
  /** Compressed grains behind markers, and the directory at the end, as in what is exported. */
  readonly isStream?: boolean;
  readonly grainBytes?: number;
  readonly entriesPerTable?: number;
  readonly descriptor?: string;
  /** Compress the last grain only as far as the disk goes. */
  readonly shortLastGrain?: boolean;
}

export function descriptorOf(createType: string, extents: readonly string[], parent = 'ffffffff'): string {
  return [
    '# Disk DescriptorFile',
    'version=1',
    'CID=1234abcd',
    `parentCID=${parent}`,
    `createType="${createType}"`,
    '',
    '# Extent description',
    ...extents,
    '',
    '# The Disk Data Base',
    '#DDB',
    'ddb.adapterType = "ide"',
    '',
  ].join('\n');
}

export function sparseVmdkOf(disk: Uint8Array, shape: VmdkShape = {}): Uint8Array<ArrayBuffer> {
  const { isStream = false, grainBytes = 4096, entriesPerTable = 8 } = shape;
  const sectors = disk.length / sectorBytes;
  const text = shape.descriptor ?? descriptorOf('monolithicSparse', [`RW ${sectors} SPARSE "disk.vmdk"`]);
  const grainCount = Math.ceil(disk.length / grainBytes);
  const tableCount = Math.ceil(grainCount / entriesPerTable);
  const image = new Growing();
  // Header and descriptor.
  image.append(new Uint8Array(3 * sectorBytes));
  const tables = Array.from({ length: tableCount }, () => new Bytes(entriesPerTable * 4));
  for (let grain = 0; grain < grainCount; grain++) {
    const bytes = new Uint8Array(grainBytes);
    const part = disk.subarray(grain * grainBytes, (grain + 1) * grainBytes);
    bytes.set(part);
    if (bytes.every((byte) => byte === 0)) continue;
    const at = image.append(
      isStream
        ? marked((grain * grainBytes) / sectorBytes, shape.shortLastGrain === true ? part : bytes)
        : bytes,
    );
    const table = tables[Math.floor(grain / entriesPerTable)]!;
    table.view.setUint32((grain % entriesPerTable) * 4, at / sectorBytes, true);
  }
  const directory = new Bytes(tableCount * 4);
  for (const [number, table] of tables.entries()) {
    const isEmpty = table.bytes.every((byte) => byte === 0);
    directory.view.setUint32(number * 4, isEmpty ? 0 : image.append(table.bytes) / sectorBytes, true);
  }
  const directoryAt = image.append(directory.bytes) / sectorBytes;
  const header = (at: bigint): Uint8Array => headerOf({ at, isStream, sectors, grainBytes, entriesPerTable });
  if (isStream) {
    const footerMarker = new Bytes(sectorBytes);
    footerMarker.view.setBigUint64(0, 1n, true);
    footerMarker.view.setUint32(12, 3, true);
    image.append(footerMarker.bytes);
    image.append(header(BigInt(directoryAt)));
    image.append(new Uint8Array(sectorBytes));
  }
  const whole = image.bytes();
  whole.set(header(isStream ? 2n ** 64n - 1n : BigInt(directoryAt)));
  whole.set(new TextEncoder().encode(text), sectorBytes);
  return whole;
}

function marked(sector: number, grain: Uint8Array): Uint8Array {
  const stream = deflateSync(grain);
  const piece = new Bytes(12 + stream.length);
  piece.view.setBigUint64(0, BigInt(sector), true);
  piece.view.setUint32(8, stream.length, true);
  piece.bytes.set(stream, 12);
  return piece.bytes;
}

interface HeaderFields {
  readonly at: bigint;
  readonly isStream: boolean;
  readonly sectors: number;
  readonly grainBytes: number;
  readonly entriesPerTable: number;
}

function headerOf({ at, isStream, sectors, grainBytes, entriesPerTable }: HeaderFields): Uint8Array {
  const header = new Bytes(sectorBytes).text(0, 'KDMV');
  const { view } = header;
  view.setUint32(4, isStream ? 3 : 1, true);
  view.setUint32(8, isStream ? 0x30001 : 1, true);
  view.setBigUint64(12, BigInt(sectors), true);
  view.setBigUint64(20, BigInt(grainBytes / sectorBytes), true);
  view.setBigUint64(28, 1n, true);
  view.setBigUint64(36, 2n, true);
  view.setUint32(44, entriesPerTable, true);
  view.setBigUint64(56, at, true);
  view.setBigUint64(64, 3n, true);
  header.text(73, '\n \r\n');
  view.setUint16(77, isStream ? 1 : 0, true);
  return header.bytes;
}

/** A file that grows by whole sectors. */
class Growing {
  readonly #pieces: Uint8Array[] = [];
  #end = 0;

  /** @returns where it stands */
  append(bytes: Uint8Array): number {
    const at = this.#end;
    const padded = new Uint8Array(Math.ceil(bytes.length / sectorBytes) * sectorBytes);
    padded.set(bytes);
    this.#pieces.push(padded);
    this.#end += padded.length;
    return at;
  }

  bytes(): Uint8Array<ArrayBuffer> {
    const whole = new Uint8Array(this.#end);
    let at = 0;
    for (const piece of this.#pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }
}
