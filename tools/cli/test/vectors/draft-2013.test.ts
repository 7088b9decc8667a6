/** Images that were made from the draft's C declarations, opened by the driver: for reading, for writing, again. */
import { createHash } from 'node:crypto';
import { MemoryDevice } from '@qcow2/block-device';
import { type DraftVector, loadDraftVectors } from '@qcow2/conformance';
import { checkImage, openImage, type Qcow2Image } from '@qcow2/driver';
import { describe, expect, it } from 'vitest';

const vectors = loadDraftVectors();
const replayed = vectors.filter(({ error }) => error === undefined);
const refused = vectors.filter(({ error }) => error !== undefined);

async function guestSha256(image: Qcow2Image): Promise<string> {
  const bytes = new Uint8Array(image.sizeBytes);
  await image.read(0, bytes);
  return createHash('sha256').update(bytes).digest('hex');
}

function bytesOf(device: MemoryDevice): Uint8Array {
  const bytes = new Uint8Array(device.sizeBytes);
  device.read(0, bytes);
  return bytes;
}

describe('a dirty image made from the declarations of the draft', () => {
  it.each(replayed)('$name is replayed into memory: $why', async (vector: DraftVector) => {
    const device = MemoryDevice.fromBytes(vector.bytes.slice());
    const image = await openImage(device, { readOnly: true, backing: 'none' });
    expect(await guestSha256(image)).toBe(vector.guestSha256);
    expect(image.journalStatus()?.replayed?.records ?? 0).toBe(vector.transactions);
    expect(bytesOf(device)).toEqual(vector.bytes);
  });

  it.each(replayed)('[JD13-TXN-003] $name is replayed into the image, and looks the same then', async (vector) => {
    const device = MemoryDevice.fromBytes(vector.bytes.slice());
    const image = await openImage(device, { backing: 'none' });
    expect(await guestSha256(image)).toBe(vector.guestSha256);
    await image.quiesce();
    image.abandon();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, checkErrors: 0, leaks: 0 });
    const again = await openImage(device, { readOnly: true, backing: 'none' });
    expect(again.journalStatus()?.state).toBe('clean');
    expect(await guestSha256(again)).toBe(vector.guestSha256);
  });

  it.each(refused)('[JD13-RING-006, JD13-DESC-008] $name is refused: $why', async ({ bytes, error }) => {
    for (const readOnly of [true, false]) {
      const device = MemoryDevice.fromBytes(bytes.slice());
      await expect(openImage(device, { readOnly, backing: 'none' })).rejects.toMatchObject({ code: error });
      expect(bytesOf(device)).toEqual(bytes);
    }
  });
});
