/** Random requests, compressed writes among them, against a plain buffer: on every way to log, for both compressions. */
import { type BlockDevice, FaultDevice, MemoryDevice, ShuffledScheduler } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { describe, expect, it } from 'vitest';
import { checkImage } from '../src/check.ts';
import { type CreateOptions, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { type Random, random } from './support/random.ts';

const compression = nodeCompression();
/** Its last cluster is incomplete. */
const sizeBytes = 300 * 1024 + 512;
const ways = {
  ordered: {},
  lazy: { lazyRefcounts: true },
  journal: { journal: { sizeBytes: 65536, blockBytes: 512 } },
  draft: { journal: { profile: 'draft-2013', sizeBytes: 131072, blockBytes: 512 } },
} as const;

const setups = (Object.keys(ways) as (keyof typeof ways)[]).flatMap((way) =>
  ([512, 4096, 65536] as const).flatMap((clusterBytes) =>
    ([false, true] as const).map((asynchronous) => ({
      name: `${way}, ${clusterBytes} B clusters${asynchronous ? ', asynchronous' : ''}`,
      asynchronous,
      options: {
        sizeBytes,
        clusterBytes,
        refcountBits: clusterBytes === 512 ? 1 : clusterBytes === 4096 ? 2 : 16,
        // The draft names its journal where zstd would be named.
        compressionType: asynchronous && way !== 'draft' ? 'zstd' : 'deflate',
        ...ways[way],
      } satisfies CreateOptions,
    })),
  ),
);

/** Between nothing but zeros and noise, so that what it compresses to has any length. */
function content(rng: Random, length: number): Uint8Array {
  const bytes = rng.bytes(length);
  const kept = rng.pick([0, 0.1, 0.3, 0.6, 0.9, 1]);
  return bytes.fill(rng.below(256), Math.floor(length * kept));
}

async function step(image: Qcow2Image, model: Uint8Array, rng: Random): Promise<void> {
  const kind = rng.below(10);
  const { clusterBytes } = image;
  if (kind < 4) {
    const first = rng.below(Math.ceil(sizeBytes / clusterBytes)) * clusterBytes;
    const end = Math.min(sizeBytes, first + (1 + rng.below(5)) * clusterBytes);
    const bytes = content(rng, end - first);
    model.set(bytes, first);
    await image.writeCompressed(first, bytes);
    return;
  }
  const offset = rng.below(sizeBytes);
  const length = 1 + rng.below(Math.min(sizeBytes - offset, rng.pick([100, 512, 4096, 20000, 100000])));
  if (kind < 6) {
    const bytes = content(rng, length);
    model.set(bytes, offset);
    await image.write(offset, bytes, kind === 4 ? { fua: true } : undefined);
  } else if (kind === 6) {
    model.fill(0, offset, offset + length);
    await image.writeZeroes(offset, length, { mayUnmap: rng.below(2) === 0 });
  } else if (kind === 7) {
    await image.discard(offset, length);
    await image.read(offset, model.subarray(offset, offset + length));
  } else if (kind === 8) {
    await image.flush();
  } else {
    const into = new Uint8Array(length);
    await image.read(offset, into);
    expect(Buffer.compare(into, model.subarray(offset, offset + length))).toBe(0);
  }
}

async function readAll(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

describe.each(setups)('$name', ({ options, asynchronous }) => {
  it.each([1, 2])('[CMP-010, CMP-012, CMP-014] agrees with a buffer, seed %i', async (seed) => {
    const rng = random(seed * 1000 + options.clusterBytes);
    const memory = new MemoryDevice();
    const device: BlockDevice = asynchronous
      ? new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(seed) })
      : memory;
    await createImage(device, options);
    const model = new Uint8Array(sizeBytes);
    // A cache that holds a few clusters: some reads find theirs, others have to make room.
    const how = { compression, cache: { decompressedBytes: 3 * options.clusterBytes } };
    let image = await openImage(device, how);
    for (let i = 0; i < 120; i++) {
      await step(image, model, rng);
      if (i % 40 !== 39) continue;
      expect(Buffer.compare(await readAll(image), model)).toBe(0);
      await image.quiesce();
      image.abandon();
      const report = await checkImage(memory);
      expect(report.findings).toEqual([]);
      expect(report.compressedClusters).toBeGreaterThan(0);
      image = await openImage(device, how);
      expect(Buffer.compare(await readAll(image), model)).toBe(0);
    }
  });

  it('requests that overlap in time leave what one after the other would, wherever they do not overlap in place', async () => {
    const rng = random(options.clusterBytes + 7);
    const device = new FaultDevice(new MemoryDevice(), {
      mode: 'async',
      scheduler: new ShuffledScheduler(9),
    });
    await createImage(device, options);
    const image = await openImage(device, { compression, cache: { decompressedBytes: 0 } });
    const model = new Uint8Array(sizeBytes);
    const { clusterBytes } = image;
    const clusters = Math.floor(sizeBytes / clusterBytes);
    for (let round = 0; round < 12; round++) {
      const requests: (void | Promise<void>)[] = [];
      const own = Math.max(1, Math.floor(clusters / 8));
      for (let first = 0; first + own <= clusters; first += own) {
        const bytes = content(rng, own * clusterBytes);
        const at = first * clusterBytes;
        const half = bytes.length >> 1;
        if (rng.below(3) > 0) {
          model.set(bytes, at);
          requests.push(image.writeCompressed(at, bytes));
        } else if (rng.below(2) === 0) {
          model.set(bytes.subarray(half), at + half);
          requests.push(image.write(at + half, bytes.subarray(half)));
        } else {
          model.fill(0, at, at + bytes.length);
          requests.push(image.writeZeroes(at, bytes.length, { mayUnmap: true }));
        }
        requests.push(image.read(rng.below(sizeBytes - 4096), new Uint8Array(4096)));
        if (rng.below(6) === 0) requests.push(image.flush());
      }
      await Promise.all(requests);
      expect(Buffer.compare(await readAll(image), model)).toBe(0);
    }
    await image.quiesce();
    expect((await checkImage(device)).findings).toEqual([]);
    image.abandon();
  });
});
