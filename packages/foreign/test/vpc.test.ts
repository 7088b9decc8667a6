/** VHD images: which size counts, and what is refused. */
import { describe, expect, it } from 'vitest';
import { openForeign } from '../src/index.ts';
import { fixedVpcOf, memoryFile, vpcChecksum, vpcOf } from './support/built-images.ts';
import { failureOf } from './support/failures.ts';

const disk = new Uint8Array(64 * 1024).fill(1);
/** 120 sectors: less than the disk has bytes for. */
const geometry = [3, 4, 10] as const;
const open = (image: Uint8Array) => openForeign(memoryFile(image), 'vpc');

/** Change 32-bit fields of the footer at the start (0) and of the header behind it (512), and sum up again. */
function edited(edits: readonly (readonly [at: number, value: number])[]): Uint8Array {
  const image = vpcOf(disk);
  const view = new DataView(image.buffer);
  for (const [at, value] of edits) view.setUint32(at, value);
  view.setUint32(64, vpcChecksum(image.subarray(0, 512), 64));
  view.setUint32(512 + 36, vpcChecksum(image.subarray(512, 1536), 36));
  return image;
}

describe('VHD: the size of the disk', () => {
  it.each(['win ', 'qem2', 'd2v ', 'CTXS', 'tap\0'])('is in bytes where %j made it', async (creatorApp) => {
    expect((await open(vpcOf(disk, { creatorApp, geometry }))).sizeBytes).toBe(disk.length);
    expect((await open(fixedVpcOf(disk, { creatorApp, geometry }))).sizeBytes).toBe(disk.length);
  });

  it.each(['vpc ', 'qemu', 'tapx', 'vbox'])('is its geometry where %j made it', async (creatorApp) => {
    expect((await open(vpcOf(disk, { creatorApp, geometry }))).sizeBytes).toBe(120 * 512);
    expect((await open(fixedVpcOf(disk, { creatorApp, geometry }))).sizeBytes).toBe(120 * 512);
  });

  it('is in bytes where the geometry is the largest that there is', async () => {
    const image = vpcOf(disk, { creatorApp: 'vpc ', geometry: [65535, 16, 255] });
    expect((await open(image)).sizeBytes).toBe(disk.length);
  });
});

describe('VHD: what is refused', () => {
  const flipped = vpcOf(disk);
  flipped[100]! ^= 1;
  const flippedHeader = vpcOf(disk);
  flippedHeader[512 + 100]! ^= 1;
  const tableAt = 1536;

  it.each([
    ['no footer', disk, 'BAD_MAGIC', 'cookie', disk.length - 512],
    ['a footer that was changed', flipped, 'BAD_CHECKSUM', 'checksum', 64],
    ['a header that was changed', flippedHeader, 'BAD_CHECKSUM', 'checksum', 512 + 36],
    ['a differencing image', vpcOf(disk, { diskType: 4 }), 'UNSUPPORTED_FEATURE', 'diskType', 60],
    ['another type', vpcOf(disk, { diskType: 7 }), 'BAD_FIELD', 'diskType', 60],
    ['a fixed disk with a footer at its start', vpcOf(disk, { diskType: 2 }), 'BAD_FIELD', 'diskType', 60],
    ['a dynamic disk without', fixedVpcOf(disk, { diskType: 3 }), 'BAD_FIELD', 'diskType', disk.length + 60],
    ['another header', edited([[512, 0]]), 'BAD_MAGIC', 'cookie', 512],
    ['a header beyond 2^53', edited([[16, 0x7fffffff]]), 'OFFSET_TOO_LARGE', 'dataOffset', 16],
    ['blocks of 3000 bytes', edited([[512 + 32, 3000]]), 'BAD_FIELD', 'blockBytes', 512 + 32],
    ['blocks of no bytes', edited([[512 + 32, 0]]), 'BAD_FIELD', 'blockBytes', 512 + 32],
    ['a table that is too small', edited([[512 + 28, 15]]), 'BAD_FIELD', 'maxTableEntries', 512 + 28],
    ['a block beyond the file', edited([[tableAt, 0xfffffffe]]), 'TRUNCATED', 'entry 0', tableAt],
  ])('%s', async (_, image, code, field, hostOffset) => {
    const error = await failureOf(() => open(image));
    expect(error).toMatchObject({ code, context: { field, hostOffset } });
    expect(error.context.clause).toMatch(/^VHD 1\.0 /);
  });

  it('a header that the file does not have', async () => {
    const error = await failureOf(() => open(edited([[20, 0x10000000]])));
    expect(error).toMatchObject({ code: 'TRUNCATED', context: { hostOffset: 0x10000000 } });
  });

  it('a table that the file does not have, before room is made for it', async () => {
    // 32 GiB in blocks of 4 KiB: a table of 32 MiB.
    const image = edited([
      [48, 8],
      [52, 0],
      [512 + 28, 8 * 1024 * 1024],
    ]);
    const error = await failureOf(() => open(image));
    expect(error).toMatchObject({ code: 'TRUNCATED', context: { lengthBytes: 32 * 1024 * 1024 } });
  });

  it('two blocks that lie in one another', async () => {
    const image = vpcOf(disk);
    const view = new DataView(image.buffer);
    view.setUint32(tableAt, view.getUint32(tableAt + 4) + 3);
    expect(await failureOf(() => open(image))).toMatchObject({ code: 'OVERLAP' });
  });

  it('more blocks than are served', async () => {
    const image = edited([
      [48, 0x100],
      [512 + 28, 0xffffffff],
      [512 + 32, 65536],
    ]);
    expect(await failureOf(() => open(image))).toMatchObject({ code: 'LIMIT_EXCEEDED' });
  });
});
