/** Compressed clusters: where they are put, what is refused of them, what is kept and what is under way at once. */
import { deflateRawSync } from 'node:zlib';
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import {
  type ClusterCompression,
  inflateOnly,
  readCompressedOffset,
  writeCompressedEntry,
} from '@qcow2/codec';
import { nodeCompression } from '@qcow2/compression';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { CountingDevice } from './support/counting-device.ts';
import { random } from './support/random.ts';

const clusterBytes = 4096;
const sizeBytes = 64 * clusterBytes;
const compression = nodeCompression();

/** A cluster whose compressed data takes roughly a part of it. */
function cluster(seed: number, part = 0.3): Uint8Array {
  return random(seed)
    .bytes(clusterBytes)
    .fill(seed, Math.floor(clusterBytes * part));
}

async function newImage(device: BlockDevice = new MemoryDevice(), options = {}): Promise<Qcow2Image> {
  await createImage(device, { sizeBytes, clusterBytes, ...options });
  return await openImage(device, { compression });
}

/** As `close`, with the memory still there. */
async function end(image: Qcow2Image): Promise<void> {
  await image.quiesce();
  image.abandon();
}

async function readCluster(image: Qcow2Image, index: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(clusterBytes);
  await image.read(index * clusterBytes, bytes);
  return bytes;
}

/** The L2 table's place, and a view of the entries: the disk is small enough for one table. */
function l2Entries(memory: MemoryDevice): { readonly at: number; readonly view: DataView } {
  const bytes = memory.snapshot();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const l1Offset = Number(view.getBigUint64(40));
  const at = Number(view.getBigUint64(l1Offset) & 0x00ff_ffff_ffff_fe00n);
  return { at, view: new DataView(bytes.buffer, bytes.byteOffset + at, clusterBytes) };
}

describe('where compressed clusters are put', () => {
  it('[CMP-010, CMP-014] one behind the other at single bytes, across the border of clusters in a row', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory);
    const lengths: number[] = [];
    for (let i = 0; i < 12; i++) {
      const bytes = cluster(i + 1);
      lengths.push((await compression.compress?.(0, bytes))!.length);
      await image.writeCompressed(i * clusterBytes, bytes);
    }
    await end(image);
    const { view } = l2Entries(memory);
    const offsets = lengths.map((_, i) => readCompressedOffset(view, i * 8, 12));
    expect(offsets.slice(1).map((offset, i) => offset - offsets[i]!)).toEqual(lengths.slice(0, -1));
    expect(
      offsets.some(
        (offset, i) =>
          Math.floor(offset / clusterBytes) !== Math.floor((offset + lengths[i]! - 1) / clusterBytes),
      ),
    ).toBe(true);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 12 });
  });

  it('[CMP-014] each in a host cluster of its own where refcounts can not be raised', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory, { refcountBits: 1 });
    for (let i = 0; i < 4; i++) await image.writeCompressed(i * clusterBytes, cluster(i + 1));
    await end(image);
    const { view } = l2Entries(memory);
    for (let i = 0; i < 4; i++) expect(readCompressedOffset(view, i * 8, 12) % clusterBytes).toBe(0);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 4 });
  });

  it('[CMP-013] what does not get smaller is an ordinary cluster', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory);
    const noise = random(5).bytes(clusterBytes);
    await image.writeCompressed(0, noise);
    expect(image.extents(0, clusterBytes)).toEqual([{ offset: 0, lengthBytes: clusterBytes, kind: 'data' }]);
    expect(await readCluster(image, 0)).toEqual(noise);
    await end(image);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 0 });
  });

  it('[CMP-012] a write leaves the compressed data as it is and keeps the rest of the cluster', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory);
    await image.writeCompressed(0, cluster(1));
    await image.writeCompressed(clusterBytes, cluster(2));
    await image.flush();
    const at = readCompressedOffset(l2Entries(memory).view, 0, 12);
    const data = memory.snapshot().slice(at, at + 1000);
    const wanted = cluster(1);
    wanted.set([7, 7, 7], 100);
    await image.write(100, Uint8Array.of(7, 7, 7));
    await image.flush();
    expect(await readCluster(image, 0)).toEqual(wanted);
    expect(await readCluster(image, 1)).toEqual(cluster(2));
    expect(memory.snapshot().slice(at, at + 1000)).toEqual(data);
    await end(image);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 1 });
  });

  it('a host cluster whose last data is gone is handed out again, and nothing is put behind that data', async () => {
    const image = await newImage();
    await image.writeCompressed(0, cluster(1));
    await image.flush();
    await image.discard(0, clusterBytes);
    await image.flush();
    const noise = random(77).bytes(clusterBytes);
    await image.write(clusterBytes, noise);
    await image.flush();
    for (let i = 2; i < 12; i++) await image.writeCompressed(i * clusterBytes, cluster(i));
    expect(await readCluster(image, 1)).toEqual(noise);
    for (let i = 2; i < 12; i++) expect(await readCluster(image, i)).toEqual(cluster(i));
    await end(image);
  });

  it('extents say what is compressed', async () => {
    const image = await newImage();
    await image.write(0, cluster(1));
    await image.writeCompressed(clusterBytes, Uint8Array.from([...cluster(2), ...cluster(3)]));
    expect(await image.extents(0, 4 * clusterBytes)).toEqual([
      { offset: 0, lengthBytes: clusterBytes, kind: 'data' },
      { offset: clusterBytes, lengthBytes: 2 * clusterBytes, kind: 'data', compressed: true },
      { offset: 3 * clusterBytes, lengthBytes: clusterBytes, kind: 'hole' },
    ]);
    await end(image);
  });

  it.each([
    ['the middle of a cluster', 512, clusterBytes],
    ['part of a cluster', 0, 512],
  ])('refuses %s', async (_, offset, lengthBytes) => {
    const image = await newImage();
    expect(() => image.writeCompressed(offset, new Uint8Array(lengthBytes))).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    await end(image);
  });

  it('refuses to compress with nothing to compress with', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes, clusterBytes });
    const image = await openImage(memory);
    expect(() => image.writeCompressed(0, new Uint8Array(clusterBytes))).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED_OPERATION' }),
    );
    await end(image);
  });
});

describe('compression types', () => {
  it('[FEA-004, HDR-020, HDR-025] zstd is named in the header and read again', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory, { compressionType: 'zstd' });
    expect(image.info().compressionType).toBe('zstd');
    await image.writeCompressed(0, cluster(1));
    await end(image);
    const again = await openImage(memory, { compression });
    expect(await readCluster(again, 0)).toEqual(cluster(1));
    again.abandon();
    const without = await openImage(memory);
    expect(() => without.read(0, new Uint8Array(9))).toThrow(
      expect.objectContaining({ code: 'UNSUPPORTED_FEATURE' }),
    );
    without.abandon();
  });

  it('[HDR-034] one that is not known is refused and named', async () => {
    const memory = new MemoryDevice();
    await createImage(memory, { sizeBytes, clusterBytes, compressionType: 'zstd' });
    memory.write(104, Uint8Array.of(9));
    await expect(openImage(memory, { readOnly: true })).rejects.toMatchObject({
      code: 'UNSUPPORTED_FEATURE',
      context: { field: 'compressionType', value: 9 },
    });
  });

  it('version 2 has deflate only', async () => {
    await expect(
      createImage(new MemoryDevice(), { sizeBytes, version: 2, compressionType: 'zstd' }),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('[JD13-BIND-011] an image with zstd gets no journal of the draft, and is left as it is', async () => {
    const journal = { profile: 'draft-2013', sizeBytes: 131072, blockBytes: 512 } as const;
    await expect(
      createImage(new MemoryDevice(), { sizeBytes, clusterBytes, compressionType: 'zstd', journal }),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    for (const now of [false, { sizeBytes: 65536 }] as const) {
      const memory = new MemoryDevice();
      const image = await newImage(memory, { compressionType: 'zstd', journal: now });
      const before = memory.snapshot();
      const refused = { code: 'UNSUPPORTED_OPERATION', context: { clause: 'JD13-BIND-011' } };
      await expect(
        now === false ? image.enableJournal(journal) : image.convertJournal(journal),
      ).rejects.toMatchObject(refused);
      expect(memory.snapshot()).toEqual(before);
      await end(image);
    }
  });
});

describe('damaged compressed clusters', () => {
  /** Guest cluster 0 leads to data of the test's own, guest cluster 1 to sound data. */
  async function damagedImage(data: Uint8Array | { hostOffset: number; lengthBytes: number }) {
    const memory = new MemoryDevice();
    const image = await newImage(memory, { journal: { sizeBytes: 65536 } });
    await image.writeCompressed(0, cluster(1));
    await image.writeCompressed(clusterBytes, cluster(2));
    await end(image);
    const { at, view } = l2Entries(memory);
    const entry = new Uint8Array(8);
    let place = { hostOffset: readCompressedOffset(view, 0, 12), lengthBytes: 512 };
    if (data instanceof Uint8Array) {
      memory.write(place.hostOffset, data);
      place = { ...place, lengthBytes: data.length };
    } else place = data;
    writeCompressedEntry(new DataView(entry.buffer), 0, 12, place.hostOffset, place.lengthBytes);
    memory.write(at, entry);
    return await openImage(memory, { compression });
  }

  const tooMuch = deflateRawSync(new Uint8Array(1 << 24));
  it.each([
    ['that inflates past a cluster', tooMuch.subarray(0, 900), 'COMPRESSED_DAMAGED'],
    ['that makes less than a cluster', deflateRawSync(new Uint8Array(100)), 'COMPRESSED_DAMAGED'],
    ['of noise', random(3).bytes(700), 'COMPRESSED_DAMAGED'],
    ['in the header', { hostOffset: 4000, lengthBytes: 300 }, 'OVERLAP'],
    ['in the refcount table', { hostOffset: clusterBytes, lengthBytes: 300 }, 'OVERLAP'],
    ['behind the end of the file', { hostOffset: 1 << 30, lengthBytes: 300 }, 'TRUNCATED'],
  ])('[CMP-008, CMP-011] data %s is refused by name, and nothing else is', async (_, data, code) => {
    const image = await damagedImage(data);
    const refused = expect.objectContaining({
      code,
      context: expect.objectContaining({ hostOffset: expect.any(Number) }),
    });
    const attempt = async (action: () => void | Promise<void>) => await action();
    await expect(attempt(() => image.read(5, new Uint8Array(10)))).rejects.toEqual(refused);
    // Heard by who writes, not by who flushes later.
    await expect(attempt(() => image.write(512, new Uint8Array(512)))).rejects.toEqual(refused);
    await expect(attempt(() => image.write(9, Uint8Array.of(1)))).rejects.toEqual(refused);
    expect(await readCluster(image, 1)).toEqual(cluster(2));
    await image.write(clusterBytes + 9, Uint8Array.of(1));
    await image.flush();
    await end(image);
  });

  it('one among others fails a read that is under way for them, when all of it is over', async () => {
    const memory = new MemoryDevice();
    const image = await newImage(memory, { compressionType: 'zstd' });
    for (let i = 0; i < 4; i++) await image.writeCompressed(i * clusterBytes, cluster(i + 1));
    await end(image);
    const { view } = l2Entries(memory);
    // Two fail on a worker thread, and one, which is no frame, before it gets there.
    for (const [index, within] of [
      [0, 10],
      [1, 10],
      [2, 0],
    ] as const) {
      const at = readCompressedOffset(view, index * 8, 12) + within;
      memory.write(
        at,
        memory
          .snapshot()
          .slice(at, at + 6)
          .map((byte) => byte ^ 0x5a),
      );
    }
    const again = await openImage(memory, { compression });
    const unheard: unknown[] = [];
    const listen = (reason: unknown): void => void unheard.push(reason);
    process.on('unhandledRejection', listen);
    await expect((async () => again.read(0, new Uint8Array(4 * clusterBytes)))()).rejects.toMatchObject({
      code: 'COMPRESSED_DAMAGED',
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off('unhandledRejection', listen);
    expect(unheard).toEqual([]);
    expect(await readCluster(again, 3)).toEqual(cluster(4));
    again.abandon();
  });

  it('[CMP-008] one that a write covers whole is replaced', async () => {
    const image = await damagedImage(random(3).bytes(700));
    await image.write(0, cluster(9));
    await image.flush();
    expect(await readCluster(image, 0)).toEqual(cluster(9));
    await end(image);
  });
});

describe('what is kept and what is under way', () => {
  async function filled(counting: (below: MemoryDevice) => BlockDevice = (below) => below, count = 16) {
    const memory = new MemoryDevice();
    const image = await newImage(memory);
    for (let i = 0; i < count; i++) await image.writeCompressed(i * clusterBytes, cluster(i + 1));
    await end(image);
    return counting(memory);
  }

  it('readers of one cluster share one decompression, and later ones find it', async () => {
    const device = new CountingDevice((await filled()) as MemoryDevice);
    const image = await openImage(device, { compression });
    const pieces = Array.from({ length: 8 }, () => new Uint8Array(512));
    await Promise.all(pieces.map((piece, i) => image.read(i * 512, piece)));
    await image.read(0, new Uint8Array(clusterBytes));
    expect(device.reads('read_compressed').requests).toBe(1);
    expect(Buffer.concat(pieces)).toEqual(Buffer.from(cluster(1)));
    image.abandon();
  });

  it('no more is kept than asked for, the least recently used going first', async () => {
    const device = new CountingDevice((await filled()) as MemoryDevice);
    const image = await openImage(device, { compression, cache: { decompressedBytes: 2 * clusterBytes } });
    for (const index of [0, 1, 0, 2, 0, 1]) await readCluster(image, index);
    expect(device.reads('read_compressed').requests).toBe(4);
    expect(image.cacheCounters().decompressed).toMatchObject({ bytes: 2 * clusterBytes, hits: 2, misses: 4 });
    image.abandon();
  });

  it('a large read has no more jobs under way than are worth it', async () => {
    let running = 0;
    let most = 0;
    const slow: ClusterCompression = {
      parallelJobs: 3,
      async decompress(type, bytes, length) {
        most = Math.max(most, ++running);
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        return inflateOnly.decompress(type, bytes, length);
      },
    };
    const image = await openImage(await filled(), { compression: slow });
    const all = new Uint8Array(16 * clusterBytes);
    await image.read(0, all);
    expect(most).toBe(3);
    for (let i = 0; i < 16; i++) {
      expect(all.subarray(i * clusterBytes, (i + 1) * clusterBytes)).toEqual(cluster(i + 1));
    }
    image.abandon();
  });

  it('a host cluster is not handed out while its data is being read, and what was read is not kept', async () => {
    const memory = (await filled(undefined, 1)) as MemoryDevice;
    const { promise: allowed, resolve: allow } = Promise.withResolvers<void>();
    const held: ClusterCompression = {
      parallelJobs: 1,
      async decompress(type, bytes, length) {
        await allowed;
        return inflateOnly.decompress(type, bytes, length);
      },
    };
    const entry = (index: number): bigint => l2Entries(memory).view.getBigUint64(index * 8) & 0xfffffffffe00n;
    const hostOffset = entry(0);
    const image = await openImage(memory, { compression: held });
    const seen = new Uint8Array(clusterBytes);
    const reading = image.read(0, seen);
    await image.discard(0, clusterBytes);
    await image.flush();
    await image.write(clusterBytes, cluster(8, 1));
    await image.flush();
    expect(entry(1)).not.toBe(hostOffset);
    allow();
    await reading;
    expect(seen).toEqual(cluster(1));
    expect(image.cacheCounters().decompressed.bytes).toBe(0);
    await image.write(2 * clusterBytes, cluster(9, 1));
    await image.flush();
    expect(entry(2)).toBe(hostOffset);
    expect(await readCluster(image, 0)).toEqual(new Uint8Array(clusterBytes));
    await end(image);
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});
