/** Delayed copy on write: what is read from below and copied, counted, and what the guest sees meanwhile. */
import { FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage } from '../src/index.ts';
import { addSnapshot, snapshotView } from './crash/support/shared-tables.ts';
import { CountingDevice } from './support/counting-device.ts';
import { random } from './support/random.ts';

const clusterBytes = 65536;
const diskBytes = 32 * clusterBytes;
/** Of the draft's, so large that no round begins before the end. */
const journals = {
  v1: { sizeBytes: 1 << 20 },
  'draft-2013': { profile: 'draft-2013', sizeBytes: 8 << 20 },
  none: false,
} as const;

const content = random(7).bytes(diskBytes);

interface Setup {
  readonly memory: MemoryDevice;
  readonly device: CountingDevice;
  readonly backing: CountingDevice;
  readonly options: OpenOptions;
}

/** An image that shows `content` and has no cluster of its own: over a backing file, or shared with a snapshot. */
async function setUp(below: 'backing' | 'snapshot', journal: keyof typeof journals): Promise<Setup> {
  const memory = new MemoryDevice();
  const over = below === 'backing';
  await createImage(memory, {
    sizeBytes: diskBytes,
    clusterBytes,
    journal: journals[journal],
    ...(over ? { backingFile: 'below', backingFormat: 'raw' } : {}),
  });
  if (!over) {
    const image = await openImage(memory);
    await image.write(0, content);
    await image.quiesce();
    image.abandon();
    addSnapshot(memory);
  }
  const backing = new CountingDevice(MemoryDevice.fromBytes(content));
  return { memory, device: new CountingDevice(memory), backing, options: over ? { backing } : {} };
}

async function shown(device: MemoryDevice | CountingDevice, options: OpenOptions): Promise<Uint8Array> {
  const image = await openImage(device, { ...options, readOnly: true });
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  image.abandon();
  return bytes;
}

const pieces = [
  { pieceBytes: 512, clusters: 3 },
  { pieceBytes: 4096, clusters: 12 },
];
const settings = pieces.flatMap((piece) =>
  (['backing', 'snapshot'] as const).flatMap((below) =>
    [1, 64, Number.POSITIVE_INFINITY].map((flushEvery) => ({ ...piece, below, flushEvery })),
  ),
);

describe.each(settings)(
  'sequential $pieceBytes byte writes over a $below, flushed every $flushEvery',
  ({ pieceBytes, clusters, below, flushEvery }) => {
    async function fill({ device, options }: Setup): Promise<void> {
      const image = await openImage(device, options);
      device.reset();
      for (let i = 0; i < (clusters * clusterBytes) / pieceBytes; i++) {
        await image.write(i * pieceBytes, new Uint8Array(pieceBytes).fill(i + 1));
        if ((i + 1) % flushEvery === 0) await image.flush();
      }
      await image.quiesce();
      image.abandon();
    }

    function expected(): Uint8Array {
      const bytes = content.slice();
      for (let i = 0; i < (clusters * clusterBytes) / pieceBytes; i++)
        bytes.fill(i + 1, i * pieceBytes, (i + 1) * pieceBytes);
      return bytes;
    }

    it('with a journal: nothing is read from below, nothing is copied', async () => {
      const setup = await setUp(below, 'v1');
      await fill(setup);
      expect(setup.backing.reads().bytes).toBe(0);
      expect(setup.device.reads('read_data').bytes + setup.device.reads('cow_read').bytes).toBe(0);
      expect(setup.device.writes('cow_write').bytes).toBe(0);
      expect(Buffer.compare(await shown(setup.memory, setup.options), expected())).toBe(0);
    });

    it(`[JD13-DESC-017] with the draft's: nothing is copied out of a snapshot, and of a backing file each cluster at most once`, async () => {
      const setup = await setUp(below, 'draft-2013');
      await fill(setup);
      if (below === 'backing') expectCopiedOnce(setup);
      else {
        expect(setup.device.reads('read_data').bytes + setup.device.reads('cow_read').bytes).toBe(0);
        expect(setup.device.writes('cow_write').bytes).toBe(0);
      }
      await expectWhole(setup);
    });

    it('without one: nothing either between two flushes, and each cluster at most once', async () => {
      const setup = await setUp(below, 'none');
      await fill(setup);
      expectCopiedOnce(setup);
      await expectWhole(setup);
    });

    /** A flush that comes when a cluster is not whole has it copied, once. */
    function expectCopiedOnce(setup: Setup): void {
      const copied = setup.device.writes('cow_write');
      const flushBytes = flushEvery * pieceBytes;
      const asked = flushBytes % clusterBytes === 0 || flushBytes === Number.POSITIVE_INFINITY ? 0 : clusters;
      expect(copied.requests).toBe(asked);
      const perCluster = clusterBytes - flushBytes;
      expect(copied.bytes).toBe(asked === 0 ? 0 : asked * perCluster);
      const read = below === 'backing' ? setup.backing.reads() : setup.device.reads('read_data');
      expect(read.bytes).toBe(copied.bytes);
    }

    async function expectWhole(setup: Setup): Promise<void> {
      expect(Buffer.compare(await shown(setup.memory, setup.options), expected())).toBe(0);
      if (below === 'snapshot') {
        expect(Buffer.compare(await shown(snapshotView(setup.memory), {}), content)).toBe(0);
      }
      const report = await checkImage(setup.memory);
      expect(report.corruptions + report.leaks).toBe(0);
    }
  },
);

describe('a pending cluster', () => {
  it('shows what was written at once, and what was below for the rest, at any alignment', async () => {
    const { memory, device, options } = await setUp('backing', 'none');
    const image = await openImage(device, options);
    const model = content.slice();
    const rng = random(3);
    for (let i = 0; i < 300; i++) {
      const bytes = rng.bytes(1 + rng.below(3000));
      const offset = rng.below(6 * clusterBytes);
      model.set(bytes, offset);
      await image.write(offset, bytes);
      const at = Math.max(0, offset - 1000);
      const read = new Uint8Array(bytes.length + 2000);
      await image.read(at, read);
      expect(Buffer.compare(read, model.subarray(at, at + read.length))).toBe(0);
      if (i % 50 === 49) await image.flush();
    }
    await image.quiesce();
    image.abandon();
    expect(Buffer.compare(await shown(memory, options), model)).toBe(0);
    const report = await checkImage(memory);
    expect(report.corruptions + report.leaks).toBe(0);
  });

  it('is given back by a discard or zeroes, and its host cluster is used again', async () => {
    const { memory, device, options } = await setUp('backing', 'none');
    const image = await openImage(device, options);
    for (const end of ['discard', 'writeZeroes'] as const) {
      await image.write(512, new Uint8Array(512).fill(1));
      if (end === 'discard') await image.discard(0, clusterBytes);
      else await image.writeZeroes(0, clusterBytes);
      const read = new Uint8Array(clusterBytes);
      await image.read(0, read);
      expect(read.every((byte) => byte === 0)).toBe(true);
    }
    device.reset();
    await image.write(clusterBytes, new Uint8Array(512).fill(2));
    await image.flush();
    expect(device.writes('write_data').bytes).toBe(512);
    await image.quiesce();
    image.abandon();
    const report = await checkImage(memory);
    expect(report.corruptions + report.leaks).toBe(0);
    expect(memory.sizeBytes).toBeLessThanOrEqual(6 * clusterBytes);
  });

  it('of which there are many is mapped before there are too many', async () => {
    const small = new MemoryDevice();
    await createImage(small, { sizeBytes: 1 << 20, clusterBytes: 4096, journal: false });
    const image = await openImage(small);
    for (let i = 0; i < 200; i++) await image.write(i * 4096 + 1024, new Uint8Array(512).fill(i));
    await image.flush();
    image.abandon();
    const again = await openImage(small, { readOnly: true });
    const read = new Uint8Array(512);
    for (let i = 0; i < 200; i++) {
      await again.read(i * 4096 + 1024, read);
      expect(read.every((byte) => byte === i)).toBe(true);
    }
    expect((await checkImage(small)).leaks).toBe(0);
  });

  it('whose rest can not be read makes the flush fail, keeps what was written, and is mapped by a later one', async () => {
    const memory = new MemoryDevice();
    const below = new FaultDevice(MemoryDevice.fromBytes(content));
    await createImage(memory, {
      sizeBytes: diskBytes,
      clusterBytes,
      journal: false,
      backingFile: 'below',
      backingFormat: 'raw',
    });
    const image = await openImage(memory, { backing: below });
    await image.write(0, new Uint8Array(512).fill(1));
    await image.write(clusterBytes, new Uint8Array(512).fill(2));
    below.addRule({ operation: 'read', fault: { kind: 'fail' } });
    await expect(async () => image.flush()).rejects.toMatchObject({ code: 'READ_FAILED' });
    await image.flush();
    image.abandon();
    const model = content.slice();
    model.fill(1, 0, 512).fill(2, clusterBytes, clusterBytes + 512);
    expect(Buffer.compare(await shown(memory, { backing: MemoryDevice.fromBytes(content) }), model)).toBe(0);
  });
});
