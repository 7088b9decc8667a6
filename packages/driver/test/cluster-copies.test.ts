/** Clusters whose bytes the device below copies: what they read as, what refuses, and what a crash leaves of them. */
import { type ByteOrigin, MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, test } from 'vitest';
import { type CreateOptions, checkImage, createImage, type OpenOptions, openImage } from '../src/index.ts';
import { atCrash } from './crash/support/crash-again.ts';
import { CrashStates, keepings } from './crash/support/crash-states.ts';
import { random } from './support/random.ts';
import { toyLuks } from './support/toy-encryption.ts';

const clusterBytes = 4096;
const clusters = 96;
const sizeBytes = clusters * clusterBytes;
const content = random(3)
  .bytes(sizeBytes)
  .map((byte) => byte | 1);
const journal = { sizeBytes: 65536, blockBytes: 512 };

/** Copies as a file does, up to a limit; what it did stands in the log as a write. Outlives its image. */
class Copying extends RecordingDevice {
  copies = 0;
  mostBytes = Number.POSITIVE_INFINITY;

  async copyFrom({ device, offset: from, lengthBytes }: ByteOrigin, offset: number): Promise<number> {
    this.copies++;
    const bytes = new Uint8Array(Math.min(lengthBytes, this.mostBytes));
    await device.read(from, bytes);
    await this.write(offset, bytes);
    this.mostBytes -= bytes.length;
    return bytes.length;
  }

  override close(): void {
    // The next image opens on it.
  }
}

const source = (from = 0, lengthBytes = sizeBytes - from): ByteOrigin => ({
  device: MemoryDevice.fromBytes(content),
  offset: from,
  lengthBytes,
});

async function made(create: Partial<CreateOptions> = {}, open: OpenOptions = {}) {
  const memory = new MemoryDevice();
  const device = new Copying(memory);
  await createImage(device, { sizeBytes, clusterBytes, ...create });
  device.reset();
  return { memory, device, image: await openImage(device, open) };
}

async function shown(device: Copying): Promise<Uint8Array> {
  const report = await checkImage(device);
  expect([report.corruptions, report.leaks]).toEqual([0, 0]);
  const image = await openImage(device, { readOnly: true });
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  await image.close();
  return bytes;
}

describe.each([
  ['without a journal', {}],
  ['with a journal', { journal }],
  ['with sub-clusters', { extendedL2: true, clusterBytes: 16384 }],
  ['in a version 2 image', { version: 2 as const }],
])('%s', (_, create: Partial<CreateOptions>) => {
  test('clusters are copied, and read as what was copied', async () => {
    const { device, image } = await made(create);
    expect(await image.copyFrom(source(), 0)).toBe(sizeBytes);
    const read = new Uint8Array(sizeBytes);
    await image.read(0, read);
    expect(Buffer.compare(read, content)).toBe(0);
    expect(device.copies).toBeGreaterThan(0);
    await image.close();
    expect(Buffer.compare(await shown(device), content)).toBe(0);
  });

  test('into clusters that the image has already, they go in place', async () => {
    const { device, image } = await made(create);
    await image.write(0, new Uint8Array(sizeBytes).fill(7));
    await image.quiesce();
    const before = device.sizeBytes;
    expect(await image.copyFrom(source(), 0)).toBe(sizeBytes);
    await image.close();
    expect(device.sizeBytes).toBe(before);
    expect(Buffer.compare(await shown(device), content)).toBe(0);
  });

  test('where the device below ends early, what is told is copied, and the rest is as it was', async () => {
    const { device, image } = await made(create);
    const { clusterBytes: unit } = image;
    device.mostBytes = 5 * unit + 1000;
    expect(await image.copyFrom(source(0, 10 * unit), 2 * unit)).toBe(5 * unit);
    expect(await image.copyFrom(source(0, 3 * unit), 9 * unit)).toBe(0);
    const expected = new Uint8Array(sizeBytes);
    expected.set(content.subarray(0, 5 * unit), 2 * unit);
    // Its place was given back, with what was copied there: nobody gets to see that.
    await image.write(0, content.subarray(0, 512));
    expected.set(content.subarray(0, 512), 0);
    await image.close();
    expect(Buffer.compare(await shown(device), expected)).toBe(0);
  });

  test('after any crash each cluster reads as before, or as what was copied', async () => {
    const { memory, device, image } = await made(create);
    const start = memory.clone();
    const { clusterBytes: unit } = image;
    for (let at = 0; at < sizeBytes; at += sizeBytes / 4) {
      expect(await image.copyFrom(source(at, sizeBytes / 4), at)).toBe(sizeBytes / 4);
      await image.flush();
    }
    const flushed = device.now;
    await image.close();
    const rng = random(8);
    const states = new CrashStates(start, device.log);
    for (let time = 1; time <= device.now; time++) {
      states.advance(time);
      // Each way of keeping is tried at every seventh moment, and two at each.
      for (const turn of [time, time + 3]) {
        const keeping = keepings[turn % keepings.length]!;
        const crashed = states.draw(rng, keeping);
        await holds(crashed, unit, time >= flushed).catch(atCrash(`${time}, ${keeping}`));
      }
    }
  });
});

/** Opened for writing, as after a crash: sound, leaks apart; nothing but zeros and what was copied. */
async function holds(crashed: MemoryDevice, unit: number, isDurable: boolean): Promise<void> {
  const image = await openImage(crashed);
  const read = new Uint8Array(sizeBytes);
  await image.read(0, read);
  image.abandon();
  for (let at = 0; at < sizeBytes; at += unit) {
    const cluster = read.subarray(at, at + unit);
    if (!isDurable && cluster.every((byte) => byte === 0)) continue;
    expect(Buffer.compare(cluster, content.subarray(at, at + unit)), `cluster at ${at}`).toBe(0);
  }
  expect((await checkImage(crashed)).corruptions).toBe(0);
}

test('mappings follow a flush that covers what was copied', async () => {
  const { device, image } = await made();
  await image.copyFrom(source(), 0);
  await image.flush();
  const events = device.log.map(({ kind, event }) => (kind === 'flush' ? 'flush' : (event ?? 'copy')));
  const copied = events.lastIndexOf('copy');
  const mapped = events.indexOf('l2_update');
  expect(events.slice(copied, mapped)).toContain('flush');
  image.abandon();
});

test('what waits in memory is not copied over: it ends there', async () => {
  const { device, image } = await made({ journal });
  await image.write(4 * clusterBytes, content.subarray(0, 512));
  expect(await image.copyFrom(source(), 0)).toBe(4 * clusterBytes);
  await image.close();
  const bytes = await shown(device);
  expect(Buffer.compare(bytes.subarray(0, 4 * clusterBytes), content.subarray(0, 4 * clusterBytes))).toBe(0);
  expect(
    Buffer.compare(bytes.subarray(4 * clusterBytes, 4 * clusterBytes + 512), content.subarray(0, 512)),
  ).toBe(0);
});

test('nothing is copied into an encrypted image, off a boundary, or where the device below does not copy', async () => {
  const encryption = toyLuks();
  const encrypted = await made({ encryption }, { encryption });
  expect(await encrypted.image.copyFrom(source(), 0)).toBe(0);
  expect(encrypted.device.copies).toBe(0);
  expect(await encrypted.image.origin(0, sizeBytes)).toBeUndefined();
  const plain = await made();
  expect(await plain.image.copyFrom(source(0, 5 * clusterBytes), 512)).toBe(0);
  expect(await plain.image.copyFrom(source(0, clusterBytes - 1), 0)).toBe(0);
  const device = new RecordingDevice(plain.memory.clone());
  const other = await openImage(device);
  expect(await other.copyFrom(source(), 0)).toBe(0);
  expect(device.log.filter(({ kind }) => kind === 'write')).toEqual([]);
  await expect(plain.image.copyFrom(source(), clusterBytes)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  for (const { image } of [encrypted, plain]) image.abandon();
  other.abandon();
});

test('bytes stand where it says, in the image or below it; what is made stands nowhere', async () => {
  const backing = MemoryDevice.fromBytes(content.subarray(0, 8 * clusterBytes));
  const { image, memory } = await made({ backingFile: 'below', backingFormat: 'raw' }, { backing });
  await image.write(2 * clusterBytes, content.subarray(0, 2 * clusterBytes));
  await image.writeZeroes(4 * clusterBytes, clusterBytes);
  await image.flush();
  expect(await image.origin(1000, 5000)).toMatchObject({ offset: 1000, lengthBytes: 5000 });
  const own = await image.origin(2 * clusterBytes + 100, sizeBytes - 2 * clusterBytes - 100);
  expect(own?.lengthBytes).toBe(2 * clusterBytes - 100);
  const stored = new Uint8Array(own!.lengthBytes);
  memory.read(own!.offset, stored);
  expect(Buffer.compare(stored, content.subarray(100, 2 * clusterBytes))).toBe(0);
  expect(await image.origin(4 * clusterBytes, clusterBytes)).toBeUndefined();
  expect((await image.origin(5 * clusterBytes, sizeBytes - 5 * clusterBytes))?.lengthBytes).toBe(
    3 * clusterBytes,
  );
  expect(await image.origin(9 * clusterBytes, clusterBytes)).toBeUndefined();
  image.abandon();
});

test('bytes of a snapshot stand where it says, whatever was written since', async () => {
  const backing = MemoryDevice.fromBytes(content.subarray(0, 8 * clusterBytes));
  const { image, memory, device } = await made({ backingFile: 'below', backingFormat: 'raw' }, { backing });
  await image.write(2 * clusterBytes, content.subarray(0, 2 * clusterBytes));
  await image.createSnapshot({ name: 'before' });
  await image.write(
    0,
    content.subarray(0, sizeBytes).map((byte) => byte ^ 0xff),
  );
  await image.flush();
  const disk = await image.openSnapshot({ name: 'before' });
  expect(await disk.origin!(1000, 5000)).toMatchObject({ offset: 1000, lengthBytes: 5000 });
  const own = await disk.origin!(2 * clusterBytes + 100, sizeBytes - 2 * clusterBytes - 100);
  expect(own?.lengthBytes).toBe(2 * clusterBytes - 100);
  const stored = new Uint8Array(own!.lengthBytes);
  memory.read(own!.offset, stored);
  expect(Buffer.compare(stored, content.subarray(100, 2 * clusterBytes))).toBe(0);
  expect(await disk.origin!(9 * clusterBytes, clusterBytes)).toBeUndefined();
  expect(() => disk.origin!(sizeBytes, 1)).toThrowError(expect.objectContaining({ code: 'OUT_OF_RANGE' }));
  await disk.close();
  expect(() => disk.origin!(0, 1)).toThrowError(expect.objectContaining({ code: 'CLOSED' }));
  image.abandon();
  expect(device.copies).toBe(0);
});
