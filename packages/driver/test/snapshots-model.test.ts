/**
 * Snapshots made, applied and deleted, and disks that get another size, among random requests, beside a plain buffer for the disk and one for each
 * snapshot: on every way to log, with clusters and refcounts of many widths, over a backing file, by version.
 */
import { type BlockDevice, FaultDevice, MemoryDevice, ShuffledScheduler } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage, type Qcow2Image } from '../src/index.ts';
import { type Random, random } from './support/random.ts';

const diskBytes = 192 * 1024;
const ring = { sizeBytes: 65536, blockBytes: 512 };

interface Setup {
  readonly name: string;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly version: 2 | 3;
  readonly journal: { sizeBytes: number; blockBytes: number; profile?: 'draft-2013' } | false;
  readonly lazyRefcounts: boolean;
  readonly backed: boolean;
  readonly asynchronous: boolean;
}

interface Kept {
  readonly id: string;
  readonly content: Uint8Array;
}

const common = { version: 3, lazyRefcounts: false, backed: false, asynchronous: false } as const;
const setups: Setup[] = [
  { ...common, name: 'journal, 512 B', clusterBytes: 512, refcountBits: 16, journal: ring },
  {
    ...common,
    name: 'journal, 4 KiB, 8 bits',
    clusterBytes: 4096,
    refcountBits: 8,
    journal: ring,
    backed: true,
  },
  {
    ...common,
    name: 'journal, 1 KiB, 64 bits',
    clusterBytes: 1024,
    refcountBits: 64,
    journal: ring,
    asynchronous: true,
  },
  {
    ...common,
    name: 'journal, 64 KiB, 4 bits',
    clusterBytes: 65536,
    refcountBits: 4,
    journal: ring,
    backed: true,
    asynchronous: true,
  },
  {
    ...common,
    name: 'ordered, 512 B, 32 bits',
    clusterBytes: 512,
    refcountBits: 32,
    journal: false,
    backed: true,
  },
  {
    ...common,
    name: 'ordered, 64 KiB',
    clusterBytes: 65536,
    refcountBits: 16,
    journal: false,
    asynchronous: true,
  },
  {
    ...common,
    name: 'ordered, version 2',
    clusterBytes: 1024,
    refcountBits: 16,
    version: 2,
    journal: false,
    backed: true,
  },
  {
    ...common,
    name: 'lazy, 1 KiB',
    clusterBytes: 1024,
    refcountBits: 16,
    journal: false,
    lazyRefcounts: true,
    backed: true,
  },
  {
    ...common,
    name: 'draft, 1 KiB',
    clusterBytes: 1024,
    refcountBits: 16,
    journal: { ...ring, profile: 'draft-2013' },
  },
];

function backingBytes(): Uint8Array {
  return random(99).bytes(diskBytes - 5000);
}

class Scene {
  readonly memory = new MemoryDevice();
  readonly rng: Random;
  readonly #setup: Setup;
  model: Uint8Array;
  kept: Kept[] = [];
  image!: Qcow2Image;
  #made = 0;

  constructor(setup: Setup, seed: number) {
    this.#setup = setup;
    this.rng = random(seed);
    this.model = new Uint8Array(diskBytes);
    if (setup.backed) this.model.set(backingBytes());
  }

  async start(): Promise<void> {
    const { clusterBytes, refcountBits, version, journal, lazyRefcounts, backed } = this.#setup;
    await createImage(this.memory, {
      sizeBytes: diskBytes,
      clusterBytes,
      refcountBits,
      version,
      journal,
      lazyRefcounts,
      ...(backed ? { backingFile: 'base' } : {}),
    });
    await this.open();
  }

  async open(): Promise<void> {
    const { asynchronous, backed } = this.#setup;
    const scheduler = new ShuffledScheduler(this.rng.below(1 << 30));
    const device: BlockDevice = asynchronous ? new FaultDevice(this.memory, { scheduler }) : this.memory;
    const options: OpenOptions = backed ? { backing: MemoryDevice.fromBytes(backingBytes()) } : {};
    this.image = await openImage(device, options);
  }

  async reopen(): Promise<void> {
    await this.image.quiesce();
    this.image.abandon();
    await this.open();
  }

  async guestStep(): Promise<void> {
    const { rng, image, model } = this;
    const offset = rng.below(model.length);
    const length = 1 + rng.below(Math.min(model.length - offset, rng.pick([100, 512, 4096, 40000])));
    const kind = rng.below(10);
    if (kind < 7) {
      const bytes = rng.bytes(length);
      model.set(bytes, offset);
      await image.write(offset, bytes);
    } else if (kind === 7) {
      model.fill(0, offset, offset + length);
      await image.writeZeroes(offset, length, { mayUnmap: rng.below(2) === 0 });
    } else if (kind === 8) await image.flush();
    else await this.#resize();
  }

  /** Larger or smaller, by sectors: what is cut off is zeros when the disk grows over it again. */
  async #resize(): Promise<void> {
    if (this.#setup.version === 2 && this.kept.length > 0) return;
    const shrinks = this.model.length > 2 * diskBytes || this.rng.below(3) === 0;
    const change = 512 * (1 + this.rng.below(40)) * (shrinks ? -2 : 1);
    const sizeBytes = Math.max(diskBytes / 2, this.model.length + change);
    const resized = new Uint8Array(sizeBytes);
    resized.set(this.model.subarray(0, sizeBytes));
    this.model = resized;
    await this.image.resize(sizeBytes, { shrink: true });
  }

  async snapshotStep(): Promise<void> {
    const { rng, image, kept } = this;
    const kind = kept.length === 0 ? 0 : kept.length > 4 ? 1 + rng.below(2) : rng.below(4);
    if (kind === 1) {
      const one = rng.pick(kept);
      await image.applySnapshot({ id: one.id });
      this.model = one.content.slice();
    } else if (kind === 2) {
      const one = rng.pick(kept);
      await image.deleteSnapshot({ id: one.id });
      this.kept = kept.filter((other) => other !== one);
    } else {
      const { id } = await image.createSnapshot({ name: `s${this.#made++}` });
      kept.push({ id, content: this.model.slice() });
    }
  }

  async verify(): Promise<void> {
    const { image, kept, model } = this;
    expect(image.sizeBytes).toBe(model.length);
    expect(Buffer.compare(await contentOf(image), model)).toBe(0);
    expect(image.snapshots.map(({ id }) => id)).toEqual(kept.map(({ id }) => id));
    for (const { id, content } of kept) {
      const shown = await image.openSnapshot({ id });
      expect(Buffer.compare(await contentOf(shown), content)).toBe(0);
      await shown.close();
    }
    await image.quiesce();
    expect((await checkImage(this.memory)).findings).toEqual([]);
  }
}

async function contentOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

describe.each(setups)('$name', (setup) => {
  it.each([1, 2, 3])('[SNP-020, SNP-021, SNP-026, SNP-027] seed %i', async (seed) => {
    const scene = new Scene(setup, seed);
    await scene.start();
    for (let round = 0; round < 24; round++) {
      const steps = scene.rng.below(6);
      for (let i = 0; i < steps; i++) await scene.guestStep();
      await scene.snapshotStep();
      await scene.verify();
      if (scene.rng.below(5) === 0) await scene.reopen();
    }
    while (scene.kept.length > 0) {
      await scene.image.deleteSnapshot({ id: scene.kept.shift()!.id });
      await scene.verify();
    }
    await scene.image.close();
  });
});

describe.each([{ journal: ring }, { journal: false as const }])(
  'guests at work meanwhile ($journal)',
  ({ journal }) => {
    it.each([1, 2, 3, 4])('[JRN-COMMIT-014] a snapshot holds what a moment held, seed %i', async (seed) => {
      const memory = new MemoryDevice();
      await createImage(memory, { sizeBytes: 65536, clusterBytes: 1024, journal });
      const scheduler = new ShuffledScheduler(seed);
      const image = await openImage(new FaultDevice(memory, { scheduler }));
      const rng = random(seed);
      const last = new Uint8Array(64);
      // Each guest writes rising numbers to a cluster of its own: of two that a snapshot holds, none is from the future.
      const guest = async (index: number): Promise<void> => {
        for (let number = 1; number < 30; number++) {
          await image.write(index * 1024, new Uint8Array(600).fill(number));
          last[index] = number;
          if (rng.below(8) === 0) await image.flush();
        }
      };
      const bounds: { id: string; before: Uint8Array; after: Uint8Array }[] = [];
      const maker = async (): Promise<void> => {
        for (let i = 0; i < 4; i++) {
          const before = last.slice();
          const { id } = await image.createSnapshot({ name: `n${i}` });
          bounds.push({ id, before, after: last.slice() });
          if (i === 2) {
            await image.deleteSnapshot({ id: bounds[0]!.id });
            bounds.shift();
          }
        }
      };
      await Promise.all([maker(), ...Array.from({ length: 8 }, (_, index) => guest(index))]);
      expect(bounds).toHaveLength(3);
      for (const { id, before, after } of bounds) {
        const bytes = await contentOf(await image.openSnapshot(id));
        for (let index = 0; index < 8; index++) {
          const number = bytes[index * 1024]!;
          expect(number).toBeGreaterThanOrEqual(before[index]!);
          expect(number).toBeLessThanOrEqual(after[index]! + 1);
          expect(new Set(bytes.subarray(index * 1024, index * 1024 + 600)).size).toBe(1);
        }
      }
      const now = await contentOf(image);
      for (let index = 0; index < 8; index++) expect(now[index * 1024]).toBe(29);
      await image.quiesce();
      expect((await checkImage(memory)).findings).toEqual([]);
    });
  },
);
