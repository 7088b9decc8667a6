/** Random requests against a plain buffer, on every way to log, with synchronous and asynchronous devices. */
import { type BlockDevice, FaultDevice, MemoryDevice, ShuffledScheduler } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage } from '../src/check.ts';
import { createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { type Random, random } from './support/random.ts';
import { toyKinds } from './support/toy-encryption.ts';

const sizeBytes = 512 * 1024;

interface Setup {
  readonly name: string;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly version: 2 | 3;
  readonly journal: { sizeBytes: number; blockBytes: number } | false;
  readonly backed: boolean;
  readonly asynchronous: boolean;
  readonly encrypted?: keyof typeof toyKinds;
}

const setups: Setup[] = [];
for (const clusterBytes of [512, 4096, 65536]) {
  for (const journal of [false, { sizeBytes: 65536, blockBytes: 512 }] as const) {
    for (const backed of [false, true]) {
      for (const asynchronous of [false, true]) {
        const refcountBits = clusterBytes === 512 ? 1 : clusterBytes === 4096 ? 64 : 16;
        const how = `${journal === false ? 'ordered' : 'journalled'}${backed ? ', backed' : ''}${asynchronous ? ', asynchronous' : ''}`;
        const name = `${clusterBytes} B clusters, ${refcountBits} bit refcounts, ${how}`;
        setups.push({ name, clusterBytes, refcountBits, version: 3, journal, backed, asynchronous });
      }
    }
  }
}
setups.push({
  name: 'version 2, backed',
  clusterBytes: 4096,
  refcountBits: 16,
  version: 2,
  journal: false,
  backed: true,
  asynchronous: false,
});

for (const encrypted of ['luks', 'aes'] as const) {
  for (const [index, clusterBytes] of [512, 4096, 65536].entries()) {
    for (const journal of [false, { sizeBytes: 65536, blockBytes: 512 }] as const) {
      const asynchronous = (index + (journal === false ? 0 : 1)) % 2 === 0;
      const backed = encrypted === 'luks' || journal === false;
      const name = `${encrypted}, ${clusterBytes} B clusters, ${journal === false ? 'ordered' : 'journalled'}`;
      setups.push({
        name,
        clusterBytes,
        refcountBits: 16,
        version: 3,
        journal,
        backed,
        asynchronous,
        encrypted,
      });
    }
  }
}

function backingBytes(): Uint8Array {
  const bytes = new Uint8Array(sizeBytes - 5000);
  for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7 + (i >> 9)) & 255;
  return bytes;
}

async function step(image: Qcow2Image, model: Uint8Array, rng: Random): Promise<void> {
  const offset = rng.below(sizeBytes);
  const longest = Math.min(sizeBytes - offset, rng.pick([100, 512, 4096, 20000, 200000]));
  const length = 1 + rng.below(longest);
  const aligned = rng.below(2) === 0 && offset % 512 !== 0 ? offset - (offset % 512) : offset;
  const kind = rng.below(10);
  if (kind < 6) {
    const bytes = rng.bytes(length);
    model.set(bytes, aligned);
    await image.write(aligned, bytes, kind === 0 ? { fua: true } : undefined);
  } else if (kind === 6) {
    model.fill(0, aligned, aligned + length);
    await image.writeZeroes(aligned, length, { mayUnmap: rng.below(2) === 0 });
  } else if (kind === 7) {
    await image.discard(aligned, length);
    await image.read(aligned, model.subarray(aligned, aligned + length));
  } else if (kind === 8) {
    await image.flush();
  } else {
    const into = new Uint8Array(length);
    await image.read(aligned, into);
    expect(Buffer.compare(into, model.subarray(aligned, aligned + length))).toBe(0);
  }
}

async function readAll(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

describe.each(setups)('$name', (setup) => {
  it.each([1, 2, 3])('agrees with a buffer, seed %i', async (seed) => {
    const rng = random(seed * 1000 + setup.clusterBytes);
    const memory = new MemoryDevice();
    const device: BlockDevice = setup.asynchronous
      ? new FaultDevice(memory, { mode: 'async', scheduler: new ShuffledScheduler(seed) })
      : memory;
    const below = backingBytes();
    const kind = setup.encrypted === undefined ? undefined : toyKinds[setup.encrypted]();
    const backing = () => ({
      backing: setup.backed ? MemoryDevice.fromBytes(below) : ('none' as const),
      ...(kind === undefined ? {} : { encryption: kind.encryption }),
    });
    await (kind?.create ?? createImage)(device, {
      sizeBytes,
      version: setup.version,
      clusterBytes: setup.clusterBytes,
      refcountBits: setup.refcountBits,
      journal: setup.journal,
      ...(setup.backed ? { backingFile: 'base.raw', backingFormat: 'raw' } : {}),
    });
    const model = new Uint8Array(sizeBytes);
    if (setup.backed) model.set(below);
    let image = await openImage(device, backing());
    for (let i = 0; i < 150; i++) {
      await step(image, model, rng);
      if (i % 50 === 49) {
        expect(Buffer.compare(await readAll(image), model)).toBe(0);
        await image.quiesce();
        image.abandon();
        const report = await checkImage(memory);
        expect(report.findings).toEqual([]);
        image = await openImage(device, backing());
        expect(Buffer.compare(await readAll(image), model)).toBe(0);
      }
    }
  });
});
