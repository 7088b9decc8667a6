/** An image that nobody writes to for a while becomes an ordinary clean one, and stays open. */
import { FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { decodeHeader } from '@qcow2/codec';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkImage, createImage, openImage, type Qcow2Image } from '../src/index.ts';

const idleMs = 5000;
const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);

async function made(): Promise<MemoryDevice> {
  const memory = new MemoryDevice();
  const journal = { sizeBytes: 64 * 1024, blockBytes: 512 };
  await createImage(memory, { sizeBytes: 2 ** 20, clusterBytes: 4096, journal });
  return memory;
}

function isMarkedDirty(memory: MemoryDevice): boolean {
  return decodeHeader(memory.snapshot().subarray(0, 4096)).incompatibleFeatures !== 0n;
}

async function writeFlushed(image: Qcow2Image, at: number, value: number): Promise<void> {
  await image.write(at, sector(value));
  await image.flush();
}

describe('[JRN-WB-010] an idle image', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it('[JRN-WB-010] is clean after the pause and not before, dirty again with the next write, and so on', async () => {
    const memory = await made();
    const image = await openImage(memory, { journal: { idleMs } });
    for (let turn = 1; turn <= 3; turn++) {
      await writeFlushed(image, turn * 4096, turn);
      expect(isMarkedDirty(memory)).toBe(true);
      await vi.advanceTimersByTimeAsync(idleMs - 1);
      expect(isMarkedDirty(memory)).toBe(true);
      await vi.advanceTimersByTimeAsync(1);
      expect(isMarkedDirty(memory)).toBe(false);
      expect(image.journalStatus()).toMatchObject({ state: 'clean', use: { usedBytes: 0, pendingBytes: 0 } });
      expect(image.journalStatus()!.counters).toMatchObject({ quiesces: turn });
      // Whoever opens the file now, while it is open here, needs no journal to see everything.
      const copy = MemoryDevice.fromBytes(memory.snapshot());
      expect(await checkImage(copy)).toMatchObject({ corruptions: 0, leaks: 0 });
      const other = await openImage(copy, { readOnly: true });
      const bytes = new Uint8Array(512);
      await other.read(turn * 4096, bytes);
      expect(bytes).toEqual(sector(turn));
      other.abandon();
    }
    await vi.advanceTimersByTimeAsync(10 * idleMs);
    expect(image.journalStatus()!.counters).toMatchObject({ quiesces: 3 });
    image.abandon();
    expect(vi.getTimerCount()).toBe(0);
  });

  it('is not idle while somebody writes now and then, flushed or not', async () => {
    const memory = await made();
    const image = await openImage(memory, { journal: { idleMs } });
    await writeFlushed(image, 0, 1);
    for (let turn = 0; turn < 6; turn++) {
      await vi.advanceTimersByTimeAsync(idleMs - 100);
      if (turn % 2 === 0) await writeFlushed(image, 4096, turn + 1);
      else await image.write(8192, sector(turn));
      expect(isMarkedDirty(memory)).toBe(true);
    }
    await vi.advanceTimersByTimeAsync(2 * idleMs);
    expect(isMarkedDirty(memory)).toBe(false);
    image.abandon();
  });

  it('that can not be made clean says so to the next who writes, and recovers when it is opened again', async () => {
    const memory = await made();
    const device = new FaultDevice(memory);
    const image = await openImage(device, { journal: { idleMs } });
    await writeFlushed(image, 4096, 7);
    device.addRule({ event: 'write_data', fault: { kind: 'fail' } });
    await vi.advanceTimersByTimeAsync(idleMs);
    expect(isMarkedDirty(memory)).toBe(true);
    await expect((async () => image.flush())()).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
    image.abandon();
    const again = await openImage(memory);
    const bytes = new Uint8Array(512);
    await again.read(4096, bytes);
    expect(bytes).toEqual(sector(7));
    again.abandon();
  });
});
