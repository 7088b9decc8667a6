/** The driver on dirty journals of the draft of 2013 that were made from the draft's C declarations, not by us. */
import { createHash } from 'node:crypto';
import { MemoryDevice, ReadOnlyDevice, RecordingDevice } from '@qcow2/block-device';
import { loadDraftVectors } from '@qcow2/conformance';
import { checkImage, openImage, type Qcow2Image } from '@qcow2/driver';
import { describe, expect, it } from 'vitest';

async function sumOf(image: Qcow2Image): Promise<string> {
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  return createHash('sha256').update(bytes).digest('hex');
}

describe.each(loadDraftVectors())('$name: $why', ({ bytes, guestSha256, error }) => {
  it('[JD13-TXN-003] shows what the draft says when it is read, and nothing is written', async () => {
    const device = new RecordingDevice(MemoryDevice.fromBytes(bytes));
    const opening = openImage(device, { readOnly: true });
    if (error === undefined) expect(await sumOf(await opening)).toBe(guestSha256);
    else await expect(opening).rejects.toMatchObject({ code: error });
    expect(device.log).toEqual([]);
  });

  it('[JD13-TXN-003] is replayed when it is opened for writing, and is whole and clean afterwards', async () => {
    const device = MemoryDevice.fromBytes(bytes);
    const opening = openImage(device);
    if (error !== undefined) {
      await expect(opening).rejects.toMatchObject({ code: error });
      expect(Buffer.compare(device.snapshot(), bytes)).toBe(0);
      return;
    }
    const image = await opening;
    expect(await sumOf(image)).toBe(guestSha256);
    await image.close();
    const left = device.snapshot();
    // The dirty bit, as the draft numbers it, is clear.
    expect(left[79]! & 4).toBe(0);
    expect(await checkImage(MemoryDevice.fromBytes(left))).toMatchObject({
      corruptions: 0,
      leaks: 0,
      checkErrors: 0,
    });
    const again = await openImage(new ReadOnlyDevice(MemoryDevice.fromBytes(left)), { readOnly: true });
    expect(await sumOf(again)).toBe(guestSha256);
  });
});
