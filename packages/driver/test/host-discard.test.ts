/** Space that goes back to the device below: which, when, and that nobody gets it too early. */
import { type BlockDevice, FaultDevice, MemoryDevice, RecordingDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, type OpenOptions, openImage } from '../src/index.ts';

const clusterBytes = 4096;
const filled = (clusters: number, value: number) => new Uint8Array(clusters * clusterBytes).fill(value);

/** Can be looked at when the image is closed. */
class Disk extends MemoryDevice {
  override close(): void {}
}

async function made(journal: boolean): Promise<MemoryDevice> {
  const disk = new Disk();
  await createImage(disk, {
    sizeBytes: 256 * clusterBytes,
    clusterBytes,
    journal: journal ? { sizeBytes: 128 * 1024, blockBytes: 512 } : false,
  });
  return disk;
}

async function opened(below: BlockDevice, options: OpenOptions = {}) {
  const recording = new RecordingDevice(below);
  const image = await openImage(recording, {
    discard: 'unmap',
    journal: { directWriteBytes: clusterBytes, commitIntervalMs: 0 },
    ...options,
  });
  /** What was discarded below so far, in clusters; then forgotten. */
  const discarded = (): number => {
    const bytes = recording.log
      .map((one) => (one.kind === 'discard' ? one.lengthBytes : 0))
      .reduce((sum, count) => sum + count, 0);
    return bytes / clusterBytes;
  };
  return { image, recording, discarded };
}

describe.each([
  ['with a journal', true],
  ['without one', false],
])('space of freed clusters, %s', (_, journal) => {
  it('is given back when what freed it is durable, neighbours as one, and reads as zeros', async () => {
    const { image, recording, discarded } = await opened(await made(journal));
    await image.write(8 * clusterBytes, filled(16, 7));
    await image.flush();
    await image.discard(10 * clusterBytes, 8 * clusterBytes);
    expect(discarded()).toBe(0);
    await image.flush();
    // Without a journal, what a flush made free is counted down by the next.
    await image.flush();
    expect(discarded()).toBe(8);
    expect(recording.log.filter((one) => one.kind === 'discard')).toHaveLength(1);
    const bytes = filled(16, 1);
    await image.read(8 * clusterBytes, bytes);
    expect(bytes).toEqual(filled(16, 7).fill(0, 2 * clusterBytes, 10 * clusterBytes));
    await image.write(100 * clusterBytes, filled(8, 5));
    await image.flush();
    const again = filled(8, 1);
    await image.read(100 * clusterBytes, again);
    expect(again).toEqual(filled(8, 5));
    await image.close();
  });

  it.each(['request', 'snapshot', 'other'] as const)(
    'goes below for the reason that is asked for: %s',
    async (cause) => {
      const below = await made(journal);
      const { image, discarded } = await opened(below, { discard: 'ignore', passDiscard: { [cause]: true } });
      /** Clusters that were discarded by what was done since the last time. */
      let before = 0;
      const since = async (): Promise<number> => {
        for (let i = 0; i < 3; i++) await image.flush();
        await image.quiesce();
        const all = discarded();
        const more = all - before;
        before = all;
        return more;
      };
      await image.write(0, filled(8, 7));
      await since();
      await image.discard(0, 2 * clusterBytes);
      await image.writeZeroes(2 * clusterBytes, 2 * clusterBytes, { mayUnmap: true });
      expect(await since()).toBe(cause === 'request' ? 4 : 0);
      await image.createSnapshot({ name: 's' });
      await image.write(4 * clusterBytes, filled(4, 8));
      await since();
      await image.deleteSnapshot('s');
      const bySnapshot = await since();
      if (cause === 'snapshot') expect(bySnapshot).toBeGreaterThanOrEqual(4);
      if (cause === 'request') expect(bySnapshot).toBe(0);
      await image.close();
    },
  );

  it('is kept unless it is asked for, and where the device takes none back', async () => {
    const plain = new Disk();
    Object.defineProperty(plain, 'capabilities', { value: { ...plain.capabilities, discard: false } });
    await createImage(plain, { sizeBytes: 256 * clusterBytes, clusterBytes });
    for (const [below, discard] of [
      [await made(journal), 'ignore'],
      [plain, 'unmap'],
    ] as const) {
      const { image, discarded } = await opened(below, { discard });
      await image.write(0, filled(4, 7));
      await image.flush();
      await image.discard(0, 4 * clusterBytes);
      await image.flush();
      await image.flush();
      expect(discarded()).toBe(0);
      await image.close();
    }
  });

  it('costs nothing but space where the device fails to take it', async () => {
    const below = await made(journal);
    const failing = new FaultDevice(below, { rules: [{ operation: 'discard', fault: { kind: 'fail' } }] });
    const { image, discarded } = await opened(failing);
    for (let round = 0; round < 3; round++) {
      await image.write(0, filled(4, 7));
      await image.flush();
      await image.discard(0, 4 * clusterBytes);
      await image.flush();
      await image.flush();
    }
    expect(discarded()).toBeLessThanOrEqual(4);
    await image.close();
    const { corruptions, leaks } = await checkImage(below);
    expect([corruptions, leaks]).toEqual([0, 0]);
  });
});

/** Its discards wait for the test, and destroy what stands there when they are let go. */
class SlowToDiscard extends Disk {
  readonly held: { readonly from: number; readonly end: number; readonly go: () => void }[] = [];

  override discard(offset: number, lengthBytes: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const go = (): void => {
      super.writeZeroes(offset, lengthBytes);
      resolve();
    };
    this.held.push({ from: offset, end: offset + lengthBytes, go });
    return promise;
  }
}

it('a cluster is handed out only when its discard is done', async () => {
  const disk = new SlowToDiscard();
  await createImage(disk, {
    sizeBytes: 256 * clusterBytes,
    clusterBytes,
    journal: { sizeBytes: 128 * 1024 },
  });
  const { image, recording } = await opened(disk);
  await image.write(0, filled(4, 7));
  await image.flush();
  await image.discard(0, 4 * clusterBytes);
  await image.flush();
  const [held] = disk.held;
  const written = recording.log.length;
  await image.write(100 * clusterBytes, filled(8, 5));
  await image.flush();
  const inside = recording.log
    .slice(written)
    .filter(
      (one) => one.kind === 'write' && one.offset < held!.end && one.offset + one.bytes.length > held!.from,
    );
  expect(inside).toEqual([]);
  for (const { go } of disk.held) go();
  await new Promise((resolve) => setImmediate(resolve));
  const bytes = filled(8, 1);
  await image.read(100 * clusterBytes, bytes);
  expect(bytes).toEqual(filled(8, 5));
  // And now they are to be had.
  const before = recording.log.length;
  await image.write(200 * clusterBytes, filled(4, 6));
  const places = recording.log.slice(before).map((one) => (one.kind === 'write' ? one.offset : -1));
  expect(places).toEqual([held!.from]);
  await image.close();
  const { corruptions, leaks } = await checkImage(disk);
  expect([corruptions, leaks]).toEqual([0, 0]);
});
