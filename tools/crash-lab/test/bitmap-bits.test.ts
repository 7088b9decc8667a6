/** Bits that stand for what is behind the disk's end, as a program that is not ours may leave them. */
import { MemoryDevice } from '@qcow2/block-device';
import { createImage, openImage } from '@qcow2/driver';
import { expect, it } from 'vitest';
import { bitmapsBehindEnd } from '../src/bitmap-bits.ts';

const clusterBytes = 1024;

it('[BMP-003] are found in bitmaps that are believed, and nowhere else', async () => {
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes: 13 * 512, clusterBytes });
  expect(await bitmapsBehindEnd(device)).toEqual([]);
  const image = await openImage(device);
  await image.addBitmap('fine', { granularityBytes: 512 });
  await image.addBitmap('coarse', { granularityBytes: 4096 });
  await image.write(12 * 512, new Uint8Array(512).fill(1));
  await image.quiesce();
  image.abandon();
  expect(await bitmapsBehindEnd(device)).toEqual([]);
  const bytes = new Uint8Array(device.sizeBytes);
  device.read(0, bytes);
  // The only clusters whose first bytes are those bits: sector 12 of 13, granule 1 of 2.
  const holding = (...bits: number[]): number => {
    for (let at = clusterBytes; at < bytes.length; at += clusterBytes) {
      const isIt = bits.every((byte, index) => bytes[at + index] === byte);
      if (isIt && bytes.subarray(at + bits.length, at + clusterBytes).every((byte) => byte === 0)) return at;
    }
    return -1;
  };
  const fine = holding(0, 0x10);
  expect(fine).toBeGreaterThan(0);
  device.write(fine + 1, Uint8Array.of(0x30));
  expect(await bitmapsBehindEnd(device)).toEqual(['fine']);
  device.write(fine + 1, Uint8Array.of(0x10));
  device.write(fine + clusterBytes - 1, Uint8Array.of(0x80));
  expect(await bitmapsBehindEnd(device)).toEqual(['fine']);
  // Without the autoclear bit the extension means nothing, whatever it says.
  const autoclear = bytes[95]!;
  device.write(95, Uint8Array.of(autoclear & ~1));
  expect(await bitmapsBehindEnd(device)).toEqual([]);
  device.write(95, Uint8Array.of(autoclear));
  expect(await bitmapsBehindEnd(device)).toEqual(['fine']);
  const again = await openImage(device);
  await again.removeBitmap('fine');
  await again.quiesce();
  again.abandon();
  expect(await bitmapsBehindEnd(device)).toEqual([]);
});
