/** Snapshots and sizes: what is refused before anything is changed, what a crash-free failure leaves, and bounds of memory. */
import { FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { decodeHeader, decodeSnapshotTable, encodeSnapshotTable, refcountCodec } from '@qcow2/codec';
import { describe, expect, it } from 'vitest';
import { type CreateOptions, checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { random } from './support/random.ts';

const clusterBytes = 4096;
const journal = { sizeBytes: 65536, blockBytes: 512 } as const;

async function made(
  options: Partial<CreateOptions> = {},
): Promise<{ memory: MemoryDevice; image: Qcow2Image }> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 1 << 20, clusterBytes, ...options });
  return { memory, image: await openImage(memory) };
}

async function findings(memory: MemoryDevice): Promise<unknown> {
  return (await checkImage(memory)).findings;
}

/** Everything in place; the device stays open. */
async function atRest(image: Qcow2Image): Promise<void> {
  await image.quiesce();
  image.abandon();
}

/** What fails leaves every byte as it is. */
async function refusesWhole(
  { memory, image }: { memory: MemoryDevice; image: Qcow2Image },
  action: () => Promise<unknown>,
  error: object,
): Promise<void> {
  await image.quiesce();
  const before = memory.snapshot();
  await expect(action()).rejects.toMatchObject(error);
  await image.quiesce();
  expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
  await image.write(0, Uint8Array.of(1));
}

describe('ids and names', () => {
  it('[SNP-024] gives the number behind the greatest, whatever else ids are', async () => {
    const { image } = await made();
    expect((await image.createSnapshot({ name: 'a' })).id).toBe('1');
    await image.createSnapshot({ name: 'b', id: '41' });
    await image.createSnapshot({ name: 'c', id: 'x99' });
    await image.createSnapshot({ name: 'd', id: '18446744073709551616' });
    expect((await image.createSnapshot({ name: 'e' })).id).toBe('18446744073709551617');
    await image.close();
  });

  it('chooses by id before name where it is not said which', async () => {
    const { image } = await made();
    await image.createSnapshot({ name: '2' });
    await image.createSnapshot({ name: 'other' });
    await image.deleteSnapshot('2');
    expect(image.snapshots.map(({ name }) => name)).toEqual(['2']);
    await expect(image.deleteSnapshot({ id: '2' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await image.deleteSnapshot({ name: '2' });
    expect(image.snapshots).toEqual([]);
    expect(image.header).toMatchObject({ snapshotCount: 0, snapshotsOffset: 0 });
    await image.close();
  });

  it.each([
    ['an id that is taken', { name: 'x', id: '1' }, 'INVALID_ARGUMENT'],
    ['a name of more than 65535 bytes', { name: 'x'.repeat(65536) }, 'BAD_FIELD'],
  ])('refuses %s', async (_, wanted, code) => {
    const scene = await made();
    await scene.image.createSnapshot({ name: 'first' });
    await refusesWhole(scene, () => scene.image.createSnapshot(wanted), { code });
  });

  it('has the date that is given, to the millisecond', async () => {
    const { image } = await made();
    const date = new Date('2026-03-04T05:06:07.089Z');
    const { dateSeconds, dateNanoseconds } = await image.createSnapshot({ name: 'x', date });
    expect([dateSeconds, dateNanoseconds]).toEqual([date.getTime() / 1000 - 0.089, 89_000_000]);
  });
});

describe('a refcount without room', () => {
  it.each([1, 2])(
    '[SNP-025] of %i bits refuses to make one snapshot too many, and nothing is changed',
    async (refcountBits) => {
      const scene = await made({ refcountBits });
      await scene.image.write(0, new Uint8Array(clusterBytes).fill(1));
      for (let i = 1; i < 2 ** refcountBits - 1; i++) await scene.image.createSnapshot({ name: `s${i}` });
      const error = {
        code: 'INVALID_ARGUMENT',
        context: { clause: 'SNP-025', value: 2 ** refcountBits - 1 },
      };
      await refusesWhole(scene, () => scene.image.createSnapshot({ name: 'x' }), error);
    },
  );

  it('[SNP-025] refuses to apply one', async () => {
    const scene = await made({ refcountBits: 2 });
    const { image } = scene;
    await image.write(0, new Uint8Array(clusterBytes).fill(1));
    await image.createSnapshot({ name: 'a' });
    await image.createSnapshot({ name: 'b' });
    await refusesWhole(scene, () => image.applySnapshot('a'), { context: { clause: 'SNP-025' } });
    await image.deleteSnapshot('b');
    await image.applySnapshot('a');
  });
});

describe('damage', () => {
  it.each(['delete', 'apply', 'shrink', 'create'] as const)(
    '%s refuses what counts as free, and leaves everything as it is',
    async (operation) => {
      const scene = await made();
      const { image, memory } = scene;
      await image.write(0, new Uint8Array(3 * clusterBytes).fill(1));
      await image.createSnapshot({ name: 'a' });
      await image.quiesce();
      image.abandon();
      // The cluster of the first guest cluster counts as free.
      const { header } = image;
      const bytes = memory.snapshot();
      const view = new DataView(bytes.buffer, bytes.byteOffset);
      const l2 = Number(view.getBigUint64(header.l1Offset) & 0xfffffffffffe00n);
      const cluster = Number(view.getBigUint64(l2) & 0xfffffffffffe00n) / clusterBytes;
      const block = Number(view.getBigUint64(header.refcountTableOffset));
      refcountCodec(4).set(new DataView(bytes.buffer, bytes.byteOffset + block), cluster, 0);
      memory.write(0, bytes);
      const again = await openImage(memory);
      const before = memory.snapshot();
      const actions = {
        delete: () => again.deleteSnapshot('a'),
        apply: () => again.applySnapshot('a'),
        shrink: async () => again.resize(clusterBytes, { shrink: true }),
        create: () => again.createSnapshot({ name: 'b' }),
      };
      await expect(actions[operation]()).rejects.toMatchObject({ code: 'REFCOUNT_WRONG' });
      expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
    },
  );
});

describe('a device of a snapshot', () => {
  it('is read beside the disk, says what is there, and is not written', async () => {
    const { image } = await made();
    await image.write(clusterBytes, new Uint8Array(clusterBytes).fill(1));
    await image.createSnapshot({ name: 'a' });
    await image.write(0, new Uint8Array(3 * clusterBytes).fill(2));
    const device = await image.openSnapshot('a');
    const bytes = new Uint8Array(3 * clusterBytes);
    await device.read(0, bytes);
    expect([bytes[0], bytes[clusterBytes], bytes[2 * clusterBytes]]).toEqual([0, 1, 0]);
    expect(await device.extents(0, 3 * clusterBytes)).toMatchObject([
      { kind: 'hole', lengthBytes: clusterBytes },
      { kind: 'data', lengthBytes: clusterBytes },
      { kind: 'hole', lengthBytes: clusterBytes },
    ]);
    expect(() => device.write(0, bytes)).toThrow(expect.objectContaining({ code: 'READ_ONLY' }));
    expect(() => device.read(device.sizeBytes, Uint8Array.of(1))).toThrow(
      expect.objectContaining({ code: 'OUT_OF_RANGE' }),
    );
    await device.close();
    expect(() => device.read(0, bytes)).toThrow(expect.objectContaining({ code: 'CLOSED' }));
    await image.close();
  });

  it('ends with its snapshot, and with its image', async () => {
    const { image } = await made();
    await image.createSnapshot({ name: 'a' });
    await image.createSnapshot({ name: 'b' });
    const [a, b] = [await image.openSnapshot('a'), await image.openSnapshot('b')];
    await image.deleteSnapshot('a');
    const ended = expect.objectContaining({ code: 'CLOSED' });
    expect(() => a.read(0, new Uint8Array(1))).toThrow(ended);
    await b.read(0, new Uint8Array(1));
    await image.close();
    expect(() => b.extents(0, 1)).toThrow(ended);
  });
});

describe.each([
  ['with a journal', journal],
  ['without', false as const],
])('a device that fails, %s', (_, with_) => {
  it.each(['snapshot_table_write', 'l1_grow_write_table'] as const)(
    'at %s: the image is as it was when it is opened again',
    async (event) => {
      const { memory, image } = await made({ journal: with_ });
      await image.write(0, random(1).bytes(50_000));
      await image.quiesce();
      image.abandon();
      const faults = new FaultDevice(memory);
      faults.addRule({ operation: 'write', event, fault: { kind: 'fail' } });
      const failing = await openImage(faults);
      await expect(failing.createSnapshot({ name: 'x' })).rejects.toMatchObject({ code: 'WRITE_FAILED' });
      expect(() => failing.write(0, Uint8Array.of(1))).toThrow(
        expect.objectContaining({ code: 'FAILED_EARLIER' }),
      );
      failing.abandon();
      const again = await openImage(memory);
      expect(again.snapshots).toEqual([]);
      await atRest(again);
      const report = await checkImage(memory);
      expect(report.corruptions).toBe(0);
      if (with_ !== false) expect(report.leaks).toBe(0);
    },
  );

  it('at any read: the operation is undone, and writing goes on', async () => {
    const sizeBytes = 12 << 20;
    const { memory, image } = await made({ journal: with_, sizeBytes });
    for (let at = 0; at < sizeBytes; at += 65536) await image.write(at, random(at + 1).bytes(3000));
    await image.quiesce();
    image.abandon();
    const faults = new FaultDevice(memory);
    // Hardly anything stays in the caches: what the first pass has seen is read again to be counted.
    const again = await openImage(faults, {
      cache: { l2CacheSizeBytes: 8192, refcountCacheSizeBytes: 8192 },
    });
    let failed = 0;
    for (let nth = 1; again.snapshots.length === 0; nth++) {
      const rule = {
        operation: 'read',
        event: ['l2_load', 'refblock_load'],
        nth,
        fault: { kind: 'fail' },
      } as const;
      const fault = faults.addRule(rule);
      try {
        await again.createSnapshot({ name: 'x' });
      } catch (error) {
        expect(error).toMatchObject({ code: 'READ_FAILED' });
        failed++;
      }
      fault.remove();
      await again.write(nth * 4096, Uint8Array.of(nth));
      await again.quiesce();
      if (failed % 5 === 0) expect(await findings(memory)).toEqual([]);
    }
    expect(failed).toBeGreaterThan(8);
    await atRest(again);
    expect(await findings(memory)).toEqual([]);
  });
});

describe('the size', () => {
  it('[SNP-028] of a version 2 disk with snapshots does not change', async () => {
    const scene = await made({ version: 2 });
    const { image } = scene;
    await image.write(0, new Uint8Array(clusterBytes).fill(1));
    await image.createSnapshot({ name: 'a' });
    const error = { code: 'UNSUPPORTED_OPERATION', context: { clause: 'SNP-028' } };
    await refusesWhole(scene, () => image.grow(2 << 20), error);
    await refusesWhole(scene, async () => image.resize(4096, { shrink: true }), error);
    await image.deleteSnapshot('a');
    await image.grow(2 << 20);
    await image.close();
  });

  it('[SNP-028, SNP-016] that an entry of version 3 does not say is written before the disk gets another', async () => {
    const { memory, image } = await made();
    await image.createSnapshot({ name: 'a' });
    await atRest(image);
    // As an entry of version 2 would be: no extra data.
    const bytes = memory.snapshot();
    const header = decodeHeader(bytes.slice(0, clusterBytes));
    const table = decodeSnapshotTable(bytes.subarray(header.snapshotsOffset), 1, { clusterBytes })
      .snapshots[0]!;
    const { diskSizeBytes: _size, instructionCount: _count, ...rest } = table;
    const bare = encodeSnapshotTable([{ ...rest, vmStateInExtraData: false }], 2);
    memory.write(header.snapshotsOffset, new Uint8Array(clusterBytes));
    memory.write(header.snapshotsOffset, bare);
    const again = await openImage(memory);
    expect(again.snapshots[0]!.diskSizeBytes).toBeUndefined();
    await again.resize(4 * clusterBytes, { shrink: true });
    expect(again.snapshots[0]!.diskSizeBytes).toBe(1 << 20);
    await again.applySnapshot('a');
    expect(again.sizeBytes).toBe(1 << 20);
    await atRest(again);
    expect(await findings(memory)).toEqual([]);
  });

  it('is not a request of a guest, and smaller only where that is said', async () => {
    const { image } = await made();
    expect(() => image.resize(4096)).toThrow(expect.objectContaining({ code: 'UNSUPPORTED_OPERATION' }));
    await expect(image.resize(4096, {})).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(image.resize(0, { shrink: true })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await image.resize(2 << 20, {});
    expect(image.sizeBytes).toBe(2 << 20);
    await image.close();
  });

  it.each([journal, false as const])(
    'shrinks with all that lies behind, and grows with zeros (%o)',
    async (with_) => {
      const { memory, image } = await made({ sizeBytes: 6 << 20, journal: with_ });
      const rng = random(7);
      const model = new Uint8Array(6 << 20);
      const fill = async (): Promise<void> => {
        for (let i = 0; i < 40; i++) {
          const at = rng.below(image.sizeBytes - 5000);
          const bytes = rng.bytes(5000);
          model.set(bytes, at);
          await image.write(at, bytes);
        }
      };
      await fill();
      for (const sizeBytes of [5_000_192, 4 << 20, 3 * (1 << 20) + 512, 100 * 4096, 512]) {
        await image.resize(sizeBytes, { shrink: true });
        model.fill(0, sizeBytes);
        expect(image.sizeBytes).toBe(sizeBytes);
        expect(image.header.l1Entries).toBe(Math.max(1, Math.ceil(sizeBytes / (512 * clusterBytes))));
        await image.quiesce();
        const report = await checkImage(memory);
        expect(report.findings).toEqual([]);
        expect(report.allocatedClusters).toBeLessThanOrEqual(Math.ceil(sizeBytes / clusterBytes));
        await image.grow(6 << 20);
        const seen = new Uint8Array(6 << 20);
        await image.read(0, seen);
        expect(Buffer.compare(seen, model)).toBe(0);
        await fill();
      }
      await image.close();
    },
  );

  it('that has become smaller while a write waited refuses that write', async () => {
    const { memory, image } = await made();
    image.abandon();
    const again = await openImage(new FaultDevice(memory, { mode: 'async' }));
    const shrinking = again.resize(clusterBytes, { shrink: true });
    const inside = again.write(0, Uint8Array.of(1));
    const behind = Promise.resolve(again.write(clusterBytes, Uint8Array.of(1)));
    await expect(behind).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    await Promise.all([shrinking, inside]);
    expect(again.sizeBytes).toBe(clusterBytes);
    await atRest(again);
    expect(await findings(memory)).toEqual([]);
  });
});

it('a snapshot of a sparse disk of 1 TiB is made and deleted in the memory of the caches', async () => {
  const memory = new MemoryDevice();
  const disk = 2 ** 40;
  await createImage(memory, { sizeBytes: disk, journal: { sizeBytes: 1 << 20 } });
  const image = await openImage(memory, {
    cache: { l2CacheSizeBytes: 1 << 20, refcountCacheSizeBytes: 256 * 1024 },
  });
  // A cluster in each of 400 L2 tables of the 2048.
  for (let i = 0; i < 400; i++) await image.write(i * 5 * 2 ** 29, Uint8Array.of(i));
  await image.createSnapshot({ name: 'a' });
  for (let i = 0; i < 400; i += 3) await image.write(i * 5 * 2 ** 29, Uint8Array.of(7));
  await image.deleteSnapshot('a');
  const { l2, refcount } = image.cacheCounters();
  expect(l2.bytes).toBeLessThanOrEqual(1 << 20);
  expect(refcount.bytes).toBeLessThanOrEqual(256 * 1024);
  await image.quiesce();
  expect(await findings(memory)).toEqual([]);
});
