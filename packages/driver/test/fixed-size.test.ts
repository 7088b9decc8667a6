/** Images on a device that has the size that it has, a disk of the machine or an export of a server: what is made stands within it, until it is full. */
import { type BlockDevice, MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const clusterBytes = 4096;
const deviceBytes = 1024 * 1024;

/** The device for an image that closes it. */
function lent(device: MemoryDevice): BlockDevice {
  return {
    capabilities: device.capabilities,
    sizeBytes: device.sizeBytes,
    read: (offset, into) => device.read(offset, into),
    write: (offset, bytes) => device.write(offset, bytes),
    writeZeroes: (offset, lengthBytes) => device.writeZeroes(offset, lengthBytes),
    discard: (offset, lengthBytes) => device.discard(offset, lengthBytes),
    extents: (offset, lengthBytes) => device.extents(offset, lengthBytes),
    flush: () => device.flush(),
    resize: (sizeBytes) => device.resize(sizeBytes),
    close: () => undefined,
  };
}

function fixedDevice(): MemoryDevice {
  return new MemoryDevice({ sizeBytes: deviceBytes, capabilities: { growable: false, resize: false } });
}

describe.each(['without a journal', 'with a journal'])('an image of a device of fixed size, %s', (kind) => {
  const journal = kind === 'with a journal' ? { sizeBytes: 65536, blockBytes: 512 } : undefined;
  const made = async (): Promise<MemoryDevice> => {
    const device = fixedDevice();
    // What was there before is no zeros.
    device.write(0, new Uint8Array(deviceBytes).fill(0xee));
    await createImage(lent(device), {
      sizeBytes: 2 * deviceBytes,
      clusterBytes,
      ...(journal === undefined ? {} : { journal }),
    });
    return device;
  };

  it('has snapshots and bitmaps, and loses nothing', async () => {
    const device = await made();
    const image = await openImage(lent(device));
    await image.write(10_000, new Uint8Array(100_000).fill(1));
    await image.createSnapshot({ name: 'first' });
    await image.write(50_000, new Uint8Array(10_000).fill(2));
    await image.createSnapshot({ name: 'second' });
    await image.deleteSnapshot('first');
    await image.close();
    const { findings } = await checkImage(device);
    expect(findings).toEqual([]);
    const again = await openImage(lent(device), { readOnly: true });
    const bytes = new Uint8Array(110_000);
    await again.read(0, bytes);
    expect([bytes[9999], bytes[10_000], bytes[49_999], bytes[50_000], bytes[59_999], bytes[60_000]]).toEqual([
      0, 1, 1, 2, 2, 1,
    ]);
    await again.close();
    expect(device.sizeBytes).toBe(deviceBytes);
  });

  it('is full when the device is, and keeps what it had', async () => {
    const device = await made();
    const image = await openImage(lent(device));
    await image.write(0, new Uint8Array(200_000).fill(3));
    await image.flush();
    await expect(
      (async () => image.write(200_000, new Uint8Array(deviceBytes).fill(4)))(),
    ).rejects.toMatchObject({
      code: 'NO_SPACE',
    });
    image.abandon();
    await (await openImage(lent(device))).close();
    const { findings } = await checkImage(device);
    expect(findings.filter(({ severity }) => severity === 'error')).toEqual([]);
    const again = await openImage(lent(device), { readOnly: true });
    const bytes = new Uint8Array(200_000);
    await again.read(0, bytes);
    expect(bytes.every((byte) => byte === 3)).toBe(true);
    await again.close();
  });
});
