/** Small images of foreign formats, written byte by byte after the documents: for tests that have to know what stands where. */
import { MemoryDevice } from '@qcow2/block-device';

export class Bytes {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView;

  constructor(lengthBytes: number) {
    this.bytes = new Uint8Array(lengthBytes);
    this.view = new DataView(this.bytes.buffer);
  }

  text(at: number, text: string): this {
    for (let i = 0; i < text.length; i++) this.bytes[at + i] = text.charCodeAt(i);
    return this;
  }
}

export function memoryFile(bytes: Uint8Array): MemoryDevice {
  const device = new MemoryDevice({ sizeBytes: bytes.length });
  device.write(0, bytes);
  return device;
}

/** Whether a block of the disk has a byte that is not zero. */
function isUsed(disk: Uint8Array, from: number, end: number): boolean {
  return disk.subarray(from, end).some((byte) => byte !== 0);
}

/** Numbers of blocks with content, in an order that is not theirs. */
function usedBlocks(disk: Uint8Array, blockBytes: number): number[] {
  const count = Math.ceil(disk.length / blockBytes);
  const used = Array.from({ length: count }, (_, i) => i);
  return used.filter((i) => isUsed(disk, i * blockBytes, (i + 1) * blockBytes)).reverse();
}

const mebibyte = 1024 * 1024;

export interface VdiShape {
  readonly isFixed?: boolean;
}

export function vdiOf(disk: Uint8Array, { isFixed = false }: VdiShape = {}): Uint8Array<ArrayBuffer> {
  const blockCount = Math.ceil(disk.length / mebibyte);
  const used = isFixed ? Array.from({ length: blockCount }, (_, i) => i) : usedBlocks(disk, mebibyte);
  const mapOffset = 512;
  const dataOffset = mapOffset + Math.ceil((blockCount * 4) / 512) * 512;
  const image = new Bytes(dataOffset + used.length * mebibyte);
  const { view } = image;
  image.text(0, '<<< Test Disk Image >>>\n');
  view.setUint32(64, 0xbeda107f, true);
  view.setUint32(68, 0x00010001, true);
  view.setUint32(72, 0x180, true);
  view.setUint32(76, isFixed ? 2 : 1, true);
  view.setUint32(340, mapOffset, true);
  view.setUint32(344, dataOffset, true);
  view.setUint32(360, 512, true);
  view.setBigUint64(368, BigInt(disk.length), true);
  view.setUint32(376, mebibyte, true);
  view.setUint32(384, blockCount, true);
  view.setUint32(388, used.length, true);
  for (let i = 0; i < blockCount; i++) view.setUint32(mapOffset + 4 * i, 0xffffffff, true);
  for (const [number, block] of used.entries()) {
    view.setUint32(mapOffset + 4 * block, number, true);
    image.bytes.set(disk.subarray(block * mebibyte, (block + 1) * mebibyte), dataOffset + number * mebibyte);
  }
  return image.bytes;
}

export interface VpcShape {
  readonly blockBytes?: number;
  readonly creatorApp?: string;
  /** Cylinders, heads, sectors. */
  readonly geometry?: readonly [number, number, number];
  readonly diskType?: number;
}

function vpcFooter(sizeBytes: number, shape: VpcShape, diskType: number): Uint8Array {
  const footer = new Bytes(512);
  const { view } = footer;
  const [cylinders, heads, sectors] = shape.geometry ?? [0, 0, 0];
  footer.text(0, 'conectix').text(28, shape.creatorApp ?? 'qem2');
  view.setUint32(8, 2);
  view.setUint32(12, 0x10000);
  view.setBigUint64(16, diskType === 2 ? 2n ** 64n - 1n : 512n);
  view.setBigUint64(40, BigInt(sizeBytes));
  view.setBigUint64(48, BigInt(sizeBytes));
  view.setUint16(56, cylinders);
  view.setUint8(58, heads);
  view.setUint8(59, sectors);
  view.setUint32(60, diskType);
  view.setUint32(64, vpcChecksum(footer.bytes, 64));
  return footer.bytes;
}

/** The complement of the sum of the bytes, the checksum's own left out. */
export function vpcChecksum(bytes: Uint8Array, at: number): number {
  let sum = 0;
  for (const [i, byte] of bytes.entries()) if (i < at || i >= at + 4) sum += byte;
  return ~sum >>> 0;
}

export function fixedVpcOf(disk: Uint8Array, shape: VpcShape = {}): Uint8Array<ArrayBuffer> {
  const image = new Uint8Array(disk.length + 512);
  image.set(disk);
  image.set(vpcFooter(disk.length, shape, shape.diskType ?? 2), disk.length);
  return image;
}

export function vpcOf(disk: Uint8Array, shape: VpcShape = {}): Uint8Array<ArrayBuffer> {
  const { blockBytes = 4096 } = shape;
  const bitmapBytes = Math.ceil(blockBytes / 512 / 8 / 512) * 512;
  const count = Math.ceil(disk.length / blockBytes);
  const used = usedBlocks(disk, blockBytes);
  const tableOffset = 1536;
  const dataOffset = tableOffset + Math.ceil((count * 4) / 512) * 512;
  const image = new Bytes(dataOffset + used.length * (bitmapBytes + blockBytes) + 512);
  const footer = vpcFooter(disk.length, shape, shape.diskType ?? 3);
  image.bytes.set(footer);
  image.bytes.set(footer, image.bytes.length - 512);
  const header = new Bytes(1024).text(0, 'cxsparse');
  header.view.setBigUint64(8, 2n ** 64n - 1n);
  header.view.setBigUint64(16, BigInt(tableOffset));
  header.view.setUint32(24, 0x10000);
  header.view.setUint32(28, count);
  header.view.setUint32(32, blockBytes);
  header.view.setUint32(36, vpcChecksum(header.bytes, 36));
  image.bytes.set(header.bytes, 512);
  for (let i = 0; i < count; i++) image.view.setUint32(tableOffset + 4 * i, 0xffffffff);
  for (const [number, block] of used.entries()) {
    const at = dataOffset + number * (bitmapBytes + blockBytes);
    image.view.setUint32(tableOffset + 4 * block, at / 512);
    image.bytes.fill(0xff, at, at + bitmapBytes);
    image.bytes.set(disk.subarray(block * blockBytes, (block + 1) * blockBytes), at + bitmapBytes);
  }
  return image.bytes;
}
