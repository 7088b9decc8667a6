/** Reads and writes of the encryption header that fail, by their event. */
import { FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../../src/index.ts';
import { toyLuks } from '../support/toy-encryption.ts';

const encryption = toyLuks();
const options = { sizeBytes: 2 ** 20, clusterBytes: 4096, encryption };

async function opened() {
  const device = new FaultDevice(new MemoryDevice());
  await createImage(device, options);
  const image = await openImage(device, { encryption });
  return { device, image };
}

describe('the encryption header', () => {
  it('that can not be written makes no image: the header is not there', async () => {
    const memory = new MemoryDevice();
    const device = new FaultDevice(memory);
    device.addRule({ event: 'encryption_header', fault: { kind: 'fail' } });
    await expect(createImage(device, options)).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(openImage(memory, { encryption })).rejects.toMatchObject({ code: 'BAD_MAGIC' });
  });

  it('that can not be read is told, and writing goes on', async () => {
    const { device, image } = await opened();
    device.addRule({ event: 'encryption_header', fault: { kind: 'fail' } });
    const reading = image.changeEncryptionHeader((header) => header.read(0, new Uint8Array(512)));
    await expect(reading).rejects.toMatchObject({ code: 'READ_FAILED' });
    await image.write(0, new Uint8Array(512).fill(1));
    await image.flush();
    image.abandon();
  });

  it('that can not be written ends writing, as every failed write does', async () => {
    const { device, image } = await opened();
    device.addRule({ event: 'encryption_header', fault: { kind: 'fail' } });
    const writing = image.changeEncryptionHeader((header) => header.write(0, new Uint8Array(512)));
    await expect(writing).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(async () => image.write(0, new Uint8Array(512))).rejects.toMatchObject({
      code: 'FAILED_EARLIER',
    });
    image.abandon();
  });
});
