/**
 * Streams of small writes among random ones, over a backing file or a snapshot, with and without a journal: clusters are
 * pending, mapped in part, filled by write-back or by the guest. What the guest sees is held against a model, also after
 * the process was killed.
 */
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage, type Qcow2Image } from '../src/index.ts';
import { addSnapshot, snapshotView } from './crash/support/shared-tables.ts';
import { random } from './support/random.ts';

type Below = 'backing' | 'snapshot';

const sizes = [1024, 4096, 65536];
const tunings: NonNullable<OpenOptions['journal']>[] = [
  {},
  { writeBackAt: 0.02 },
  { directWriteBytes: 1024, directFlushBytes: 0 },
  { directFlushBytes: 0, writeBackAt: 0.02 },
];
const journals = [
  { sizeBytes: 131072, blockBytes: 512 },
  { profile: 'draft-2013' as const, sizeBytes: 131072 },
  false as const,
];

async function made(
  below: Below,
  how: { sizeBytes: number; clusterBytes: number; journal: (typeof journals)[number] },
  content: Uint8Array,
): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  const over = below === 'backing' ? { backingFile: 'below', backingFormat: 'raw' } : {};
  await createImage(memory, { ...how, ...over });
  if (below === 'backing') return memory;
  const image = await openImage(memory);
  await image.write(0, content.subarray(0, how.sizeBytes));
  await image.quiesce();
  image.abandon();
  addSnapshot(memory);
  return memory;
}

async function shown(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

describe.each(['backing', 'snapshot'] as const)('over a %s', (below) => {
  it.each(Array.from({ length: 9 }, (_, i) => i))('seed %i', async (seed) => {
    const rng = random(seed + 3000);
    const clusterBytes = rng.pick(sizes);
    const sizeBytes = 24 * clusterBytes - rng.pick([0, 300, 512]);
    const journal = journals[seed % 3]!;
    const tuning = rng.pick(tunings);
    const content = rng.bytes(sizeBytes + 2 * clusterBytes);
    const memory = await made(below, { sizeBytes, clusterBytes, journal }, content);
    const options = (): OpenOptions => ({
      journal: tuning,
      ...(below === 'backing' ? { backing: MemoryDevice.fromBytes(content) } : {}),
    });
    const model = content.slice(0, sizeBytes);
    let image = await openImage(memory, options());
    let streamAt = 0;
    const write = async (at: number, length: number): Promise<void> => {
      const bytes = rng.bytes(length);
      model.set(bytes, at);
      await image.write(at, bytes);
    };
    for (let i = 0; i < 300; i++) {
      const dice = rng.below(100);
      if (dice < 40) {
        const length = 1 + rng.below(Math.min(2000, clusterBytes));
        if (streamAt + length > sizeBytes) streamAt = 0;
        await write(streamAt, length);
        streamAt += length;
      } else if (dice < 70) {
        const length = 1 + rng.below(Math.min(3000, 2 * clusterBytes));
        await write(rng.below(sizeBytes - length), length);
      } else if (dice < 76) {
        const at = rng.below(sizeBytes);
        const length = Math.min(1 + rng.below(3 * clusterBytes), sizeBytes - at);
        model.fill(0, at, at + length);
        await image.writeZeroes(at, length, { mayUnmap: rng.below(2) === 0 });
      } else if (dice < 90) {
        await image.flush();
      } else if (dice < 93) {
        await image.quiesce();
      } else if (dice < 96) {
        await image.flush();
        image.abandon();
        image = await openImage(memory, options());
      } else {
        expect(Buffer.compare(await shown(image), model)).toBe(0);
      }
    }
    await image.flush();
    image.abandon();
    const reader = await openImage(memory, { ...options(), readOnly: true });
    expect(Buffer.compare(await shown(reader), model)).toBe(0);
    reader.abandon();
    image = await openImage(memory, options());
    await image.quiesce();
    expect(Buffer.compare(await shown(image), model)).toBe(0);
    image.abandon();
    const report = await checkImage(memory);
    expect(report.corruptions).toBe(0);
    // Without a journal a kill leaks at worst.
    if (journal !== false) expect(report.leaks).toBe(0);
    if (below !== 'snapshot') return;
    const view = await openImage(snapshotView(memory), { readOnly: true });
    expect(Buffer.compare(await shown(view), content.subarray(0, sizeBytes))).toBe(0);
  });
});
