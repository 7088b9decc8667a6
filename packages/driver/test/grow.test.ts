/** Growing that is refused, that fails and is undone, and open intents that are not believed. */
import { FaultDevice, MemoryDevice, run } from '@qcow2/block-device';
import { encodeDetachedTableIntent, encodeGrowIntent, encodeRecord } from '@qcow2/codec/journal/v1';
import { recoverLog, ringOf } from '@qcow2/journal';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, Qcow2Image } from '../src/index.ts';
import { openParts } from '../src/open.ts';

const journal = { sizeBytes: 65536, blockBytes: 512 } as const;
const clusterBytes = 512;

/** A dirty image of 4096 bytes whose log ends with an intent. */
async function withIntent(intentKind: number, body: Uint8Array): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 4096, clusterBytes, journal });
  const image = await openImage(memory);
  await image.write(0, new Uint8Array(512).fill(1));
  await image.flush();
  const area = image.journalStatus()!;
  image.abandon();
  const sink = { guestWrite: () => undefined, guestSettled: () => undefined };
  const log = await run(recoverLog(memory, area, sink));
  const last = log.records.at(-1)!;
  const ring = ringOf(area, 512);
  const record = encodeRecord({
    sequence: last.sequence + 1,
    journalId: log.slot.journalId,
    salt: last.salt,
    position: last.endLog % ring.lengthBytes,
    chain: last.crc,
    durableThrough: last.sequence,
    life: false,
    blockBytes: 512,
    descriptors: [{ type: 'intent', intentKind, intentId: 1, body }],
    payload: [],
  });
  memory.write(ring.hostOffset + (last.endLog % ring.lengthBytes), record.bytes);
  return memory;
}

const geometry = { clusterBytes, l2Entries: clusterBytes / 8 };
const detached = { l1Offset: 1 << 20, l1Entries: 1, countedFrom: 0, countedTo: 64 };
const grow = { sizeBeforeBytes: 4096, sizeAfterBytes: 65536, reachBytes: 65536 };

describe('an open intent', () => {
  it.each([
    ['of a kind that nobody knows', 77, new Uint8Array(8), 'UNSUPPORTED_FEATURE', 'JRN-INTENT-006'],
    ['to grow with a short body', 1, new Uint8Array(8), 'BAD_FIELD', 'JRN-INTENT-020'],
    [
      'to grow a disk of another size',
      1,
      encodeGrowIntent({ ...grow, sizeBeforeBytes: 512 }),
      'BAD_FIELD',
      'JRN-INTENT-022',
    ],
    ['on a detached table with a short body', 2, new Uint8Array(8), 'BAD_FIELD', 'JRN-INTENT-030'],
    [
      'on a detached table behind the end of the file',
      2,
      encodeDetachedTableIntent({ ...detached, l1Offset: 2 ** 40 }, geometry),
      'TRUNCATED',
      'LIM-018',
    ],
    [
      'on a detached table in the journal',
      2,
      encodeDetachedTableIntent({ ...detached, l1Offset: 4096 }, geometry),
      'OVERLAP',
      'LIM-019',
    ],
  ])(
    '[JRN-INTENT-006] %s refuses readers and writers, and nothing is written',
    async (_, kind, body, code, clause) => {
      const memory = await withIntent(kind, body);
      const before = memory.snapshot();
      for (const readOnly of [true, false]) {
        await expect(openImage(memory, { readOnly })).rejects.toMatchObject({ code, context: { clause } });
      }
      expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
    },
  );

  it('[JRN-INTENT-006, JRN-INTENT-025] to grow shows the old disk, and is over when a writer has opened the image', async () => {
    const memory = await withIntent(1, encodeGrowIntent(grow));
    const reader = await openImage(memory, { readOnly: true });
    expect(reader.sizeBytes).toBe(4096);
    const writer = await openImage(memory);
    expect(writer.journalStatus()).toMatchObject({ state: 'clean' });
    await writer.grow(8192);
    await writer.quiesce();
    writer.abandon();
    expect((await checkImage(memory)).findings).toEqual([]);
  });
});

describe.each([
  ['journalled', journal],
  ['ordered', false as const],
])('growing, %s', (_, with_) => {
  it('that can not read a table is undone, and the image goes on', async () => {
    const memory = new MemoryDevice();
    const setup = { sizeBytes: 20_000, clusterBytes, journal: with_, backingFile: 'base' };
    await createImage(memory, setup);
    const backing = MemoryDevice.fromBytes(new Uint8Array(400_000).fill(0xbb));
    const image = await openImage(memory, { backing });
    await image.write(0, new Uint8Array(512).fill(1));
    await image.quiesce();
    // The last cluster is copied from the backing file, which comes after the tables.
    const broken = new FaultDevice(backing);
    broken.addRule({ operation: 'read', fault: { kind: 'fail' } });
    image.abandon();
    const parts = await run(openParts(memory, { backing: broken }));
    const again = new Qcow2Image(parts);
    await expect(again.grow(390_000)).rejects.toMatchObject({ code: 'READ_FAILED' });
    expect(again.sizeBytes).toBe(20_000);
    const { mappings, core } = parts;
    let tables = 0;
    for (let i = 1; i < core.header.l1Entries; i++)
      if (mappings.l2TableOffset(i * core.l2Entries) !== 0) tables++;
    expect(tables).toBe(0);
    await again.write(512, new Uint8Array(512).fill(2));
    await again.quiesce();
    again.abandon();
    expect((await checkImage(memory)).findings).toEqual([]);
  });
});

it('[JRN-FAIL-003] a disk whose L1 table is too large for the journal is refused, and nothing is changed or ended by that', async () => {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes: 1 << 20, clusterBytes, journal });
  const image = await openImage(memory);
  const huge = 40 * 2 ** 30;
  await expect(image.grow(huge)).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    context: { clause: 'JRN-FAIL-003' },
  });
  expect(image.sizeBytes).toBe(1 << 20);
  await image.write(0, new Uint8Array(512).fill(1));
  await image.flush();
  await image.resizeJournal({ sizeBytes: 4 << 20 });
  await image.grow(huge);
  await image.write(huge - 512, new Uint8Array(512).fill(2));
  await image.flush();
  await image.quiesce();
  image.abandon();
  expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
});

it.each([
  { how: 'ordered', options: { journal: false } },
  { how: 'journal', options: { journal } },
  { how: 'extended', options: { journal: false, extendedL2: true } },
  { how: 'extended, journal', options: { journal, extendedL2: true } },
] as const)(
  '[DAT-007] beside a data file, too, a longer backing file is hidden where the disk ended within a cluster: $how',
  async ({ options }) => {
    const [memory, data] = [new MemoryDevice(), new MemoryDevice()];
    const cluster = 16_384;
    const sizeBytes = 2 * cluster + 1536;
    await createImage(memory, {
      sizeBytes,
      clusterBytes: cluster,
      backingFile: 'base',
      dataFile: { device: data, name: 'data' },
      ...options,
    });
    const backing = MemoryDevice.fromBytes(new Uint8Array(5 * cluster).fill(7));
    const image = await openImage(memory, { backing, dataFile: data });
    await image.resize(4 * cluster, {});
    const expected = new Uint8Array(4 * cluster).fill(7, 0, sizeBytes);
    const seen = new Uint8Array(4 * cluster);
    await image.read(0, seen);
    expect(Buffer.compare(seen, expected)).toBe(0);
    await image.quiesce();
    image.abandon();
    expect((await checkImage(memory)).findings).toEqual([]);
    const again = await openImage(memory, { backing, dataFile: data, readOnly: true });
    await again.read(0, seen);
    expect(Buffer.compare(seen, expected)).toBe(0);
  },
);

it('a version 2 disk over a longer backing file gets its zeros written behind its end', async () => {
  const memory = new MemoryDevice();
  const sizeBytes = 4 * 4096 + 1536;
  await createImage(memory, { sizeBytes, version: 2, clusterBytes: 4096, backingFile: 'base' });
  const backing = MemoryDevice.fromBytes(new Uint8Array(12 * 4096).fill(7));
  const image = await openImage(memory, { backing });
  await image.resize(8 * 4096 + 512, {});
  const seen = new Uint8Array(8 * 4096 + 512);
  await image.read(0, seen);
  expect(Buffer.compare(seen, new Uint8Array(seen.length).fill(7, 0, sizeBytes))).toBe(0);
  await image.quiesce();
  expect((await checkImage(memory)).findings).toEqual([]);
  image.abandon();
});
