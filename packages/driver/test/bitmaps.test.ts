/** Persistent bitmaps beside a model: what was written is dirty, exactly, on every way to log. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { bitmapFlags } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { random } from './support/random.ts';

const sizeBytes = 3 * 2 ** 20 + 1000;
const journal = { sizeBytes: 65536, blockBytes: 512 };

async function image(options: { journal?: typeof journal | false; clusterBytes?: number } = {}) {
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes, journal: false, clusterBytes: 4096, ...options });
  return { device, image: await openImage(device) };
}

async function dirtyGranules(of: Qcow2Image, name: string, unit: number): Promise<Set<number>> {
  const found = new Set<number>();
  for (const { offset, lengthBytes } of await of.dirtyRanges(name)) {
    for (let at = Math.floor(offset / unit); at * unit < offset + lengthBytes; at++) found.add(at);
  }
  return found;
}

function add(model: Set<number>, offset: number, lengthBytes: number, unit: number): void {
  for (let at = Math.floor(offset / unit); at * unit < offset + lengthBytes; at++) model.add(at);
}

/** The flags of the first directory entry, as they stand in the file. */
function storedFlags(device: MemoryDevice): number {
  const bytes = device.snapshot();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  for (let at = 104; ; ) {
    const type = view.getUint32(at);
    if (type === 0x23852875) return view.getUint32(Number(view.getBigUint64(at + 24)) + 12);
    at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  }
}

describe.each([
  { name: 'ordered', journal: false, clusterBytes: 4096 },
  { name: 'ordered, clusters of 512', journal: false, clusterBytes: 512 },
  { name: 'journalled', journal, clusterBytes: 4096 },
  { name: 'journalled, clusters of 64 KiB', journal, clusterBytes: 65536 },
] as const)('$name', (setup) => {
  it('[BMP-001, BMP-002] says exactly what was written, while it is open and afterwards', async () => {
    const { device, image: first } = await image(setup);
    let opened = first;
    const units = { fine: 512, coarse: 65536 };
    for (const [name, granularityBytes] of Object.entries(units))
      await opened.addBitmap(name, { granularityBytes });
    await opened.addBitmap('off', { granularityBytes: 4096, enabled: false });
    const model = { fine: new Set<number>(), coarse: new Set<number>() };
    const rng = random(setup.clusterBytes);
    for (let i = 0; i < 60; i++) {
      const length = 1 + rng.below(rng.pick([100, 5000, 200_000]));
      const at = rng.below(sizeBytes - length);
      if (i % 5 === 4) await opened.writeZeroes(at, length);
      else await opened.write(at, rng.bytes(length));
      add(model.fine, at, length, units.fine);
      add(model.coarse, at, length, units.coarse);
      if (i % 9 === 0) await opened.flush();
      if (i % 20 === 19) {
        await opened.quiesce();
        opened.abandon();
        expect((await checkImage(device)).findings).toEqual([]);
        opened = await openImage(device);
      }
      if (i % 10 === 9) {
        expect(await dirtyGranules(opened, 'fine', units.fine)).toEqual(model.fine);
        expect(await dirtyGranules(opened, 'coarse', units.coarse)).toEqual(model.coarse);
      }
    }
    expect(await opened.dirtyRanges('off')).toEqual([]);
    await opened.mergeBitmap('off', 'fine');
    const merged = new Set([...model.fine].map((at) => Math.floor(at / 8)));
    expect(await dirtyGranules(opened, 'off', 4096)).toEqual(merged);
    await opened.clearBitmap('fine');
    expect(await opened.dirtyRanges('fine')).toEqual([]);
    await opened.write(512, new Uint8Array(512).fill(1));
    expect(await opened.dirtyRanges('fine')).toEqual([{ offset: 512, lengthBytes: 512 }]);
    for (const name of ['fine', 'coarse', 'off']) await opened.removeBitmap(name);
    expect(await opened.bitmaps()).toEqual([]);
    await opened.close();
    const { findings } = await checkImage(MemoryDevice.fromBytes(device.snapshot()));
    expect(findings).toEqual([]);
  });
});

it('[BMP-004, BMD-005] without a journal the mark of use stands in the file before the first write', async () => {
  const { device, image: opened } = await image();
  await opened.addBitmap('b');
  expect(storedFlags(device)).toBe(bitmapFlags.auto);
  await opened.write(0, Uint8Array.of(1));
  expect(storedFlags(device)).toBe(bitmapFlags.auto | bitmapFlags.inUse);
  await opened.quiesce();
  expect(storedFlags(device)).toBe(bitmapFlags.auto);
  await opened.write(0, Uint8Array.of(1));
  opened.abandon();
  const again = await openImage(device);
  expect(await again.bitmaps()).toMatchObject([{ name: 'b', inconsistent: true, dirtyBytes: undefined }]);
  await expect(again.dirtyRanges('b')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(again.clearBitmap('b')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await again.write(0, Uint8Array.of(2));
  await again.quiesce();
  expect(storedFlags(device)).toBe(bitmapFlags.auto | bitmapFlags.inUse);
  await again.removeBitmap('b');
  expect(await again.bitmaps()).toEqual([]);
});

it('[BMP-004] a mark that is found is durable before the next write: who was killed may not have seen to it', async () => {
  const { device, image: opened } = await image();
  await opened.addBitmap('b');
  await opened.write(0, Uint8Array.of(1));
  opened.abandon();
  const recording = new RecordingDevice(device);
  const again = await openImage(recording);
  await again.write(0, Uint8Array.of(2));
  const kinds = recording.log.map(({ kind }) => kind);
  expect(kinds).toContain('flush');
  expect(kinds.indexOf('flush')).toBeLessThan(kinds.indexOf('write'));
  again.abandon();
});

it.each([
  ['added', (of: Qcow2Image) => of.addBitmap('c')],
  ['cleared', (of: Qcow2Image) => of.clearBitmap('off')],
  ['merged into', (of: Qcow2Image) => of.mergeBitmap('off', 'b')],
  ['turned on', (of: Qcow2Image) => of.enableBitmap('off')],
] as const)('[BMP-004] the mark of use goes at rest where another bitmap was %s last', async (_, change) => {
  const { device, image: opened } = await image();
  await opened.addBitmap('b', { granularityBytes: 4096 });
  await opened.addBitmap('off', { enabled: false });
  await opened.write(0, Uint8Array.of(1));
  await change(opened);
  await opened.quiesce();
  expect(storedFlags(device)).toBe(bitmapFlags.auto);
  opened.abandon();
  const again = await openImage(device);
  expect((await again.bitmaps()).some(({ inconsistent }) => inconsistent)).toBe(false);
  expect(await again.dirtyRanges('b')).toEqual([{ offset: 0, lengthBytes: 4096 }]);
});

it('[BMP-006] what is dirty already costs no flush', async () => {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes, journal, clusterBytes: 4096 });
  const device = new RecordingDevice(memory);
  const opened = await openImage(device);
  await opened.write(0, new Uint8Array(65536).fill(1));
  await opened.addBitmap('b', { granularityBytes: 4096 });
  await opened.quiesce();
  await opened.write(0, new Uint8Array(4096).fill(2));
  const flushes = () => device.log.filter(({ kind }) => kind === 'flush').length;
  const before = flushes();
  await opened.write(0, new Uint8Array(4096).fill(3));
  await opened.write(32768, new Uint8Array(4096).fill(3));
  expect(flushes()).toBe(before);
  opened.abandon();
});

it('[LIM-017, BMD-014] names and granularities that no bitmap has are refused, and nothing is changed', async () => {
  const { image: opened } = await image();
  await opened.addBitmap('b');
  for (const granularityBytes of [256, 1000, 2 ** 32]) {
    await expect(opened.addBitmap('c', { granularityBytes })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  }
  await expect(opened.addBitmap('b')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(opened.removeBitmap('c')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await opened.createSnapshot({ name: 's' });
  await expect(opened.applySnapshot('s')).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
  await expect(opened.enableJournal({ profile: 'draft-2013' })).rejects.toMatchObject({
    code: 'UNSUPPORTED_OPERATION',
  });
  expect(await opened.bitmaps()).toHaveLength(1);
});

it('[BMD-007] a bitmap with extra data that nobody knows is listed, marked when something is written, and not read', async () => {
  const { device, image: opened } = await image();
  await opened.addBitmap('12345678');
  await opened.close();
  const bytes = device.snapshot();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = 104;
  while (view.getUint32(at) !== 0x23852875) at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  const directory = Number(view.getBigUint64(at + 24));
  // The name gives half of its bytes to extra data: the entry stays as long as it is.
  view.setUint16(directory + 18, 4);
  view.setUint32(directory + 20, 4);
  const again = await openImage(MemoryDevice.fromBytes(bytes));
  expect(await again.bitmaps()).toMatchObject([{ name: '5678', dirtyBytes: undefined, inconsistent: false }]);
  await expect(again.dirtyRanges('5678')).rejects.toMatchObject({ code: 'UNSUPPORTED_FEATURE' });
  await again.write(0, Uint8Array.of(1));
  const [info] = await again.bitmaps();
  expect(info).toMatchObject({ enabled: true });
});

it('[FEA-012] a reader changes nothing, and sees what the log of an image that was not closed has', async () => {
  const { device, image: opened } = await image({ journal });
  await opened.addBitmap('b', { granularityBytes: 4096 });
  await opened.write(8192, new Uint8Array(512).fill(1));
  opened.abandon();
  const before = device.snapshot();
  const reader = await openImage(device, { readOnly: true });
  const [range] = await reader.dirtyRanges('b', 8192, 4096);
  expect(range).toEqual({ offset: 8192, lengthBytes: 4096 });
  expect(await reader.bitmaps()).toMatchObject([{ name: 'b', enabled: true, inconsistent: false }]);
  expect(device.snapshot()).toEqual(before);
});

it('[BMD-002, LIM-019] a bitmap whose table stands on other metadata is not written to, and not removed', async () => {
  const { device, image: opened } = await image();
  await opened.addBitmap('b');
  await opened.close();
  const bytes = device.snapshot();
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = 104;
  while (view.getUint32(at) !== 0x23852875) at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  const l1Offset = view.getBigUint64(40);
  view.setBigUint64(Number(view.getBigUint64(at + 24)), l1Offset);
  const damaged = MemoryDevice.fromBytes(bytes);
  const again = await openImage(damaged);
  expect(await again.bitmaps()).toMatchObject([{ name: 'b', dirtyBytes: undefined }]);
  await again.write(0, Uint8Array.of(1));
  await expect(again.removeBitmap('b')).rejects.toMatchObject({ code: 'OVERLAP' });
  const read = new Uint8Array(1);
  await again.read(0, read);
  expect(read[0]).toBe(1);
});
