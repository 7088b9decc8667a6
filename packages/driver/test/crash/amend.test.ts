/** Another version of the format, in steps: whatever a crash keeps, the image has its old version or its new one, and the disk is what it was. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../../src/index.ts';
import { random } from '../support/random.ts';
import { CrashStates, keepings } from './support/crash-states.ts';

const clusterBytes = 4096;

describe.each([
  { from: 3, to: 2, backing: false },
  { from: 3, to: 2, backing: true },
  { from: 2, to: 3, backing: true },
] as const)('from version $from to $to, backing file: $backing', ({ from, to, backing }) => {
  it('the one or the other, after any crash', async () => {
    const below = (): MemoryDevice | 'none' =>
      backing ? MemoryDevice.fromBytes(new Uint8Array(40 * clusterBytes).fill(0xbb)) : 'none';
    const start = new MemoryDevice();
    const named = backing ? { backingFile: 'base', backingFormat: 'raw' } : {};
    await createImage(start, { sizeBytes: 40 * clusterBytes, clusterBytes, version: from, ...named });
    const first = await openImage(start.clone(), { backing: below() });
    first.abandon();
    const memory = start.clone();
    const setup = await openImage(memory, { backing: below() });
    await setup.write(0, new Uint8Array(9 * clusterBytes).fill(7));
    await setup.writeZeroes(2 * clusterBytes, 20 * clusterBytes);
    await setup.quiesce();
    const content = new Uint8Array(setup.sizeBytes);
    await setup.read(0, content);
    setup.abandon();
    const before = memory.clone();
    const device = new RecordingDevice(memory);
    const image = await openImage(device, { backing: below() });
    await image.amend({ version: to });
    const durable = device.now;
    image.abandon();
    const rng = random(from + to);
    const states = new CrashStates(before, device.log);
    const versions = new Set<number>();
    for (let time = 0; time <= durable; time++) {
      states.advance(time);
      const crashed = states.draw(rng, rng.pick(keepings));
      const again = await openImage(crashed, { backing: below() });
      const seen = new Uint8Array(again.sizeBytes);
      await again.read(0, seen);
      expect(Buffer.compare(seen, content), `${time} of ${durable}`).toBe(0);
      versions.add(again.header.version);
      if (time === durable) expect(again.header.version).toBe(to);
      again.abandon();
      const { corruptions } = await checkImage(crashed);
      expect(corruptions, `${time} of ${durable}`).toBe(0);
    }
    expect(versions).toEqual(new Set([from, to]));
  });
});

describe.each([
  { from: 16, to: 64, journal: false },
  { from: 64, to: 2, journal: false },
  { from: 16, to: 1, journal: true },
] as const)('refcounts of $from bits become $to, with a journal: $journal', ({ from, to, journal }) => {
  it('the old structure or the new one, whole, after any crash; what it frees is used meanwhile', async () => {
    const memory = new MemoryDevice();
    const journalled = journal ? { journal: { sizeBytes: 65536 } } : {};
    const sizeBytes = 40 * clusterBytes;
    await createImage(memory, { sizeBytes, clusterBytes, refcountBits: from, ...journalled });
    const setup = await openImage(memory);
    await setup.write(0, new Uint8Array(9 * clusterBytes).fill(7));
    await setup.quiesce();
    setup.abandon();
    const before = memory.clone();
    const device = new RecordingDevice(memory);
    const image = await openImage(device);
    await image.amend({ refcountBits: to });
    const durable = device.now;
    // Into the clusters that the old table and its block had, and more.
    await image.write(20 * clusterBytes, new Uint8Array(4 * clusterBytes).fill(9));
    const written = device.now;
    image.abandon();
    const rng = random(from + to);
    const states = new CrashStates(before, device.log);
    const widths = new Set<number>();
    for (let time = 0; time <= written; time++) {
      states.advance(time);
      for (const keeping of keepings) {
        const crashed = states.draw(rng, keeping);
        const { corruptions, findings } = await checkImage(crashed);
        expect(corruptions, `${time} of ${written}, ${keeping}`).toBe(0);
        // Each structure counts itself, and not the other.
        if (time <= durable) expect(findings, `${time} of ${written}, ${keeping}`).toEqual([]);
        const again = await openImage(crashed);
        const seen = new Uint8Array(9 * clusterBytes);
        await again.read(0, seen);
        expect(
          seen.every((byte) => byte === 7),
          `${time} of ${written}, ${keeping}`,
        ).toBe(true);
        const { refcountBits } = again.info();
        widths.add(refcountBits);
        if (time >= durable) expect(refcountBits).toBe(to);
        await again.write(30 * clusterBytes, seen);
        await again.quiesce();
        again.abandon();
        expect((await checkImage(crashed)).corruptions).toBe(0);
      }
    }
    expect(widths).toEqual(new Set([from, to]));
  });
});
