/** What a guest sees after a discard. */
import { MemoryDevice } from '@qcow2/block-device';
import { expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const clusterBytes = 16_384;
const sizeBytes = 8 * clusterBytes;
const journal = { sizeBytes: 65536, blockBytes: 512 } as const;

it.each([
  { how: 'ordered', options: {} },
  { how: 'lazy', options: { lazyRefcounts: true } },
  { how: 'journal', options: { journal } },
  { how: 'draft-2013', options: { journal: { ...journal, profile: 'draft-2013' } } },
  { how: 'extended', options: { extendedL2: true, journal } },
] as const)(
  '[L2E-014] clusters over a backing file read as zeros, whoever has written them: $how',
  async ({ options }) => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes, clusterBytes, backingFile: 'base', ...options });
    const backing = MemoryDevice.fromBytes(new Uint8Array(sizeBytes - 3000).fill(7));
    const expected = new Uint8Array(sizeBytes).fill(7, 0, sizeBytes - 3000);
    const image = await openImage(memory, { backing });
    await image.write(3 * clusterBytes, new Uint8Array(100).fill(8));
    expected.fill(8, 3 * clusterBytes, 3 * clusterBytes + 100);
    await image.flush();
    await image.write(5 * clusterBytes + 512, new Uint8Array(512).fill(9));
    // Parts of clusters at both ends stay as they are.
    await image.discard(clusterBytes + 512, 6 * clusterBytes);
    expected.fill(0, 2 * clusterBytes, 7 * clusterBytes);
    const seen = new Uint8Array(sizeBytes);
    await image.read(0, seen);
    expect(Buffer.compare(seen, expected)).toBe(0);
    await image.quiesce();
    image.abandon();
    expect((await checkImage(memory)).findings).toEqual([]);
    const again = await openImage(memory, { backing, readOnly: true });
    await again.read(0, seen);
    expect(Buffer.compare(seen, expected)).toBe(0);
  },
);

it.each([
  { how: 'ordered', options: {} },
  { how: 'version 2', options: { version: 2 } },
  { how: 'journal', options: { journal } },
  { how: 'draft-2013', options: { journal: { ...journal, profile: 'draft-2013' } } },
  { how: 'extended', options: { extendedL2: true, journal } },
] as const)(
  '[L2E-014] the last cluster of the disk is whole where the disk ends within it: $how',
  async ({ options }) => {
    const shorter = sizeBytes - 3 * 512;
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes: shorter, clusterBytes, ...options });
    const image = await openImage(memory);
    const last = sizeBytes - clusterBytes;
    for (const [end, unmaps] of [
      ['discard', true],
      ['writeZeroes', true],
      ['writeZeroes', false],
    ] as const) {
      for (const flushes of [true, false]) {
        await image.write(last - 100, new Uint8Array(shorter - last + 100).fill(5));
        if (flushes) await image.quiesce();
        if (end === 'discard') await image.discard(last - 100, shorter - last + 100);
        else await image.writeZeroes(last, shorter - last, { mayUnmap: unmaps });
        const seen = new Uint8Array(shorter - last + 100);
        await image.read(last - 100, seen);
        const expected = new Uint8Array(seen.length).fill(5, 0, 100);
        expect(Buffer.compare(seen, expected)).toBe(0);
        await image.quiesce();
        const { findings, allocatedClusters } = await checkImage(memory);
        expect(findings).toEqual([]);
        // Zeros that may keep their space do, in a zero cluster or as data.
        if (unmaps) expect(allocatedClusters).toBe(1);
        expect((await image.extents(last, shorter - last)).map(({ kind }) => kind === 'data')).toEqual([
          !unmaps && 'version' in options,
        ]);
      }
    }
    image.abandon();
  },
);
