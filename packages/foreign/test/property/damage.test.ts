/**
 * Images with random bits changed and their ends cut off: opened, looked at and read. Nothing but an error with a code may come of it, and
 * nothing may take long: what is read and asked for is bounded, so that a disk that seems to be huge is one as well.
 */
import { Qcow2Error } from '@qcow2/spec';
import fc from 'fast-check';
import { describe, it } from 'vitest';
import { type ForeignFormat, openForeign } from '../../src/index.ts';
import { fixedVpcOf, memoryFile, vdiOf, vpcChecksum, vpcOf } from '../support/built-images.ts';
import { place, sumUpAll, vhdxOf } from '../support/built-vhdx.ts';
import { sparseVmdkOf } from '../support/built-vmdk.ts';

const disk = new Uint8Array(2 * 1024 * 1024 + 512);
disk.fill(1, 4096, 8192).fill(2, 100_000, 100_700).fill(3, 1_100_000, 1_130_000);

interface Damaged {
  readonly name: string;
  readonly format: ForeignFormat;
  readonly image: Uint8Array;
  /** Where its metadata stands. */
  readonly metadata: readonly [from: number, end: number];
  /** Put right what would hide all other damage. */
  mend?(image: Uint8Array): void;
}

const vmdk = sparseVmdkOf(disk, { entriesPerTable: 64 });
const stream = sparseVmdkOf(disk, { isStream: true, entriesPerTable: 64 });
const vhdx = vhdxOf(disk);
const vhd = vpcOf(disk);
const fixedVhd = fixedVpcOf(disk);

function sumUp(image: Uint8Array, start: number, end: number, at: number): void {
  const part = image.subarray(start, end);
  if (part.length === end - start) {
    new DataView(part.buffer, part.byteOffset).setUint32(at, vpcChecksum(part, at));
  }
}

const images: readonly Damaged[] = [
  { name: 'VDI', format: 'vdi', image: vdiOf(disk), metadata: [0, 600] },
  { name: 'VDI, fixed', format: 'vdi', image: vdiOf(disk, { isFixed: true }), metadata: [0, 600] },
  { name: 'VMDK', format: 'vmdk', image: vmdk, metadata: [0, 1100] },
  { name: 'VMDK, tables', format: 'vmdk', image: vmdk, metadata: [vmdk.length - 2048, vmdk.length] },
  { name: 'VMDK, stream', format: 'vmdk', image: stream, metadata: [0, stream.length] },
  { name: 'VMDK, footer', format: 'vmdk', image: stream, metadata: [stream.length - 2560, stream.length] },
  { name: 'VHDX, headers', format: 'vhdx', image: vhdx, metadata: [place.header, place.log], mend: sumUpAll },
  {
    name: 'VHDX, fields',
    format: 'vhdx',
    image: vhdx,
    metadata: [place.regions, place.regions + 80],
    mend: sumUpAll,
  },
  { name: 'VHDX, metadata', format: 'vhdx', image: vhdx, metadata: [place.metadata, place.metadata + 65560] },
  { name: 'VHDX, blocks', format: 'vhdx', image: vhdx, metadata: [place.blockTable, place.blockTable + 24] },
  { name: 'VHD, dynamic', format: 'vpc', image: vhd, metadata: [0, 4000] },
  {
    ...{ name: 'VHD, summed up again', format: 'vpc', image: vhd, metadata: [0, 4000] },
    mend: (image) => {
      sumUp(image, 0, 512, 64);
      sumUp(image, 512, 1536, 36);
    },
  },
  {
    ...{ name: 'VHD, fixed', format: 'vpc', image: fixedVhd, metadata: [disk.length, fixedVhd.length] },
    mend: (image) => sumUp(image, disk.length, fixedVhd.length, 64),
  },
];

const piece = new Uint8Array(64 * 1024);

async function lookAt(image: Uint8Array, format: ForeignFormat): Promise<void> {
  try {
    const device = await openForeign(memoryFile(image), format);
    const { sizeBytes } = device;
    await device.placedExtents(0, Math.min(sizeBytes, 4 * 1024 * 1024));
    for (const at of [0, 100_000, 1_100_000, sizeBytes - piece.length]) {
      const length = Math.min(piece.length, sizeBytes - at);
      if (at >= 0 && length > 0) await device.read(at, piece.subarray(0, length));
    }
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
  }
}

describe('damaged images', () => {
  it.each(images)('$name: fail with a code, or open', async ({ format, image, metadata, mend }) => {
    const [from, end] = metadata;
    const flip = fc.tuple(fc.integer({ min: from, max: end - 1 }), fc.integer({ min: 1, max: 255 }));
    const cut = fc.option(fc.integer({ min: 0, max: image.length }), { freq: 3, nil: image.length });
    const damage = fc.tuple(fc.array(flip, { maxLength: 6 }), cut);
    await fc.assert(
      fc.asyncProperty(damage, async ([flips, lengthBytes]) => {
        const copy = image.slice(0, lengthBytes);
        for (const [at, mask] of flips) if (at < copy.length) copy[at]! ^= mask;
        mend?.(copy);
        await lookAt(copy, format);
      }),
      { numRuns: 60 },
    );
  });
});
