/** VHDX images: which header counts, what the log says, and what is refused. */
import type { BlockDevice } from '@qcow2/block-device';
import { MemoryDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { openForeign } from '../src/index.ts';
import { Bytes, memoryFile } from './support/built-images.ts';
import { item, logGuid, place, putGuid, sumUp, sumUpAll, vhdxOf } from './support/built-vhdx.ts';
import { failureOf } from './support/failures.ts';

const mebibyte = 1024 * 1024;
const disk = new Uint8Array(3 * mebibyte);
disk.fill(1, 0, 5000).fill(2, 2 * mebibyte + 512, 2 * mebibyte + 8192);

const open = (image: Uint8Array) => openForeign(memoryFile(image), 'vhdx');

async function contentOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

/** Changed, and summed up again. */
function changed(change: (image: Bytes) => void): Uint8Array {
  const image = new Bytes(0);
  const bytes = vhdxOf(disk);
  change(Object.assign(image, { bytes, view: new DataView(bytes.buffer) }));
  sumUpAll(bytes);
  return bytes;
}

const set32 = (at: number, value: number) => changed(({ view }) => view.setUint32(at, value, true));
const set64 = (at: number, value: bigint) => changed(({ view }) => view.setBigUint64(at, value, true));
const bothRegions = (change: (image: Bytes, at: number) => void) =>
  changed((image) => {
    for (const at of [place.regions, place.secondRegions]) change(image, at);
  });
const entry = (number: number) => place.blockTable + 8 * number;

describe('VHDX', () => {
  it.each([512, 4096])('with sectors of %i bytes: every byte, and what has none', async (sectorBytes) => {
    const device = await open(vhdxOf(disk, { sectorBytes }));
    expect(await contentOf(device)).toEqual(disk);
    expect(await device.placedExtents(0, disk.length)).toEqual([
      { offset: 0, lengthBytes: mebibyte, kind: 'data', hostOffset: place.blocks + mebibyte },
      { offset: mebibyte, lengthBytes: mebibyte, kind: 'zero' },
      { offset: 2 * mebibyte, lengthBytes: mebibyte, kind: 'data', hostOffset: place.blocks },
    ]);
  });

  it('takes the header with the higher number, and the other one where that is not sound', async () => {
    const image = set64(place.secondHeader + 8, 6n);
    // The log of this one has no place: it is the one that is looked at.
    new DataView(image.buffer).setBigUint64(place.secondHeader + 72, 0n, true);
    sumUp(image, place.secondHeader, 4096);
    expect(await failureOf(() => open(image))).toMatchObject({ code: 'BAD_ALIGNMENT' });
    image[place.secondHeader + 100]! ^= 1;
    expect((await open(image)).sizeBytes).toBe(disk.length);
  });

  it('takes the second region table where the first is not sound', async () => {
    const image = vhdxOf(disk);
    image[place.regions + 1000]! ^= 1;
    expect((await open(image)).sizeBytes).toBe(disk.length);
    image[place.secondRegions + 1000]! ^= 1;
    expect(await failureOf(() => open(image))).toMatchObject({ code: 'BAD_CHECKSUM' });
  });

  it.each([0, 1, 2, 3, 5])('shows a block of state %i as zeros', async (state) => {
    const device = await open(set64(entry(0), BigInt(state)));
    expect((await contentOf(device)).subarray(0, mebibyte).every((byte) => byte === 0)).toBe(true);
  });

  it.each([4, 7])('can not read a block of state %i', async (state) => {
    const device = await open(set64(entry(0), BigInt(place.blocks) | BigInt(state)));
    const error = await failureOf(() => device.read(0, new Uint8Array(1)));
    expect(error).toMatchObject({ code: 'BAD_FIELD', context: { value: state, hostOffset: entry(0) } });
  });

  it('finds blocks behind the entries of bitmaps', async () => {
    // A chunk is 4 GiB in blocks of 1 MiB: its 4096 entries are followed by one that is no block's.
    const at = 4096 * mebibyte;
    const image = set64(item.diskSize, BigInt(at + mebibyte));
    const view = new DataView(image.buffer);
    view.setBigUint64(entry(4096), 6n, true);
    view.setBigUint64(entry(4097), view.getBigUint64(entry(0), true), true);
    view.setBigUint64(entry(0), 0n, true);
    const device = await open(image);
    const bytes = new Uint8Array(6000);
    await device.read(at - 500, bytes);
    expect(bytes.subarray(500)).toEqual(disk.slice(0, 5500));
    expect((await device.extents(at - mebibyte, 2 * mebibyte)).map(({ kind }) => kind)).toEqual([
      'zero',
      'data',
    ]);
  });

  it('is refused while its log holds something, and opens where that is of another log, or torn', async () => {
    const withLog = (guid: string, damage = 0): Uint8Array => {
      const image = changed((bytes) => {
        putGuid(bytes, place.header + 48, logGuid);
        // It begins in the last sector of the log, and ends in the first.
        const at = place.log + mebibyte - 4096;
        bytes.text(at, 'loge');
        bytes.view.setUint32(at + 8, 8192, true);
        putGuid(bytes, at + 32, guid);
      });
      const whole = new Uint8Array(8192);
      const at = place.log + mebibyte - 4096;
      whole.set(image.subarray(at, at + 4096));
      whole.set(image.subarray(place.log, place.log + 4096), 4096);
      sumUp(whole, 0, 8192);
      image.set(whole.subarray(0, 4096), at);
      image[place.log + 50]! ^= damage;
      return image;
    };
    const error = await failureOf(() => open(withLog(logGuid)));
    expect(error).toMatchObject({ code: 'NEEDS_REPLAY', context: { hostOffset: place.log } });
    expect(await contentOf(await open(withLog(logGuid, 1)))).toEqual(disk);
    expect(await contentOf(await open(withLog('11111111-2222-3333-4444-555555555555')))).toEqual(disk);
  });

  it.each([
    ['another signature', changed((image) => image.text(0, 'vhdyfile')), 'BAD_MAGIC', 'Signature', 0],
    [
      'a log version of its own',
      set32(place.header + 64, 0x10001),
      'UNSUPPORTED_FEATURE',
      'LogVersion',
      place.header + 64,
    ],
    ['a log off a MiB', set32(place.header + 72, 4096), 'BAD_ALIGNMENT', 'LogOffset', place.header + 72],
    ['a log of half a MiB', set32(place.header + 68, 4096), 'BAD_ALIGNMENT', 'LogLength', place.header + 68],
    ['a log of 2 GiB', set32(place.header + 68, 2 ** 31), 'LIMIT_EXCEEDED', 'LogLength', place.header + 68],
    ['too many regions', set32(place.regions + 8, 2048), 'BAD_FIELD', 'EntryCount', place.regions + 8],
    [
      'a region that nobody knows',
      changed((image) => putGuid(image, place.regions + 16, logGuid)),
      'UNSUPPORTED_FEATURE',
      'Guid',
      place.regions + 16,
    ],
    [
      'a region off a MiB',
      set32(place.regions + 32, 4096),
      'BAD_ALIGNMENT',
      'FileOffset',
      place.regions + 32,
    ],
    [
      'a table without its signature',
      changed((image) => image.text(place.metadata, 'M')),
      'BAD_MAGIC',
      'Signature',
      place.metadata,
    ],
    [
      'too many items',
      changed(({ view }) => view.setUint16(place.metadata + 10, 2048, true)),
      'BAD_FIELD',
      'EntryCount',
      place.metadata + 10,
    ],
    [
      'an item beyond its region',
      set32(place.metadata + 48, mebibyte),
      'BAD_FIELD',
      'Offset',
      place.metadata + 48,
    ],
    ['an item in the table', set32(place.metadata + 48, 32), 'BAD_FIELD', 'Offset', place.metadata + 48],
    [
      'an item that nobody knows',
      changed((image) => putGuid(image, place.metadata + 32, logGuid)),
      'UNSUPPORTED_FEATURE',
      'ItemId',
      place.metadata + 32,
    ],
    ['blocks of 3 MiB', set32(item.parameters, 3 * mebibyte), 'BAD_FIELD', 'BlockSize', item.parameters],
    ['blocks of 512 MiB', set32(item.parameters, 512 * mebibyte), 'BAD_FIELD', 'BlockSize', item.parameters],
    [
      'sectors of 1 KiB',
      set32(item.logicalSector, 1024),
      'BAD_FIELD',
      'LogicalSectorSize',
      item.logicalSector,
    ],
    ['a disk of no whole sectors', set64(item.diskSize, 513n), 'BAD_FIELD', 'VirtualDiskSize', item.diskSize],
    [
      'a disk of 65 TiB',
      set64(item.diskSize, 65n * 2n ** 40n),
      'BAD_FIELD',
      'VirtualDiskSize',
      item.diskSize,
    ],
    [
      'two entries for one block',
      set64(entry(2), BigInt(place.blocks + mebibyte) | 6n),
      'OVERLAP',
      'entry 2',
      entry(2),
    ],
    ['a block in the metadata', set64(entry(0), BigInt(place.metadata) | 6n), 'OVERLAP', 'entry 0', entry(0)],
  ])('refuses %s', async (_, image, code, field, hostOffset) => {
    const error = await failureOf(() => open(image));
    expect(error).toMatchObject({ code, context: { field, hostOffset } });
    expect(error.context.clause).toMatch(/^MS-VHDX 2\./);
  });

  it('refuses differencing images by name', async () => {
    expect(await failureOf(() => open(set32(item.parameters + 4, 2)))).toMatchObject({
      code: 'UNSUPPORTED_FEATURE',
    });
    const locator = changed((image) =>
      putGuid(image, place.metadata + 96, 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c'),
    );
    expect((await failureOf(() => open(locator))).message).toMatch(/differencing/);
  });

  it('refuses regions that lie in one another, or stand there twice', async () => {
    const overlapping = bothRegions(({ view }, at) => view.setUint32(at + 32, place.metadata, true));
    expect(await failureOf(() => open(overlapping))).toMatchObject({ code: 'OVERLAP' });
    const twice = bothRegions((image, at) => putGuid(image, at + 48, '2dc27766-f623-4200-9d64-115e9bfd4a08'));
    expect(await failureOf(() => open(twice))).toMatchObject({ code: 'BAD_FIELD' });
    const missing = bothRegions(({ view }, at) => view.setUint32(at + 8, 1, true));
    expect(await failureOf(() => open(missing))).toMatchObject({ code: 'BAD_FIELD' });
  });

  it('refuses a table that its region or the file does not have, before room is made for it', async () => {
    const small = set64(item.diskSize, 64n * 2n ** 40n);
    expect(await failureOf(() => open(small))).toMatchObject({
      code: 'BAD_FIELD',
      context: { field: 'Length' },
    });
    const long = bothRegions(({ view }, at) => {
      view.setBigUint64(at + 32, BigInt(place.blocks), true);
      view.setUint32(at + 40, 1024 * mebibyte, true);
      view.setBigUint64(item.diskSize, 64n * 2n ** 40n, true);
    });
    expect(await failureOf(() => open(long))).toMatchObject({ code: 'TRUNCATED' });
  });

  it('looks at the table of the largest disk in pieces', async () => {
    const file = new MemoryDevice({ sizeBytes: 600 * mebibyte });
    const image = bothRegions(({ view }, at) => {
      view.setBigUint64(at + 32, BigInt(place.blocks), true);
      view.setUint32(at + 40, 513 * mebibyte, true);
      view.setBigUint64(item.diskSize, 64n * 2n ** 40n, true);
      // Of 64 MiB, so that there are a million of them.
      view.setUint32(item.parameters, 64 * mebibyte, true);
    });
    file.write(0, image.subarray(0, place.blocks));
    const device = await openForeign(file, 'vhdx');
    await device.read(2 ** 46 - 512, new Uint8Array(512));
    expect(await device.extents(2 ** 45, 2 ** 30)).toEqual([
      { offset: 2 ** 45, lengthBytes: 2 ** 30, kind: 'zero' },
    ]);
  });
});
