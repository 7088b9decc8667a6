/** Faults of the device where compressed data is read and written. */
import { FaultDevice, MemoryDevice } from '@qcow2/block-device';
import { nodeCompression } from '@qcow2/compression';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../../src/index.ts';

const clusterBytes = 4096;
const sizeBytes = 16 * clusterBytes;
const compression = nodeCompression();
/** Nothing is kept, so that each use reads the data. */
const options = { compression, cache: { decompressedBytes: 0 } };
const content = new Uint8Array(sizeBytes).map((_, at) => (at >> 6) & 255);

const ways = { ordered: {}, journal: { journal: { sizeBytes: 65536, blockBytes: 512 } } } as const;

async function compressedImage(way: keyof typeof ways): Promise<FaultDevice> {
  const memory = new MemoryDevice();
  await createImage(memory, { sizeBytes, clusterBytes, ...ways[way] });
  const image = await openImage(memory, options);
  await image.writeCompressed(0, content.subarray(0, 4 * clusterBytes));
  await image.quiesce();
  image.abandon();
  return new FaultDevice(memory);
}

const attempt = async (action: () => void | Promise<void>): Promise<void> => await action();
const unreadable = { event: 'read_compressed', fault: { kind: 'fail' } } as const;

describe.each(Object.keys(ways) as (keyof typeof ways)[])('%s', (way) => {
  it('data that can not be read is told by the read, and the next one succeeds', async () => {
    const device = await compressedImage(way);
    const image = await openImage(device, options);
    device.addRule(unreadable);
    const into = new Uint8Array(3 * clusterBytes);
    await expect(attempt(() => image.read(0, into))).rejects.toMatchObject({ code: 'READ_FAILED' });
    await image.read(0, into);
    expect(into).toEqual(content.slice(0, into.length));
    image.abandon();
  });

  it('it is told by a small write, which changes nothing and may be asked for again', async () => {
    const device = await compressedImage(way);
    const image = await openImage(device, options);
    device.addRule(unreadable);
    const bytes = new Uint8Array(512).fill(0xee);
    await expect(attempt(() => image.write(1024, bytes))).rejects.toMatchObject({ code: 'READ_FAILED' });
    const into = new Uint8Array(clusterBytes);
    await image.read(0, into);
    expect(into).toEqual(content.slice(0, clusterBytes));
    await image.write(1024, bytes);
    await image.flush();
    await image.quiesce();
    await image.read(0, into);
    const wanted = content.slice(0, clusterBytes);
    wanted.set(bytes, 1024);
    expect(into).toEqual(wanted);
    image.abandon();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 3 });
  });

  it('it is told by who brings the rest of a cluster in, and what was flushed is not lost', async () => {
    const device = await compressedImage(way);
    const image = await openImage(device, options);
    const bytes = new Uint8Array(512).fill(0xee);
    await image.write(1024, bytes);
    // With a journal the flush logs the bytes, and write-back is told.
    if (way === 'journal') await image.flush();
    device.addRule(unreadable);
    await expect(image.quiesce()).rejects.toMatchObject({ code: 'READ_FAILED' });
    if (way === 'ordered') await image.quiesce();
    image.abandon();
    const again = await openImage(device, options);
    const into = new Uint8Array(clusterBytes);
    await again.read(0, into);
    const wanted = content.slice(0, clusterBytes);
    wanted.set(bytes, 1024);
    expect(into).toEqual(wanted);
    await again.quiesce();
    again.abandon();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, leaks: 0, compressedClusters: 3 });
  });

  it('data that can not be written ends writing, and the old content is found again', async () => {
    const device = await compressedImage(way);
    const image = await openImage(device, options);
    device.addRule({ event: 'write_compressed', nth: 2, fault: { kind: 'torn', lands: () => true } });
    const others = content.slice().reverse();
    const written = attempt(() => image.writeCompressed(0, others.subarray(0, 4 * clusterBytes)));
    await expect(written).rejects.toMatchObject({ code: 'WRITE_FAILED' });
    await expect(attempt(() => image.flush())).rejects.toMatchObject({ code: 'FAILED_EARLIER' });
    image.abandon();
    const again = await openImage(device, options);
    const into = new Uint8Array(4 * clusterBytes);
    await again.read(0, into);
    expect(into).toEqual(content.slice(0, into.length));
    await again.quiesce();
    again.abandon();
    expect(await checkImage(device)).toMatchObject({ corruptions: 0, compressedClusters: 4 });
  });
});
