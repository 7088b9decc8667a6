/** Refcounts of another width: the same counts under a new table, the disk as it was, and what does not fit refused before anything is written. */
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { checkImage, createImage, openImage } from '../src/index.ts';

const clusterBytes = 4096;
const widths = [1, 2, 4, 8, 16, 32, 64];

/** Stays open when an image on it is closed. */
class Kept extends MemoryDevice {
  override close(): void {}
}

interface Kind {
  readonly kind: string;
  readonly journal?: { readonly sizeBytes: number; readonly profile?: 'draft-2013' };
  readonly lazyRefcounts?: boolean;
  readonly fixedBytes?: number;
}

const kinds: readonly Kind[] = [
  { kind: 'in order' },
  { kind: 'lazily', lazyRefcounts: true },
  { kind: 'with a journal', journal: { sizeBytes: 65536 } },
  { kind: 'with a journal of the draft', journal: { sizeBytes: 65536, profile: 'draft-2013' } },
  { kind: 'on a device of fixed size', fixedBytes: 1024 * 1024 },
];

async function made({ journal, lazyRefcounts = false, fixedBytes }: Kind, refcountBits: number) {
  const device =
    fixedBytes === undefined
      ? new Kept()
      : new Kept({ sizeBytes: fixedBytes, capabilities: { growable: false, resize: false } });
  await createImage(device, {
    sizeBytes: 2 * 1024 * 1024,
    clusterBytes,
    refcountBits,
    lazyRefcounts,
    ...(journal === undefined ? {} : { journal }),
  });
  return device;
}

describe.each(kinds)('an image that is written $kind', (kind) => {
  it.each(widths)('[RCB-001, HDR-018] goes from %i bits to every other width and back', async (from) => {
    for (const to of widths) {
      const device = await made(kind, from);
      const image = await openImage(device);
      await image.write(5000, new Uint8Array(100_000).fill(1));
      // Not flushed, and some of it freed: it comes to rest first.
      await image.discard(8192, 16_384);
      await image.amend({ refcountBits: to });
      expect(image.info().refcountBits).toBe(to);
      await image.write(200_000, new Uint8Array(300_000).fill(2));
      await image.amend({ refcountBits: from });
      await image.write(600_000, new Uint8Array(10_000).fill(3));
      await image.close();
      expect((await checkImage(device)).findings, `${to}`).toEqual([]);
      const again = await openImage(device, { readOnly: true });
      const bytes = new Uint8Array(620_000);
      await again.read(0, bytes);
      expect(again.info().refcountBits).toBe(from);
      expect(
        [4999, 5000, 8192, 24_576, 104_999, 105_000, 200_000, 499_999, 500_000, 609_999].map(
          (at) => bytes[at],
        ),
      ).toEqual([0, 1, 0, 1, 1, 0, 2, 2, 0, 3]);
      await again.close();
    }
  });

  it('[RCB-002] keeps refcounts of more than one, and refuses a width that does not hold them, unchanged', async () => {
    const device = await made(kind, 16);
    const image = await openImage(device);
    await image.write(0, new Uint8Array(20_000).fill(1));
    for (const name of ['a', 'b', 'c']) await image.createSnapshot({ name });
    await image.amend({ refcountBits: 4 });
    const before = { ...image.header };
    await expect(image.amend({ refcountBits: 2 })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      context: { field: 'refcount', value: 4, clause: 'RCB-002' },
    });
    expect(image.header).toEqual(before);
    await image.write(0, new Uint8Array(20_000).fill(2));
    await image.deleteSnapshot('a');
    await image.amend({ refcountBits: 2 });
    await image.close();
    expect((await checkImage(device)).findings).toEqual([]);
    const again = await openImage(device, { readOnly: true });
    expect(again.info().refcountBits).toBe(2);
    await again.close();
  });

  it('goes on while a guest writes', async () => {
    const device = await made(kind, 16);
    const image = await openImage(device);
    const write = (at: number) => Promise.resolve(image.write(at * 10_000, new Uint8Array(10_000).fill(at)));
    const early = Array.from({ length: 20 }, (_, i) => write(i));
    const amended = image.amend({ refcountBits: 64 });
    const late = Array.from({ length: 20 }, (_, i) => write(20 + i));
    await Promise.all([...early, amended, ...late]);
    await image.close();
    expect((await checkImage(device)).findings).toEqual([]);
    const again = await openImage(device, { readOnly: true });
    const bytes = new Uint8Array(400_000);
    await again.read(0, bytes);
    for (let i = 0; i < 40; i++)
      expect([bytes[i * 10_000], bytes[i * 10_000 + 9999]], `${i}`).toEqual([i, i]);
    await again.close();
  });
});

it('[HDR-023] a version 2 image has 16 bits, and gets others with version 3 only', async () => {
  const device = new Kept();
  await createImage(device, { sizeBytes: 1024 * 1024, clusterBytes, version: 2 });
  let image = await openImage(device);
  await expect(image.amend({ refcountBits: 8 })).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
  await image.amend({ refcountBits: 16 });
  await image.amend({ version: 3, refcountBits: 8 });
  await image.close();
  image = await openImage(device);
  expect(image.info()).toMatchObject({ refcountBits: 8 });
  await expect(image.amend({ version: 2 })).rejects.toMatchObject({ code: 'UNSUPPORTED_OPERATION' });
  for (const refcountBits of [0, 3, 128])
    await expect(image.amend({ refcountBits })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await image.amend({ version: 2, refcountBits: 16 });
  await image.close();
  expect((await checkImage(device)).findings).toEqual([]);
  image = await openImage(device, { readOnly: true });
  expect(image.header).toMatchObject({ version: 2, refcountOrder: 4 });
  await image.close();
});

it('[RCB-006] a refcount block that counts as free is damage, and nothing is written', async () => {
  const device = new Kept();
  await createImage(device, { sizeBytes: 1024 * 1024, clusterBytes });
  const { header } = await openImage(device, { readOnly: true });
  const entry = new Uint8Array(8);
  await device.read(header.refcountTableOffset, entry);
  const block = Number(new DataView(entry.buffer).getBigUint64(0));
  await device.write(block + (block / clusterBytes) * 2, new Uint8Array(2));
  const image = await openImage(device);
  await expect(image.amend({ refcountBits: 8 })).rejects.toMatchObject({ code: 'REFCOUNT_WRONG' });
  expect(image.header.refcountTableOffset).toBe(header.refcountTableOffset);
  expect(image.info().refcountBits).toBe(16);
  image.abandon();
});
