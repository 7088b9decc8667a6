import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, repairImage } from '../src/index.ts';
import { Kept } from './support/image-bytes.ts';

const clusterBytes = 4096;

/** A disk with several L2 tables, in a file of more than a few clusters. */
async function filled(): Promise<Kept> {
  const device = new Kept();
  await createImage(device, { sizeBytes: 16 << 20, clusterBytes });
  const image = await openImage(device);
  for (let table = 0; table < 8; table++) {
    await image.write(table * 512 * clusterBytes, new Uint8Array(clusterBytes).fill(1));
  }
  await image.close();
  return device;
}

describe('how far a check is', () => {
  it('is told from nothing to the whole file, and never less than before', async () => {
    const device = await filled();
    const told: number[] = [];
    await checkImage(device, {
      onProgress: (done, total) => {
        expect(total).toBe(device.sizeBytes);
        told.push(done);
      },
    });
    expect([told[0], told.at(-1)]).toEqual([0, device.sizeBytes]);
    expect(told.toSorted((a, b) => a - b)).toEqual(told);
    // Each of the tables is a step on the way.
    expect(new Set(told.filter((done) => done <= device.sizeBytes / 2)).size).toBeGreaterThanOrEqual(8);
  });

  it('is told of a repair as of its two checks', async () => {
    const device = await filled();
    const sizeBytes = device.sizeBytes;
    // A refcount that is too high, of the header's cluster: a leak.
    const word = new Uint8Array(8);
    await device.read(clusterBytes, word);
    await device.write(Number(new DataView(word.buffer).getBigUint64(0)), Uint8Array.of(0, 3));
    const told: number[] = [];
    const report = await repairImage(device, { repair: 'all', onProgress: (done) => told.push(done) });
    expect(report.leaksFixed + report.corruptionsFixed).toBe(1);
    expect(told.toSorted((a, b) => a - b)).toEqual(told);
    expect([told[0], told.at(-1)]).toEqual([0, sizeBytes]);
    expect(told.filter((done) => done === sizeBytes / 2).length).toBeGreaterThan(0);
  });

  it('ends a check that its listener ends', async () => {
    const enough = new Error('enough');
    const onProgress = () => {
      throw enough;
    };
    await expect(checkImage(await filled(), { onProgress })).rejects.toBe(enough);
  });
});
