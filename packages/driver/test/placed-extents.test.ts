/** Where ranges of a disk stand, and that what no table maps is passed over at once. */
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import { createImage, openImage } from '../src/index.ts';

test('each range says its place, byte for byte', async () => {
  const clusterBytes = 4096;
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes: 64 * clusterBytes, clusterBytes });
  const image = await openImage(device);
  const bytes = new Uint8Array(3 * clusterBytes).map((_, at) => at % 251);
  await image.write(5 * clusterBytes, bytes);
  await image.writeZeroes(6 * clusterBytes, clusterBytes);
  await image.quiesce();
  const extents = await image.placedExtents(4 * clusterBytes, 5 * clusterBytes);
  expect(extents.map(({ kind, offset }) => [kind, offset / clusterBytes])).toEqual([
    ['hole', 4],
    ['data', 5],
    ['zero', 6],
    ['data', 7],
    ['hole', 8],
  ]);
  for (const { kind, offset, lengthBytes, hostOffset } of extents) {
    if (kind === 'hole') expect(hostOffset).toBeUndefined();
    if (kind !== 'data') continue;
    const stored = new Uint8Array(lengthBytes);
    device.read(hostOffset!, stored);
    const from = offset - 5 * clusterBytes;
    expect(stored).toEqual(bytes.subarray(from, from + lengthBytes));
  }
  // Without their places they are the extents of every device.
  expect(await image.extents(0, image.sizeBytes)).toEqual([
    { kind: 'hole', offset: 0, lengthBytes: 5 * clusterBytes },
    { kind: 'data', offset: 5 * clusterBytes, lengthBytes: clusterBytes },
    { kind: 'zero', offset: 6 * clusterBytes, lengthBytes: clusterBytes },
    { kind: 'data', offset: 7 * clusterBytes, lengthBytes: clusterBytes },
    { kind: 'hole', offset: 8 * clusterBytes, lengthBytes: 56 * clusterBytes },
  ]);
  image.abandon();
});

test('a disk of which nothing is mapped is one hole, whatever its size', async () => {
  const device = new MemoryDevice();
  const sizeBytes = 2 ** 43;
  await createImage(device, { sizeBytes, clusterBytes: 65536 });
  const image = await openImage(device, { readOnly: true });
  // Cluster by cluster this would be a hundred million steps.
  expect(await image.extents(0, sizeBytes)).toEqual([{ kind: 'hole', offset: 0, lengthBytes: sizeBytes }]);
  expect(await image.extents(12345, sizeBytes - 12345)).toEqual([
    { kind: 'hole', offset: 12345, lengthBytes: sizeBytes - 12345 },
  ]);
  image.abandon();
});

test('a cluster with parts that read as zeros, and without a place in the data file, has none at 0 either', async () => {
  const [device, dataFile] = [new MemoryDevice(), new MemoryDevice()];
  const part = 16384 / 32;
  await createImage(device, {
    sizeBytes: 4 * 16384,
    clusterBytes: 16384,
    extendedL2: true,
    backingFile: 'base',
    dataFile: { device: dataFile, name: 'data' },
  });
  const backing = MemoryDevice.fromBytes(new Uint8Array(4 * 16384).fill(1));
  const image = await openImage(device, { backing, dataFile });
  await image.writeZeroes(2 * part, part);
  await image.writeZeroes(16384 + 2 * part, part);
  await image.write(2 * 16384 + 2 * part, new Uint8Array(part).fill(2));
  await image.quiesce();
  const places = (await image.placedExtents(0, 4 * 16384)).map(({ kind, hostOffset }) => [kind, hostOffset]);
  expect(places).toEqual([
    ['hole', undefined],
    ['zero', undefined],
    ['hole', undefined],
    ['zero', undefined],
    ['hole', undefined],
    ['hole', 2 * 16384],
    ['data', 2 * 16384 + 2 * part],
    ['hole', 2 * 16384 + 3 * part],
    ['hole', undefined],
  ]);
  await image.close();
});
