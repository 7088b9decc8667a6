/** [JD13-TXN-010] An image of the draft's profile commits what nobody flushes: in time, and when much waits. */
import { MemoryDevice } from '@qcow2/block-device';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createImage, openImage, type Qcow2Image } from '../src/index.ts';

const clusterBytes = 4096;

async function made(): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  const journal = { profile: 'draft-2013', sizeBytes: 65536 } as const;
  await createImage(device, { sizeBytes: 1 << 20, clusterBytes, journal });
  return device;
}

function committed(image: Qcow2Image): number | undefined {
  const status = image.journalStatus();
  return status?.profile === 'draft-2013' ? status.use?.committedSequence : undefined;
}

async function firstByte(device: MemoryDevice, cluster: number): Promise<number> {
  const image = await openImage(device, { readOnly: true });
  const into = new Uint8Array(1);
  await image.read(cluster * clusterBytes, into);
  return into[0]!;
}

const whole = (value: number) => new Uint8Array(clusterBytes).fill(value);

describe('the commit interval', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('is five seconds from the first change that waits, and one commit takes all of them', async () => {
    const device = await made();
    const image = await openImage(device);
    const before = committed(image);
    await image.write(0, whole(1));
    await vi.advanceTimersByTimeAsync(3000);
    await image.write(clusterBytes, whole(2));
    await vi.advanceTimersByTimeAsync(1999);
    expect(committed(image)).toBe(before);
    await vi.advanceTimersByTimeAsync(1);
    const after = committed(image);
    expect(after).not.toBe(before);
    expect(await firstByte(device, 0)).toBe(1);
    expect(await firstByte(device, 1)).toBe(2);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(committed(image)).toBe(after);
  });

  it('can be another, or none', async () => {
    const device = await made();
    const soon = await openImage(device, { journal: { commitIntervalMs: 20 } });
    await soon.write(0, whole(1));
    await vi.advanceTimersByTimeAsync(20);
    soon.abandon();
    expect(await firstByte(device, 0)).toBe(1);
    const never = await openImage(device, { journal: { commitIntervalMs: 0 } });
    await never.write(0, whole(1));
    await never.write(clusterBytes, whole(2));
    await vi.advanceTimersByTimeAsync(60_000);
    never.abandon();
    expect(await firstByte(device, 1)).toBe(0);
  });

  it('ends with the image', async () => {
    const device = await made();
    const image = await openImage(device);
    await image.write(0, whole(1));
    image.abandon();
    expect(vi.getTimerCount()).toBe(0);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await firstByte(device, 0)).toBe(0);
  });

  it('leaves a failure to whoever asks next', async () => {
    const device = await made();
    const image = await openImage(device);
    await image.write(0, whole(1));
    device.flush = () => Promise.reject(new Error('for the test'));
    await vi.advanceTimersByTimeAsync(5000);
    await expect((async () => image.flush())()).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
  });
});

describe('the commit data size', () => {
  it('makes a commit of its own when so many bytes of metadata wait', async () => {
    const commitsOf = async (commitDataBytes: number): Promise<boolean> => {
      const device = await made();
      const image = await openImage(device, { journal: { commitIntervalMs: 0, commitDataBytes } });
      const before = committed(image);
      for (let i = 0; i < 5; i++) await image.write(i * clusterBytes, whole(i + 1));
      return committed(image) !== before;
    };
    expect(await commitsOf(24)).toBe(true);
    expect(await commitsOf(1 << 20)).toBe(false);
  });
});
