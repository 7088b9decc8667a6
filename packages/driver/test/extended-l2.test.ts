/** Images with extended L2 entries: random requests against a plain buffer on every way to log, and what each request costs. */
import { type BlockDevice, FaultDevice, MemoryDevice, ShuffledScheduler } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage, type Qcow2Image } from '../src/index.ts';
import { type Random, random } from './support/random.ts';

const clusterBytes = 16384;
const part = clusterBytes / 32;
/** Ends within a cluster, and within a sub-cluster of 2 KiB. */
const sizeBytes = 512 * 1024 - 20_480 - 512;

const journals = {
  ordered: { journal: false },
  lazy: { journal: false, lazyRefcounts: true },
  journalled: { journal: { sizeBytes: 65536, blockBytes: 512 } },
  draft: { journal: { profile: 'draft-2013', sizeBytes: 65536, blockBytes: 1024 } },
} as const;
type Mode = keyof typeof journals;

interface Setup {
  readonly mode: Mode;
  readonly clusterBytes: number;
  readonly backed: boolean;
  /** Large writes do not wait in the overlay, and nothing is logged at a flush. */
  readonly direct: boolean;
}

const setups: Setup[] = [];
for (const mode of Object.keys(journals) as Mode[]) {
  for (const backed of [false, true]) {
    setups.push(
      { mode, clusterBytes, backed, direct: false },
      { mode, clusterBytes: 65536, backed, direct: true },
    );
  }
}

async function step(image: Qcow2Image, model: Uint8Array, rng: Random): Promise<void> {
  const unit = rng.pick([1, 512, image.clusterBytes / 32, image.clusterBytes]);
  const somewhere = rng.below(sizeBytes);
  const offset = somewhere - (somewhere % unit);
  const longest = Math.min(sizeBytes - offset, rng.pick([100, 512, 4096, 20000, 150000]));
  const length = 1 + rng.below(longest);
  const kind = rng.below(10);
  if (kind < 5) {
    const bytes = rng.bytes(length);
    model.set(bytes, offset);
    await image.write(offset, bytes, kind === 0 ? { fua: true } : undefined);
  } else if (kind < 8) {
    const whole = length > unit ? length - (length % unit) : length;
    model.fill(0, offset, offset + whole);
    await image.writeZeroes(offset, whole, { mayUnmap: kind === 7 });
  } else if (kind === 8) {
    await image.discard(offset, length);
    await image.read(offset, model.subarray(offset, offset + length));
  } else {
    await image.flush();
  }
}

async function readAll(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

describe.each(setups)('$mode, $clusterBytes B clusters, backed $backed, direct $direct', (setup) => {
  it.each([1, 2, 3])('[SUB-007, SUB-008] agrees with a buffer, seed %i', async (seed) => {
    const rng = random(seed * 100 + setup.clusterBytes);
    const memory = new MemoryDevice();
    const device: BlockDevice =
      seed === 3
        ? new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(seed) })
        : memory;
    const below = rng.bytes(sizeBytes - 50_000);
    const options = (): OpenOptions => ({
      backing: setup.backed ? MemoryDevice.fromBytes(below) : 'none',
      ...(setup.direct ? { journal: { directWriteBytes: 512, directFlushBytes: 0 } } : {}),
    });
    const names = setup.backed ? { backingFile: 'base.raw', backingFormat: 'raw' } : {};
    const how = { sizeBytes, clusterBytes: setup.clusterBytes, extendedL2: true };
    await createImage(device, { ...how, ...journals[setup.mode], ...names });
    const model = new Uint8Array(sizeBytes);
    if (setup.backed) model.set(below);
    let image = await openImage(device, options());
    for (let i = 0; i < 120; i++) {
      await step(image, model, rng);
      if (i % 10 === 9) expect(Buffer.compare(await readAll(image), model)).toBe(0);
      if (i % 40 !== 39) continue;
      await image.quiesce();
      image.abandon();
      expect((await checkImage(memory)).findings).toEqual([]);
      image = await openImage(device, options());
      expect(Buffer.compare(await readAll(image), model)).toBe(0);
    }
  });
});

/** An empty image over a backing device full of ones, without a journal. */
async function made(): Promise<{ memory: MemoryDevice; image: Qcow2Image }> {
  const memory = new MemoryDevice();
  const names = { backingFile: 'base.raw', backingFormat: 'raw' };
  await createImage(memory, { sizeBytes: 8 * clusterBytes, clusterBytes, extendedL2: true, ...names });
  const backing = MemoryDevice.fromBytes(new Uint8Array(8 * clusterBytes).fill(1));
  return { memory, image: await openImage(memory, { backing }) };
}

const kinds = async (image: Qcow2Image, clusters = 1): Promise<unknown[]> =>
  (await image.extents(0, clusters * clusterBytes)).map(({ kind, offset, lengthBytes }) => [
    kind,
    offset / part,
    lengthBytes / part,
  ]);

describe('what a request makes of sub-clusters', () => {
  it('[SUB-008] a write allocates those that it touches, and a second one stays in the host cluster', async () => {
    const { memory, image } = await made();
    await image.write(3 * part, new Uint8Array(2 * part).fill(7));
    await image.flush();
    expect(await kinds(image)).toEqual([
      ['hole', 0, 3],
      ['data', 3, 2],
      ['hole', 5, 27],
    ]);
    await image.write(20 * part + 100, new Uint8Array(50).fill(8));
    await image.quiesce();
    image.abandon();
    const again = await openImage(memory, { backing: 'none' });
    expect(await kinds(again)).toEqual([
      ['hole', 0, 3],
      ['data', 3, 2],
      ['hole', 5, 15],
      ['data', 20, 1],
      ['hole', 21, 11],
    ]);
    const bytes = new Uint8Array(part);
    await again.read(20 * part, bytes);
    expect([bytes[99], bytes[100], bytes[149], bytes[150]]).toEqual([1, 8, 8, 1]);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 1 });
  });

  it('[SUB-009] zeroes change the bits of whole sub-clusters and are written in the others', async () => {
    const { image } = await made();
    await image.write(0, new Uint8Array(clusterBytes).fill(7));
    await image.writeZeroes(4 * part + 10, 3 * part);
    await image.flush();
    expect(await kinds(image)).toEqual([
      ['data', 0, 5],
      ['zero', 5, 2],
      ['data', 7, 25],
    ]);
    await image.writeZeroes(clusterBytes + part, part);
    expect((await kinds(image, 2)).slice(3)).toEqual([
      ['hole', 32, 1],
      ['zero', 33, 1],
      ['hole', 34, 30],
    ]);
  });

  it('[SUB-009] a cluster without a host cluster, zeros in part, is no reference for the check', async () => {
    const { memory, image } = await made();
    await image.writeZeroes(2 * part, part);
    await image.quiesce();
    image.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 0 });
  });

  it('a discard gives whole clusters back and leaves parts alone', async () => {
    const { memory, image } = await made();
    await image.write(0, new Uint8Array(2 * clusterBytes).fill(7));
    await image.discard(part, 4 * part);
    await image.discard(clusterBytes, clusterBytes);
    expect(await kinds(image, 2)).toEqual([
      ['data', 0, 32],
      ['zero', 32, 32],
    ]);
    await image.quiesce();
    image.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 1 });
  });

  it('[SUB-008] a snapshot keeps its sub-clusters, and the disk copies no others', async () => {
    const { memory, image } = await made();
    await image.write(2 * part, new Uint8Array(2 * part).fill(7));
    await image.writeZeroes(clusterBytes + part, part);
    await image.createSnapshot({ name: 'before' });
    await image.write(20 * part, new Uint8Array(part).fill(8));
    await image.flush();
    await image.writeZeroes(3 * part, part);
    await image.write(clusterBytes + 2 * part, new Uint8Array(part).fill(9));
    await image.flush();
    expect(await kinds(image)).toEqual([
      ['hole', 0, 2],
      ['data', 2, 1],
      ['zero', 3, 1],
      ['hole', 4, 16],
      ['data', 20, 1],
      ['hole', 21, 11],
    ]);
    const snapshot = await image.openSnapshot({ name: 'before' });
    const bytes = new Uint8Array(2 * clusterBytes);
    await snapshot.read(0, bytes);
    const expected = new Uint8Array(2 * clusterBytes).fill(1);
    expected.fill(7, 2 * part, 4 * part).fill(0, clusterBytes + part, clusterBytes + 2 * part);
    expect(Buffer.compare(bytes, expected)).toBe(0);
    await image.deleteSnapshot({ name: 'before' });
    await image.quiesce();
    image.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 2 });
  });

  it('a disk grows over what its last cluster hid', async () => {
    const { image } = await made();
    await image.writeZeroes(7 * clusterBytes, part);
    await image.grow(9 * clusterBytes);
    const bytes = new Uint8Array(2 * clusterBytes).fill(3);
    await image.read(7 * clusterBytes, bytes);
    expect([bytes[0], bytes[part], bytes[clusterBytes]]).toEqual([0, 1, 0]);
  });
});

describe('making an image with extended L2 entries', () => {
  it.each([
    ['clusters of less than 16 KiB', { clusterBytes: 8192 }],
    ['version 2', { version: 2 }],
  ] as const)('[HDR-026] is refused for %s', async (_what, options) => {
    const refused = createImage(new MemoryDevice(), { sizeBytes: 4096, extendedL2: true, ...options });
    await expect(refused).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      context: { field: 'extendedL2' },
    });
  });

  it.each([16384, 65536, 2 ** 21])('[SUB-007] with preallocated metadata, clusters of %i', async (bytes) => {
    const memory = new MemoryDevice();
    const how = { sizeBytes: 4 * bytes, clusterBytes: bytes, extendedL2: true } as const;
    await createImage(memory, { ...how, preallocation: 'metadata' });
    const image = await openImage(memory);
    expect(image.info()).toMatchObject({ extendedL2: true, clusterBytes: bytes });
    expect(await image.extents(0, 4 * bytes)).toMatchObject([{ kind: 'hole', lengthBytes: 4 * bytes }]);
    await image.write(bytes + 1000, new Uint8Array(300).fill(9));
    await image.quiesce();
    image.abandon();
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 4 });
    const again = await openImage(memory);
    const read = new Uint8Array(bytes);
    await again.read(bytes, read);
    expect([read[999], read[1000], read[1299], read[1300]]).toEqual([0, 9, 9, 0]);
  });
});
