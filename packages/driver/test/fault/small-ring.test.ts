/** Work that would outgrow the smallest rings, and memory, if nothing held it back. */
import { MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, Qcow2Image } from '../../src/index.ts';
import { openParts } from '../../src/open.ts';
import { CrashStates, keepings } from '../crash/support/crash-states.ts';
import { random } from '../support/random.ts';

const smallest = 65536;

function filled(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value);
}

async function expectClean(memory: MemoryDevice): Promise<void> {
  const report = await checkImage(memory.clone());
  expect(report.findings).toEqual([]);
}

describe.each([
  [512, 512],
  [4096, 512],
  [4096, 4096],
  [65536, 4096],
])('clusters of %i, blocks of %i, the smallest area', (clusterBytes, blockBytes) => {
  it('[JRN-FAIL-003] thousands of writes without a flush, then a flush and a close', async () => {
    const memory = new MemoryDevice();
    const journal = { sizeBytes: smallest, blockBytes };
    await createImage(memory, { sizeBytes: clusterBytes * 4000, clusterBytes, journal });
    const image = await openImage(memory);
    // Every second cluster, so that entries do not merge.
    for (let i = 0; i < 1900; i++) await image.write(i * 2 * clusterBytes, filled(clusterBytes, i));
    await image.flush();
    await image.quiesce();
    const into = new Uint8Array(1);
    await image.read(1899 * 2 * clusterBytes, into);
    expect(into[0]).toBe(1899 & 255);
    image.abandon();
    await expectClean(memory);
  });

  it('[JRN-FAIL-003] many small flushed writes far apart, many discards, and no rest', async () => {
    const memory = new MemoryDevice();
    const sizeBytes = clusterBytes * 4096;
    await createImage(memory, { sizeBytes, clusterBytes, journal: { sizeBytes: smallest, blockBytes } });
    const image = await openImage(memory);
    const rng = random(clusterBytes + blockBytes);
    for (let i = 0; i < 1500; i++) {
      const cluster = rng.below(4096);
      if (rng.below(4) === 0) await image.discard(cluster * clusterBytes, clusterBytes);
      else await image.write(cluster * clusterBytes, filled(512, i));
      if (i % 3 === 0) await image.flush();
    }
    await image.quiesce();
    image.abandon();
    await expectClean(memory);
  });
});

describe('operations that change much at once', () => {
  it('[JRN-FAIL-003] one write over thousands of clusters, one discard of them all', async () => {
    const memory = new MemoryDevice();
    const journal = { sizeBytes: smallest, blockBytes: 512 };
    await createImage(memory, { sizeBytes: 4 << 20, clusterBytes: 512, journal });
    const image = await openImage(memory);
    await image.write(0, filled(4 << 20, 1));
    await image.flush();
    await image.discard(0, 4 << 20);
    await image.flush();
    await image.writeZeroes(512, (4 << 20) - 1024);
    await image.quiesce();
    image.abandon();
    await expectClean(memory);
  });

  it.each([
    ['journalled', { sizeBytes: smallest, blockBytes: 512 }],
    ['ordered', false],
  ] as const)(
    '[JRN-FAIL-003] a disk that grows by more L1 clusters than a refcount block counts, %s',
    async (_, journal) => {
      const memory = new MemoryDevice();
      await createImage(memory, { sizeBytes: 1 << 20, clusterBytes: 512, journal });
      const start = memory.clone();
      const device = new RecordingDevice(memory);
      const image = await openImage(device);
      await image.write(0, filled(512, 1));
      await image.grow(700 << 20);
      await image.flush();
      await image.write(650 << 20, filled(512, 2));
      await image.flush();
      image.abandon();
      const rng = random(1);
      const states = new CrashStates(start, device.log);
      for (let time = 0; time <= device.now; time++) {
        states.advance(time);
        for (let i = 0; i < 3; i++) {
          const crashed = states.draw(rng, rng.pick(keepings));
          (await openImage(crashed)).abandon();
          const report = await checkImage(crashed);
          expect(report.corruptions, `crash at ${time}: ${report.findings[0]?.message}`).toBe(0);
        }
      }
    },
  );

  it('[JRN-FAIL-003] a refcount table that grows', async () => {
    const memory = new MemoryDevice();
    const journal = { sizeBytes: smallest, blockBytes: 512 };
    await createImage(memory, { sizeBytes: 32 << 20, clusterBytes: 512, journal });
    const image = await openImage(memory);
    const before = image.header.refcountTableOffset;
    for (let at = 0; at < 12 << 20; at += 65536) {
      await image.write(at, filled(65536, 1));
      if (at % (1 << 20) === 0) await image.flush();
    }
    await image.quiesce();
    expect(image.header.refcountTableOffset).not.toBe(before);
    image.abandon();
    await expectClean(memory);
  });
});

describe('memory', () => {
  it('holds a bounded part of what is written and never flushed', async () => {
    const memory = new MemoryDevice();
    const journal = { sizeBytes: 1 << 20 };
    await createImage(memory, { sizeBytes: 64 << 20, clusterBytes: 65536, journal });
    const parts = await run(openParts(memory, {}));
    const image = new Qcow2Image(parts);
    let most = 0;
    for (let at = 0; at < 32 << 20; at += 4096) {
      await image.write(at, filled(4096, 1));
      most = Math.max(most, parts.overlay.validBytes);
    }
    expect(most).toBeLessThan(8 << 20);
    image.abandon();
  });
});
