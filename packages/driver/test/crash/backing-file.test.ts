/**
 * Another backing file, and crashes: what `rebase` and `commit` do to an image. Whatever a crash keeps, the disk shows the same through the file
 * that the header names; and a cluster that is given up shows what it had, or what is below.
 */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { decodeBackingFormat, findHeaderExtension } from '@qcow2/codec';
import { headerExtensionTypes } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../../src/index.ts';
import { random } from '../support/random.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

const clusterBytes = 4096;
const sizeBytes = 16 * clusterBytes + 1024;
const seed = 5;

const setups = [
  { name: 'journalled', options: { journal: { sizeBytes: 65536, blockBytes: 512 } }, leaks: false },
  { name: 'ordered', options: { journal: false }, leaks: true },
  { name: 'version 2', options: { journal: false, version: 2 }, leaks: true },
] as const;

/** Below, all the same byte. */
function below(value: number): MemoryDevice {
  const device = new MemoryDevice({ sizeBytes });
  device.write(0, new Uint8Array(sizeBytes).fill(value));
  return device;
}

const bases: Readonly<Record<string, number>> = { old: 1, 'the/other one, with a longer name': 2 };
const other = 'the/other one, with a longer name';

async function made(options: (typeof setups)[number]['options']): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  await createImage(device, {
    sizeBytes,
    clusterBytes,
    backingFile: 'old',
    backingFormat: 'raw',
    ...options,
  });
  const image = await openImage(device, { backing: below(1) });
  await image.write(2 * clusterBytes, new Uint8Array(3 * clusterBytes).fill(9));
  await image.quiesce();
  image.abandon();
  return device;
}

async function disk(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

async function findings(device: MemoryDevice, leaksToo: boolean) {
  const report = await checkImage(device);
  return report.findings.filter(({ severity }) => leaksToo || severity !== 'leak');
}

describe.each(setups)('$name', ({ options, leaks }) => {
  it('[BAK-004, BAK-005] names the old backing file or the new one, and shows the same disk through it', async () => {
    const start = await made(options);
    const device = new RecordingDevice(start.clone());
    const image = await openImage(device, { backing: below(1) });
    const before = await disk(image);
    // What the two differ in is brought into the image: here, all that it has not.
    for (let at = 0; at < sizeBytes; at += clusterBytes) {
      await image.write(at, before.subarray(at, at + clusterBytes));
    }
    await image.changeBacking({ name: other, format: 'qcow2' });
    image.abandon();
    const rng = random(seed);
    const states = new CrashStates(start, device.log);
    const seen = new Set<string>();
    for (let time = 0; time <= device.now; time++) {
      states.advance(time);
      const crashed = states.draw(rng, rng.pick(keepings));
      const probe = await openImage(crashed.clone(), { readOnly: true, backing: 'none' });
      const { backingFileName, extensions } = probe.header;
      const format = findHeaderExtension(extensions, headerExtensionTypes.backingFormat);
      probe.abandon();
      const name = backingFileName ?? '';
      seen.add(`${name} ${format === undefined ? '' : decodeBackingFormat(format)}`);
      const found = await openImage(crashed, { backing: below(bases[name]!) });
      const isSame = Buffer.compare(await disk(found), before) === 0;
      expect(isSame, `seed ${seed}, crash at ${time} of ${device.now}`).toBe(true);
      found.abandon();
      expect(await findings(crashed, !leaks), `seed ${seed}, crash at ${time}`).toEqual([]);
    }
    expect(seen).toEqual(new Set(['old raw', `${other} qcow2`]));
  });

  it('gives up what it has cluster by cluster, and shows what is below', async () => {
    const start = await made(options);
    const device = new RecordingDevice(start.clone());
    const image = await openImage(device, { backing: below(1) });
    await image.write(7 * clusterBytes + 100, new Uint8Array(200).fill(8));
    await image.writeZeroes(9 * clusterBytes, 2 * clusterBytes);
    await image.write(16 * clusterBytes, new Uint8Array(1024).fill(7));
    await image.flush();
    const before = await disk(image);
    const from = device.now;
    await image.showBacking(0, sizeBytes);
    await image.flush();
    expect(await disk(image)).toEqual(new Uint8Array(sizeBytes).fill(1));
    expect(await image.extents(0, sizeBytes)).toEqual([{ offset: 0, lengthBytes: sizeBytes, kind: 'hole' }]);
    image.abandon();
    const rng = random(seed);
    const states = new CrashStates(start, device.log);
    for (let time = 0; time <= device.now; time++) {
      states.advance(time);
      if (time < from) continue;
      const crashed = states.draw(rng, rng.pick(keepings));
      const found = await openImage(crashed, { backing: below(1) });
      const now = await disk(found);
      for (let at = 0; at < sizeBytes; at++) {
        if (now[at] === 1 || now[at] === before[at]) continue;
        expect.fail(`seed ${seed}, crash at ${time}: byte ${at} is ${now[at]}, was ${before[at]}`);
      }
      found.abandon();
      expect(await findings(crashed, !leaks), `seed ${seed}, crash at ${time}`).toEqual([]);
    }
  });
});

it('an image without a backing file gets one, and loses it, without a trace', async () => {
  const device = new MemoryDevice();
  await createImage(device, { sizeBytes, clusterBytes });
  const before = device.clone();
  const image = await openImage(device);
  await image.changeBacking({ name: 'some', format: 'raw' });
  expect(image.info()).toMatchObject({ backingFile: 'some', backingFormat: 'raw' });
  await expect(image.changeBacking({ name: 'x'.repeat(1024) })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
  await expect(image.changeBacking({ name: '' })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await image.changeBacking({ name: 'other' });
  expect(image.info()).toMatchObject({ backingFile: 'other', backingFormat: undefined });
  await image.changeBacking(undefined);
  image.abandon();
  const bytes = [before, device].map((each) => {
    const header = new Uint8Array(clusterBytes);
    each.read(0, header);
    return header;
  });
  expect(bytes[1]).toEqual(bytes[0]);
});
