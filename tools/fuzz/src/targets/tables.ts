/**
 * Whole images with damaged tables: L1, L2, refcounts, snapshots, bitmaps. An entry that leads somewhere leads mostly to
 * where something else stands, for that is what hurts.
 */
import { type Structure, walkImage } from '@qcow2/conformance';
import { bitmapHeadLayout, type Layout, snapshotHeadLayout } from '@qcow2/spec';
import { goldenImages, type ImageBase, journalledImages } from '../images.ts';
import type { Random } from '../random.ts';
import type { Target, Verdict } from '../target.ts';
import { mutateBytes, mutateField, mutateInteger } from '../values.ts';
import { ImageProbe } from './image.ts';

const vectors = [
  'v2-512',
  'v3-512',
  'v2-1k',
  'v3-1k',
  'v3-4k',
  'zero-512',
  'snapshot-many',
  'snapshot-resized',
  'snapshot-several',
  'bitmap-and-snapshot',
  'bitmap-in-use',
  'refcount-1',
  'refcount-4',
  'refcount-64',
  'large-l1-512',
  'zlib-4k',
  'backing-raw',
  'extended-l2-16k',
  'refcount-width-amended',
] as const;

const headLayouts: Partial<Record<Structure['kind'], Layout>> = {
  'snapshot-table': snapshotHeadLayout,
  'bitmap-directory': bitmapHeadLayout,
};

interface Loaded {
  readonly probe: ImageProbe;
  readonly structures: readonly Structure[];
  readonly hints: readonly number[];
}

export class TablesTarget implements Target {
  readonly name: string = 'tables';
  readonly bases = [...vectors, 'clean'];
  readonly limits = { oneBytes: 4 << 20, allBytes: 256 << 20 };
  readonly #loaded = new Map<string, Loaded>();
  #now: Loaded | undefined;

  async prepare(): Promise<void> {
    const journalled = (await journalledImages()).filter(({ name }) => name === 'clean');
    for (const base of [...goldenImages(vectors), ...journalled]) this.#loaded.set(base.name, loaded(base));
  }

  load(base: string): void {
    this.#now = this.#loaded.get(base)!;
    this.#now.probe.device.reset();
  }

  mutate(random: Random): void {
    const { probe, structures, hints } = this.#now!;
    const { device } = probe;
    if (random.chance(60)) {
      device.cut(random.below(device.sizeBytes + 1));
      return;
    }
    const { kind, at, lengthBytes } = random.pick(structures);
    const length = Math.min(lengthBytes, device.bytes.length - at);
    if (length < 8) return;
    const layout = headLayouts[kind];
    device.touch(at, length);
    const bytes = device.bytes.subarray(at, at + length);
    if (layout !== undefined && random.below(3) > 0) {
      mutateField(bytes, 0, layout, random, hints);
      return;
    }
    if (random.chance(8)) {
      mutateBytes(bytes, random);
      return;
    }
    const width = kind === 'refcount-block' ? random.pick([1, 2, 4, 8]) : 8;
    mutateInteger(bytes, entryPlace(bytes, width, random), width, random, hints);
    // The flags of an entry stand in its topmost bits.
    if (width !== 8 || !random.chance(3)) return;
    const flags = random.below(length / 8) * 8;
    bytes[flags] = (bytes[flags] ?? 0) ^ random.pick([0x80, 0x40, 0xc0]);
  }

  seal(): void {}

  async run(variant: number, verdict: Verdict): Promise<void> {
    await this.probe.run(variant, verdict);
  }

  /** Of the base that is loaded. */
  protected get probe(): ImageProbe {
    return this.#now!.probe;
  }
}

function loaded(base: ImageBase): Loaded {
  const { structures, clusterBytes } = walkImage(base.bytes);
  const hints = new Set([base.bytes.length, clusterBytes, 0, 2 ** 30]);
  for (const { at } of structures) hints.add(at);
  const tables = structures.filter(({ kind }) => kind !== 'header' && kind !== 'encryption-header');
  return { probe: new ImageProbe(base), structures: tables, hints: [...hints] };
}

/** Half of the time an entry that holds something: a table is mostly empty. */
function entryPlace(bytes: Uint8Array, width: number, random: Random): number {
  const count = Math.floor(bytes.length / width);
  let index = random.below(count);
  if (random.chance(2)) return index * width;
  for (let tries = 0; tries < count && tries < 512; tries++, index = (index + 1) % count) {
    const entry = bytes.subarray(index * width, (index + 1) * width);
    if (entry.some((byte) => byte !== 0)) break;
  }
  return index * width;
}
