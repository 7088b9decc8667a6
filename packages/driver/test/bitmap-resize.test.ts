/** Bitmaps of a disk that gets another size, beside a list of what was written; and where a crash may leave them. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';
import { CrashStates, keepings } from './crash/support/crash-states.ts';
import { random } from './support/random.ts';

const unit = 512;
const clusterBytes = 512;
/** Bits of one cluster stand for 2 MiB: sizes around it, and some that divide a granule of the coarse one. */
const sizes = [2 ** 21, 2 ** 21 + 512, 2 ** 20, 3 * 2 ** 21 - 1024, 512, 5 * 2 ** 21, 2 ** 22, 700 * 512];
const ways = {
  journal: { journal: { sizeBytes: 65536, blockBytes: 512 } },
  ordered: { journal: false },
  lazy: { journal: false, lazyRefcounts: true },
} as const;

async function made(way: keyof typeof ways): Promise<{ device: MemoryDevice; image: Qcow2Image }> {
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes: sizes[0]!, clusterBytes, ...ways[way] });
  const image = await openImage(device);
  await image.addBitmap('fine', { granularityBytes: unit });
  await image.addBitmap('coarse', { granularityBytes: 4096 });
  await image.addBitmap('off', { granularityBytes: unit });
  return { device, image };
}

/** One byte for each unit of the disk. */
async function dirty(image: Qcow2Image, name: string): Promise<Uint8Array> {
  const units = new Uint8Array(Math.ceil(image.sizeBytes / unit));
  for (const { offset, lengthBytes } of await image.dirtyRanges(name))
    units.fill(1, Math.floor(offset / unit), Math.ceil((offset + lengthBytes) / unit));
  return units;
}

function resized(units: Uint8Array, sizeBytes: number): Uint8Array<ArrayBuffer> {
  const next = new Uint8Array(Math.ceil(sizeBytes / unit));
  next.set(units.subarray(0, next.length));
  return next;
}

describe.each(Object.keys(ways) as (keyof typeof ways)[])('%s', (way) => {
  it('[BMP-007, BMP-003] what stays is as it was, what is new is clean, and writes go on being noted', async () => {
    const rng = random(11);
    const { device, image } = await made(way);
    let model = new Uint8Array(sizes[0]! / unit);
    const write = async () => {
      const units = Math.floor(image.sizeBytes / unit);
      const first = rng.below(units);
      const count = 1 + rng.below(Math.min(40, units - first));
      await image.write(first * unit, rng.bytes(count * unit));
      model.fill(1, first, first + count);
    };
    for (let i = 0; i < 12; i++) await write();
    await image.disableBitmap('off');
    let off = model.slice();
    for (const sizeBytes of [...sizes, ...sizes.slice().reverse()]) {
      await write();
      await image.resize(sizeBytes, { shrink: true });
      model = resized(model, sizeBytes);
      off = resized(off, sizeBytes);
      const hint = `${sizeBytes} bytes`;
      expect(Buffer.compare(await dirty(image, 'fine'), model), hint).toBe(0);
      expect(Buffer.compare(await dirty(image, 'off'), off), hint).toBe(0);
      const coarse = await dirty(image, 'coarse');
      expect(
        model.findIndex((is, at) => is === 1 && coarse[at] === 0),
        hint,
      ).toBe(-1);
      await write();
      await image.flush();
      expect(Buffer.compare(await dirty(image, 'fine'), model), hint).toBe(0);
    }
    device.close = () => undefined;
    await image.close();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0 });
    const again = await openImage(device);
    expect(await again.bitmaps()).toMatchObject([
      { enabled: true, inconsistent: false },
      { enabled: true, inconsistent: false },
      { enabled: false, inconsistent: false },
    ]);
    expect(Buffer.compare(await dirty(again, 'fine'), model)).toBe(0);
    await again.close();
  });

  it('[BMP-007] a crash leaves the old disk or the new one, and bitmaps that are right or say that they are not', async () => {
    const { device: start, image } = await made(way);
    await image.write(700 * 512, random(1).bytes(40 * unit));
    await image.write(2 ** 21 - 1024, random(2).bytes(1024));
    await image.quiesce();
    image.abandon();
    const device = new RecordingDevice(start.clone());
    const changed = await openImage(device);
    for (const sizeBytes of [sizes[3]!, sizes[7]!, sizes[6]!])
      await changed.resize(sizeBytes, { shrink: true });
    await changed.quiesce();
    changed.abandon();
    const rng = random(3);
    const states = new CrashStates(start, device.log);
    const seen = new Set<string>();
    for (let time = 0; time <= device.now; time++) {
      states.advance(time);
      const crashed = states.draw(rng, rng.pick(keepings));
      const found = await openImage(crashed);
      for (const { name, inconsistent } of await found.bitmaps()) {
        seen.add(`${inconsistent}`);
        if (inconsistent) continue;
        const units = await dirty(found, name);
        const from = Math.min(700, units.length);
        // Of what every size has: 40 units, but for where the disk was cut at the first of them.
        const count = units.subarray(from, from + 40).filter((is) => is === 1).length;
        const isCut = found.sizeBytes <= 700 * 512 || found.sizeBytes === sizes[6];
        if (!isCut)
          expect(count, `crash at ${time} of ${device.now}, ${name}`).toBe(Math.min(40, units.length - 700));
      }
      for (const { name } of await found.bitmaps()) await found.removeBitmap(name);
      found.abandon();
      const { corruptions, leaks } = await checkImage(crashed.clone());
      expect({ corruptions, leaks: way === 'journal' ? leaks : 0 }, `crash at ${time}`).toEqual({
        corruptions: 0,
        leaks: 0,
      });
    }
    expect(seen).toEqual(new Set(['true', 'false']));
  });
});
