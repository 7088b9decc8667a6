/** VMDK images: descriptors and who opens what they name, markers, footers, and what is refused. */
import type { BlockDevice } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { type ForeignOptions, looksLikeDescriptor, openForeign } from '../src/index.ts';
import { memoryFile } from './support/built-images.ts';
import { descriptorOf, sparseVmdkOf, type VmdkShape } from './support/built-vmdk.ts';
import { failureOf } from './support/failures.ts';

const disk = new Uint8Array(20 * 4096 + 1536);
disk.fill(1, 4096, 8192).fill(2, 50_000, 60_000).fill(3, 82_000, disk.length);

const open = (image: Uint8Array, options?: ForeignOptions) => openForeign(memoryFile(image), 'vmdk', options);
const text = (content: string) => new TextEncoder().encode(content);

async function contentOf(device: BlockDevice): Promise<Uint8Array> {
  const bytes = new Uint8Array(device.sizeBytes);
  await device.read(0, bytes);
  return bytes;
}

/** Fields of 32 bits changed. */
function edited(shape: VmdkShape, ...edits: readonly (readonly [at: number, value: number])[]): Uint8Array {
  const image = sparseVmdkOf(disk, shape);
  const view = new DataView(image.buffer);
  for (const [at, value] of edits) view.setUint32(at < 0 ? image.length + at : at, value, true);
  return image;
}

describe('VMDK: sparse extents', () => {
  it.each([
    ['plain', {}],
    ['stream-optimized', { isStream: true }],
    ['stream-optimized, the last grain cut', { isStream: true, shortLastGrain: true }],
  ] as const)('%s: every byte', async (_, shape) => {
    const device = await open(sparseVmdkOf(disk, shape));
    expect(device.sizeBytes).toBe(disk.length);
    expect(await contentOf(device)).toEqual(disk);
    const piece = new Uint8Array(3000);
    await device.read(57_500, piece);
    expect(piece).toEqual(disk.slice(57_500, 60_500));
    expect(device.vmdk).toMatchObject({ cid: 0x1234abcd, parentCid: 0xffffffff });
  });

  it('tells compressed grains, and holes', async () => {
    const device = await open(sparseVmdkOf(disk, { isStream: true }));
    expect((await device.placedExtents(0, 16384)) satisfies readonly object[]).toEqual([
      { offset: 0, lengthBytes: 4096, kind: 'hole' },
      { offset: 4096, lengthBytes: 4096, kind: 'data', compressed: true },
      { offset: 8192, lengthBytes: 8192, kind: 'hole' },
    ]);
  });

  it('shows a grain of number 1 as zeros where the header says so', async () => {
    const plain = sparseVmdkOf(disk);
    const view = new DataView(plain.buffer);
    const tableAt = view.getUint32(Number(view.getBigUint64(56, true)) * 512, true) * 512;
    view.setUint32(tableAt + 4, 1, true);
    view.setUint32(8, 1 | 4, true);
    const device = await open(plain);
    expect((await device.extents(4096, 4096))[0]).toMatchObject({ kind: 'zero' });
    expect((await contentOf(device)).subarray(4096, 8192).every((byte) => byte === 0)).toBe(true);
  });

  const stream = { isStream: true };
  it.each([
    ['another version', edited({}, [4, 4]), 'UNSUPPORTED_FEATURE', 'version'],
    ['another compression', edited(stream, [-1024 + 76, 0x0200]), 'UNSUPPORTED_FEATURE', 'compressAlgorithm'],
    [
      'compressed grains without markers',
      edited(stream, [-1024 + 8, 0x10001]),
      'UNSUPPORTED_FEATURE',
      'flags',
    ],
    ['grains of no bytes', edited({}, [20, 0]), 'BAD_FIELD', 'grainSize'],
    ['grains of 3 sectors', edited({}, [20, 3]), 'BAD_FIELD', 'grainSize'],
    ['grains that are too large', edited({}, [20, 0x400000]), 'LIMIT_EXCEEDED', 'grainSize'],
    [
      'compressed grains that are too large',
      edited(stream, [-1024 + 20, 0x2000]),
      'LIMIT_EXCEEDED',
      'grainSize',
    ],
    ['tables without entries', edited({}, [44, 0]), 'BAD_FIELD', 'numGTEsPerGT'],
    ['tables of 513 entries', edited({}, [44, 513]), 'BAD_FIELD', 'numGTEsPerGT'],
    ['metadata beyond the file', edited({}, [64, 0x10000]), 'TRUNCATED', 'overHead'],
    ['a disk beyond 2^53', edited({}, [16, 0x7fffffff]), 'OFFSET_TOO_LARGE', 'capacity'],
    ['too many tables', edited({}, [16, 0x10]), 'LIMIT_EXCEEDED', 'capacity'],
    ['another marker in front of the footer', edited(stream, [-1536 + 12, 2]), 'BAD_FIELD', 'type'],
    ['no end of the stream', edited(stream, [-512 + 12, 1]), 'BAD_FIELD', 'type'],
    ['no footer', edited(stream, [-1024, 0]), 'BAD_MAGIC', 'magicNumber'],
  ])('refuses %s', async (_, image, code, field) => {
    const error = await failureOf(() => open(image));
    expect(error).toMatchObject({ code, context: { field } });
    expect(error.context.clause).toMatch(/^VMware Virtual Disk Format 5\.0/);
    expect(error.context.hostOffset).toBeTypeOf('number');
  });

  it('refuses a directory that the file does not have, before room is made for it', async () => {
    expect(await failureOf(() => open(edited({}, [56, 0x7fffffff])))).toMatchObject({ code: 'TRUNCATED' });
    const huge = await failureOf(() => open(edited({}, [16, 0x1], [20, 256])));
    expect(huge).toMatchObject({ code: 'TRUNCATED', context: { lengthBytes: 8_388_612 } });
  });

  it('refuses a grain that is another’s, damaged, or too long', async () => {
    const image = sparseVmdkOf(disk, stream);
    const grainAt = 3 * 512;
    const damage = async (change: (view: DataView) => void) => {
      const copy = image.slice();
      change(new DataView(copy.buffer));
      return await failureOf(async () => contentOf(await open(copy)));
    };
    expect((await damage((view) => view.setUint32(grainAt, 7, true))).code).toBe('OVERLAP');
    expect((await damage((view) => view.setUint32(grainAt + 8, 0, true))).code).toBe('BAD_FIELD');
    expect((await damage((view) => view.setUint32(grainAt + 8, 8193, true))).code).toBe('BAD_FIELD');
    expect((await damage((view) => view.setUint16(grainAt + 12, 0))).code).toBe('COMPRESSED_DAMAGED');
    const size = new DataView(image.buffer).getUint32(grainAt + 8, true);
    const sum = grainAt + 12 + size - 1;
    expect((await damage((view) => view.setUint8(sum, view.getUint8(sum) ^ 1))).code).toBe('BAD_CHECKSUM');
  });

  it('refuses those of ESX by name', async () => {
    const cowd = text(`COWD${'\0'.repeat(2000)}`);
    expect(await failureOf(() => open(cowd))).toMatchObject({ code: 'UNSUPPORTED_FEATURE' });
    const seSparse = new Uint8Array(4096);
    new DataView(seSparse.buffer).setBigUint64(0, 0xcafebaben, true);
    expect((await failureOf(() => open(seSparse))).message).toMatch(/seSparse/);
  });
});

describe('VMDK: descriptors', () => {
  const files: Record<string, Uint8Array> = {
    'flat.vmdk': disk,
    'sparse.vmdk': sparseVmdkOf(disk),
    'empty.vmdk': new Uint8Array(1024),
  };
  const closed: string[] = [];
  const resolveExtent: ForeignOptions['resolveExtent'] = (name) => {
    const bytes = files[name];
    if (bytes === undefined) throw new RangeError(name);
    return { device: memoryFile(bytes), path: `beside/${name}`, close: () => void closed.push(name) };
  };
  const sectors = disk.length / 512;

  it('row up extents, and let go of all of them', async () => {
    const lines = [`RW ${sectors} FLAT "flat.vmdk" 0`, `RW 8 VMFS "flat.vmdk"`, `RW 9 SPARSE "sparse.vmdk"`];
    const device = await open(text(descriptorOf('twoGbMaxExtentFlat', lines)), { resolveExtent });
    const joined = Uint8Array.from([...disk, ...disk.subarray(0, 4096), ...disk]);
    expect(await contentOf(device)).toEqual(joined);
    expect(await device.placedExtents(disk.length, 8192)).toEqual([
      { offset: disk.length, lengthBytes: 4096, kind: 'data', hostOffset: 0, path: 'beside/flat.vmdk' },
      { offset: disk.length + 4096, lengthBytes: 4096, kind: 'hole' },
    ]);
    closed.length = 0;
    await device.close();
    expect(closed).toEqual(['flat.vmdk', 'flat.vmdk', 'sparse.vmdk']);
  });

  it('let a part of a file begin anywhere in it', async () => {
    const lines = [`RW 8 FLAT "flat.vmdk" 8`];
    const device = await open(text(descriptorOf('monolithicFlat', lines)), { resolveExtent });
    expect(await contentOf(device)).toEqual(disk.slice(4096, 8192));
  });

  it('name files that nobody opens unless the caller says how', async () => {
    const image = text(descriptorOf('monolithicFlat', [`RW 8 FLAT "flat.vmdk" 0`]));
    expect(await failureOf(() => open(image))).toMatchObject({
      code: 'NO_POLICY',
      context: { path: 'flat.vmdk' },
    });
  });

  it('let go of what was opened where the rest can not be', async () => {
    closed.length = 0;
    const lines = ['RW 8 FLAT "flat.vmdk" 0', 'RW 8 SPARSE "empty.vmdk"'];
    const image = text(descriptorOf('twoGbMaxExtentSparse', lines));
    expect(await failureOf(() => open(image, { resolveExtent }))).toMatchObject({ code: 'BAD_MAGIC' });
    expect(closed.toSorted()).toEqual(['empty.vmdk', 'flat.vmdk']);
  });

  it('of a flat file that is too short, show what there is', async () => {
    const image = text(descriptorOf('monolithicFlat', [`RW ${sectors + 8} FLAT "flat.vmdk" 0`]));
    const device = await open(image, { resolveExtent });
    await device.read(0, new Uint8Array(disk.length));
    expect(await failureOf(() => device.read(disk.length, new Uint8Array(1)))).toMatchObject({
      code: 'TRUNCATED',
    });
  });

  it.each([
    ['of another type', 'custom', ['RW 8 FLAT "flat.vmdk" 0'], 'UNSUPPORTED_FEATURE'],
    ['of ESX', 'vmfsSparse', ['RW 8 VMFSSPARSE "flat.vmdk"'], 'UNSUPPORTED_FEATURE'],
    ['without extents', 'monolithicFlat', [], 'BAD_FIELD'],
    [
      'with an extent of zeros',
      'monolithicFlat',
      ['RW 8 FLAT "flat.vmdk" 0', 'RW 8 ZERO'],
      'UNSUPPORTED_FEATURE',
    ],
    [
      'with an extent only to be read',
      'monolithicFlat',
      ['RDONLY 8 FLAT "flat.vmdk" 0'],
      'UNSUPPORTED_FEATURE',
    ],
    ['with an extent of seSparse', 'vmfs', ['RW 8 SESPARSE "flat.vmdk"'], 'UNSUPPORTED_FEATURE'],
    ['with a flat extent from nowhere on', 'monolithicFlat', ['RW 8 FLAT "flat.vmdk"'], 'BAD_FIELD'],
    ['with an extent of no bytes', 'monolithicFlat', ['RW 0 FLAT "flat.vmdk" 0'], 'BAD_FIELD'],
    ['with an extent without a name', 'monolithicFlat', ['RW 8 FLAT "" 0'], 'BAD_FIELD'],
    ['beyond 2^53', 'monolithicFlat', ['RW 99999999999999999 FLAT "flat.vmdk" 0'], 'OFFSET_TOO_LARGE'],
    [
      'with too many extents',
      'vmfs',
      Array.from({ length: 1025 }, () => 'RW 8 VMFS "flat.vmdk"'),
      'LIMIT_EXCEEDED',
    ],
  ])('%s are refused', async (_, type, lines, code) => {
    const error = await failureOf(() => open(text(descriptorOf(type, lines)), { resolveExtent }));
    expect(error).toMatchObject({ code });
  });

  it('of a difference are refused, but for their facts', async () => {
    const child = descriptorOf('monolithicFlat', ['RW 8 FLAT "flat.vmdk" 0'], '11111111').replace(
      'createType',
      'parentFileNameHint="base.vmdk"\ncreateType',
    );
    const error = await failureOf(() => open(text(child), { resolveExtent }));
    expect(error).toMatchObject({ code: 'UNSUPPORTED_FEATURE', context: { value: 'base.vmdk' } });
    const { vmdk } = await open(text(child), { resolveExtent, withoutParent: true });
    expect(vmdk).toMatchObject({ parentName: 'base.vmdk', parentCid: 0x11111111 });
  });

  it('are told from other texts', () => {
    expect(looksLikeDescriptor(text(descriptorOf('vmfs', [])))).toBe(true);
    expect(looksLikeDescriptor(text('# a comment\r\n \nversion=3\r\n'))).toBe(true);
    expect(looksLikeDescriptor(text('version=4\n'))).toBe(false);
    expect(looksLikeDescriptor(text('hello\nversion=1\n'))).toBe(false);
    expect(looksLikeDescriptor(text('# a comment'))).toBe(false);
  });
});
