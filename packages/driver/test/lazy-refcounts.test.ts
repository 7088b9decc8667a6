/** Images with lazy refcounts: what a flush costs, what a clean close leaves, and the repair of what was not closed. */
import { MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { checkImage, createImage, openImage, probeImage, type Qcow2Image } from '../src/index.ts';
import { random } from './support/random.ts';

const clusterBytes = 4096;
const sizeBytes = 64 * 1024 * 1024;

/** Stays open when an image on it is closed. */
class Kept extends MemoryDevice {
  override close(): void {}
}

let memory: Kept;

beforeEach(async () => {
  memory = new Kept();
  await createImage(memory, { sizeBytes, clusterBytes, lazyRefcounts: true });
});

/** Flushes and bytes of what `action` did to the device. */
async function costOf(device: RecordingDevice, action: () => Promise<void>) {
  const from = device.log.length;
  await action();
  const done = device.log.slice(from);
  const bytes = done.reduce((sum, one) => sum + (one.kind === 'write' ? one.bytes.length : 0), 0);
  return { flushes: done.filter(({ kind }) => kind === 'flush').length, bytes };
}

async function writeAndFlush(image: Qcow2Image, cluster: number): Promise<void> {
  await image.write(cluster * clusterBytes, new Uint8Array(clusterBytes).fill(1 + (cluster % 255)));
  await image.flush();
}

describe('an image with lazy refcounts', () => {
  it('[LAZ-001, LAZ-003] pays one flush, and the bytes of data and entry, for a flushed write to a new cluster', async () => {
    const device = new RecordingDevice(memory);
    const image = await openImage(device);
    expect((await costOf(device, () => writeAndFlush(image, 0))).flushes).toBe(2);
    expect((await probeImage(memory)).info().dirtyFlag).toBe(true);
    const rng = random(3);
    for (let i = 0; i < 300; i++) {
      const cost = await costOf(device, () => writeAndFlush(image, 1 + i));
      expect(cost).toEqual({ flushes: 1, bytes: clusterBytes + 8 });
      // Overwrites change no metadata.
      const again = await costOf(device, () => writeAndFlush(image, rng.below(i + 1)));
      expect(again).toEqual({ flushes: 1, bytes: clusterBytes });
    }
    await image.close();
  });

  it('[LAZ-003] pays two where other bytes than zeros were seen there, or the cluster has a past', async () => {
    const device = new RecordingDevice(memory);
    const backing = MemoryDevice.fromBytes(new Uint8Array(1024 * 1024).fill(9));
    const image = await openImage(device, { backing });
    await writeAndFlush(image, 1000);
    expect((await costOf(device, () => writeAndFlush(image, 3))).flushes).toBe(2);
    expect((await costOf(device, () => writeAndFlush(image, 1001))).flushes).toBe(1);
    await image.discard(1000 * clusterBytes, clusterBytes);
    await image.flush();
    await image.flush();
    expect((await costOf(device, () => writeAndFlush(image, 1002))).flushes).toBe(2);
    await image.close();
  });

  it('[LAZ-002] is an ordinary image after a clean close, as long as it has to be, and after a pause', async () => {
    const image = await openImage(memory);
    for (let cluster = 0; cluster < 300; cluster += 3) await writeAndFlush(image, cluster);
    expect(memory.sizeBytes).toBeGreaterThan(140 * clusterBytes);
    await image.quiesce();
    expect((await probeImage(memory)).info().dirtyFlag).toBe(false);
    await writeAndFlush(image, 1);
    expect((await probeImage(memory)).info().dirtyFlag).toBe(true);
    await image.close();
    const report = await checkImage(memory);
    expect(report).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 101 });
    expect(memory.sizeBytes).toBe(report.imageEndOffset);
    const again = await openImage(memory);
    expect(again.repaired).toBeUndefined();
    await again.close();
  });

  it('[LAZ-005, FEA-001] is repaired when it is opened for writing, and not when for reading [LAZ-006]', async () => {
    const image = await openImage(memory);
    for (let cluster = 0; cluster < 40; cluster++) await writeAndFlush(image, cluster * 7);
    image.abandon();
    expect((await checkImage(memory)).corruptions).toBeGreaterThan(40);
    const before = memory.snapshot();
    const reader = await openImage(memory, { readOnly: true });
    const into = new Uint8Array(clusterBytes);
    await reader.read(7 * clusterBytes, into);
    expect(into[0]).toBe(8);
    expect(Buffer.compare(memory.snapshot(), before)).toBe(0);
    const writer = await openImage(memory);
    expect(writer.repaired).toMatchObject({ raised: 41, lowered: 0, flagsCorrected: 0, blocksAdded: 0 });
    expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 40 });
    await writer.close();
  });

  it('can be asked for, and not; version 2 has none [LAZ-009]', async () => {
    const eager = await openImage(memory, { lazyRefcounts: false });
    await writeAndFlush(eager, 0);
    expect(eager.info()).toMatchObject({ dirtyFlag: false, lazyRefcounts: true });
    await eager.close();
    const plain = new Kept();
    await createImage(plain, { sizeBytes, clusterBytes });
    const lazy = await openImage(plain, { lazyRefcounts: true });
    await writeAndFlush(lazy, 0);
    expect(lazy.info()).toMatchObject({ dirtyFlag: true, lazyRefcounts: false });
    await lazy.close();
    const old = new Kept();
    await createImage(old, { sizeBytes, version: 2 });
    await expect(openImage(old, { lazyRefcounts: true })).rejects.toMatchObject({
      code: 'UNSUPPORTED_OPTION',
    });
  });

  it('is made clean when nobody has written for a while', async () => {
    vi.useFakeTimers();
    try {
      const image = await openImage(memory, { journal: { idleMs: 1000 } });
      await writeAndFlush(image, 0);
      expect(image.info().dirtyFlag).toBe(true);
      vi.advanceTimersByTime(3000);
      expect((await probeImage(memory)).info().dirtyFlag).toBe(false);
      expect(await checkImage(memory)).toMatchObject({ corruptions: 0, leaks: 0 });
      await image.close();
    } finally {
      vi.useRealTimers();
    }
  });
});
