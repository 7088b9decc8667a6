import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';
import { random } from './support/random.ts';

const clusterBytes = 512;

describe.each([{ journal: { sizeBytes: 65536, blockBytes: 512 } }, { journal: false as const }])(
  'growing a disk ($journal)',
  ({ journal }) => {
    it('moves the L1 table and the refcount table as often as it takes, and keeps every byte', async () => {
      const memory = new MemoryDevice();
      await createImage(memory, { sizeBytes: 4096, clusterBytes, refcountBits: 64, journal });
      let image = await openImage(memory);
      const rng = random(1);
      let model = new Uint8Array(4096);
      for (const sizeBytes of [8192, 1 << 20, (1 << 22) + 512, 1 << 24]) {
        await image.grow(sizeBytes);
        const larger = new Uint8Array(sizeBytes);
        larger.set(model);
        model = larger;
        for (let i = 0; i < 400; i++) {
          const bytes = rng.bytes(1 + rng.below(3000));
          const offset = rng.below(sizeBytes - bytes.length);
          model.set(bytes, offset);
          await image.write(offset, bytes);
          if (i % 10 === 0) await image.flush();
        }
        await image.quiesce();
        image.abandon();
        const report = await checkImage(memory);
        expect(report.findings).toEqual([]);
        image = await openImage(memory);
        expect(image.sizeBytes).toBe(sizeBytes);
        const read = new Uint8Array(sizeBytes);
        await image.read(0, read);
        expect(Buffer.compare(read, model)).toBe(0);
      }
    });

    it('finds the larger disk after a crash that follows a flush', async () => {
      const memory = new MemoryDevice();
      await createImage(memory, { sizeBytes: 4096, clusterBytes, journal });
      const image = await openImage(memory);
      await image.grow(1 << 20);
      await image.write((1 << 20) - 512, new Uint8Array(512).fill(9));
      await image.flush();
      const crashed = memory.clone();
      image.abandon();
      expect((await checkImage(crashed)).corruptions).toBe(0);
      const reopened = await openImage(crashed);
      const read = new Uint8Array(512);
      await reopened.read((1 << 20) - 512, read);
      expect(read).toEqual(new Uint8Array(512).fill(9));
    });
  },
);

it('shows zeros, and not what a longer backing file has there', async () => {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 4096, clusterBytes, backingFile: 'base' });
  const backing = (): MemoryDevice => MemoryDevice.fromBytes(new Uint8Array(16384).fill(5));
  const image = await openImage(memory, { backing: backing() });
  await image.grow(10000);
  const read = new Uint8Array(10000);
  await image.read(0, read);
  expect(read.subarray(0, 4096).every((byte) => byte === 5)).toBe(true);
  expect(read.subarray(4096).every((byte) => byte === 0)).toBe(true);
});
