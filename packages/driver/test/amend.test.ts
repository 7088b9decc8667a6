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
