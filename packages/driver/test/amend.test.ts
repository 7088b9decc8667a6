/** What an image says of its data file, said anew. Nothing of it is opened. */
import { MemoryDevice } from '@qcow2/block-device';
import { expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

/** Stays open when an image on it is closed. */
class Kept extends MemoryDevice {
  override close(): void {}
}

it('[EXT-011, FEA-011] names another data file, or none, which may stop being a raw image', async () => {
  const device = new Kept();
  const dataFile = new Kept();
  await createImage(device, {
    sizeBytes: 1024 * 1024,
    dataFile: { device: dataFile, name: 'first.data', raw: true },
  });
  for (const [change, name, raw] of [
    [{ name: 'second.data' }, 'second.data', true],
    [{ raw: false }, 'second.data', false],
    [{ name: '' }, undefined, false],
    [{ name: 'third.data', raw: false }, 'third.data', false],
  ] as const) {
    const image = await openImage(device, { dataFile });
    await image.write(5000, new Uint8Array(1000).fill(7));
    await image.amend({ dataFile: change });
    await image.close();
    const again = await openImage(device, { dataFile, readOnly: true });
    const info = again.info();
    expect([info.dataFile, info.dataFileRaw]).toEqual([name, raw]);
    const bytes = new Uint8Array(1000);
    await again.read(5000, bytes);
    expect(bytes.every((byte) => byte === 7)).toBe(true);
    await again.close();
    expect((await checkImage(device)).findings).toEqual([]);
  }
});

it('[DAT-001] an image without one gets none', async () => {
  const device = new Kept();
  await createImage(device, { sizeBytes: 1024 * 1024 });
  const before = device.snapshot();
  const image = await openImage(device);
  await expect(image.amend({ dataFile: { name: 'other.data' } })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    context: { field: 'dataFile', clause: 'DAT-001' },
  });
  await image.close();
  expect(Buffer.compare(device.snapshot(), before)).toBe(0);
});

it('[HDR-023] goes down to version 2 with snapshots, where these have nothing that version 2 has not', async () => {
  for (const zeros of [false, true]) {
    const device = new Kept();
    await createImage(device, { sizeBytes: 1024 * 1024, refcountBits: 8 });
    const image = await openImage(device);
    await image.write(0, new Uint8Array(300_000).fill(1));
    if (zeros) await image.writeZeroes(65_536, 65_536);
    await image.createSnapshot({ name: 'a' });
    await image.writeZeroes(131_072, 65_536);
    const amended = image.amend({ version: 2, refcountBits: 16 });
    if (zeros) {
      await expect(amended).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
      expect(image.info().refcountBits).toBe(8);
      await image.close();
      continue;
    }
    await amended;
    await image.close();
    expect((await checkImage(device)).findings).toEqual([]);
    const again = await openImage(device, { readOnly: true });
    expect(again.header.version).toBe(2);
    const snapshot = await again.openSnapshot('a');
    for (const [disk, there] of [
      [again, 0],
      [snapshot, 1],
    ] as const) {
      const bytes = new Uint8Array(300_000);
      await disk.read(0, bytes);
      expect([bytes[0], bytes[131_072], bytes[299_999]]).toEqual([1, there, 1]);
    }
    await snapshot.close();
    await again.close();
  }
});
