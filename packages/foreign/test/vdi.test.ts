/** VDI images that are not what they should be, or not what is served. */
import { Qcow2Error } from '@qcow2/spec';
import { describe, expect, it } from 'vitest';
import { openForeign } from '../src/index.ts';
import { memoryFile, vdiOf } from './support/built-images.ts';
import { failureOf } from './support/failures.ts';

const mebibyte = 1024 * 1024;
const disk = new Uint8Array(3 * mebibyte).fill(1);

function damaged(...edits: readonly (readonly [at: number, value: number])[]): Uint8Array {
  const image = vdiOf(disk);
  for (const [at, value] of edits) new DataView(image.buffer).setUint32(at, value, true);
  return image;
}

const open = (image: Uint8Array) => openForeign(memoryFile(image), 'vdi');

describe('VDI', () => {
  it.each([
    ['another signature', damaged([64, 1]), 'BAD_MAGIC', 'signature', 64],
    ['another version', damaged([68, 0x00020000]), 'UNSUPPORTED_FEATURE', 'version', 68],
    ['a parent', damaged([456, 1]), 'UNSUPPORTED_FEATURE', 'imageType', 76],
    ['a differencing image', damaged([76, 4]), 'UNSUPPORTED_FEATURE', 'imageType', 76],
    ['an undo image', damaged([76, 3]), 'UNSUPPORTED_FEATURE', 'imageType', 76],
    ['sectors of 4 KiB', damaged([360, 4096]), 'UNSUPPORTED_FEATURE', 'sectorBytes', 360],
    ['blocks of 2 MiB', damaged([376, 2 * mebibyte]), 'UNSUPPORTED_FEATURE', 'blockBytes', 376],
    ['a map off a sector', damaged([340, 513]), 'BAD_ALIGNMENT', 'mapOffset', 340],
    ['data off a sector', damaged([344, 1025]), 'BAD_ALIGNMENT', 'dataOffset', 344],
    ['a map in the header', damaged([340, 0]), 'OVERLAP', 'mapOffset', 340],
    ['data in the map', damaged([344, 512]), 'OVERLAP', 'dataOffset', 344],
    ['a disk that the map has no room for', damaged([384, 2]), 'BAD_FIELD', 'diskBytes', 368],
    ['more blocks than there can be', damaged([384, 0x40000000]), 'LIMIT_EXCEEDED', 'blockCount', 384],
    ['a disk beyond 2^53', damaged([372, 0xffffffff]), 'OFFSET_TOO_LARGE', 'diskBytes', 368],
    ['two entries for one block', damaged([512 + 8, 1]), 'OVERLAP', 'entry 2', 520],
  ])('refuses %s by name and place', async (_, image, code, field, hostOffset) => {
    const error = await failureOf(() => open(image));
    expect(error).toBeInstanceOf(Qcow2Error);
    expect(error).toMatchObject({ code, context: { field, hostOffset } });
    expect(error.context.clause).toMatch(/^VDICore\.h/);
  });

  it('refuses a map that the file does not have, before it makes room for it', async () => {
    const image = damaged([384, 0x3fffffff], [344, 0xfffffe00]);
    // The data would have to stand behind the map: what is refused first is the place of the data.
    expect((await failureOf(() => open(image))).code).toBe('OVERLAP');
    const error = await failureOf(() => open(damaged([384, 0x3fff0000], [344, 0xfffffe00])));
    expect(error).toMatchObject({ code: 'TRUNCATED', context: { lengthBytes: 4 * 0x3fff0000 } });
  });

  it('reads what a file that was cut off still has, and says what it has not', async () => {
    const image = vdiOf(disk);
    const device = await open(image.slice(0, image.length - mebibyte / 2));
    const into = new Uint8Array(mebibyte);
    // The last block in the file is the first of the disk.
    await device.read(mebibyte, into);
    expect(into.every((byte) => byte === 1)).toBe(true);
    await device.read(0, into.subarray(0, mebibyte / 2));
    const error = await failureOf(() => device.read(0, into));
    expect(error).toMatchObject({ code: 'TRUNCATED', context: { guestOffset: 0 } });
  });

  it('shows a discarded block as zeros', async () => {
    const device = await open(damaged([516, 0xfffffffe]));
    const into = new Uint8Array(10).fill(7);
    await device.read(mebibyte, into);
    expect(into.every((byte) => byte === 0)).toBe(true);
    expect(await device.extents(0, device.sizeBytes)).toEqual([
      { offset: 0, lengthBytes: mebibyte, kind: 'data' },
      { offset: mebibyte, lengthBytes: mebibyte, kind: 'zero' },
      { offset: 2 * mebibyte, lengthBytes: mebibyte, kind: 'data' },
    ]);
  });

  it('rounds a disk up to whole sectors', async () => {
    const image = damaged([368, 3 * mebibyte - 700]);
    expect((await open(image)).sizeBytes).toBe(3 * mebibyte - 512);
  });
});
