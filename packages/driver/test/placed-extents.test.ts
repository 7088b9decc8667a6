/** Where ranges of a disk stand, and that what no table maps is passed over at once. */
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import { createImage, openImage, readImageHeader } from '../src/index.ts';
import { Kept } from './support/image-bytes.ts';

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

test.each([
  ['standard', undefined],
  ['extended', 0],
])(
  'zeros that keep their place in a data file tell it, 0 only in an extended entry: %s',
  async (entries, first) => {
    const extended = entries === 'extended';
    const [device, dataFile] = [new Kept(), new MemoryDevice()];
    await createImage(device, {
      sizeBytes: 2 * 16384,
      clusterBytes: 16384,
      extendedL2: extended,
      dataFile: { device: dataFile, name: 'data' },
    });
    const filled = await openImage(device, { dataFile });
    await filled.write(0, new Uint8Array(2 * 16384).fill(1));
    await filled.close();
    // As QEMU leaves them: zeros, with the place that was theirs.
    const { header } = await readImageHeader(device);
    const word = new Uint8Array(8);
    await device.read(header.l1Offset, word);
    const l2Offset = Number(new DataView(word.buffer).getBigUint64(0) & 0x00ff_ffff_ffff_fe00n);
    for (const cluster of [0, 1]) {
      const at = l2Offset + cluster * (extended ? 16 : 8);
      if (extended) await device.write(at + 8, Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0));
      else await device.write(at + 7, Uint8Array.of(1));
    }
    const image = await openImage(device, { dataFile: MemoryDevice.fromBytes(new Uint8Array(2 * 16384)) });
    const place = async (offset: number) => (await image.placedExtents(offset, 16384))[0];
    expect(await place(0)).toMatchObject({ kind: 'zero', lengthBytes: 16384 });
    expect((await place(0))?.hostOffset).toBe(first);
    expect(await place(16384)).toMatchObject({ kind: 'zero', hostOffset: 16384 });
    await image.close();
  },
);

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
