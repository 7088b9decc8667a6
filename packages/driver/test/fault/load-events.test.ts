/** Reads of tables have names, so that a fault can strike one of them and nothing else. */
import { FaultDevice, type IoEvent, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { createImage, openImage } from '../../src/index.ts';

async function written(): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 2 ** 20, clusterBytes: 4096, journal: { sizeBytes: 65536 } });
  const image = await openImage(memory);
  await image.write(0, new Uint8Array(8192).fill(1));
  await image.quiesce();
  image.abandon();
  return memory;
}

describe('a read that fails', () => {
  it.each<[IoEvent]>([['l1_load'], ['reftable_load'], ['refblock_load']])(
    'as %s is told by the open',
    async (event) => {
      const device = new FaultDevice(await written());
      device.addRule({ event, fault: { kind: 'fail' } });
      await expect(openImage(device)).rejects.toMatchObject({ code: 'READ_FAILED' });
    },
  );

  it('as l2_load is told by the read, and the next one succeeds', async () => {
    const device = new FaultDevice(await written());
    const image = await openImage(device);
    device.addRule({ event: 'l2_load', fault: { kind: 'fail' } });
    const into = new Uint8Array(512);
    await expect((async () => image.read(0, into))()).rejects.toMatchObject({ code: 'READ_FAILED' });
    await image.read(0, into);
    expect(into).toEqual(new Uint8Array(512).fill(1));
    image.abandon();
  });
});
