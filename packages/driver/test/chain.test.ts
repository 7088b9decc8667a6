/** Chains of images, by a resolver that knows devices by name. */
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, test } from 'vitest';
import {
  type CreateOptions,
  createImage,
  type FileReference,
  type FoundFile,
  openChain,
  openImage,
} from '../src/index.ts';

const clusterBytes = 4096;
const sizeBytes = 8 * clusterBytes;

/** Files by name, and what was asked for. */
class Shelf {
  readonly files = new Map<string, MemoryDevice>();
  readonly formats = new Map<string, 'qcow2' | 'raw'>();
  readonly asked: FileReference[] = [];
  readonly closed: string[] = [];

  async add(name: string, options: Partial<CreateOptions>, write?: (disk: BlockDevice) => unknown) {
    const device = new MemoryDevice();
    this.files.set(name, device);
    this.formats.set(name, 'qcow2');
    await createImage(device, { sizeBytes, clusterBytes, journal: false, ...options });
    if (write === undefined) return;
    const image = await openImage(device, { backing: 'none' });
    await write(image);
    await image.quiesce();
    image.abandon();
  }

  readonly resolve = (reference: FileReference): FoundFile => {
    this.asked.push(reference);
    const below = this.files.get(reference.name)!;
    const format = (reference.format ?? this.formats.get(reference.name) ?? 'raw') as 'qcow2' | 'raw';
    const device: BlockDevice = Object.create(below, {
      close: { value: () => void this.closed.push(reference.name) },
    });
    for (const method of ['read', 'write', 'flush', 'extents', 'resize', 'discard', 'writeZeroes'] as const) {
      Object.defineProperty(device, method, { value: below[method].bind(below) });
    }
    for (const property of ['sizeBytes', 'capabilities'] as const) {
      Object.defineProperty(device, property, { get: () => below[property] });
    }
    return { device, format, id: reference.name };
  };

  open(name: string, readOnly = true) {
    return openChain(this.files.get(name)!, { id: name, resolve: this.resolve, readOnly });
  }
}

const cluster = (value: number) => new Uint8Array(clusterBytes).fill(value);

async function firstBytes(disk: BlockDevice): Promise<number[]> {
  const bytes = new Uint8Array(disk.sizeBytes);
  await disk.read(0, bytes);
  return Array.from({ length: disk.sizeBytes / clusterBytes }, (_, i) => bytes[i * clusterBytes]!);
}

/** Images `0` (the top) to `count - 1`, each with one cluster; nobody but the last one has the disk's last. */
async function tower(shelf: Shelf, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const below = i + 1 < count ? { backingFile: String(i + 1), backingFormat: 'qcow2' } : {};
    const at = i + 1 < count ? i % 7 : 7;
    await shelf.add(String(i), below, (disk) => disk.write(at * clusterBytes, cluster(1 + (i % 250))));
  }
}

describe('a chain', () => {
  test('reads through every image, shorter and longer ones, down to a raw file', async () => {
    const shelf = new Shelf();
    shelf.files.set('base', MemoryDevice.fromBytes(new Uint8Array(5 * clusterBytes + 7).fill(9)));
    const short = { sizeBytes: 6 * clusterBytes, backingFile: 'base', backingFormat: 'raw' };
    await shelf.add('short', short, (disk) => disk.write(2 * clusterBytes, cluster(3)));
    await shelf.add('long', { sizeBytes: 20 * clusterBytes, backingFile: 'short' }, (disk) =>
      disk.write(18 * clusterBytes, cluster(4)),
    );
    await shelf.add('top', { backingFile: 'long', backingFormat: 'qcow2' }, (disk) =>
      disk.write(0, cluster(5)),
    );
    const disk = await shelf.open('top', false);
    expect(await firstBytes(disk)).toEqual([5, 9, 3, 9, 9, 9, 0, 0]);
    await disk.write(clusterBytes + 1, Uint8Array.of(8));
    await disk.close();
    expect(shelf.closed.sort()).toEqual(['base', 'long', 'short']);
    expect(shelf.asked).toMatchObject([
      { role: 'backing', name: 'long', format: 'qcow2', namedBy: 'top', depth: 1 },
      { role: 'backing', name: 'short', format: undefined, namedBy: 'long', depth: 2 },
      { role: 'backing', name: 'base', format: 'raw', namedBy: 'short', depth: 3 },
    ]);
  });

  test('takes data files, of the top image and below', async () => {
    const shelf = new Shelf();
    for (const name of ['base', 'top']) {
      const device = new MemoryDevice();
      shelf.files.set(`${name}.data`, device);
      const image = new MemoryDevice();
      shelf.files.set(name, image);
      shelf.formats.set(name, 'qcow2');
      await createImage(image, {
        sizeBytes,
        clusterBytes,
        dataFile: { device, name: `${name}.data` },
        ...(name === 'top' ? { backingFile: 'base', backingFormat: 'qcow2' } : {}),
      });
    }
    const base = await openImage(shelf.files.get('base')!, { dataFile: shelf.files.get('base.data')! });
    await base.write(clusterBytes, cluster(6));
    await base.quiesce();
    base.abandon();
    const disk = await shelf.open('top', false);
    await disk.write(0, cluster(7));
    await disk.quiesce();
    disk.abandon();
    expect(await firstBytes(await shelf.open('top'))).toEqual([7, 6, 0, 0, 0, 0, 0, 0]);
  });

  test('a name for which there is nothing shows zeros', async () => {
    const shelf = new Shelf();
    await shelf.add('top', { backingFile: 'gone' }, (disk) => disk.write(0, cluster(5)));
    const device = shelf.files.get('top')!;
    const disk = await openChain(device, { id: 'top', resolve: () => 'none', readOnly: true });
    expect(await firstBytes(disk)).toEqual([5, 0, 0, 0, 0, 0, 0, 0]);
  });

  test('of a thousand images is opened, read and closed like any other', async () => {
    const shelf = new Shelf();
    await tower(shelf, 1000);
    const disk = await shelf.open('0');
    // The last cluster is found at the bottom only.
    expect(await firstBytes(disk)).toEqual([1, 2, 3, 4, 5, 6, 7, 1 + (999 % 250)]);
    await disk.close();
    expect(shelf.closed).toHaveLength(999);
  }, 180_000);
});

describe('what an image may name', () => {
  test('[BAK-001] a raw base is raw, whatever its guest has written there', async () => {
    const shelf = new Shelf();
    await shelf.add('secret', {}, (disk) => disk.write(0, cluster(0x5e)));
    // The guest of `base`, a raw disk, writes the header of an image that names another file.
    await shelf.add('base', { backingFile: 'secret', backingFormat: 'qcow2' });
    await shelf.add('top', { backingFile: 'base', backingFormat: 'raw' });
    const disk = await shelf.open('top');
    expect((await firstBytes(disk))[0]).toBe(0x51);
    expect(shelf.asked.map(({ name }) => name)).toEqual(['base']);
  });

  test.each([1, 2, 5])('[BAK-002] a loop of %i images is refused', async (length) => {
    const shelf = new Shelf();
    for (let i = 0; i < length; i++) await shelf.add(String(i), { backingFile: String((i + 1) % length) });
    await expect(shelf.open('0')).rejects.toMatchObject({
      code: 'CHAIN_LOOP',
      context: { path: '0', clause: 'BAK-002' },
    });
    expect(new Set(shelf.closed)).toEqual(new Set(shelf.asked.map(({ name }) => name)));
    // The top device is the caller's still.
    expect(() => shelf.files.get('0')!.read(0, new Uint8Array(1))).not.toThrow();
  });

  test('[BAK-002] a data file that is an image of the chain is refused', async () => {
    const shelf = new Shelf();
    const device = new MemoryDevice();
    const image = new MemoryDevice();
    shelf.files.set('top', image);
    await createImage(image, { sizeBytes, clusterBytes, dataFile: { device, name: 'top' } });
    await expect(shelf.open('top', false)).rejects.toMatchObject({ code: 'CHAIN_LOOP' });
  });

  test('what the resolver refuses is refused, and what it gave is closed', async () => {
    const shelf = new Shelf();
    await tower(shelf, 3);
    const device = shelf.files.get('0')!;
    const refusal = new TypeError('no more');
    const resolve = (reference: FileReference) => {
      if (reference.name === '2') throw refusal;
      return shelf.resolve(reference);
    };
    await expect(openChain(device, { id: '0', resolve })).rejects.toBe(refusal);
    expect(shelf.closed).toEqual(['1']);
  });

  test('what is no image is told in the words of whoever found it', async () => {
    const shelf = new Shelf();
    await tower(shelf, 2);
    shelf.files.get('1')!.write(0, new Uint8Array(512));
    const device = shelf.files.get('0')!;
    const resolve = (reference: FileReference) => ({
      ...shelf.resolve(reference),
      explain: (error: unknown) => new TypeError('the second one', { cause: error }),
    });
    await expect(openChain(device, { id: '0', resolve })).rejects.toMatchObject({
      message: 'the second one',
      cause: { code: 'BAD_MAGIC' },
    });
  });
});
