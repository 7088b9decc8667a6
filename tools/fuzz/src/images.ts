/**
 * The images that inputs begin with: small, made by the driver in the same way each time, and left as a crash leaves
 * them. Golden vectors stand beside them for what the driver does not make.
 */
import { MemoryDevice } from '@qcow2/block-device';
import { loadVector } from '@qcow2/conformance';
import { type CreateOptions, createImage, openImage, type Qcow2Image } from '@qcow2/driver';
import { Random } from './random.ts';

export interface ImageBase {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Bytes of the backing file that it names, or none. */
  readonly backing: Uint8Array | undefined;
}

interface Recipe {
  readonly name: string;
  readonly options: CreateOptions;
  /** Guest requests before the crash. */
  readonly requests: number;
  readonly seed: number;
  readonly backingBytes?: number;
  /** Closed cleanly instead of left. */
  readonly clean?: boolean;
}

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const recipes: readonly Recipe[] = [
  { name: 'short', options: { sizeBytes: 32768, clusterBytes: 512, journal }, requests: 12, seed: 1 },
  { name: 'wrapped', options: { sizeBytes: 65536, clusterBytes: 1024, journal }, requests: 260, seed: 2 },
  {
    name: 'large-blocks',
    options: { sizeBytes: 131072, clusterBytes: 4096, journal: { sizeBytes: 65536, blockBytes: 4096 } },
    requests: 30,
    seed: 3,
  },
  {
    name: 'backed',
    options: { sizeBytes: 65536, clusterBytes: 4096, backingFile: 'base.raw', backingFormat: 'raw', journal },
    requests: 24,
    seed: 4,
    backingBytes: 40000,
  },
  {
    name: 'clean',
    options: { sizeBytes: 32768, clusterBytes: 512, journal },
    requests: 40,
    seed: 5,
    clean: true,
  },
];

const draft = { profile: 'draft-2013', sizeBytes: 65536, blockBytes: 512 } as const;
const draftRecipes: readonly Recipe[] = [
  {
    name: 'draft',
    options: { sizeBytes: 32768, clusterBytes: 512, journal: draft },
    requests: 14,
    seed: 6,
  },
  {
    name: 'draft-wrapped',
    options: { sizeBytes: 65536, clusterBytes: 4096, journal: draft },
    requests: 180,
    seed: 7,
  },
  {
    name: 'draft-backed',
    options: {
      sizeBytes: 65536,
      clusterBytes: 1024,
      backingFile: 'base.raw',
      backingFormat: 'raw',
      journal: draft,
    },
    requests: 24,
    seed: 8,
    backingBytes: 40000,
  },
];

/** Images with a journal of the draft of 2013, left as they were. */
export async function draftImages(): Promise<ImageBase[]> {
  const images: ImageBase[] = [];
  for (const recipe of draftRecipes) images.push(await make(recipe));
  return images;
}

/** Images with a journal: four dirty ones, and one that was closed. */
export async function journalledImages(): Promise<ImageBase[]> {
  const images: ImageBase[] = [];
  for (const recipe of recipes) images.push(await make(recipe));
  return images;
}

/** The golden vectors of these names. */
export function goldenImages(names: readonly string[]): ImageBase[] {
  return names.map((name) => {
    const { bytes, companions } = loadVector(name);
    return { name, bytes, backing: [...companions.values()][0] };
  });
}

async function make({ name, options, requests, seed, backingBytes, clean }: Recipe): Promise<ImageBase> {
  const random = new Random(seed);
  const fill = (into: Uint8Array): void => random.fill(into);
  const memory = new MemoryDevice();
  await createImage(memory, { ...options, random: fill });
  const backing = backingBytes === undefined ? undefined : new Uint8Array(backingBytes).fill(0xb0);
  const image = await openImage(memory, {
    random: fill,
    ...(backing === undefined ? {} : { backing: MemoryDevice.fromBytes(backing) }),
  });
  for (let count = 0; count < requests; count++) await request(image, random, count);
  if (clean === true) await image.close();
  else {
    await image.flush();
    image.abandon();
  }
  return { name, bytes: memory.snapshot(), backing };
}

async function request(image: Qcow2Image, random: Random, count: number): Promise<void> {
  const sectors = image.sizeBytes / 512;
  const length = 1 + random.below(4);
  const at = random.below(sectors - length) * 512;
  switch (random.below(8)) {
    case 0:
    case 1:
    case 2:
      return image.flush();
    case 3:
      return image.discard(at - (at % image.clusterBytes), image.clusterBytes);
    case 4:
      return image.writeZeroes(at, length * 512);
    default:
      return image.write(at, new Uint8Array(length * 512).fill(1 + (count % 250)));
  }
}
