/**
 * The order of metadata writes without a journal, under random changes that make refcount blocks and a larger refcount table
 * in their midst: nothing waits for ever, a commit takes a bounded number of flushes, and what is durable is whole.
 */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';
import { random } from './support/random.ts';

const clusterBytes = 512;
const sizeBytes = 8 * 1024 * 1024;

class Kept extends MemoryDevice {
  override close(): void {
    // The next image opens on it.
  }
}

describe('dependencies of metadata', () => {
  // 64 refcounts of 64 bits in a block, 64 blocks in a table of one cluster: 2 MiB of file, and the table has to grow.
  it.each([
    [64, false],
    [64, true],
    [1, false],
    [2, true],
  ])('of %i-bit refcounts never lock, lazy: %s', async (refcountBits, lazyRefcounts) => {
    const memory = new Kept();
    await createImage(memory, { sizeBytes, clusterBytes, refcountBits, lazyRefcounts });
    const device = new RecordingDevice(memory);
    const image = await openImage(device);
    const model = new Uint8Array(sizeBytes);
    const rng = random(refcountBits);
    const tableBefore = image.header.refcountTableClusters;
    for (let turn = 0; turn < 400; turn++) {
      const offset = rng.below(sizeBytes / 512 - 64) * 512;
      const lengthBytes = 512 * (1 + rng.below(64));
      if (rng.below(5) === 0) {
        await image.writeZeroes(offset, lengthBytes, { mayUnmap: true });
        model.fill(0, offset, offset + lengthBytes);
      } else {
        const bytes = new Uint8Array(lengthBytes).fill(1 + (turn % 255));
        await image.write(offset, bytes);
        model.set(bytes, offset);
      }
      if (turn % 7 > 0) continue;
      const before = device.counters.flushes;
      await image.flush();
      expect(device.counters.flushes - before).toBeLessThanOrEqual(3);
      if (turn % 49 > 0) continue;
      const resting = device.counters.flushes;
      await image.quiesce();
      // Three for what waits, three for what that frees, and for lazy refcounts those and the mark.
      expect(device.counters.flushes - resting).toBeLessThanOrEqual(8);
      expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
    }
    if (refcountBits === 64) expect(image.header.refcountTableClusters).toBeGreaterThan(tableBefore);
    const content = new Uint8Array(sizeBytes);
    await image.read(0, content);
    expect(Buffer.compare(content, model)).toBe(0);
    await image.close();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});
