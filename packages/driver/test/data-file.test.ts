/** Images whose guest data stands in a file of its own. */
import { type BlockDevice, FaultDevice, MemoryDevice, ShuffledScheduler } from '@qcow2/block-device';
import { decodeHeader, encodeHeader } from '@qcow2/codec';
import { incompatibleFeatures, StorageError } from '@qcow2/spec';
import { describe, expect, test } from 'vitest';
import {
  type CreateOptions,
  checkImage,
  createImage,
  type OpenOptions,
  openImage,
  probeImage,
  type Qcow2Image,
} from '../src/index.ts';
import { CountingDevice } from './support/counting-device.ts';
import { random } from './support/random.ts';
import { twoFiles } from './support/two-files.ts';

const clusterBytes = 4096;
const sizeBytes = 40 * clusterBytes + 512;

const ways = {
  journal: { journal: { sizeBytes: 65536, blockBytes: 512 } },
  ordered: { journal: false },
  lazy: { journal: false, lazyRefcounts: true },
} as const;
type Way = keyof typeof ways;
const wayNames = Object.keys(ways) as Way[];

interface Files {
  readonly image: MemoryDevice;
  readonly data: MemoryDevice;
}

async function made(way: Way, raw: boolean, more: Partial<CreateOptions> = {}): Promise<Files> {
  const files = { image: new MemoryDevice(), data: new MemoryDevice() };
  const dataFile = { device: files.data, name: 'guest.data', raw };
  await createImage(files.image, { sizeBytes, clusterBytes, dataFile, ...ways[way], ...more });
  return files;
}

function opened({ image, data }: Files, options: OpenOptions = {}): Promise<Qcow2Image> {
  return openImage(image, { dataFile: data, ...options });
}

async function content(device: BlockDevice, lengthBytes = device.sizeBytes): Promise<Uint8Array> {
  const bytes = new Uint8Array(lengthBytes);
  await device.read(0, bytes);
  return bytes;
}

function same(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

const filled = (value: number, lengthBytes = clusterBytes) => new Uint8Array(lengthBytes).fill(value);

describe('whose the data file is', () => {
  test('[DAT-001] [EXT-017] without it metadata can be looked at, and nothing else', async () => {
    const { image } = await made('ordered', false);
    await expect(openImage(image)).rejects.toMatchObject({
      code: 'NO_POLICY',
      context: { path: 'guest.data', clause: 'DAT-001' },
    });
    const reader = await probeImage(image);
    expect(reader.info()).toMatchObject({ dataFile: 'guest.data', dataFileRaw: false });
    expect(() => reader.read(0, new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'NO_POLICY' }));
    expect(() => reader.extents(0, 1)).toThrow(expect.objectContaining({ code: 'NO_POLICY' }));
    expect(await checkImage(image)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('[DAT-001] one for an image that has none is refused, and so is the image itself', async () => {
    const plain = new MemoryDevice();
    await createImage(plain, { sizeBytes, clusterBytes });
    const refused = { code: 'INVALID_ARGUMENT', context: { field: 'dataFile' } };
    await expect(openImage(plain, { dataFile: new MemoryDevice() })).rejects.toMatchObject(refused);
    const { image } = await made('ordered', false);
    await expect(openImage(image, { dataFile: image })).rejects.toMatchObject(refused);
  });

  test('[DAT-001] a writer needs one that can be written; a reader does not', async () => {
    const files = await made('ordered', false);
    const data = new MemoryDevice({ sizeBytes, capabilities: { write: false } });
    await expect(openImage(files.image, { dataFile: data })).rejects.toMatchObject({ code: 'READ_ONLY' });
    const reader = await openImage(files.image, { dataFile: data, readOnly: true });
    expect(await content(reader)).toEqual(new Uint8Array(sizeBytes));
  });

  test('is closed with the image', async () => {
    const files = await made('ordered', false);
    await (await opened(files)).close();
    expect(() => files.data.read(0, new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'CLOSED' }));
  });

  test('[HDR-029] what can not be made is refused', async () => {
    const dataFile = { device: new MemoryDevice(), name: 'data', raw: true };
    const make = (more: Partial<CreateOptions>) =>
      createImage(new MemoryDevice(), { sizeBytes, dataFile, ...more });
    const refused = { code: 'INVALID_ARGUMENT', context: { field: 'dataFile' } };
    await expect(make({ version: 2 })).rejects.toMatchObject(refused);
    await expect(make({ backingFile: 'base' })).rejects.toMatchObject(refused);
    const short = new MemoryDevice({ sizeBytes: 512, capabilities: { resize: false, growable: false } });
    await expect(make({ dataFile: { device: short, name: 'data' } })).rejects.toMatchObject(refused);
  });
});

describe('where guest bytes stand', () => {
  test.each(wayNames)('[FEA-003] at their guest offset, and no refcount counts them: %s', async (way) => {
    const files = await made(way, false);
    const image = await opened(files);
    await image.write(0, filled(1));
    await image.write(7 * clusterBytes + 100, filled(2, 700));
    await image.write(9 * clusterBytes, filled(3, 5 * clusterBytes));
    await image.quiesce();
    expect(await content(files.data)).toEqual(await content(image));
    image.abandon();
    const report = await checkImage(files.image);
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 7 });
    // Header, refcount table, one block, L1 table, one L2 table, perhaps behind a journal: no more, whatever was written.
    const journalBytes = way === 'journal' ? 65536 : 0;
    expect(report.imageEndOffset).toBe(5 * clusterBytes + journalBytes);
  });

  test('[FEA-003] a mapping that leads elsewhere is refused, and found by the check', async () => {
    const files = await made('ordered', false);
    const writer = await opened(files);
    await writer.write(3 * clusterBytes, filled(1));
    await writer.quiesce();
    writer.abandon();
    const { l1Offset } = writer.header;
    const word = new Uint8Array(8);
    files.image.read(l1Offset, word);
    const table = Number(new DataView(word.buffer).getBigUint64(0) & 0xfffffffffffe00n);
    new DataView(word.buffer).setBigUint64(0, (1n << 63n) | BigInt(5 * clusterBytes));
    files.image.write(table + 3 * 8, word);
    const context = expect.objectContaining({ clause: 'FEA-003', guestOffset: 3 * clusterBytes });
    const damaged = { code: 'BAD_FIELD', context };
    const reader = await opened(files, { readOnly: true });
    expect(() => reader.read(3 * clusterBytes, new Uint8Array(1))).toThrow(expect.objectContaining(damaged));
    expect(() => reader.read(2 * clusterBytes, new Uint8Array(1))).not.toThrow();
    const { findings } = await checkImage(files.image);
    expect(findings).toMatchObject([{ code: 'BAD_FIELD', clause: 'FEA-003' }]);
  });

  test('[DAT-002] a data file that is too short reads as zeros, and nothing is written behind the disk', async () => {
    const files = await made('ordered', false);
    files.data.resize(0);
    const image = await opened(files);
    expect(await content(image)).toEqual(new Uint8Array(sizeBytes));
    // The last cluster reaches behind the disk's end, and is filled.
    await image.write(sizeBytes - 100, filled(9, 100));
    await image.flush();
    expect(files.data.sizeBytes).toBe(sizeBytes);
    // What cannot grow needs no more than the disk.
    const exact = new MemoryDevice({ sizeBytes, capabilities: { resize: false, growable: false } });
    const other = new MemoryDevice();
    await createImage(other, { sizeBytes, clusterBytes, dataFile: { device: exact, name: 'exact' } });
    const over = await openImage(other, { dataFile: exact });
    await over.write(sizeBytes - 100, filled(9, 100));
    await over.close();
  });

  test('what stood in the data file before does not show through', async () => {
    const data = MemoryDevice.fromBytes(filled(0xee, sizeBytes));
    const image = new MemoryDevice();
    await createImage(image, { sizeBytes, clusterBytes, dataFile: { device: data, name: 'old' } });
    const disk = await openImage(image, { dataFile: data });
    const expected = new Uint8Array(sizeBytes);
    expect(same(await content(disk), expected)).toBe(true);
    for (const at of [1000, 5 * clusterBytes + 512, sizeBytes - 10]) {
      await disk.write(at, filled(1, 10));
      expected.fill(1, at, at + 10);
      expect(same(await content(disk), expected)).toBe(true);
    }
    await disk.flush();
    expect(same(await content(disk), expected)).toBe(true);
  });

  test('[DAT-008] snapshots beside a data file: a reader only', async () => {
    const files = await made('ordered', false);
    const head = await content(files.image, clusterBytes);
    const at = files.image.sizeBytes;
    const header = { ...decodeHeader(head), snapshotCount: 1, snapshotsOffset: at };
    files.image.write(0, encodeHeader(header));
    const snapshot = new Uint8Array(clusterBytes);
    new DataView(snapshot.buffer).setUint32(36, 16);
    files.image.write(at, snapshot);
    const refused = { code: 'BAD_FIELD', context: { field: 'snapshotCount', clause: 'FEA-003' } };
    await expect(opened(files)).rejects.toMatchObject(refused);
    await opened(files, { readOnly: true });
  });
});

describe('the order of two files', () => {
  test.each(wayNames)('[DAT-003] bytes are durable before what maps them: %s', async (way) => {
    const files = await made(way, false);
    const { image, data, told } = twoFiles(files.image, files.data);
    const disk = await openImage(image, { dataFile: data, journal: { directWriteBytes: 512 } });
    // Marks of a dirty image, the first L2 table: what comes once.
    await disk.write(0, filled(1));
    await disk.flush();
    told.length = 0;
    await disk.write(2 * clusterBytes, filled(1, 20 * clusterBytes));
    await disk.write(30 * clusterBytes, filled(1, 512));
    await disk.flush();
    const flushes = told.filter(({ what }) => what === 'flush').map(({ file }) => file);
    expect(flushes.filter((file) => file === 'data')).toHaveLength(1);
    const dataFlush = told.findIndex(({ file, what }) => file === 'data' && what === 'flush');
    const lastData = told.findLastIndex(({ file, what }) => file === 'data' && what === 'write');
    const firstMapping = told.findIndex(
      ({ file, event }) => file === 'image' && (event === 'l2_update' || event === 'journal_append'),
    );
    expect(lastData).toBeLessThan(dataFlush);
    expect(dataFlush).toBeLessThan(firstMapping);
    expect(told.at(-1)).toMatchObject({ file: 'image', what: 'flush' });
  });

  test.each(wayNames)('a flush of what is in place is one of the data file alone: %s', async (way) => {
    const files = await made(way, false);
    const { image, data, told } = twoFiles(files.image, files.data);
    const disk = await openImage(image, { dataFile: data, journal: { directWriteBytes: 512 } });
    await disk.write(0, filled(1));
    await disk.quiesce();
    told.length = 0;
    await disk.write(0, filled(2));
    await disk.flush();
    expect(told.map(({ file, what }) => `${file} ${what}`)).toEqual(['data write', 'data flush']);
  });

  test.each(wayNames)(
    '[DAT-010] the first flush is one of the data file, whoever wrote to it: %s',
    async (way) => {
      const files = await made(way, false);
      const { image, data, told } = twoFiles(files.image, files.data);
      const disk = await openImage(image, { dataFile: data });
      await disk.flush();
      expect(told.filter(({ file, what }) => file === 'data' && what === 'flush')).toHaveLength(1);
      told.length = 0;
      await disk.flush();
      expect(told).toEqual([]);
    },
  );

  test('with a journal little bytes of new clusters wait in the log: one flush, and of the image', async () => {
    const files = await made('journal', false);
    const { image, data, told } = twoFiles(files.image, files.data);
    const disk = await openImage(image, { dataFile: data });
    await disk.write(0, filled(1));
    await disk.flush();
    told.length = 0;
    await disk.write(clusterBytes, filled(2));
    await disk.flush();
    expect(told.map(({ file, what }) => `${file} ${what}`)).toEqual(['image write', 'image flush']);
    disk.abandon();
    const again = await opened(files);
    expect(same((await content(again)).subarray(clusterBytes, 2 * clusterBytes), filled(2))).toBe(true);
  });

  test('a flush that fails in either file ends writing', async () => {
    for (const broken of ['image', 'data'] as const) {
      const files = await made('ordered', false);
      const below = new FaultDevice(files[broken]);
      const faulty: Record<'image' | 'data', BlockDevice> = { ...files, [broken]: below };
      const disk = await openImage(faulty.image, { dataFile: faulty.data });
      await disk.write(0, filled(1));
      below.addRule({ operation: 'flush', fault: { kind: 'fail' } });
      await expect((async () => disk.flush())()).rejects.toMatchObject({ code: 'FLUSH_FAILED' });
      await expect((async () => disk.write(0, filled(2)))()).rejects.toMatchObject({
        code: 'FAILED_EARLIER',
      });
    }
  });
});

describe('a raw data file', () => {
  test('[DAT-006] every cluster of a new image is mapped', async () => {
    const files = await made('ordered', true);
    const disk = await opened(files);
    expect(await checkImage(files.image)).toMatchObject({ allocatedClusters: 41 });
    expect(files.data.sizeBytes).toBe(sizeBytes);
    // What the file has nothing of is known to be zeros.
    await disk.write(5 * clusterBytes, filled(1));
    expect(await disk.extents(0, sizeBytes)).toEqual([
      { offset: 0, lengthBytes: 5 * clusterBytes, kind: 'zero' },
      { offset: 5 * clusterBytes, lengthBytes: clusterBytes, kind: 'data' },
      { offset: 6 * clusterBytes, lengthBytes: sizeBytes - 6 * clusterBytes, kind: 'zero' },
    ]);
  });

  test('[FEA-011] the file that is taken for one is the disk', async () => {
    const bytes = random(5).bytes(sizeBytes);
    const data = MemoryDevice.fromBytes(bytes);
    const image = new MemoryDevice();
    await createImage(image, { sizeBytes, clusterBytes, dataFile: { device: data, name: 'old', raw: true } });
    expect(same(await content(await openImage(image, { dataFile: data })), bytes)).toBe(true);
  });

  test.each(wayNames)('[DAT-004] is the disk after every request: %s', async (way) => {
    const files = await made(way, true);
    const rng = random(way.length);
    const disk = await opened(files);
    for (let i = 0; i < 300; i++) {
      await request(disk, rng, sizeBytes);
      expect(same(await content(files.data), await content(disk))).toBe(true);
    }
    await disk.quiesce();
    expect(await checkImage(files.image)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect((await probeImage(files.image)).info().dataFileRaw).toBe(true);
  });

  test.each(wayNames)(
    '[DAT-005] what is not mapped is, durably, before it is written to: %s',
    async (way) => {
      const files = await made(way, true, {});
      await unmapAll(files);
      const { image, data, told } = twoFiles(files.image, files.data);
      const disk = await openImage(image, { dataFile: data, journal: { directWriteBytes: 512 } });
      expect(await disk.extents(0, sizeBytes)).toMatchObject([{ kind: 'hole' }]);
      told.length = 0;
      await disk.write(3 * clusterBytes + 512, filled(7, 512));
      expect(told.at(-1)).toEqual({ file: 'data', what: 'write', event: 'write_data' });
      const before = told.slice(0, -1);
      expect(before.at(-1)).toMatchObject({ file: 'image', what: 'flush' });
      const flushed = before.findIndex(({ file, what }) => file === 'data' && what === 'flush');
      expect(before.findLastIndex(({ file, what }) => file === 'data' && what === 'write')).toBeLessThan(
        flushed,
      );
      // Nothing was flushed for the guest: a crash now, and the file and the tables show the same.
      disk.abandon();
      const again = await opened(files);
      expect(same(await content(again), await content(files.data))).toBe(true);
    },
  );

  test.each([0, 1])('[DAT-007] grows with the disk, whatever stood behind its end (%i)', async (more) => {
    const files = await made('journal', true);
    const before = await content(files.data);
    const disk = await opened(files);
    files.data.write(sizeBytes, filled(0xee, 3 * clusterBytes + 100));
    await disk.grow(sizeBytes + (3 + 5 * more) * clusterBytes);
    await disk.flush();
    const grown = new Uint8Array(disk.sizeBytes);
    grown.set(before);
    expect(same(await content(disk), grown)).toBe(true);
    expect(same((await content(files.data)).subarray(0, grown.length), grown)).toBe(true);
    const tail = disk.sizeBytes - 700;
    await disk.write(tail, filled(4, 700));
    expect(same((await content(files.data)).subarray(tail, tail + 700), filled(4, 700))).toBe(true);
  });
});

describe('a disk becomes smaller', () => {
  const smaller = 7 * clusterBytes + 1024;

  test.each(wayNames.flatMap((way) => [false, true].map((raw) => [way, raw] as const)))(
    '[DAT-009] %s, raw %s: the file is cut when the new size is durable',
    async (way, raw) => {
      const files = await made(way, raw);
      const { image, data, told } = twoFiles(files.image, files.data);
      const disk = await openImage(image, { dataFile: data });
      const written = random(7).bytes(sizeBytes);
      await disk.write(0, written);
      await disk.flush();
      told.length = 0;
      await disk.resize(smaller, { shrink: true });
      const cut = told.findIndex(({ file, what }) => file === 'data' && what === 'resize');
      const named = told.findIndex(({ file, what }) => file === 'image' && what === 'write');
      const durable = told.findIndex(
        ({ file, what }, at) => at > named && file === 'image' && what === 'flush',
      );
      expect(named).toBeGreaterThanOrEqual(0);
      expect(durable).toBeGreaterThan(named);
      expect(cut).toBeGreaterThan(durable);
      expect(files.data.sizeBytes).toBe(smaller);
      expect(same(await content(disk), written.subarray(0, smaller))).toBe(true);
      await disk.grow(sizeBytes);
      const expected = new Uint8Array(sizeBytes);
      expected.set(written.subarray(0, smaller));
      expect(same(await content(disk), expected)).toBe(true);
      if (raw) expect(same(await content(files.data), expected)).toBe(true);
      for (const file of [files.image, files.data]) file.close = () => undefined;
      await disk.close();
      expect(await checkImage(files.image)).toMatchObject({ corruptions: 0, leaks: 0 });
      const again = await opened(files);
      expect(same(await content(again), expected)).toBe(true);
      await again.close();
    },
  );

  test('[DAT-002] a file that can not be cut is longer than the disk, and shows nothing of it when the disk grows', async () => {
    const files = await made('journal', false);
    const stubborn = new (class extends CountingDevice {
      override resize(): void {
        throw new StorageError('WRITE_FAILED', 'no');
      }
    })(files.data);
    const disk = await openImage(files.image, { dataFile: stubborn });
    await disk.write(0, filled(5, sizeBytes));
    await disk.flush();
    await disk.resize(smaller, { shrink: true });
    expect(files.data.sizeBytes).toBe(sizeBytes);
    await disk.grow(sizeBytes);
    expect(same((await content(disk)).subarray(smaller), new Uint8Array(sizeBytes - smaller))).toBe(true);
    await disk.flush();
    expect(await checkImage(files.image)).toMatchObject({ corruptions: 0, leaks: 0 });
    await disk.close();
  });
});

test('a disk does not grow beyond a data file that can not', async () => {
  const data = new MemoryDevice({
    sizeBytes: sizeBytes + 512,
    capabilities: { resize: false, growable: false },
  });
  const image = new MemoryDevice();
  await createImage(image, { sizeBytes, clusterBytes, dataFile: { device: data, name: 'fixed' } });
  const disk = await openImage(image, { dataFile: data });
  await expect(disk.grow(sizeBytes + 1024)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await disk.grow(sizeBytes + 512);
  await disk.write(sizeBytes, filled(3, 512));
  await disk.flush();
  expect(disk.sizeBytes).toBe(sizeBytes + 512);
});

describe('journals beside a data file', () => {
  test('[JD13-BIND-012] the draft of 2013 has another use for the bit', async () => {
    const refused = { code: 'UNSUPPORTED_OPERATION', context: { clause: 'JD13-BIND-012' } };
    await expect(made('ordered', false, { journal: { profile: 'draft-2013' } })).rejects.toMatchObject(
      refused,
    );
    const disk = await opened(await made('journal', false));
    await expect(disk.enableJournal({ profile: 'draft-2013' })).rejects.toMatchObject(refused);
    await expect(disk.convertJournal({ profile: 'draft-2013' })).rejects.toMatchObject(refused);
  });

  test('[JRN-COPY-010] a log with copies or fills is refused', async () => {
    const image = new MemoryDevice();
    const backing = MemoryDevice.fromBytes(filled(5, sizeBytes));
    await createImage(image, { sizeBytes, clusterBytes, backingFile: 'base', ...ways.journal });
    const disk = await openImage(image, { backing, journal: { directWriteBytes: 512, directFlushBytes: 0 } });
    await disk.write(512, filled(1, 512));
    await disk.flush();
    disk.abandon();
    const header = decodeHeader(await content(image, clusterBytes));
    header.incompatibleFeatures |= incompatibleFeatures.externalDataFile;
    image.write(0, encodeHeader(header));
    const options = { backing, dataFile: new MemoryDevice(), readOnly: true };
    await expect(openImage(image, options)).rejects.toMatchObject({ code: 'UNSUPPORTED_FEATURE' });
  });

  test('over a backing file nothing is left to the log', async () => {
    const files = await made('journal', false, { backingFile: 'base' });
    const below = random(3).bytes(sizeBytes - 3000);
    const backing = MemoryDevice.fromBytes(below);
    const expected = new Uint8Array(sizeBytes);
    expected.set(below);
    const options = { backing, journal: { directWriteBytes: 512, directFlushBytes: 0 } };
    const disk = await opened(files, options);
    await disk.write(clusterBytes + 512, filled(1, 512));
    expected.fill(1, clusterBytes + 512, clusterBytes + 1024);
    await disk.flush();
    disk.abandon();
    const again = await opened(files, options);
    expect(same(await content(again), expected)).toBe(true);
  });
});

describe.each(wayNames)('random requests: %s', (way) => {
  test.each([1, 2, 3, 4])('agree with a buffer, seed %i', async (seed) => {
    const rng = random(seed * 77);
    const backed = seed % 2 === 0;
    const files = await made(way, false, backed ? { backingFile: 'base' } : {});
    const below = rng.bytes(sizeBytes - 5000);
    const model = new Uint8Array(sizeBytes);
    if (backed) model.set(below);
    const open = () => {
      const backing = backed ? { backing: MemoryDevice.fromBytes(below) } : {};
      if (seed < 3) return opened(files, backing);
      const scheduler = new ShuffledScheduler(seed);
      const image = new FaultDevice(files.image, { mode: 'async', scheduler });
      const data = new FaultDevice(files.data, { mode: 'async', scheduler });
      return openImage(image, { dataFile: data, ...backing });
    };
    let disk = await open();
    for (let i = 0; i < 200; i++) {
      await request(disk, rng, sizeBytes, model);
      if (i % 40 !== 39) continue;
      expect(same(await content(disk), model)).toBe(true);
      if (i % 80 === 79) await disk.quiesce();
      else await disk.flush();
      disk.abandon();
      if (i % 80 === 79) expect((await checkImage(files.image)).findings).toEqual([]);
      disk = await open();
      expect(same(await content(disk), model)).toBe(true);
    }
  });
});

/** One request, and the same on a buffer. */
async function request(
  disk: Qcow2Image,
  rng: ReturnType<typeof random>,
  size: number,
  model = new Uint8Array(size),
): Promise<void> {
  const from = rng.below(size);
  const offset = rng.below(2) === 0 ? from : from - (from % 512);
  const length = 1 + rng.below(Math.min(size - offset, rng.pick([300, 512, clusterBytes, 50000])));
  const kind = rng.below(8);
  if (kind < 4) {
    const bytes = rng.bytes(length);
    model.set(bytes, offset);
    await disk.write(offset, bytes, { fua: kind === 0 });
  } else if (kind < 6) {
    model.fill(0, offset, offset + length);
    await disk.writeZeroes(offset, length, { mayUnmap: kind === 4 });
  } else if (kind === 6) {
    await disk.discard(offset, length);
    await disk.read(offset, model.subarray(offset, offset + length));
  } else await disk.flush();
}

/** As an image that maps nothing of its raw data file, which is all zeros: QEMU makes such clusters when it discards. */
async function unmapAll({ image }: Files): Promise<void> {
  const reader = await probeImage(image);
  const { l1Offset, l1Entries } = reader.header;
  for (let index = 0; index < l1Entries; index++) {
    const word = new Uint8Array(8);
    image.read(l1Offset + index * 8, word);
    const table = Number(new DataView(word.buffer).getBigUint64(0) & 0xfffffffffffe00n);
    image.writeZeroes(table, clusterBytes);
  }
  reader.abandon();
}
