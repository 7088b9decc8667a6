/**
 * The bits of an image's bitmaps as they stand on a device at rest: whether any of them stands for what is behind the disk's end. Who reads
 * the bitmaps of an open image never sees those; a disk that becomes larger would.
 */
import type { BlockDevice } from '@qcow2/block-device';
import {
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  findHeaderExtension,
  readBitmapAllOnes,
  readEntryOffset,
} from '@qcow2/codec';
import { readImageHeader } from '@qcow2/driver';
import { autoclearFeatures, bitmapFlags, headerExtensionTypes } from '@qcow2/spec';

/** Names of the bitmaps that are believed and have such bits [BMP-003]. */
export async function bitmapsBehindEnd(device: BlockDevice): Promise<readonly string[]> {
  const { header } = await readImageHeader(device);
  const extension = findHeaderExtension(header.extensions, headerExtensionTypes.bitmaps);
  // Without the bit the extension means nothing: it may be the room for one.
  if (extension === undefined || (header.autoclearFeatures & autoclearFeatures.bitmaps) === 0n) return [];
  const clusterBytes = 2 ** header.clusterBits;
  const { directoryOffset, directoryLengthBytes, bitmapCount } = decodeBitmapsExtension(extension, {
    clusterBytes,
  });
  const read = async (offset: number, lengthBytes: number): Promise<Uint8Array<ArrayBuffer>> => {
    const bytes = new Uint8Array(lengthBytes);
    await device.read(offset, bytes);
    return bytes;
  };
  const directory = await read(directoryOffset, directoryLengthBytes);
  const where = { hostOffset: directoryOffset, clusterBytes };
  const names: string[] = [];
  for (const entry of decodeBitmapDirectory(directory, bitmapCount, where)) {
    const { name, flags, tableOffset, tableEntries, granularityBits } = entry;
    if ((flags & bitmapFlags.inUse) !== 0) continue;
    const table = new DataView((await read(tableOffset, tableEntries * 8)).buffer);
    const bits = Math.ceil(header.sizeBytes / 2 ** granularityBits);
    for (let index = 0; index < tableEntries; index++) {
      const offset = readEntryOffset(table, index * 8);
      // What is all ones stands for as many bits as there are.
      if (offset === 0 || readBitmapAllOnes(table, index * 8)) continue;
      const content = await read(offset, clusterBytes);
      const left = Math.max(0, bits - index * clusterBytes * 8);
      if (hasBitFrom(content, left)) names.push(name);
    }
  }
  return names;
}

function hasBitFrom(bytes: Uint8Array, first: number): boolean {
  if (first >= bytes.length * 8) return false;
  const at = first >> 3;
  if (bytes[at]! >> (first & 7) !== 0) return true;
  return bytes.subarray(at + 1).some((byte) => byte !== 0);
}
