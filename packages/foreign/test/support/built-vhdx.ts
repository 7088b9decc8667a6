/** VHDX images, written byte by byte. */
import { crc32c } from '@qcow2/codec';
import { Bytes } from './built-images.ts';

const kibibyte = 1024;
const mebibyte = 1024 * kibibyte;
export const place = {
  header: 64 * kibibyte,
  secondHeader: 128 * kibibyte,
  regions: 192 * kibibyte,
  secondRegions: 256 * kibibyte,
  log: mebibyte,
  metadata: 2 * mebibyte,
  blockTable: 3 * mebibyte,
  blocks: 4 * mebibyte,
} as const;
/** Where items stand, behind the table of the metadata. */
export const item = {
  parameters: place.metadata + 65536,
  diskSize: place.metadata + 65544,
  logicalSector: place.metadata + 65552,
} as const;

export const logGuid = 'aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee';

const groupOrder = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

export function putGuid(image: Bytes, at: number, guid: string): void {
  const digits = guid.replaceAll('-', '');
  for (const [i, from] of groupOrder.entries()) {
    image.bytes[at + i] = Number.parseInt(digits.slice(2 * from, 2 * from + 2), 16);
  }
}

/** Put the checksum of a structure right, which stands at 4. */
export function sumUp(image: Uint8Array, at: number, lengthBytes: number): void {
  const part = image.subarray(at, at + lengthBytes);
  if (part.length < lengthBytes) return;
  part.fill(0, 4, 8);
  new DataView(part.buffer, part.byteOffset).setUint32(4, crc32c(part), true);
}

export function sumUpAll(image: Uint8Array): void {
  for (const at of [place.header, place.secondHeader]) sumUp(image, at, 4096);
  for (const at of [place.regions, place.secondRegions]) sumUp(image, at, 65536);
}

export interface VhdxShape {
  readonly sectorBytes?: number;
}

/** Blocks of 1 MiB, the used ones in an order that is not theirs. */
export function vhdxOf(disk: Uint8Array, { sectorBytes = 512 }: VhdxShape = {}): Uint8Array<ArrayBuffer> {
  const count = Math.ceil(disk.length / mebibyte);
  const used = Array.from({ length: count }, (_, i) => i)
    .filter((i) => disk.subarray(i * mebibyte, (i + 1) * mebibyte).some((byte) => byte !== 0))
    .reverse();
  const image = new Bytes(place.blocks + used.length * mebibyte);
  const { view } = image;
  image.text(0, 'vhdxfile');
  putHeader(image, place.header, 5n);
  putHeader(image, place.secondHeader, 4n);
  for (const at of [place.regions, place.secondRegions]) {
    image.text(at, 'regi');
    view.setUint32(at + 8, 2, true);
    putRegion(image, at + 16, '2dc27766-f623-4200-9d64-115e9bfd4a08', place.blockTable);
    putRegion(image, at + 48, '8b7ca206-4790-4b9a-b8fe-575f050f886e', place.metadata);
  }
  image.text(place.metadata, 'metadata');
  view.setUint16(place.metadata + 10, 3, true);
  putItem(image, 0, 'caa16737-fa36-4d43-b3b6-33f0aa44e76b', item.parameters, 8);
  putItem(image, 1, '2fa54224-cd1b-4876-b211-5dbed83bf4b8', item.diskSize, 8);
  putItem(image, 2, '8141bf1d-a96f-4709-ba47-f233a8faab5f', item.logicalSector, 4);
  view.setUint32(item.parameters, mebibyte, true);
  view.setBigUint64(item.diskSize, BigInt(disk.length), true);
  view.setUint32(item.logicalSector, sectorBytes, true);
  for (const [number, block] of used.entries()) {
    const at = place.blocks + number * mebibyte;
    view.setBigUint64(place.blockTable + 8 * block, BigInt(at) | 6n, true);
    image.bytes.set(disk.subarray(block * mebibyte, (block + 1) * mebibyte), at);
  }
  sumUpAll(image.bytes);
  return image.bytes;
}

function putHeader({ view, bytes }: Bytes, at: number, sequence: bigint): void {
  bytes.set(new TextEncoder().encode('head'), at);
  view.setBigUint64(at + 8, sequence, true);
  view.setUint16(at + 66, 1, true);
  view.setUint32(at + 68, mebibyte, true);
  view.setBigUint64(at + 72, BigInt(place.log), true);
}

function putRegion(image: Bytes, at: number, guid: string, offset: number): void {
  putGuid(image, at, guid);
  image.view.setBigUint64(at + 16, BigInt(offset), true);
  image.view.setUint32(at + 24, mebibyte, true);
  image.view.setUint32(at + 28, 1, true);
}

function putItem(image: Bytes, number: number, guid: string, at: number, lengthBytes: number): void {
  const entry = place.metadata + 32 + 32 * number;
  putGuid(image, entry, guid);
  image.view.setUint32(entry + 16, at - place.metadata, true);
  image.view.setUint32(entry + 20, lengthBytes, true);
  image.view.setUint32(entry + 24, 4, true);
}
