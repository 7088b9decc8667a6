/** Images with a journal of the profile draft-2013: made, written, replayed, looked at, taken away. */
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const small = { sizeBytes: 1 << 20, clusterBytes: 4096 } as const;
const draft = { profile: 'draft-2013', sizeBytes: 65536 } as const;

async function made(): Promise<MemoryDevice> {
  const device = new MemoryDevice();
  await createImage(device, { ...small, journal: draft });
  return device;
}

function bytesOf(device: MemoryDevice): Uint8Array {
  const bytes = new Uint8Array(device.sizeBytes);
  device.read(0, bytes);
  return bytes;
}

const clean = { corruptions: 0, leaks: 0, checkErrors: 0 };

describe('an image of the profile draft-2013', () => {
  it('[JD13-BIND-001, JD13-BIND-002, JD13-BIND-003, JD13-BIND-005] is made with a journal whose clusters are counted', async () => {
    const device = await made();
    const view = new DataView(bytesOf(device).buffer);
    expect(view.getBigUint64(72) & 4n).toBe(0n);
    expect(view.getBigUint64(88)).toBe(1n << 63n);
    const offset = Number(view.getBigUint64(104));
    expect(offset % 4096).toBe(0);
    expect(view.getBigUint64(offset)).toBe(0x716a6f75726e616cn);
    expect(await checkImage(device)).toMatchObject({
      ...clean,
      journal: { hostOffset: offset, lengthBytes: 65536 },
    });
  });

  it('writes, is dirty, is replayed', async () => {
    const device = await made();
    const image = await openImage(device);
    for (let i = 0; i < 40; i++) {
      await image.write(i * 20480, new Uint8Array(600).fill(i + 1));
      await image.flush();
    }
    image.abandon();
    expect(new DataView(bytesOf(device).buffer).getBigUint64(72) & 4n).toBe(4n);
    expect(await checkImage(device)).toMatchObject(clean);
    const before = bytesOf(device);
    const reader = await openImage(device, { readOnly: true });
    for (let i = 0; i < 40; i++) {
      const into = new Uint8Array(600);
      await reader.read(i * 20480, into);
      expect(into).toEqual(new Uint8Array(600).fill(i + 1));
    }
    expect(bytesOf(device)).toEqual(before);
    const again = await openImage(device);
    expect(again.journalStatus()).toMatchObject({ state: 'clean', profile: 'draft-2013' });
    await again.quiesce();
    expect(await checkImage(device)).toMatchObject(clean);
  });

  it('is converted and back', async () => {
    const device = await made();
    const image = await openImage(device);
    await image.write(0, new Uint8Array(5000).fill(7));
    await image.convertJournal({ profile: 'v1', sizeBytes: 65536, blockBytes: 512 });
    expect(image.journalStatus()).toMatchObject({ profile: 'v1' });
    await image.write(50000, new Uint8Array(5000).fill(8));
    await image.convertJournal(draft);
    expect(image.journalStatus()).toMatchObject({ profile: 'draft-2013' });
    await image.disableJournal();
    expect(image.journalStatus()).toBeUndefined();
    await image.quiesce();
    expect(await checkImage(device)).toMatchObject(clean);
  });
});
