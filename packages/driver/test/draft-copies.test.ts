/** The rest of a cluster that a flush maps before it is whole, with a journal of the profile draft-2013. */
import { MemoryDevice, run } from '@qcow2/block-device';
import { readDraftArea, recoverDraftLog } from '@qcow2/journal';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { addSnapshot, snapshotView } from './crash/support/shared-tables.ts';
import { CountingDevice } from './support/counting-device.ts';
import { random } from './support/random.ts';
import { toyKinds } from './support/toy-encryption.ts';

interface Setup {
  readonly memory: MemoryDevice;
  readonly device: CountingDevice;
  readonly content: Uint8Array;
}

/** An image whose clusters are all shared with a snapshot. */
async function setUp(clusterBytes: number, clusters: number, sizeBytes: number): Promise<Setup> {
  const content = random(7).bytes(clusterBytes * clusters);
  const memory = new MemoryDevice();
  const journal = { profile: 'draft-2013', sizeBytes } as const;
  await createImage(memory, { sizeBytes: content.length, clusterBytes, journal });
  const image = await openImage(memory);
  await image.write(0, content);
  await image.quiesce();
  image.abandon();
  addSnapshot(memory);
  return { memory, device: new CountingDevice(memory), content };
}

async function shown(device: MemoryDevice): Promise<Uint8Array> {
  const image = await openImage(device, { readOnly: true });
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  image.abandon();
  return bytes;
}

/** What a crash now finds: for a reader, and when a writer has replayed it. */
async function expectShown(memory: MemoryDevice, content: Uint8Array): Promise<void> {
  const crashed = memory.clone();
  expect(Buffer.compare(await shown(crashed), content)).toBe(0);
  (await openImage(crashed)).abandon();
  expect(Buffer.compare(await shown(crashed), content)).toBe(0);
  const report = await checkImage(crashed);
  expect(report.corruptions + report.leaks).toBe(0);
}

async function liveCopies(memory: MemoryDevice, image: Qcow2Image, clusterBytes: number): Promise<number> {
  const at = image.journalStatus()!.hostOffset;
  const area = await run(readDraftArea(memory, at, clusterBytes));
  return (await run(recoverDraftLog(memory, area))).effects.copies.count;
}

describe('a flush of a cluster that is not whole', () => {
  const clusterBytes = 65536;

  it('[JD13-DESC-017] reads and copies nothing: the transaction says where the rest stands, and a round brings it', async () => {
    const { memory, device, content } = await setUp(clusterBytes, 4, 1 << 20);
    const image = await openImage(device);
    const model = content.slice();
    device.reset();
    for (const at of [512, 4096, clusterBytes + 8192]) {
      await image.write(at, new Uint8Array(1024).fill(9));
      model.fill(9, at, at + 1024);
    }
    await image.flush();
    expect(device.reads('read_data').bytes + device.reads('cow_read').bytes).toBe(0);
    expect(device.writes('cow_write').bytes).toBe(0);
    expect(await liveCopies(memory, image, clusterBytes)).toBe(5);
    await expectShown(memory, model);
    const read = new Uint8Array(model.length);
    await image.read(0, read);
    expect(Buffer.compare(read, model)).toBe(0);
    device.reset();
    await image.quiesce();
    expect(device.writes('cow_write').bytes).toBe(2 * clusterBytes - 3 * 1024);
    expect(device.reads('cow_read').bytes).toBe(2 * clusterBytes - 3 * 1024);
    image.abandon();
    await expectShown(memory, model);
    expect(Buffer.compare(await shown(snapshotView(memory)), content)).toBe(0);
  });

  it('[JD13-DESC-016] what the guest writes where a copy is to write is revoked, at any alignment, and stays', async () => {
    const { memory, device, content } = await setUp(clusterBytes, 4, 256 * 1024);
    const image = await openImage(device);
    const model = content.slice();
    const rng = random(5);
    for (let i = 0; i < 300; i++) {
      const bytes = rng.bytes(1 + rng.below(1500));
      const at = rng.below(4 * clusterBytes - 1500);
      model.set(bytes, at);
      await image.write(at, bytes);
      if (i % 3 === 0) await image.flush();
      if (i % 30 === 0) {
        await expectShown(memory, model);
        const read = new Uint8Array(model.length);
        await image.read(0, read);
        expect(Buffer.compare(read, model)).toBe(0);
      }
    }
    await image.quiesce();
    image.abandon();
    await expectShown(memory, model);
    expect(Buffer.compare(await shown(snapshotView(memory)), content)).toBe(0);
  });
});

it('[JD13-DESC-018] No more than 4,096 parts are live, however many clusters wait: what is too much is brought in at once', async () => {
  const clusterBytes = 4096;
  const clusters = 1200;
  const { memory, device, content } = await setUp(clusterBytes, clusters, 1 << 20);
  // No round before the end.
  const image = await openImage(device, { journal: { writeBackAt: 1 } });
  const model = content.slice();
  device.reset();
  const put = async (at: number, value: number): Promise<void> => {
    await image.write(at, new Uint8Array(512).fill(value));
    model.fill(value, at, at + 512);
  };
  // Four gaps in each.
  for (let i = 0; i < clusters; i++) {
    for (const sector of [1, 3, 5, 7]) await put(i * clusterBytes + sector * 512, i);
    if (i % 16 === 15) await image.flush();
  }
  await image.flush();
  expect(await liveCopies(memory, image, clusterBytes)).toBe(4096);
  expect(device.writes('cow_write').bytes).toBe((clusters - 1024) * 2048);
  // Into live parts: what would cut one ends all of its cluster.
  for (let i = 0; i < 40; i++) await put(i * clusterBytes + 1024, 7);
  await image.flush();
  expect(await liveCopies(memory, image, clusterBytes)).toBeLessThanOrEqual(4096 - 40);
  await expectShown(memory, model);
  await image.quiesce();
  image.abandon();
  await expectShown(memory, model);
});

it('[JD13-DESC-019] copies in the log of an image that is encrypted are refused, by readers and writers, and nothing is written', async () => {
  const { memory, device } = await setUp(65536, 2, 1 << 20);
  const image = await openImage(device);
  await image.write(512, new Uint8Array(1024).fill(9));
  await image.flush();
  expect(await liveCopies(memory, image, 65536)).toBe(2);
  image.abandon();
  // The crypt method, in the last byte of its field.
  memory.write(35, new Uint8Array([1]));
  const before = memory.snapshot();
  const refused = { code: 'BAD_FIELD', context: { clause: 'JD13-DESC-019' } };
  const { encryption } = toyKinds.aes();
  await expect(openImage(memory, { readOnly: true })).rejects.toMatchObject(refused);
  await expect(openImage(memory, { encryption })).rejects.toMatchObject(refused);
  await expect(checkImage(memory)).rejects.toMatchObject(refused);
  expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
});
