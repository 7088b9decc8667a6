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
