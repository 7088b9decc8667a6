/**
 * Images as large as offsets go: disks that end at 8 PiB and at what one L1 table maps, and tables and clusters that stand there in the
 * file. Everything in between is holes.
 */
import type { MemoryDevice } from '@qcow2/block-device';
import { decodeHeader, readEntryOffset } from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { Kept } from './support/image-bytes.ts';

const mebi = 2 ** 20;
const clusterBytes = 2 * mebi;
/** The last whole cluster that ends at an offset that is exact. */
const farthest = 2 ** 53 - clusterBytes;
const copied = 2 ** 63;

function put64(device: MemoryDevice, at: number, ...values: readonly number[]): void {
  const bytes = new DataView(new ArrayBuffer(8 * values.length));
  for (const [i, value] of values.entries()) bytes.setBigUint64(8 * i, BigInt(value));
  device.write(at, new Uint8Array(bytes.buffer));
}

async function expectSound(device: MemoryDevice): Promise<void> {
  const { findings } = await checkImage(device);
  expect(findings).toEqual([]);
}

/** Bytes at all the places where arithmetic of 31, 32 and 53 bits would go wrong, and what a reopened image says of them. */
async function writeAround(image: Qcow2Image, places: readonly number[]): Promise<void> {
  for (const [i, at] of places.entries()) await image.write(at, new Uint8Array(1024).fill(i + 1));
  await image.flush();
}

async function expectAround(device: MemoryDevice, places: readonly number[]): Promise<void> {
  const image = await openImage(device, { readOnly: true });
  for (const [i, at] of places.entries()) {
    const bytes = new Uint8Array(1024);
    await image.read(at, bytes);
    expect(bytes, `at ${at}`).toEqual(new Uint8Array(1024).fill(i + 1));
  }
}

describe('a disk as large as it may be', () => {
  const places = [2 ** 31 - 512, 2 ** 32 - 512, 2 ** 52 - 512, 2 ** 53 - clusterBytes - 1024];

  it.each([undefined, { sizeBytes: 4 * mebi, blockBytes: 4096 }])(
    'is written at its end, resized and checked, journal: %o',
    async (journal) => {
      const device = new Kept();
      await createImage(device, { sizeBytes: mebi, clusterBytes, ...(journal && { journal }) });
      const image = await openImage(device);
      await image.grow(farthest);
      await writeAround(image, places);
      await image.close();
      expect(device.sizeBytes).toBeLessThan(64 * mebi);
      await expectSound(device);
      await expectAround(device, places);
    },
  );

  it('[LIM-015] is no larger than offsets are exact', async () => {
    await expect(createImage(new Kept(), { sizeBytes: 2 ** 53, clusterBytes })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  it('[LIM-003] is no larger than an L1 table of 32 MiB maps: 128 GiB of clusters of 512 bytes', async () => {
    const most = 128 * 2 ** 30;
    const device = new Kept();
    await createImage(device, { sizeBytes: most, clusterBytes: 512 });
    const image = await openImage(device);
    const last = [0, most - 1024];
    await writeAround(image, last);
    await expect(image.grow(most + 512)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await image.close();
    await expectSound(device);
    await expectAround(device, last);
    await expect(createImage(new Kept(), { sizeBytes: most + 512, clusterBytes: 512 })).rejects.toMatchObject(
      { code: 'INVALID_ARGUMENT' },
    );
  });
});

describe('a file as long as it may be', () => {
  /** An image whose only L2 table, its refcount block and its data cluster end just below 8 PiB. */
  async function farFile(): Promise<{ device: Kept; table: number; data: number }> {
    const device = new Kept();
    await createImage(device, { sizeBytes: 2 ** 40, clusterBytes });
    const header = decodeHeader(device.snapshot().subarray(0, 4096));
    const [block, table, data] = [3, 2, 1].map((n) => farthest - n * clusterBytes) as [
      number,
      number,
      number,
    ];
    const clustersInBlock = clusterBytes / 2;
    const index = Math.floor(block / clusterBytes / clustersInBlock);
    put64(device, header.refcountTableOffset + 8 * index, block);
    const refcounts = new Uint8Array(6);
    for (let i = 1; i < 6; i += 2) refcounts[i] = 1;
    device.write(block + 2 * ((block / clusterBytes) % clustersInBlock), refcounts);
    put64(device, header.l1Offset, copied + table);
    put64(device, table, copied + data);
    device.write(data, new Uint8Array(clusterBytes).fill(9));
    return { device, table, data };
  }

  it('is read and checked, and written in place', async () => {
    const { device, data } = await farFile();
    await expectSound(device);
    const image = await openImage(device);
    await image.write(512, new Uint8Array(512).fill(1));
    const bytes = new Uint8Array(1024);
    await image.read(0, bytes);
    expect(bytes.subarray(0, 512)).toEqual(new Uint8Array(512).fill(9));
    expect(bytes.subarray(512)).toEqual(new Uint8Array(512).fill(1));
    await image.close();
    device.read(data, bytes);
    expect(bytes.subarray(512)).toEqual(new Uint8Array(512).fill(1));
    await expectSound(device);
  });

  it('takes new clusters where it is free, and gives far ones back', async () => {
    const { device, table } = await farFile();
    const image = await openImage(device);
    await image.write(5 * clusterBytes, new Uint8Array(512).fill(3));
    await image.discard(0, clusterBytes);
    await image.close();
    const entry = new Uint8Array(8);
    device.read(table + 5 * 8, entry);
    expect(readEntryOffset(new DataView(entry.buffer), 0)).toBeLessThan(64 * mebi);
    await expectSound(device);
    const again = await openImage(device, { readOnly: true });
    const bytes = new Uint8Array(512);
    await again.read(0, bytes);
    expect(bytes).toEqual(new Uint8Array(512));
  });
});
