/**
 * Bitmaps and crashes. With a journal every sector that changed since a bitmap was made is dirty in it, whatever a crash keeps, and
 * a change of bitmaps is there or not; without one a bitmap says so too, or it says that it is not to be believed.
 */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../../src/index.ts';
import { random } from '../support/random.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

const sizeBytes = 256 * 1024;
const unit = 512;

const setups = [
  { name: 'journalled', journal: { sizeBytes: 65536, blockBytes: 512 }, clusterBytes: 4096 },
  {
    name: 'journalled, clusters of 1024',
    journal: { sizeBytes: 65536, blockBytes: 512 },
    clusterBytes: 1024,
  },
  { name: 'ordered', journal: false, clusterBytes: 4096 },
] as const;

async function wholeDisk(image: Qcow2Image): Promise<Uint8Array> {
  const bytes = new Uint8Array(sizeBytes);
  await image.read(0, bytes);
  return bytes;
}

async function made(setup: (typeof setups)[number]): Promise<MemoryDevice> {
  const start = new MemoryDevice();
  await createImage(start, { sizeBytes, clusterBytes: setup.clusterBytes, journal: setup.journal });
  const image = await openImage(start);
  await image.write(0, new Uint8Array(100_000).fill(1));
  await image.addBitmap('kept', { granularityBytes: unit });
  await image.addBitmap('off', { granularityBytes: 4096, enabled: false });
  await image.quiesce();
  image.abandon();
  return start;
}

async function findings(device: MemoryDevice, leaksCount: boolean) {
  const { findings: all } = await checkImage(device.clone());
  return all.filter(({ severity }) => leaksCount || severity !== 'leak');
}

describe.each(setups)('$name', (setup) => {
  it('[BMD-006, BMP-004] nothing that changed is missing from an enabled bitmap that is to be believed', async () => {
    const start = await made(setup);
    const before = await wholeDisk(await openImage(start.clone(), { readOnly: true }));
    const device = new RecordingDevice(start.clone());
    const image = await openImage(device);
    const rng = random(setup.clusterBytes);
    for (let i = 0; i < 40; i++) {
      const length = 1 + rng.below(rng.pick([600, 5000, 20_000]));
      const at = rng.below(sizeBytes - length);
      if (i % 7 === 6) await image.writeZeroes(at, length, { mayUnmap: true });
      else await image.write(at, rng.bytes(length));
      if (i % 3 === 0) await image.flush();
      if (i === 25) await image.quiesce();
    }
    await image.quiesce();
    image.abandon();
    const states = new CrashStates(start, device.log);
    let believed = 0;
    for (let time = 0; time <= device.now; time++) {
      states.advance(time);
      const crashed = states.draw(rng, rng.pick(keepings));
      const found = await openImage(crashed.clone());
      const [kept] = await found.bitmaps();
      if (setup.journal !== false) expect(kept, `crash at ${time}`).toMatchObject({ inconsistent: false });
      if (kept?.inconsistent === false) {
        believed++;
        const now = await wholeDisk(found);
        const dirty = new Uint8Array(sizeBytes);
        for (const { offset, lengthBytes } of await found.dirtyRanges('kept'))
          dirty.fill(1, offset, offset + lengthBytes);
        const missed = now.findIndex((byte, at) => byte !== before[at] && dirty[at] === 0);
        expect(missed, `crash at ${time} of ${device.now}`).toBe(-1);
      }
      found.abandon();
      expect(await findings(crashed, setup.journal !== false), `crash at ${time}`).toEqual([]);
    }
    expect(believed).toBeGreaterThan(0);
  });

  it('[BMP-005] a change of bitmaps is there or not, and nothing is lost by it', async () => {
    const start = await made(setup);
    const device = new RecordingDevice(start.clone());
    const image = await openImage(device);
    await image.write(50_000, new Uint8Array(3000).fill(2));
    await image.addBitmap('new', { granularityBytes: 1024 });
    await image.mergeBitmap('off', 'kept');
    await image.disableBitmap('kept');
    await image.clearBitmap('kept');
    await image.enableBitmap('off');
    await image.removeBitmap('kept');
    await image.removeBitmap('off');
    await image.removeBitmap('new');
    image.abandon();
    const rng = random(setup.clusterBytes + 1);
    const states = new CrashStates(start, device.log);
    const lists = new Set<string>();
    for (let time = 0; time <= device.now; time++) {
      states.advance(time);
      const crashed = states.draw(rng, rng.pick(keepings));
      const found = await openImage(crashed);
      const list = await found.bitmaps();
      lists.add(list.map(({ name }) => name).join(' '));
      const off = list.find(({ name }) => name === 'off');
      // Merged or not: no part of it.
      if (off?.enabled === false && setup.journal === false) expect([0, 4096]).toContain(off.dirtyBytes);
      found.abandon();
      expect(await findings(crashed, setup.journal !== false), `crash at ${time}`).toEqual([]);
    }
    expect(lists).toEqual(new Set(['kept off', 'kept off new', 'off new', 'new', '']));
  });
});
